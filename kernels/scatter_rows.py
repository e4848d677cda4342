"""Rows added to a table by index."""

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_index, check_mask, check_range, check_table, is_recorded
from ._operations import fp32_kernel, operation
from ._stream import cast_rows
from .apply_mask import apply_mask


def scatter_rows(rows: Tensor, mask: Tensor | None, index: Tensor, out: Tensor) -> Tensor:
    """Adds row i of `rows` to row `index[i]` of `out`, in place; then masks `out` and returns it.

    Rows are added in order, so the sums have the same bits whatever the number of threads.

    Args:
        rows: fp32 or fp64 (B, columns).
        mask: packed int32 words of `out` (see `pack_mask`), or None for all ones.
        index: int64 (B,) in 0 .. table rows - 1; may repeat.
        out: (table rows, columns) in the dtype of `rows`.

    Raises:
        ValueError: an index is out of range.

    Equivalent to: `out.index_add_(0, index, rows).mul_(mask)`.
    """
    check_table("out", out)
    check_mask(mask, out)
    check_index("index", index, like=out)
    check_table("rows", rows, index.shape[0], like=out)
    if is_recorded(rows, out):  # autograd cannot follow an operation that writes into an argument
        out.index_add_(0, index, rows)
        return out if mask is None else apply_mask(out, mask, out)
    _scatter_rows(rows, mask, index, out)
    return out


def _reference(rows: Tensor, mask: Tensor | None, index: Tensor, out: Tensor) -> None:
    check_range("index", index, out.shape[0])
    out.index_add_(0, index, rows)
    if mask is not None:
        apply_mask(out, mask, out)


_scatter_rows = operation("scatter_rows", _reference, mutates_args=("out",))


@fp32_kernel("scatter_rows", "cpu")
def _cpu(rows: Tensor, mask: Tensor | None, index: Tensor, out: Tensor) -> None:
    check_range("index", index, out.shape[0])
    _C.scatter_add(
        out.data_ptr(),
        index.data_ptr(),
        rows.data_ptr(),
        rows.shape[0],
        out.shape[1],
        torch.get_num_threads(),
    )
    if mask is not None:
        cast_rows(out, mask, out)


@_scatter_rows.register_fake
def _fake(rows: Tensor, mask: Tensor | None, index: Tensor, out: Tensor) -> None:
    pass
