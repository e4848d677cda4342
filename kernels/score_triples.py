"""Scores of single triples."""

from typing import Any

from torch import Tensor

from ._checks import check_table
from ._operations import operation


def score_triples(query: Tensor, tails: Tensor) -> Tensor:
    """Scores of triples from their queries and their tails' rows, differentiable.

    Args:
        query, tails: fp32 or fp64 (B, d).

    Returns:
        (B,) in their dtype.

    Equivalent to: `(query * tails).sum(dim=1)`.
    """
    check_table("tails", tails)
    check_table("query", query, tails.shape[0], like=tails)
    scores: Tensor = _score_triples(query, tails)
    return scores


def _reference(query: Tensor, tails: Tensor) -> Tensor:
    return (query * tails).sum(dim=1)


_score_triples = operation("score_triples", _reference)


@_score_triples.register_fake
def _fake(query: Tensor, tails: Tensor) -> Tensor:
    return query.new_empty(query.shape[0])


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    query, tails = ctx.saved_tensors
    return grad[:, None] * tails, grad[:, None] * query


_score_triples.register_autograd(_backward, setup_context=_setup)
