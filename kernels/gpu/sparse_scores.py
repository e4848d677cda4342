"""Scores straight from sparse rows (metasd.compressed), on a GPU, in fp32.

The arrays are those of csrc/compressed_table.h.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from ._launch import cdiv, launch
from ._rows import row_of


def sparse_scores(
    indptr: Tensor,
    columns: Tensor,
    values: Tensor,
    scale: Tensor | None,
    queries: Tensor,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    """`metasd::sparse_scores`."""
    batch, count = out.shape
    block = min(4, triton.next_power_of_2(batch))
    launch(
        _sparse_scores_kernel,
        (cdiv(count, 8), cdiv(batch, block)),
        indptr,
        columns,
        values,
        scale,
        queries.T.contiguous(),
        rows,
        out,
        first,
        count,
        batch,
        GAPS=columns.element_size() == 1,
        BLOCK_N=8,
        BLOCK_B=block,
        BLOCK_K=64,
        warps=4,
        stages=1,
    )


@triton.jit(do_not_specialize=["first", "count", "batch"])
def _sparse_scores_kernel(
    indptr,
    columns,
    values,
    scale,
    queries,
    rows,
    out,
    first,
    count,
    batch,
    GAPS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """`queries` is (width, batch)."""
    place = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    query = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    inside, asked = place < count, query < batch
    row = row_of(rows, first, place, inside)
    begin, end = tl.load(indptr + row, inside, 0), tl.load(indptr + row + 1, inside, 0)
    z = tl.zeros((BLOCK_N, BLOCK_B), tl.float32)
    last = tl.full((BLOCK_N,), -1, tl.int32)
    for start in range(0, tl.max(end - begin, 0), BLOCK_K):
        at = begin[:, None] + start + tl.arange(0, BLOCK_K)[None, :]
        there = at < end[:, None]
        column = tl.load(columns + at, there, 0).to(tl.int32)
        if GAPS:
            column = last[:, None] + tl.cumsum(column + 1, 1)
            last = tl.max(column, 1)
        value = tl.load(values + at, there, 0).to(tl.float32)
        query_at = column.to(tl.int64)[:, :, None] * batch + query[None, None, :]
        q = tl.load(queries + query_at, there[:, :, None] & asked[None, None, :], 0.0)
        z += tl.sum(value[:, :, None] * q, 1)
    if scale is not None:
        z *= tl.load(scale + row, inside, 0.0)[:, None]
    at = out + query.to(tl.int64)[None, :] * count + place[:, None]
    tl.store(at, z, inside[:, None] & asked[None, :])
