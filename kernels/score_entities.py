"""1-N scores of queries against every entity, and scores of single triples."""

from typing import Any

import torch
from torch import Tensor

from ._checks import check_mask, check_streaming, check_table
from ._stream import operand, product, product_dtype
from .masked_rows import masked_rows
from .topk_mask import apply_mask


def score_entities(
    queries: Tensor, entities: Tensor, mask: Tensor | None = None, *, precision: str = "auto"
) -> Tensor:
    """Scores `queries @ (mask * entities).T`: (B, N) in the tables' dtype, differentiable.

    This is the one operation whose result has (B, N) elements; the losses and the ranking never do.

    Args:
        queries: fp32 or fp64 (B, d). entities: the same dtype, (N, d).
        mask: packed int32 words of `entities` (see `pack_mask`), or None.
        precision: of the product, for fp32 tables: `auto | fp32 | tf32 | bf16`.
    """
    check_table("entities", entities)
    check_table("queries", queries, like=entities)
    check_mask(mask, entities)
    check_streaming(precision, 1)
    scores: Tensor = _score_entities(queries, entities, mask, precision)
    return scores


def score_triples(query: Tensor, tails: Tensor) -> Tensor:
    """Scores of B triples from their queries and tail rows, both (B, d): (B,).

    Equivalent to: `(query * tails).sum(dim=1)`.
    """
    check_table("tails", tails)
    check_table("query", query, tails.shape[0], like=tails)
    scores: Tensor = _score_triples(query, tails)
    return scores


def _reference(queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str) -> Tensor:
    return queries @ apply_mask(entities, mask).T


_score_entities = torch.library.custom_op("metasd::score_entities", mutates_args=())(_reference)


@_score_entities.register_kernel("cpu")
def _cpu(queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str) -> Tensor:
    dtype = product_dtype(precision)
    if queries.dtype != torch.float32:
        return _reference(queries, entities, mask, precision)
    out = queries.new_empty(queries.shape[0], entities.shape[0])
    left = operand("queries", queries, None, dtype)
    product(left, operand("entities", entities, mask, dtype).T, out, None, add=False)
    return out


@_score_entities.register_fake
def _fake(queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str) -> Tensor:
    return queries.new_empty(queries.shape[0], entities.shape[0])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    queries, entities, mask, ctx.precision = inputs
    ctx.save_for_backward(queries, entities, mask)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    queries, entities, mask = ctx.saved_tensors
    kept = masked(entities, mask)
    return grad @ kept, masked(grad.T @ queries, mask), None, None


def masked(table: Tensor, mask: Tensor | None) -> Tensor:
    """`mask * table` recorded by autograd, every row in order."""
    if mask is None:
        return table
    return masked_rows(table.contiguous(), mask, torch.arange(table.shape[0], device=table.device))


_score_entities.register_autograd(_backward, setup_context=_setup)


def _reference_triples(query: Tensor, tails: Tensor) -> Tensor:
    return (query * tails).sum(dim=1)


_score_triples = torch.library.custom_op("metasd::score_triples", mutates_args=())(
    _reference_triples
)


@_score_triples.register_fake
def _fake_triples(query: Tensor, tails: Tensor) -> Tensor:
    return query.new_empty(query.shape[0])


def _setup_triples(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward_triples(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    query, tails = ctx.saved_tensors
    return grad[:, None] * tails, grad[:, None] * query


_score_triples.register_autograd(_backward_triples, setup_context=_setup_triples)
