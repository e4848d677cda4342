"""Rows of a table by index, masked on the way."""

from typing import Any

from torch import Tensor

from ._checks import check_index, check_mask, check_range, check_table
from ._operations import fp32_kernel, operation
from ._stream import cast_rows
from .apply_mask import apply_mask
from .scatter_rows import _scatter_rows


def masked_rows(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    """Gathers rows of `mask * table`, differentiable any number of times.

    Args:
        table: fp32 or fp64 (rows, columns).
        mask: packed int32 words of `table` (see `pack_mask`), or None for all ones.
        index: int64 (B,) in 0 .. rows - 1.

    Returns:
        (B, columns) in the table's dtype.

    Raises:
        ValueError: an index is out of range.

    Equivalent to: `torch.where(unpack_mask(mask, columns), table, 0)[index]`.
    """
    check_table("table", table)
    check_mask(mask, table)
    check_index("index", index, like=table)
    rows: Tensor = _masked_rows(table, mask, index)
    return rows


def _reference(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    check_range("index", index, table.shape[0])
    rows = table[index]
    return rows if mask is None else apply_mask(rows, mask[index].contiguous())


_masked_rows = operation("masked_rows", _reference)


@fp32_kernel("masked_rows", "cpu")
def _cpu(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    check_range("index", index, table.shape[0])
    return cast_rows(table, mask, table.new_empty(index.shape[0], table.shape[1]), index)


@_masked_rows.register_fake
def _fake(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    return table.new_empty(index.shape[0], table.shape[1])


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    table, mask, index = inputs
    ctx.save_for_backward(mask, index)
    ctx.rows = table.shape[0]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    mask, index = ctx.saved_tensors
    return _masked_rows_backward(grad.contiguous(), mask, index, ctx.rows), None, None


_masked_rows.register_autograd(_backward, setup_context=_setup)


def _reference_backward(grad: Tensor, mask: Tensor | None, index: Tensor, rows: int) -> Tensor:
    out = grad.new_zeros(rows, grad.shape[1])
    _scatter_rows(grad, mask, index, out)
    return out


_masked_rows_backward = operation("masked_rows_backward", _reference_backward)


@_masked_rows_backward.register_fake
def _fake_backward(grad: Tensor, mask: Tensor | None, index: Tensor, rows: int) -> Tensor:
    return grad.new_empty(rows, grad.shape[1])


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, mask, index, _ = inputs
    ctx.save_for_backward(mask, index)


def _backward_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    mask, index = ctx.saved_tensors
    return _masked_rows(grad.contiguous(), mask, index), None, None, None


_masked_rows_backward.register_autograd(_backward_backward, setup_context=_setup_backward)
