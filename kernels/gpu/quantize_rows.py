"""Rows rounded to few levels on a GPU, one program per row."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from metasd import _C

from ._launch import launch

_TRIED = 4
"""Steps beside the one that the largest magnitude gives."""


def quantize_rows(table: Tensor, mask: Tensor | None, weight_format: str) -> Tensor:
    """`metasd::quantize_rows` for fp32 (rows, columns)."""
    rows, columns = table.shape
    zero, levels, tried = _C.WEIGHT_FORMATS[weight_format]
    out = torch.empty_like(table)
    block = triton.next_power_of_2(max(columns, 16))
    launch(
        _quantize_rows_kernel,
        (rows,),
        table,
        mask,
        out,
        columns,
        table.stride(0),
        -(-columns // 32),
        ZERO=zero,
        LEVELS=levels,
        STEPS=tuple(tried) + (0.0,) * (_TRIED - len(tried)),
        TRIED=len(tried),
        BLOCK=block,
        warps=4 if block <= 4096 else 16,
        stages=1,
    )
    return out


@triton.jit
def _whole_steps(v, step, ZERO: tl.constexpr, LEVELS: tl.constexpr):
    # Adding 1.5 * 2^23 rounds to a whole number, halves to the even one.
    if ZERO:
        steps = (v / step + 12582912.0) - 12582912.0
        steps = tl.minimum(tl.maximum(steps, -LEVELS), LEVELS)
    else:
        below = (tl.abs(v) / (2.0 * step) - 0.5 + 12582912.0) - 12582912.0
        odd = tl.minimum(2.0 * below + 1.0, LEVELS)
        steps = tl.where(v < 0, -odd, tl.where(v > 0, odd, 0.0))
    return steps


@triton.jit(do_not_specialize=["columns", "stride", "words"])
def _quantize_rows_kernel(
    table,
    mask,
    out,
    columns,
    stride,
    words,
    ZERO: tl.constexpr,
    LEVELS: tl.constexpr,
    STEPS: tl.constexpr,
    TRIED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tiny: tl.constexpr = 1.1754943508222875e-38
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    v = tl.load(table + row * stride + column, inside, 0.0)
    if mask is not None:
        word = tl.load(mask + row * words + column // 32, inside, 0)
        v = tl.where(((word >> (column % 32)) & 1) != 0, v, 0.0)
    magnitude = tl.abs(v)
    nonzero = tl.maximum(tl.sum((v != 0).to(tl.float32), 0), 1.0)
    mean = tl.sum(magnitude, 0) / nonzero
    largest = tl.max(magnitude, 0) / LEVELS
    gain = mean * 0 - 1.0
    scale = gain
    rounding = gain
    for i in tl.static_range(0 if LEVELS > 1 else 1, TRIED + 1):
        size = largest if i == 0 else mean * STEPS[i - 1]
        step = tl.maximum(size, tiny)
        steps = _whole_steps(v, step, ZERO, LEVELS)
        product = tl.sum(v * steps, 0)
        square = tl.maximum(tl.sum(steps * steps, 0), 1.0)
        fit = product / tl.sqrt(square)
        better = (fit <= gain) == 0  # NaN stays NaN
        scale = tl.where(better, product / square, scale)
        rounding = tl.where(better, step, rounding)
        gain = tl.where(better, fit, gain)
    rounded = _whole_steps(v, rounding, ZERO, LEVELS) * scale
    tl.store(out + row * columns + column, rounded, inside)
