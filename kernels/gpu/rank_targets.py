"""Ranks of targets per query on a GPU, without (B, N) scores.

A target's score, made again in a tile of targets, has the bits of the same score anywhere else, so
it ties with the scores that it ties with, and with no others.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

import torch
import triton.language as tl
from torch import Tensor

from .._block import Block, block_of
from .._collectives import all_reduce_sum
from ._launch import cdiv, check_index_range
from ._ranking import candidates, check_known, known_bits, refuse_nan, row_blocks, table_scores
from ._scores import Scores
from ._tiles import partial_place, score_tiles, tile_kernel, tile_place


def rank_targets(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    indptr: Tensor | None,
    indices: Tensor | None,
    mask: Tensor | None,
    precision: str,
    score_memory: int,
    group: str = "",
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """`metasd::rank_targets` for fp32 tables. Waits for the device to know of NaN scores."""
    block = block_of(entities, first, group)
    check_index_range("targets", targets, block.total)
    check_known(indptr, indices, block.total)
    indptr, indices = block.known(indptr, indices)
    scores = table_scores(queries, entities, mask, precision)
    target_scores = _target_scores(scores, targets, block)
    targets = targets - block.first if block.first else targets
    strips = cdiv(scores.entities, scores.tile.n)
    counts = torch.zeros((3, scores.rows), dtype=torch.int64, device=scores.device)
    for at in row_blocks(scores, 12 * strips, score_memory):
        part = scores.part(at, slice(None))
        found = torch.empty((3, strips, part.rows), dtype=torch.int32, device=scores.device)
        known = known_bits(part, at, indptr, indices)
        part.launch(_rank_kernel, targets[at], target_scores[at], known, found)
        counts[:, at] = found.sum(1)
    all_reduce_sum(counts, group)
    refuse_nan(counts[2])
    return counts[0].clone(), counts[1].clone()


def _target_scores(scores: Scores, targets: Tensor, block: Block) -> Tensor:
    """fp32 (B,): made by the process that holds the target."""
    if not block.group:
        return scores.of_targets(targets)[0]
    found = torch.zeros(scores.rows, device=scores.device)
    if block.rows:
        at, rows = block.held(targets)
        places = torch.zeros_like(targets).index_copy_(0, at, rows)
        found[at] = scores.of_targets(places)[0, at]
    return all_reduce_sum(found, block.group)


@tile_kernel
def _rank_kernel(
    operands,
    targets,
    target_scores,
    known,
    found,
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
    """found (3, blocks, rows): a tile's scores above the target's, equal to it, and NaN."""
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
    at, step = partial_place(found, first_entity, entities, rows, BLOCK_N)
    nan = (z != z) & (entity < entities)[:, None]
    tl.store(at + 2 * step + row, tl.sum(nan.to(tl.int32), 0), valid)
    others = candidates(known, entity, row, entities, rows, first_entity, BLOCK_N)
    others &= entity[:, None] != tl.load(targets + row, valid, -1)[None, :]
    score = tl.load(target_scores + row, valid, 0.0)[None, :]
    tl.store(at + row, tl.sum(((z > score) & others).to(tl.int32), 0), valid)
    tl.store(at + step + row, tl.sum(((z == score) & others).to(tl.int32), 0), valid)
