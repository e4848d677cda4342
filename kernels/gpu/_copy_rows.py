"""The pass over table rows that gathers, masks, and casts to what the products take."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from ._launch import cdiv, launch
from ._tiles import round_to_tf32, split_fp32

ROWS, COLUMNS = 8, 256
"""Rows and columns of a program in the passes that copy: 16 bytes a thread and load, 8 in
flight."""


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
        (cdiv(rows, ROWS), cdiv(out.stride(-2) if pad else columns, COLUMNS)),
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
        ROWS=ROWS,
        COLUMNS=COLUMNS,
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
