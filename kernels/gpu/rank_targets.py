"""Scores, ranks of targets and the k best entities per query on a GPU.

Ranking makes no (B, N) scores.

A score has the same bits wherever the tile that makes it lies: its sum over the width is taken in
the same order. So a target's score, made again in a tile of targets, ties with the scores that it
ties with, and with no others. What is left out is one bit a score, (N / 32, B) words.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._block import Block, block_of
from .._checks import check_k, check_known_values
from .._group import summed
from .._stream import blocks
from . import operands
from ._launch import cdiv, check_index_range, is_recording, launch, product_precision
from .scores import Scores
from .tiles import partial_place, score_tiles, store_scores, strips, tile_kernel, tile_place

_NAN = "scores hold NaN: no rank can be given; look at the tables' values"

_EXTRACTED = 16
"""Best entities that a tile finds one by one; for more it hands over all of its scores."""


def score_entities(
    queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str
) -> Tensor:
    """`metasd::score_entities` for fp32 tables."""
    scores = _scores(queries, entities, mask, precision)
    out = queries.new_empty(scores.rows, scores.entities)
    scores.launch(_score_kernel, out, out.stride(0))
    return out


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
    _check_known(indptr, indices, block.total)
    indptr, indices = block.known(indptr, indices)
    scores = _scores(queries, entities, mask, precision)
    target_scores = _target_scores(scores, targets, block)
    targets = targets - block.first if block.first else targets
    strips = cdiv(scores.entities, scores.tile.n)
    counts = torch.zeros((3, scores.rows), dtype=torch.int64, device=scores.device)
    for at in _row_blocks(scores, 12 * strips, score_memory):
        part = scores.part(at, slice(None))
        found = torch.empty((3, strips, part.rows), dtype=torch.int32, device=scores.device)
        known = _known_bits(part, at, indptr, indices)
        part.launch(_rank_kernel, targets[at], target_scores[at], known, found)
        counts[:, at] = found.sum(1)
    summed(counts, group)
    _refuse_nan(counts[2])
    return counts[0].clone(), counts[1].clone()


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
    _check_known(indptr, indices, block.total)
    indptr, indices = block.known(indptr, indices)
    scores = _scores(queries, entities, mask, precision)
    tile, own = scores.tile, min(k, block.rows)
    kept = own if own <= _EXTRACTED else tile.n
    strips = cdiv(scores.entities, tile.n)
    best = torch.empty((scores.rows, own), dtype=torch.int64, device=scores.device)
    nan = torch.zeros(scores.rows, dtype=torch.int64, device=scores.device)
    for at in _row_blocks(scores, (8 * kept + 4) * strips, score_memory):
        part = scores.part(at, slice(None))
        keys = torch.empty((part.rows, strips * kept), dtype=torch.int64, device=scores.device)
        found = torch.empty((strips, part.rows), dtype=torch.int32, device=scores.device)
        known = _known_bits(part, at, indptr, indices)
        part.launch(_topk_kernel, known, keys, found, keys.stride(0), kept, ALL=kept == tile.n)
        best[at] = keys.topk(own, dim=1).values
        nan[at] = found.sum(0)
    _refuse_nan(summed(nan, group))
    return block.best(*decoded_keys(best), k)


def decoded_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """(fp32 scores, int64 numbers) of the keys that the kernel makes; -1 where a score is -inf."""
    order = (keys >> 32).to(torch.int32)
    scores = (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores, (0xFFFFFFFF - (keys & 0xFFFFFFFF)).masked_fill(scores == -torch.inf, -1)


def _scores(queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str) -> Scores:
    """Scores against tables as they lie: nothing reads them again, so no copy would pay."""
    precision = product_precision(precision)
    return Scores(precision, entities, operands.queries(queries, precision), mask)


def _target_scores(scores: Scores, targets: Tensor, block: Block) -> Tensor:
    """fp32 (B,): made by the process that holds the target."""
    if not block.group:
        return scores.of_targets(targets)[0]
    found = torch.zeros(scores.rows, device=scores.device)
    if block.rows:
        at, rows = block.held(targets)
        places = torch.zeros_like(targets).index_copy_(0, at, rows)
        found[at] = scores.of_targets(places)[0, at]
    return summed(found, block.group)


def _refuse_nan(counts: Tensor) -> None:
    if not is_recording() and bool(counts.any()):
        raise ValueError(_NAN)


def _check_known(indptr: Tensor | None, indices: Tensor | None, entities: int) -> None:
    if not is_recording():
        check_known_values(indptr, indices, entities)


def _row_blocks(scores: Scores, bytes_per_row: int, score_memory: int) -> Iterator[slice]:
    """Blocks of rows whose partials, and one bit a score, take about `score_memory` bytes."""
    least = scores.tile.b
    bytes_per_row += 4 * cdiv(scores.entities, 32)
    height = score_memory // max(bytes_per_row, 1) // least * least
    return blocks(scores.rows, max(height, least))


def _known_bits(
    part: Scores, at: slice, indptr: Tensor | None, indices: Tensor | None
) -> Tensor | None:
    """The known answers of rows `at` as bits: int32 (ceil(N / 32), rows), or None if there are
    none."""
    if indptr is None or indices is None:
        return None
    bits = torch.zeros((cdiv(part.entities, 32), part.rows), dtype=torch.int32, device=part.device)
    launch(
        _known_bits_kernel,
        (part.rows,),
        indptr[at.start :],
        indices,
        bits,
        part.rows,
        BLOCK=128,
        warps=4,
        stages=1,
    )
    return bits


@triton.jit
def _known_bits_kernel(indptr, indices, bits, rows, BLOCK: tl.constexpr):
    """Sets bit n % 32 of bits[n // 32, row]. Atomic, but of integers: any order gives the same
    bits."""
    row = tl.program_id(0)
    last = tl.load(indptr + row + 1)
    for first in range(tl.load(indptr + row), last, BLOCK):
        i = first + tl.arange(0, BLOCK)
        n = tl.load(indices + i, i < last, 0)
        bit = tl.full((BLOCK,), 1, tl.int32) << (n % 32).to(tl.int32)
        tl.atomic_or(bits + n // 32 * rows + row, bit, i < last)


@tile_kernel
def _score_kernel(
    operands,
    out,
    stride,
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
    store_scores(out, z, entity, row, entities, rows, stride, False)


@triton.jit
def _candidates(known, entity, row, entities, rows, first_entity, BLOCK_N: tl.constexpr):
    """Which (entity, row) of a tile exist and are not known, boolean."""
    inside = (entity < entities)[:, None] & (row < rows)[None, :]
    if known is not None:
        word = first_entity // 32 + tl.arange(0, BLOCK_N // 32)
        bits = tl.load(
            known + word.to(tl.int64)[:, None] * rows + row[None, :],
            (word < (entities + 31) // 32)[:, None] & (row < rows)[None, :],
            0,
        )
        out = (bits[:, None, :] >> tl.arange(0, 32)[None, :, None]) & 1
        inside &= out.reshape(entity.shape[0], row.shape[0]) == 0
    return inside


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
    others = _candidates(known, entity, row, entities, rows, first_entity, BLOCK_N)
    others &= entity[:, None] != tl.load(targets + row, valid, -1)[None, :]
    score = tl.load(target_scores + row, valid, 0.0)[None, :]
    tl.store(at + row, tl.sum(((z > score) & others).to(tl.int32), 0), valid)
    tl.store(at + step + row, tl.sum(((z == score) & others).to(tl.int32), 0), valid)


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
        among = _candidates(known, entity, part, entities, rows, first_entity, BLOCK_N)
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
