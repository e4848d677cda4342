"""Scores of single triples on a GPU."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from ._copy_rows import COLUMNS, ROWS
from ._launch import cdiv, launch


def score_triples(query: Tensor, tails: Tensor) -> Tensor:
    """`metasd::score_triples` for fp32: the row-wise product of (B, d) and (B, d), (B,)."""
    rows, width = query.shape
    out = query.new_empty(rows)
    launch(
        _score_triples_kernel,
        (cdiv(rows, ROWS),),
        query,
        tails,
        out,
        rows,
        width,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        warps=4,
        stages=1,
    )
    return out


@triton.jit
def _score_triples_kernel(
    query, tails, out, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        at = row[:, None] * width + column[None, :]
        total += tl.load(query + at, inside, 0.0) * tl.load(tails + at, inside, 0.0)
    tl.store(out + row, tl.sum(total, 1), row < rows)
