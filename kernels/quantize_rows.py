"""Rows rounded to few levels, with one scale per row."""

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_mask, check_table
from ._operations import fp32_kernel, operation
from .apply_mask import apply_mask


def quantize_rows(table: Tensor, mask: Tensor | None, weight_format: str) -> Tensor:
    """`mask * table` with every row rounded to the levels of a weight format; not differentiable.

    A row is rounded with a step that puts its largest magnitude at the last level, and (but for
    int8) with a few around its mean magnitude, larger weights cut to the last level; each step is
    then fitted by least squares to what the weights were rounded to, and the one that loses least
    is taken. int8, int4 and ternary have 127, 7 and 1 steps `s` either way; int3 and int2 have the
    odd steps up to 7 and 3, and no zero: of normal weights int2 loses a third less than ternary,
    which takes as many bits and is 0 up to 0.7 of the mean magnitude (Li et al., Ternary Weight
    Networks, 2016): least squares alone would keep little but outliers. Exact zeros stay zero, and
    so do masked weights; a row with NaN becomes NaN.

    Args:
        table: fp32 or fp64 (rows, columns).
        mask: packed int32 words of `table` (see `pack_mask`), or None for all ones.
        weight_format: int8, int4, int3, int2 or ternary (`_C.WEIGHT_FORMATS`).

    Returns:
        (rows, columns) in the table's dtype.

    Raises:
        ValueError: a weight format that does not exist.
    """
    check_table("table", table)
    check_mask(mask, table)
    if weight_format not in _C.WEIGHT_FORMATS:
        raise ValueError(
            f"weight_format must be one of {', '.join(_C.WEIGHT_FORMATS)}; got {weight_format!r}"
        )
    rounded: Tensor = _quantize_rows(table, mask, weight_format)
    return rounded


def _reference(table: Tensor, mask: Tensor | None, weight_format: str) -> Tensor:
    zero, levels, tried = _C.WEIGHT_FORMATS[weight_format]
    if mask is not None:
        table = apply_mask(table, mask)
    magnitude, tiny = table.abs(), torch.finfo(table.dtype).tiny
    mean = magnitude.sum(1, keepdim=True) / (table != 0).sum(1, keepdim=True).clamp_(min=1)
    best, gain = torch.zeros_like(table), torch.full_like(mean, -1)
    largest = [magnitude.amax(1, keepdim=True) / levels] * (levels > 1)
    for size in (*largest, *(mean * size for size in tried)):
        step = size.clamp(min=tiny)
        if zero:
            steps = torch.round(table / step).clamp_(-levels, levels)
        else:
            odd = 2 * torch.round(magnitude / (2 * step) - 0.5) + 1
            steps = torch.sign(table) * odd.clamp_(max=levels)
        product = (table * steps).sum(1, keepdim=True)
        square = steps.square().sum(1, keepdim=True).clamp_(min=1)
        fit = product / square.sqrt()  # its square is what the step explains
        better = ~(fit <= gain)  # NaN stays NaN
        best = torch.where(better, steps * (product / square), best)
        gain = torch.where(better, fit, gain)
    return best


_quantize_rows = operation("quantize_rows", _reference)


@fp32_kernel("quantize_rows", "cpu")
def _cpu(table: Tensor, mask: Tensor | None, weight_format: str) -> Tensor:
    out = torch.empty_like(table)
    _C.quantize_rows(
        table.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        out.data_ptr(),
        0,
        table.shape[0],
        table.shape[1],
        weight_format,
        torch.get_num_threads(),
    )
    return out


@_quantize_rows.register_fake
def _fake(table: Tensor, mask: Tensor | None, weight_format: str) -> Tensor:
    return torch.empty_like(table)
