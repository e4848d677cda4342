"""Products of rows of complex numbers, on a GPU."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from ._copy_rows import COLUMNS
from ._launch import check_index_range, launch


def complex_product(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    """`metasd::complex_product` for fp32: (B, 2 rank)."""
    return complex_rows(x, y, conjugate)[0]


def complex_rows(
    x: Tensor,
    y: Tensor,
    conjugate: bool = False,
    x_mask: Tensor | None = None,
    x_index: Tensor | None = None,
    y_mask: Tensor | None = None,
    y_index: Tensor | None = None,
    tails: Tensor | None = None,
    tails_mask: Tensor | None = None,
    tails_index: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Products of complex rows (see `metasd::complex_product`), gathered and masked on the way.

    x = (x_mask * x)[x_index] and so on, fp32 tables (rows, 2 rank), int32 mask words, int64 (B,)
    indices; a mask or an index may be None. With ComplEx's heads and relations the product is the
    query, and its product with the tails' rows scores the triples (h, r, t).

    Returns:
        (conj(x) * y or x * y (B, 2 rank), scores (B,) or None without tails).
    """
    for name, table, index in (("x", x, x_index), ("y", y, y_index), ("tails", tails, tails_index)):
        if table is not None and index is not None:
            check_index_range(f"{name}_index", index, table.shape[0])
    count = x.shape[0] if x_index is None else x_index.shape[0]
    out = x.new_empty(count, x.shape[1])
    scores = None if tails is None else x.new_empty(count)
    launch(
        _complex_rows_kernel,
        (count,),
        (x, x_mask, x_index),
        (y, y_mask, y_index),
        (tails, tails_mask, tails_index),
        out,
        scores,
        x.shape[1] // 2,
        CONJUGATE=conjugate,
        COLUMNS=COLUMNS,
        warps=4,
        stages=1,
    )
    return out, scores


@triton.jit
def _complex_rows_kernel(
    x, y, tails, out, scores, rank, CONJUGATE: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    x_row, y_row, t_row = _source(x, row), _source(y, row), row
    if scores is not None:
        t_row = _source(tails, row)
    total = tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, rank, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        a, b = _complex(x, x_row, column, rank)
        c, d = _complex(y, y_row, column, rank)
        if CONJUGATE:
            b = -b
        real, imaginary = a * c - b * d, a * d + b * c
        at = out + row * 2 * rank + column
        tl.store(at, real, column < rank)
        tl.store(at + rank, imaginary, column < rank)
        if scores is not None:
            a, b = _complex(tails, t_row, column, rank)
            total += real * a + imaginary * b
    if scores is not None:
        tl.store(scores + row, tl.sum(total, 0))


@triton.jit
def _source(table, row):
    _, _, index = table
    if index is not None:
        row = tl.load(index + row)
    return row


@triton.jit
def _complex(table, row, column, rank):
    """Real and imaginary parts at `column` of a row, masked."""
    values, mask, _ = table
    at, inside = values + row * 2 * rank + column, column < rank
    real, imaginary = tl.load(at, inside, 0.0), tl.load(at + rank, inside, 0.0)
    if mask is not None:
        # The imaginary half may start within a word, so here every element looks its own one up.
        words = mask + row * ((2 * rank + 31) // 32)
        kept = (tl.load(words + column // 32, inside, 0) >> (column % 32)) & 1
        real = tl.where(kept != 0, real, 0.0)
        column += rank
        kept = (tl.load(words + column // 32, inside, 0) >> (column % 32)) & 1
        imaginary = tl.where(kept != 0, imaginary, 0.0)
    return real, imaginary
