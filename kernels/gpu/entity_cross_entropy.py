"""Cross entropy of 1-N (1vsAll) scores on a GPU (see `_loss`)."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

import triton
import triton.language as tl
from torch import Tensor

from ..entity_cross_entropy import SUMS
from ._launch import product_precision
from ._loss import Loss, Side, pruned_table, row_weights, stream
from ._operands import query_operand
from ._scores import Scores
from ._tiles import exp, partial_place, score_tiles, store_scores, tile_kernel, tile_place


def entity_cross_entropy(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    weight: Tensor | None,
    precision: str,
    score_memory: int,
    group: str,
    threshold: float,
    draw: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """`metasd::entity_cross_entropy` for fp32 tables; no entry is sampled."""
    row_weight = row_weights(targets, weight, entities.shape[0], group)
    precision = product_precision(precision)
    table = pruned_table(entities, mask, pruned, precision)
    scores = Scores(precision, table, query_operand(queries, precision))
    side = Side(queries, scores.q_pruned, table, mask)
    rows = queries.shape[0]
    stats = stream(
        _CROSS_ENTROPY,
        scores,
        [side],
        targets,
        row_weight,
        (1 / max(rows, 1),),
        score_memory,
        SUMS[:1],
        group,
    )
    return stats[2].sum() / max(rows, 1), side.grad_queries, side.grad_table


@tile_kernel
def _cross_entropy_statistics_kernel(
    operands,
    parameters,
    partial,
    entities,
    rows,
    width,
    table_stride,
    query_stride,
    query_part,
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """partial (2, blocks, rows): maximum, sum of exp(z - maximum)."""
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
    valid = row < rows
    _, z, _ = score_tiles(
        operands,
        entities,
        rows,
        width,
        table_stride,
        query_stride,
        query_part,
        entity,
        row,
        MODELS,
        PRECISION,
        ALIGNMENT,
        BLOCK_N,
        BLOCK_B,
        BLOCK_K,
    )
    at, step = partial_place(partial, first_entity, entities, rows, BLOCK_N)
    top = tl.max(z, 0)
    e = tl.where((entity < entities)[:, None], exp(z - top[None, :]), 0.0)
    tl.store(at + row, top, valid)
    tl.store(at + step + row, tl.sum(e, 0), valid)


@triton.jit
def _cross_entropy_combine_kernel(
    partial,
    target_scores,
    weight,
    parameters,
    stats,
    stride,
    blocks,
    rows,
    BLOCKS: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """stats (3, rows): maximum, 1 / sum, loss."""
    row = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    valid = row < rows
    step = tl.cast(blocks, tl.int64) * rows
    top = tl.full((BLOCK_B,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_B,), tl.float32)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        inside = (block < blocks)[:, None] & valid[None, :]
        at = partial + block[:, None].to(tl.int64) * rows + row[None, :]
        tops = tl.load(at, inside, float("-inf"))
        new = tl.maximum(top, tl.max(tops, 0))
        sums = tl.load(at + step, inside, 0.0) * exp(tops - new[None, :])
        total = total * exp(top - new) + tl.sum(sums, 0)
        top = new
    loss = tl.log(total) + (top - tl.load(target_scores + row, valid, 0.0))
    if weight is not None:
        loss *= tl.load(weight + row, valid, 0.0)
    tl.store(stats + row, top, valid)
    tl.store(stats + stride + row, 1 / total, valid)
    tl.store(stats + 2 * stride + row, loss, valid)


@tile_kernel
def _cross_entropy_gradient_kernel(
    operands,
    targets,
    weight,
    stats,
    parameters,
    g,
    stats_stride,
    g_stride,
    first,
    entities,
    rows,
    width,
    table_stride,
    query_stride,
    query_part,
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """g (rows, entities) = weight * scale * (softmax(z) - onehot(target))."""
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
    valid = row < rows
    _, z, _ = score_tiles(
        operands,
        entities,
        rows,
        width,
        table_stride,
        query_stride,
        query_part,
        entity,
        row,
        MODELS,
        PRECISION,
        ALIGNMENT,
        BLOCK_N,
        BLOCK_B,
        BLOCK_K,
    )
    factor = tl.full((BLOCK_B,), parameters[0], tl.float32)
    if weight is not None:
        factor *= tl.load(weight + row, valid, 0.0)
    stat = stats + row
    top = tl.load(stat, valid, 0.0)
    inverse = tl.load(stat + stats_stride, valid, 0.0)
    target = tl.load(targets + row, valid, -1) - first
    hit = (entity[:, None] == target[None, :]).to(tl.float32)
    p = exp(z - top[None, :]) * inverse[None, :]
    store_scores(g[0], factor[None, :] * (p - hit), entity, row, entities, rows, g_stride, True)


_CROSS_ENTROPY = Loss(
    _cross_entropy_statistics_kernel,
    _cross_entropy_combine_kernel,
    _cross_entropy_gradient_kernel,
    partials=2,
    kept=3,
)
