"""Arguments of the losses that run whole on a processor's tile registers (csrc/amx_losses.cpp)."""

from collections.abc import Callable

import torch
from torch import Tensor

from metasd import _C

from ._stream import product_dtype


def uses_amx(precision: str) -> bool:
    """Whether losses on a CPU run on tile registers: then there are no score blocks in memory."""
    return _C.amx() and product_dtype(precision) == torch.bfloat16


def runs_on_amx(queries: Tensor, entities: Tensor, precision: str) -> bool:
    return uses_amx(precision) and len(queries) > 0 and len(entities) > 0


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


def run_phases(run: Callable[[int], None], between: Callable[[], None] | None) -> None:
    """Runs a loss on tile registers, `between` after the statistics of all rows."""
    if between is None:
        run(_C.BOTH)
        return
    run(_C.STATISTICS)
    between()
    run(_C.GRADIENT)
