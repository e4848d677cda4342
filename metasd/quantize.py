"""What the pruned model sees of its kept weights: low-bit values with one scale a row."""

import torch
from torch import Tensor

VALUES = ("fp32", "int8", "int4", "int3", "ternary")

_LEVELS = {"int8": 127, "int4": 7, "int3": 3}


def fake_quantize(table: Tensor, values: str) -> Tensor:
    """The table rounded to `values` and back, fp32 (rows, columns); exact zeros stay zero.

    intN: a symmetric grid of 2^(N-1) - 1 steps either way, the row's largest magnitude at its end.
    ternary: {-s, 0, s} with s the mean of the magnitudes above 0.7 of the row's mean magnitude,
    both over the row's nonzero weights (Li et al., Ternary Weight Networks, 2016).
    """
    if values == "fp32":
        return table
    magnitude = table.abs()
    if values == "ternary":
        nonzero = (magnitude > 0).sum(1, keepdim=True).clamp_(min=1)
        large = magnitude > 0.7 * magnitude.sum(1, keepdim=True) / nonzero
        scale = (magnitude * large).sum(1, keepdim=True) / large.sum(1, keepdim=True).clamp_(min=1)
        return torch.sign(table) * large * scale
    levels = _LEVELS[values]
    scale = magnitude.amax(1, keepdim=True).clamp_(min=torch.finfo(table.dtype).tiny) / levels
    return torch.round(table / scale) * scale
