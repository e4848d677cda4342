"""Ranks of targets per query, streamed without a score matrix."""

import torch
from torch import Tensor

from metasd import _C

from ._block import block_of
from ._checks import (
    check_first,
    check_index,
    check_known,
    check_known_values,
    check_mask,
    check_range,
    check_streaming,
    check_table,
)
from ._collectives import all_reduce_sum, any_process
from ._operations import fp32_kernel, operation
from ._ranking import NAN, known_matrix, score_block
from ._stream import DEFAULT_SCORE_MEMORY, block_shape, blocks, operand, product_dtype
from .apply_mask import apply_mask

_CACHED = 8 << 20
"""Bytes of scores that are counted while they are in the cache: of 4 million entities and 512
queries a block of 256 MiB took 1.5 times as long."""


def rank_targets(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    known: tuple[Tensor, Tensor] | None = None,
    mask: Tensor | None = None,
    *,
    precision: str = "fp32",
    score_memory: int = DEFAULT_SCORE_MEMORY,
    group: str = "",
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """How many entities score above, and how many equal to, each row's target.

    Args:
        queries: fp32 or fp64 (B, d).
        entities: (N, d) in the same dtype.
        targets: int64 (B,) in 0 .. N - 1.
        known: CSR (indptr int64 (B + 1,), indices int64) of entities to leave out per row, each at
            most once; the target itself is never counted, listed or not.
        mask: packed int32 words of `entities` (see `pack_mask`), or None for all ones.
        precision: of the product; fp32 by default, since bf16 makes ties.
        score_memory: bytes that score blocks may take.
        group: the process group (see `register_group`) whose processes hold one block of rows of
            `entities` and `mask` each; the rest, by ids in the whole table, is the same in all.
        first: id of the block's first row; blocks lie in the order of the processes.

    Returns:
        (greater, equal), int64 (B,), the same in every process. The optimistic rank is
        1 + greater, the pessimistic one 1 + greater + equal, the realistic one their mean.

    Raises:
        ValueError: a score is NaN, a target or known answer is out of range; in every process.

    Equivalent to: with `z = queries @ (mask * entities).T`, `s = z[rows, targets]` and `others` the
    entities that are neither known nor the target: `((z > s) & others).sum(1)`,
    `((z == s) & others).sum(1)`.
    """
    check_table("entities", entities)
    check_table("queries", queries, like=entities)
    check_index("targets", targets, queries.shape[0], like=entities)
    check_mask(mask, entities)
    check_streaming(precision, score_memory)
    check_first(first, group)
    indptr, indices = check_known(known, queries)
    greater, equal = _rank_targets(
        queries, entities, targets, indptr, indices, mask, precision, score_memory, group, first
    )
    return greater, equal


def _reference(
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
    block = block_of(entities, first, group)
    check_range("targets", targets, block.total)
    check_known_values(indptr, indices, block.total)
    z = queries @ apply_mask(entities, mask).T
    if any_process(bool(z.isnan().any()), group, z.device):
        raise ValueError(NAN)
    own = block.known(indptr, indices)
    others = ~known_matrix(*own, (z.shape[0], z.shape[1]), z.device)
    rows, columns = block.held(targets)
    others[rows, columns] = False
    score = z.new_zeros(z.shape[0])
    score[rows] = z[rows, columns]
    score = all_reduce_sum(score, group)[:, None]
    greater, equal = ((z > score) & others).sum(1), ((z == score) & others).sum(1)
    return all_reduce_sum(greater, group), all_reduce_sum(equal, group)


_rank_targets = operation("rank_targets", _reference)


@fp32_kernel("rank_targets", "cpu")
def _cpu(
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
    block = block_of(entities, first, group)
    check_range("targets", targets, block.total)
    check_known_values(indptr, indices, block.total)
    dtype = product_dtype(precision)
    left, right = (
        operand("queries", queries, None, dtype),
        operand("entities", entities, mask, dtype),
    )
    rows, columns = queries.shape[0], entities.shape[0]
    height, width = block_shape(rows, columns, 1, dtype.itemsize, min(score_memory, _CACHED))
    height = block.agreed(height)
    greater, equal = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
    parts = list(blocks(columns, width))
    several = any_process(len(parts) > 1, group, block.device)
    found_nan = 0

    def ranked(at: slice, scores: Tensor, z: Tensor | None = None) -> bool:
        """Counts against `scores`; whether they are those of the very products that were counted.

        z: the scores of all entities, where they are one block.
        """
        nonlocal found_nan
        held, places = block.held(targets[at])
        same = True
        for part in parts:
            if z is None or len(parts) > 1:
                z = score_block(left[at], right[part])
            own = _scores_within(part, z, held, places)
            same &= bool((own[1] == scores[own[0]]).all())
            found_nan += _C.rank(
                z.data_ptr(),
                dtype == torch.bfloat16,
                z.shape[0],
                z.shape[1],
                z.shape[1],
                block.first + part.start,
                scores.data_ptr(),
                targets[at].data_ptr(),
                0 if indptr is None else indptr[at.start :].data_ptr(),
                0 if indices is None else indices.data_ptr(),
                greater[at].data_ptr(),
                equal[at].data_ptr(),
                torch.get_num_threads(),
            )
        return not any_process(not same, group, block.device)

    for at in blocks(rows, height):
        held, places = block.held(targets[at])
        scores = torch.zeros(at.stop - at.start)
        if several:
            scores[held] = _likely_scores(left[at][held], right[places])
            if ranked(at, all_reduce_sum(scores, group)):
                continue
            greater[at], equal[at] = 0, 0
            scores.zero_()
        z = None
        for part in parts:
            z = score_block(left[at], right[part])
            inside, own = _scores_within(part, z, held, places)
            scores[inside] = own
        ranked(at, all_reduce_sum(scores, group), z)
    if any_process(found_nan > 0, group, block.device):
        raise ValueError(NAN)
    return all_reduce_sum(greater, group), all_reduce_sum(equal, group)


def _likely_scores(left: Tensor, right: Tensor) -> Tensor:
    """Each query's score of its own target; nearly always the bits of a product with all rows."""
    return (left @ right.T).diagonal().float()


def _scores_within(part: slice, z: Tensor, held: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose target is in a part, and its scores in the part's block."""
    inside = (places >= part.start) & (places < part.stop)
    rows = held[inside]
    return rows, z[rows, places[inside] - part.start].float()


@_rank_targets.register_fake
def _fake(
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
    return torch.empty_like(targets), torch.empty_like(targets)
