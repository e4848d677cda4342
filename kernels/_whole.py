"""Losses that run whole, from queries to gradients, in one compiled pass: which, and with what.

Two engines do so: tile registers (csrc/amx_losses.cpp), where the processor has them, and strips
of scores in vector registers (csrc/strips.inl), for gradients that are sampled. Otherwise a loss
streams score blocks through the library's products (`_stream`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from metasd import _C

from ._sampling import Sampling
from ._stream import product_dtype

Left = tuple[int, int]
Right = tuple[int, int, int, int, bool]


def uses_amx(precision: str) -> bool:
    """Whether losses on a CPU run on tile registers: then there are no score blocks in memory."""
    return _C.amx() and product_dtype(precision) == torch.bfloat16


def engine(queries: Tensor, entities: Tensor, precision: str, threshold: float) -> str:
    """`strip` or `amx`, or nothing where the loss has to be streamed."""
    if len(queries) == 0 or len(entities) == 0:
        return ""
    if threshold > 0:
        return "strip"
    return "amx" if uses_amx(precision) else ""


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def left(queries: Tensor, gradient: Tensor | None = None) -> Left:
    return queries.data_ptr(), address(gradient)


def right(
    table: Tensor,
    mask: Tensor | None,
    gradient: Tensor | None = None,
    gradient_mask: Tensor | None = None,
    add: bool = False,
) -> Right:
    """A table scored as `mask * table`; `gradient = gradient_mask * ...`, or `+=` with `add`."""
    return table.data_ptr(), address(mask), address(gradient), address(gradient_mask), add


def run_whole(
    loss: str,
    lefts: list[Left],
    rights: list[Right],
    shape: tuple[int, int, int],
    statistics: Tensor,
    scale: float,
    *,
    precision: str,
    score_memory: int,
    sampling: Sampling,
    parameters: tuple[float, ...] = (),
    targets: Tensor | None = None,
    weight: Tensor | None = None,
    count: Tensor | None = None,
    multiplicity: Tensor | None = None,
    between: Callable[[], None] | None = None,
) -> None:
    """Runs `_C.<loss>`, `between` after the statistics of all rows.

    Args:
        loss: the engine and the loss, as in `strip_meta`.
        shape: rows of queries, rows of tables, width of both.
    """
    queries, entities, width = shape

    def run(phase: int) -> None:
        arguments = _C.LossArgs(
            lefts=lefts,
            rights=rights,
            queries=queries,
            entities=entities,
            width=width,
            targets=address(targets),
            weight=address(weight),
            count=address(count),
            multiplicity=address(multiplicity),
            scale=scale,
            stats=statistics.data_ptr(),
            phase=phase,
            threads=torch.get_num_threads(),
            half=product_dtype(precision) == torch.bfloat16,
            memory=score_memory,
            **sampling._asdict(),
        )
        getattr(_C, loss)(arguments, *([list(parameters)] if parameters else []))

    if between is None:
        run(_C.BOTH)
        return
    run(_C.STATISTICS)
    between()
    run(_C.GRADIENT)
