"""Scores straight from codes of few bits (metasd.compressed), on a GPU.

The arrays are those of csrc/compressed_table.h. Products are exact to fp32's rounding: a code fits
bf16, and a query is three bf16 parts.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from ._launch import architecture, cdiv, launch
from ._rows import row_of
from ._tiles import dot, split_fp32


def code_scores(
    codes: Tensor,
    scale: Tensor,
    queries: Tensor,
    bits: int,
    zero: float,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    """`metasd::code_scores`."""
    batch, count = out.shape
    hopper = architecture(out.device) == 90  # mma, elsewhere, holds both operands in registers
    block = 16 if batch <= 16 else 64 if hopper else 32
    step = 64 if hopper else 32
    if bits == 3:  # eight planes out of three bytes: twice the step spills 122 to 354 instructions
        step //= 2
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
        BLOCK_K=step,
        warps=8,
        stages=2,
    )


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
    row = row_of(rows, first, place, inside)
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
