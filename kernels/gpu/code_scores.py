"""Scores straight from compressed tables (metasd.compressed): sparse rows, or codes of few bits.

The arrays are those of csrc/engine.h. Products are exact to fp32's rounding: a code fits bf16, and
a query is three bf16 parts; sparse rows are multiplied in fp32.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from ._launch import architecture, cdiv, launch
from .tiles import dot, split_fp32


def code_scores(
    codes: Tensor,
    scale: Tensor,
    queries: Tensor,
    bits: int,
    zero: float,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> Tensor:
    """out = queries @ (table's rows first + rows).T, of rows of codes less `zero` and a scale each.

    Args:
        codes: uint8 (table rows, bytes of a row).
        scale: fp32 (table rows,).
        queries: fp32 (B, width).
        bits: of a code: 8, 4, 3 or 2.
        zero: a whole number or a half.
        rows: int64 (count,), or None for the rows first, first + 1, ...
        out: fp32 (B, count).
    """
    batch, count = out.shape
    hopper = architecture(out.device) == 90  # mma, elsewhere, holds both operands in registers
    block = 16 if batch <= 16 else 64 if hopper else 32
    launch(
        _code_scores_kernel,
        (cdiv(count, 128), cdiv(batch, block)),
        codes,
        scale,
        queries,
        rows,
        out,
        first,
        count,
        batch,
        codes.shape[1],
        queries.shape[1],
        BITS=bits,
        ZERO=zero,
        BLOCK_N=128,
        BLOCK_B=block,
        BLOCK_K=64 if hopper else 32,
        warps=8,
        stages=2,
    )
    return out


def sparse_scores(
    indptr: Tensor,
    columns: Tensor,
    values: Tensor,
    scale: Tensor | None,
    queries: Tensor,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> Tensor:
    """The same of sparse rows: row i has values[indptr[i] : indptr[i + 1]].

    Args:
        indptr: int64 (table rows + 1,).
        columns: of each value its column, int32; or uint8, the gap to the one before less one.
        values: fp32, fp16, bf16 or int8.
        scale: fp32 (table rows,) or None.
    """
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
    return out


@triton.jit
def _row_of(rows, first, place, inside):
    if rows is None:
        return first + place.to(tl.int64)
    else:
        return first + tl.load(rows + place, inside, 0)


@triton.jit(do_not_specialize=["first", "count", "batch", "bytes", "width"])
def _code_scores_kernel(
    codes,
    scale,
    queries,
    rows,
    out,
    first,
    count,
    batch,
    bytes,
    width,
    BITS: tl.constexpr,
    ZERO: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    place = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    query = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    inside, asked = place < count, query < batch
    row = _row_of(rows, first, place, inside)
    code_at = codes + row[:, None] * bytes
    query_at = queries + query.to(tl.int64)[None, :] * width
    vectors: tl.constexpr = 3 if BITS == 3 else 1
    planes: tl.constexpr = 8 if BITS == 3 else 8 // BITS
    share = bytes // vectors
    z = tl.zeros((BLOCK_N, BLOCK_B), tl.float32)
    for start in range(0, share, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        stored = inside[:, None] & (k < share)[None, :]
        low = tl.load(code_at + k[None, :], stored, 0).to(tl.int32)
        if BITS == 3:
            second = tl.load(code_at + share + k[None, :], stored, 0).to(tl.int32)
            high = tl.load(code_at + 2 * share + k[None, :], stored, 0).to(tl.int32)
        for plane in tl.static_range(planes):
            if BITS == 3:
                pair = low if plane % 2 == 0 else second
                code = ((pair >> (plane // 2 * 2)) & 3) | (((high >> plane) & 1) << 2)
            else:
                code = (low >> (BITS * plane)) & ((1 << BITS) - 1)
            column = plane * share + k
            there = ((k < share) & (column < width))[:, None] & asked[None, :]
            q1, q2, q3 = split_fp32(tl.load(query_at + column[:, None], there, 0.0))
            code = (code.to(tl.float32) - ZERO).to(tl.bfloat16)
            z = dot(code, q3, z)
            z = dot(code, q2, z)
            z = dot(code, q1, z)
    z *= tl.load(scale + row, inside, 0.0)[:, None]
    at = out + query.to(tl.int64)[None, :] * count + place[:, None]
    tl.store(at, z, inside[:, None] & asked[None, :])


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
    row = _row_of(rows, first, place, inside)
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
