"""Rows added to a table by index, on a GPU."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._copy_rows import COLUMNS, copy_rows
from ._launch import cdiv, check_index_range, launch


def scatter_rows(rows: Tensor, mask: Tensor | None, index: Tensor, out: Tensor) -> None:
    """`metasd::scatter_rows` for fp32: duplicates are added in order.

    No atomics: a stable sort of the index brings the rows of one target together, and one program
    adds them one after the other, so the bits are those of a sequential loop.
    """
    check_index_range("index", index, out.shape[0])
    ordered, order = torch.sort(index, stable=True)
    starts = torch.searchsorted(ordered, ordered)
    ends = torch.searchsorted(ordered, ordered, right=True)
    count, columns = rows.shape
    launch(
        _scatter_rows_kernel,
        (count, cdiv(columns, COLUMNS)),
        rows,
        ordered,
        order,
        starts,
        ends,
        out,
        columns,
        COLUMNS=COLUMNS,
        warps=2,
        stages=1,
    )
    if mask is not None:
        copy_rows(out, mask, out)


@triton.jit
def _scatter_rows_kernel(rows, ordered, order, starts, ends, out, columns, COLUMNS: tl.constexpr):
    first = tl.program_id(0).to(tl.int64)
    if tl.load(starts + first) == first:
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < columns
        at = out + tl.load(ordered + first) * columns + column
        total = tl.load(at, inside, 0.0)
        for i in range(first, tl.load(ends + first)):
            total += tl.load(rows + tl.load(order + i) * columns + column, inside, 0.0)
        tl.store(at, total, inside)
