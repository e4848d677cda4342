"""Tables under their masks."""

from typing import Any

import torch
from torch import Tensor

from ._checks import check_mask, check_table, is_recorded
from ._operations import fp32_kernel, operation
from ._stream import cast_rows
from .pack_mask import unpack_mask


def apply_mask(table: Tensor, mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """`mask * table` with exact zeros, differentiable.

    Args:
        table: fp32 or fp64 (rows, columns).
        mask: packed int32 words of `table` (see `pack_mask`), or None for all ones.
        out: where the result goes, like `table`, or `table` itself; by default a new tensor.

    Returns:
        (rows, columns) in the table's dtype.

    Equivalent to: `torch.where(unpack_mask(mask, columns), table, 0)`.
    """
    check_table("table", table)
    check_mask(mask, table)
    if out is not None:
        check_table("out", out, table.shape[0], like=table)
    if mask is None:
        return table.clone() if out is None else out.copy_(table)
    if out is None:
        masked: Tensor = _apply_mask(table, mask)
        return masked
    if is_recorded(table, out):  # autograd cannot follow an operation that writes into an argument
        return out.copy_(_apply_mask(table, mask))
    _apply_mask_out(table, mask, out)
    return out


def _reference(table: Tensor, mask: Tensor) -> Tensor:
    return torch.where(unpack_mask(mask, table.shape[1]), table, 0.0)


_apply_mask = operation("apply_mask", _reference)


@fp32_kernel("apply_mask", "cpu")
def _cpu(table: Tensor, mask: Tensor) -> Tensor:
    return cast_rows(table, mask, torch.empty_like(table))


@_apply_mask.register_fake
def _fake(table: Tensor, mask: Tensor) -> Tensor:
    return torch.empty_like(table)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (mask,) = ctx.saved_tensors
    return _apply_mask(grad.contiguous(), mask), None


_apply_mask.register_autograd(_backward, setup_context=_setup)


def _reference_out(table: Tensor, mask: Tensor, out: Tensor) -> None:
    out.copy_(_reference(table, mask))


_apply_mask_out = operation("apply_mask_out", _reference_out, mutates_args=("out",))


@fp32_kernel("apply_mask_out", "cpu")
def _cpu_out(table: Tensor, mask: Tensor, out: Tensor) -> None:
    cast_rows(table, mask, out)


@_apply_mask_out.register_fake
def _fake_out(table: Tensor, mask: Tensor, out: Tensor) -> None:
    pass
