"""Ranks of targets and the k best entities per query, streamed without a score matrix."""

import torch
from torch import Tensor

from metasd import _C

from ._block import block_of
from ._checks import (
    check_first,
    check_index,
    check_k,
    check_known,
    check_known_values,
    check_mask,
    check_range,
    check_streaming,
    check_table,
)
from ._group import anywhere, summed
from ._stream import (
    DEFAULT_SCORE_MEMORY,
    block_shape,
    blocks,
    operand,
    product_dtype,
    workspace,
)
from .topk_mask import apply_mask

_NAN = "scores hold NaN: no rank can be given; look at the tables' values"


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
        queries: fp32 or fp64 (B, d). entities: (N, d). targets: int64 (B,).
        known: CSR (indptr int64 (B + 1,), indices int64) of entities to leave out per row, each at
            most once; the target itself is never counted, listed or not.
        mask: packed int32 words of `entities`, or None.
        precision: of the product; fp32 unless told otherwise, since bf16 makes ties.
        group: name of the processes that hold the table together: `entities` and `mask` are this
            one's block of rows, and the rest, by ids in the whole table, is the same in all.
        first: id of the block's first row; blocks lie in the order of the processes.

    Returns:
        (greater, equal), int64 (B,), the same in every process. The optimistic rank is
        1 + greater, the pessimistic one 1 + greater + equal, the realistic one their mean.

    Raises:
        ValueError: a score is NaN, a target or known answer is none of the entities; in every
            process.
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


def topk_entities(
    queries: Tensor,
    entities: Tensor,
    k: int,
    known: tuple[Tensor, Tensor] | None = None,
    mask: Tensor | None = None,
    *,
    precision: str = "fp32",
    score_memory: int = DEFAULT_SCORE_MEMORY,
    group: str = "",
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """The k best entities per query, best first; of equal scores the lower index first.

    Args:
        k: in 1 .. N, the entities of all processes. Others as in `rank_targets`; `known` answers
            are left out.

    Returns:
        (scores (B, k) in the tables' dtype, indices int64 (B, k)), the same in every process.
        Rows with fewer than k candidates end in score -inf and index -1.
    """
    check_table("entities", entities)
    check_table("queries", queries, like=entities)
    check_mask(mask, entities)
    check_streaming(precision, score_memory)
    check_first(first, group)
    indptr, indices = check_known(known, queries)
    scores, best = _topk_entities(
        queries, entities, k, indptr, indices, mask, precision, score_memory, group, first
    )
    return scores, best


def _known_matrix(
    indptr: Tensor | None, indices: Tensor | None, shape: tuple[int, int], device: torch.device
) -> Tensor:
    matrix = torch.zeros(shape, dtype=torch.bool, device=device)
    if indptr is not None and indices is not None:
        rows = torch.repeat_interleave(torch.arange(shape[0], device=device), indptr.diff())
        matrix[rows, indices] = True
    return matrix


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
    if anywhere(bool(z.isnan().any()), group, z.device):
        raise ValueError(_NAN)
    own = block.known(indptr, indices)
    others = ~_known_matrix(*own, (z.shape[0], z.shape[1]), z.device)
    rows, columns = block.held(targets)
    others[rows, columns] = False
    score = z.new_zeros(z.shape[0])
    score[rows] = z[rows, columns]
    score = summed(score, group)[:, None]
    greater, equal = ((z > score) & others).sum(1), ((z == score) & others).sum(1)
    return summed(greater, group), summed(equal, group)


_rank_targets = torch.library.custom_op("metasd::rank_targets", mutates_args=())(_reference)


@_rank_targets.register_kernel("cpu")
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
    if entities.dtype != torch.float32:
        return _reference(
            queries, entities, targets, indptr, indices, mask, precision, score_memory, group, first
        )
    block = block_of(entities, first, group)
    check_range("targets", targets, block.total)
    check_known_values(indptr, indices, block.total)
    dtype = product_dtype(precision)
    left, right = (
        operand("queries", queries, None, dtype),
        operand("entities", entities, mask, dtype),
    )
    rows, columns = queries.shape[0], entities.shape[0]
    height, width = block_shape(rows, columns, 1, dtype.itemsize, score_memory)
    height = block.agreed(height)
    greater, equal = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.int64)
    parts = list(blocks(columns, width))
    found_nan = 0
    for at in blocks(rows, height):
        # First the targets' scores, out of the very products that are then ranked against them.
        scores = torch.zeros(at.stop - at.start)
        held, places = block.held(targets[at])
        for part in parts:
            z = _scores(left[at], right[part])
            inside = (places >= part.start) & (places < part.stop)
            scores[held[inside]] = z[held[inside], places[inside] - part.start].float()
        summed(scores, group)
        for part in parts:
            if len(parts) > 1:
                z = _scores(left[at], right[part])
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
    if anywhere(found_nan > 0, group, block.device):
        raise ValueError(_NAN)
    return summed(greater, group), summed(equal, group)


def _scores(left: Tensor, right: Tensor) -> Tensor:
    z = workspace("scores0", (left.shape[0], right.shape[0]), left.dtype)
    return torch.mm(left, right.T, out=z)


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


def _topk_reference(
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
    block = block_of(entities, first, group)
    check_k(k, block.total)
    check_known_values(indptr, indices, block.total)
    z = queries @ apply_mask(entities, mask).T
    if anywhere(bool(z.isnan().any()), group, z.device):
        raise ValueError(_NAN)
    own = block.known(indptr, indices)
    z = z.masked_fill(_known_matrix(*own, (z.shape[0], z.shape[1]), z.device), -torch.inf)
    scores, order = z.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :k].contiguous(), order[:, :k].contiguous()
    return block.best(scores, order.masked_fill(scores == -torch.inf, -1), k)


_topk_entities = torch.library.custom_op("metasd::topk_entities", mutates_args=())(_topk_reference)


@_topk_entities.register_kernel("cpu")
def _topk_cpu(
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
    if entities.dtype != torch.float32:
        return _topk_reference(
            queries, entities, k, indptr, indices, mask, precision, score_memory, group, first
        )
    block = block_of(entities, first, group)
    check_k(k, block.total)
    check_known_values(indptr, indices, block.total)
    indptr, indices = block.known(indptr, indices)
    dtype = product_dtype(precision)
    left, right = (
        operand("queries", queries, None, dtype),
        operand("entities", entities, mask, dtype),
    )
    rows, columns = queries.shape[0], entities.shape[0]
    height, width = block_shape(rows, columns, 1, dtype.itemsize, score_memory)
    scores = torch.full((rows, k), -torch.inf)
    best = torch.full((rows, k), -1, dtype=torch.int64)
    found_nan = 0
    for at in blocks(rows, height):
        for part in blocks(columns, width):
            z = _scores(left[at], right[part])
            found_nan += _C.topk(
                z.data_ptr(),
                dtype == torch.bfloat16,
                z.shape[0],
                z.shape[1],
                z.shape[1],
                part.start,
                k,
                0 if indptr is None else indptr[at.start :].data_ptr(),
                0 if indices is None else indices.data_ptr(),
                scores[at].data_ptr(),
                best[at].data_ptr(),
                part.stop == columns,
                torch.get_num_threads(),
            )
    if anywhere(found_nan > 0, group, block.device):
        raise ValueError(_NAN)
    return block.best(scores, best, k)


@_topk_entities.register_fake
def _topk_fake(
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
    scores = queries.new_empty(queries.shape[0], k)
    return scores, torch.empty_like(scores, dtype=torch.int64)
