"""The k best entities per query, streamed without a score matrix."""

import torch
from torch import Tensor

from metasd import _C

from ._block import block_of
from ._checks import (
    check_first,
    check_k,
    check_known,
    check_known_values,
    check_mask,
    check_streaming,
    check_table,
)
from ._collectives import any_process
from ._operations import fp32_kernel, operation
from ._ranking import NAN, known_matrix, score_block
from ._stream import DEFAULT_SCORE_MEMORY, block_shape, blocks, operand, product_dtype
from .apply_mask import apply_mask


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
        queries: fp32 or fp64 (B, d).
        entities: (N, d) in the same dtype.
        k: in 1 .. N, the entities of all processes.
        known, mask, precision, score_memory, group, first: as in `rank_targets`.

    Returns:
        (scores (B, k) in the tables' dtype, indices int64 (B, k)), the same in every process.
        Rows with fewer than k candidates end in score -inf and index -1.

    Raises:
        ValueError: a score is NaN, a known answer or k is out of range; in every process.

    Equivalent to: a stable descending sort of `queries @ (mask * entities).T` with -inf in place of
    known answers, of which the first k columns are taken.
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


def _reference(
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
    if any_process(bool(z.isnan().any()), group, z.device):
        raise ValueError(NAN)
    own = block.known(indptr, indices)
    z = z.masked_fill(known_matrix(*own, (z.shape[0], z.shape[1]), z.device), -torch.inf)
    scores, order = z.sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :k].contiguous(), order[:, :k].contiguous()
    return block.best(scores, order.masked_fill(scores == -torch.inf, -1), k)


_topk_entities = operation("topk_entities", _reference)


@fp32_kernel("topk_entities", "cpu")
def _cpu(
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
            z = score_block(left[at], right[part])
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
    if any_process(found_nan > 0, group, block.device):
        raise ValueError(NAN)
    return block.best(scores, best, k)


@_topk_entities.register_fake
def _fake(
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
