"""Cross entropy, distillation and the meta gradient on a GPU, without a score matrix.

Each is two passes of score tiles and the library's products:

* statistics: of every tile and row what the closed forms need (maximum, sums of exponentials at
  both temperatures, the expectations behind KL and <p, zdot>), partials (k, N / 128, B) in fp32, a
  16th of a score matrix at most; a small kernel combines them, rescaling to the common maximum;
* gradient: the tiles again, and G = dLoss/dz of one block of scores, bf16 or fp32, in at most
  `score_memory` bytes; then `G @ E` and `G.T @ q` by the library. A block holds all rows and some
  of the entities where it can: every further block of rows would read and write the entities'
  gradient again, 8 N d bytes, where one of entities does so with the queries', 8 B d.

A statistics program makes one tile. Were it to stream several past its rows, the compiler would
keep the addresses of all partials in registers throughout: every variant of it spilled.

Why G is written and not kept in the kernel: a score costs 6 bytes of bf16 traffic (one write, two
reads), 2.0 ps at 3 TB/s, where a kernel that keeps it makes every tile twice, once for each
product: 2 d flops more, or 2.0 ps at d = 500 and 16 ps at d = 4000 (at 5e14 flop/s), and the fp32
accumulator (128, d) fits no registers above d = 256. Below d = 256 keeping it would read less, up
to five times at d = 100. These are counts: not measured on a GPU.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._collectives import Sums, all_reduce_sum, merged, target_weights
from .._stream import block_shape, blocks
from ._launch import cdiv, check_index_range, launch
from ._operands import (
    ALIGNMENT,
    add_product,
    library_precision,
    library_queries,
    padded,
    query_operand,
    table_operand,
)
from ._scores import Scores


class Side:
    """One model's part in the library's products: its operands and its gradients, fp32.

    `queries` (B, d) and `table` (N, d) are operands; `mask` is that of the table's gradient.
    """

    def __init__(self, queries: Tensor, tiles: Tensor, table: Tensor, mask: Tensor | None) -> None:
        self.queries = library_queries(queries, tiles)
        self.table, self.mask = table, mask
        self.grad_queries = torch.empty_like(queries)
        self.grad_table = queries.new_empty(table.shape)


def pruned_table(
    entities: Tensor, mask: Tensor | None, pruned: Tensor | None, precision: str
) -> Tensor:
    if pruned is not None:
        return table_operand(pruned, None, precision)
    return table_operand(entities, mask, precision)


def two_models(
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    precision: str,
) -> Scores:
    """The source's table is masked in the tiles, unless the pruned model has one of its own."""
    return Scores(
        precision,
        None if pruned is None else table_operand(pruned, None, precision),
        query_operand(q_pruned, precision),
        mask if pruned is None else None,
        table_operand(entities, None, precision),
        query_operand(q_source, precision),
    )


def row_weights(targets: Tensor, weight: Tensor | None, rows: int, group: str) -> Tensor | None:
    """`target_weights`, waiting for the device once for a tensor of targets, not at each call."""
    if group:
        return target_weights(targets, weight, rows, group)
    check_index_range("targets", targets, rows)
    return None if weight is None else weight[targets]


@dataclass(frozen=True)
class Loss:
    """A loss's three kernels, how many partials a tile leaves of a row, and how many statistics."""

    statistics: Any
    combine: Any
    gradient: Any
    partials: int
    kept: int


def stream(
    loss: Loss,
    scores: Scores,
    sides: list[Side],
    targets: Tensor | None,
    weight: Tensor | None,
    parameters: tuple[float, ...],
    score_memory: int,
    sums: Sums,
    group: str,
    **constants: Any,
) -> Tensor:
    """Fills the sides' gradients block by block; returns the rows' statistics (kept, B).

    targets: int64 (B,); weight: fp32 (B,); parameters: what the loss's kernels say they are;
    sums: what a tile's partials are; group: the processes that hold the other entities.
    """
    rows, entities, device = scores.rows, scores.entities, scores.device
    if rows == 0 or entities == 0:
        for side in sides:
            side.grad_queries.zero_()
            side.grad_table.zero_()
        return torch.zeros((loss.kept, rows), device=device)
    stats = torch.empty((loss.kept, rows), device=device)
    strips = cdiv(entities, scores.tile.n)
    height = max(score_memory // (4 * loss.partials * strips) // 128 * 128, 128)
    for at in blocks(rows, height):
        part = scores.part(at, slice(None))
        partial = torch.empty((loss.partials, strips, part.rows), device=device)
        part.launch(loss.statistics, parameters, partial, **constants)
        scored = None
        if targets is not None:
            scored = _target_scores(part, targets[at], group)
        if group:
            partial = merged(partial, sums, group)
        launch(
            loss.combine,
            (cdiv(part.rows, 8),),
            partial,
            scored,
            None if weight is None else weight[at],
            parameters,
            stats[:, at],
            stats.stride(0),
            partial.shape[1],
            part.rows,
            BLOCKS=256,
            BLOCK_B=8,
            warps=8,
            stages=1,
            **constants,
        )

    dtype = scores.table.dtype
    width, height = block_shape(entities, rows, len(sides), dtype.itemsize, score_memory)
    buffers = [padded(height, width, dtype, device) for _ in sides]
    with library_precision(scores.precision):
        for at in blocks(rows, height):
            ids, w = (None if x is None else x[at] for x in (targets, weight))
            for columns in blocks(entities, width):
                part = scores.part(at, columns)
                g = tuple(b[: part.rows, : part.entities] for b in buffers)
                part.launch(
                    loss.gradient,
                    ids,
                    w,
                    stats[:, at],
                    parameters,
                    g,
                    stats.stride(0),
                    g[0].stride(0) // ALIGNMENT,
                    columns.start,
                    **constants,
                )
                for side, z in zip(sides, g, strict=True):
                    table, queries = side.table[columns], side.queries[at]
                    mask = None if side.mask is None else side.mask[columns]
                    add_product(side.grad_queries[at], z, table, None, add=columns.start > 0)
                    add_product(side.grad_table[columns], z.T, queries, mask, add=at.start > 0)
    return stats


def _target_scores(scores: Scores, targets: Tensor, group: str) -> Tensor:
    """(models, B): each from the process that has the target."""
    if not group:
        return scores.of_targets(targets)
    here = (targets >= 0) & (targets < scores.entities)
    found = scores.of_targets(targets.clamp(0, scores.entities - 1))
    return all_reduce_sum(torch.where(here, found, 0.0), group)
