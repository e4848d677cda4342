"""Rows of a table by index, masked on the way, and their gradients scattered back."""

import torch
from torch import Tensor

from metasd import _C

from . import gpu
from ._checks import check_index, check_mask, check_range, check_table, is_plain
from ._stream import cast_rows
from .topk_mask import apply_mask


def masked_rows(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    """Gathers `(mask * table)[index]`: (B, columns) in the table's dtype, differentiable.

    Args:
        table: fp32 or fp64 (rows, columns).
        mask: packed int32 words (see `pack_mask`), or None for all ones.
        index: int64 (B,) in 0 .. rows - 1.
    """
    check_table("table", table)
    check_mask(mask, table)
    check_index("index", index, like=table)
    rows: Tensor = _masked_rows(table, mask, index)
    return rows


def scatter_rows(rows: Tensor, mask: Tensor | None, index: Tensor, out: Tensor) -> Tensor:
    """Adds row i of `rows` (B, columns) to row `index[i]` of `out`, in place; then masks `out`.

    Rows are added in order, so the sums have the same bits whatever the number of threads.

    Equivalent to: `out.index_add_(0, index, rows).mul_(mask)`.
    """
    check_table("out", out)
    check_mask(mask, out)
    check_index("index", index, like=out)
    check_table("rows", rows, index.shape[0], like=out)
    if is_plain(rows, out):
        check_range("index", index, out.shape[0])
        _C.scatter_add(
            out.data_ptr(),
            index.data_ptr(),
            rows.data_ptr(),
            rows.shape[0],
            out.shape[1],
            torch.get_num_threads(),
        )
    elif is_plain(rows, out, device="cuda"):
        gpu.scatter_rows(rows, index, out)
    else:
        out.index_add_(0, index, rows)
    return out if mask is None else apply_mask(out, mask, out)


def _reference(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    check_range("index", index, table.shape[0])
    rows = table[index]
    return rows if mask is None else apply_mask(rows, mask[index].contiguous())


_masked_rows = torch.library.custom_op("metasd::masked_rows", mutates_args=())(_reference)


@_masked_rows.register_kernel("cpu")
def _cpu(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    if table.dtype != torch.float32:
        return _reference(table, mask, index)
    check_range("index", index, table.shape[0])
    return cast_rows(table, mask, table.new_empty(index.shape[0], table.shape[1]), index)


@_masked_rows.register_fake
def _fake(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    return table.new_empty(index.shape[0], table.shape[1])


def _setup(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    table, mask, index = inputs
    ctx.save_for_backward(mask, index)
    ctx.rows = table.shape[0]  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
    mask, index = ctx.saved_tensors  # type: ignore[attr-defined]
    return _masked_rows_backward(grad.contiguous(), mask, index, ctx.rows), None, None  # type: ignore[attr-defined]


@torch.library.custom_op("metasd::masked_rows_backward", mutates_args=())
def _masked_rows_backward(grad: Tensor, mask: Tensor | None, index: Tensor, rows: int) -> Tensor:
    return scatter_rows(grad, mask, index, grad.new_zeros(rows, grad.shape[1]))


@_masked_rows_backward.register_fake
def _fake_backward(grad: Tensor, mask: Tensor | None, index: Tensor, rows: int) -> Tensor:
    return grad.new_empty(rows, grad.shape[1])


_masked_rows.register_autograd(_backward, setup_context=_setup)


def _setup_backward(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    _, mask, index, _ = inputs
    ctx.save_for_backward(mask, index)


def _backward_backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor
) -> tuple[Tensor, None, None, None]:
    mask, index = ctx.saved_tensors  # type: ignore[attr-defined]
    return _masked_rows(grad.contiguous(), mask, index), None, None, None


_masked_rows_backward.register_autograd(_backward_backward, setup_context=_setup_backward)
