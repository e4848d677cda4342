"""Passes over table rows: gather, mask, cast to what the products take, scatter, score triples."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import cdiv, check_index_range, launch
from .tiles import round_to_tf32, split_fp32

_ROWS, _COLUMNS = 8, 256
"""Rows and columns of a program in the passes that copy: 16 bytes a thread and load, 8 in
flight."""


def masked_rows(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    """`metasd::masked_rows` for fp32: (mask * table)[index], (B, columns)."""
    check_index_range("index", index, table.shape[0])
    return copy_rows(table, mask, table.new_empty(index.shape[0], table.shape[1]), index)


def apply_mask(table: Tensor, mask: Tensor, out: Tensor) -> Tensor:
    """out = mask * table for fp32 (rows, columns); `out` may be the table."""
    return copy_rows(table, mask, out)


def copy_rows(
    table: Tensor,
    mask: Tensor | None,
    out: Tensor,
    index: Tensor | None = None,
    *,
    add: bool = False,
    tf32: bool = False,
    pad: bool = False,
) -> Tensor:
    """out = (mask * table)[index], or out += ..., row by row.

    Args:
        table: fp32 (rows, columns), last dimension contiguous.
        mask: int32 words of the table, or of the rows of `out` where index is None.
        out: fp32 or bf16 (B, columns), or three bf16 parts of fp32 (3, B, columns).
        index: int64 (B,), or None for every row in order.
        tf32: round fp32 to the nearest tf32.
        pad: write zeros after a row of `out`, up to the next.
    """
    rows, columns = out.shape[-2:]
    parts = out.shape[0] if out.dim() == 3 else 1
    launch(
        _copy_rows_kernel,
        (cdiv(rows, _ROWS), cdiv(out.stride(-2) if pad else columns, _COLUMNS)),
        table,
        mask,
        index,
        out,
        rows,
        columns,
        out.stride(-2) if pad else columns,
        table.stride(0),
        out.stride(-2),
        out.stride(0) if parts == 3 else 0,
        PARTS=parts,
        TF32=tf32,
        ADD=add,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
        warps=4,
        stages=1,
    )
    return out


@triton.jit
def _copy_rows_kernel(
    table,
    mask,
    index,
    out,
    rows,
    columns,
    written,
    table_stride,
    out_stride,
    out_part,
    PARTS: tl.constexpr,
    TF32: tl.constexpr,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    source = row
    if index is not None:
        source = tl.load(index + row, row < rows, 0)
    x = tl.load(table + source[:, None] * table_stride + column[None, :], inside, 0.0)
    if mask is not None:
        words = (columns + 31) // 32
        word = first // 32 + tl.arange(0, COLUMNS // 32)
        bits = tl.load(
            mask + source[:, None] * words + word[None, :],
            (row < rows)[:, None] & (word < words)[None, :],
            0,
        )
        kept = (bits[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
        x = tl.where(kept.reshape(ROWS, COLUMNS) != 0, x, 0.0)
    at = out + row[:, None] * out_stride + column[None, :]
    inside = (row < rows)[:, None] & (column < written)[None, :]
    if PARTS == 3:
        out_part = tl.cast(out_part, tl.int64)
        first_part, second_part, third_part = split_fp32(x)
        tl.store(at, first_part, inside)
        tl.store(at + out_part, second_part, inside)
        tl.store(at + 2 * out_part, third_part, inside)
    else:
        if TF32:
            x = round_to_tf32(x)
        if ADD:
            x += tl.load(at, inside, 0.0)
        tl.store(at, x.to(out.dtype.element_ty), inside)


def scatter_rows(rows: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """out[index[i]] += rows[i] for fp32 rows (B, columns), in place, duplicates in order.

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
        (count, cdiv(columns, _COLUMNS)),
        rows,
        ordered,
        order,
        starts,
        ends,
        out,
        columns,
        COLUMNS=_COLUMNS,
        warps=2,
        stages=1,
    )
    return out


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


def score_triples(query: Tensor, tails: Tensor) -> Tensor:
    """`metasd::score_triples` for fp32: the row-wise product of (B, d) and (B, d), (B,)."""
    rows, width = query.shape
    out = query.new_empty(rows)
    launch(
        _score_triples_kernel,
        (cdiv(rows, _ROWS),),
        query,
        tails,
        out,
        rows,
        width,
        ROWS=_ROWS,
        COLUMNS=_COLUMNS,
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
        COLUMNS=_COLUMNS,
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
