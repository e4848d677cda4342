"""The k best entities per query on a GPU, without (B, N) scores."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

import torch
import triton.language as tl
from torch import Tensor

from .._block import block_of
from .._checks import check_k
from .._collectives import all_reduce_sum
from .._keys import decoded_keys
from ._launch import cdiv
from ._ranking import candidates, check_known, known_bits, refuse_nan, row_blocks, table_scores
from ._tiles import partial_place, score_tiles, strips, tile_kernel, tile_place

_EXTRACTED = 16
"""Best entities that a tile finds one by one; for more it hands over all of its scores."""


def topk_entities(
    queries: Tensor,
    entities: Tensor,
    k: int,
    indptr: Tensor | None,
    indices: Tensor | None,
    mask: Tensor | None,
    precision: str,
    score_memory: int,
    group: str = "",
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """`metasd::topk_entities` for fp32 tables. Waits for the device to know of NaN scores.

    Every tile hands over its best as 64-bit keys, a score's order above and the complement of its
    entity's number below; the best of those are taken by the library. Keys are all different, so
    there are no ties, and of equal scores the lower number wins.
    """
    block = block_of(entities, first, group)
    check_k(k, block.total)
    check_known(indptr, indices, block.total)
    indptr, indices = block.known(indptr, indices)
    scores = table_scores(queries, entities, mask, precision)
    tile, own = scores.tile, min(k, block.rows)
    kept = own if own <= _EXTRACTED else tile.n
    strips = cdiv(scores.entities, tile.n)
    best = torch.empty((scores.rows, own), dtype=torch.int64, device=scores.device)
    nan = torch.zeros(scores.rows, dtype=torch.int64, device=scores.device)
    for at in row_blocks(scores, (8 * kept + 4) * strips, score_memory):
        part = scores.part(at, slice(None))
        keys = torch.empty((part.rows, strips * kept), dtype=torch.int64, device=scores.device)
        found = torch.empty((strips, part.rows), dtype=torch.int32, device=scores.device)
        known = known_bits(part, at, indptr, indices)
        part.launch(_topk_kernel, known, keys, found, keys.stride(0), kept, ALL=kept == tile.n)
        best[at] = keys.topk(own, dim=1).values
        nan[at] = found.sum(0)
    refuse_nan(all_reduce_sum(nan, group))
    return block.best(*decoded_keys(best), k)


@tile_kernel
def _topk_kernel(
    operands,
    known,
    keys,
    found,
    stride,
    kept,
    entities,
    rows,
    width,
    table_stride,
    query_stride,
    query_part,
    ALL: tl.constexpr,
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """keys (rows, blocks * kept): of a tile the `kept` best, or all. found (blocks, rows): NaN."""
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
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
    at, _ = partial_place(found, first_entity, entities, rows, BLOCK_N)
    z = strips(z)
    for i in tl.static_range(len(z)):
        part = first_row + i * z[0].shape[1] + tl.arange(0, z[0].shape[1])
        valid = part < rows
        nan = (z[i] != z[i]) & (entity < entities)[:, None]
        tl.store(at + part, tl.sum(nan.to(tl.int32), 0), valid)
        among = candidates(known, entity, part, entities, rows, first_entity, BLOCK_N)
        score = tl.where(z[i] == 0, 0.0, z[i])  # -0 ties with 0
        order = tl.where(among, score, float("-inf")).to(tl.int32, bitcast=True)
        order ^= (order >> 31) & 0x7FFFFFFF
        key = (order.to(tl.int64) << 32) | (0xFFFFFFFF - entity.to(tl.int64))[:, None]
        to = keys + part.to(tl.int64) * stride + first_entity // BLOCK_N * kept
        if ALL:
            here = tl.arange(0, BLOCK_N)
            tl.store(to[None, :] + here[:, None], key, tl.broadcast_to(valid[None, :], key.shape))
        else:
            for j in range(kept):
                top = tl.max(key, 0)
                tl.store(to + j, top, valid)
                key = tl.where(key == top[None, :], -0x8000000000000000, key)
