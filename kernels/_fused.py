"""Arguments of the losses that run whole on a processor's tile registers (csrc/fused.cpp)."""

import torch
from torch import Tensor

from metasd import _C


def is_fused(queries: Tensor, entities: Tensor, dtype: torch.dtype) -> bool:
    """Whether products in `dtype` go to tile registers; there is no block of scores then."""
    return dtype == torch.bfloat16 and _C.fused() and len(queries) > 0 and len(entities) > 0


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def left(queries: Tensor, gradient: Tensor | None = None) -> tuple[int, int]:
    return queries.data_ptr(), address(gradient)


def right(
    table: Tensor,
    mask: Tensor | None,
    gradient: Tensor | None = None,
    gradient_mask: Tensor | None = None,
    add: bool = False,
) -> tuple[int, int, int, int, bool]:
    """A table scored as `mask * table`; `gradient = gradient_mask * ...`, or `+=` with `add`."""
    return table.data_ptr(), address(mask), address(gradient), address(gradient_mask), add
