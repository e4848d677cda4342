"""Tables whose magnitudes make trouble for a threshold."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import kernel_cases as kc

FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "constant": torch.ones_like,
    "mixed signs of one magnitude": lambda x: x.sign() * 0.25,
    "few magnitudes": lambda x: x.round(),
    "subnormal": lambda x: (x * 4).round() * torch.finfo(x.dtype).smallest_normal * 2.0**-20,
    "signed zeros": lambda x: torch.where(x > 1.5, x, x.sign() * 0.0),
    "infinities": lambda x: torch.where(x.abs() > 1, x.sign() * torch.inf, x),
    "close neighbours": lambda x: 1 + (x * 8).round() * torch.finfo(x.dtype).eps,
}


def tables_of(
    shapes: Sequence[tuple[int, int]], fill: str, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return [FILLS[fill](kc.table(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)]


def assert_padding_is_zero(mask: Tensor, columns: int) -> None:
    if columns % 32:
        last = mask[:, -1].numpy().view(np.uint32)
        assert not (last >> (columns % 32)).any()
