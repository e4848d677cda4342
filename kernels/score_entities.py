"""1-N (1vsAll) scores: of queries against all entities."""

from typing import Any

from torch import Tensor

from ._checks import check_mask, check_streaming, check_table
from ._operations import fp32_kernel, operation
from ._stream import operand, product, product_dtype
from .apply_mask import apply_mask


def score_entities(
    queries: Tensor, entities: Tensor, mask: Tensor | None = None, *, precision: str = "auto"
) -> Tensor:
    """Scores of queries against all entities, differentiable.

    This is the one operation whose result has (B, N) elements; the losses and the ranking never do.

    Args:
        queries: fp32 or fp64 (B, d).
        entities: (N, d) in the same dtype.
        mask: packed int32 words of `entities` (see `pack_mask`), or None for all ones.
        precision: of the product, for fp32 tables: `auto | fp32 | tf32 | bf16`.

    Returns:
        (B, N) in the tables' dtype.

    Equivalent to: `queries @ apply_mask(entities, mask).T`.
    """
    check_table("entities", entities)
    check_table("queries", queries, like=entities)
    check_mask(mask, entities)
    check_streaming(precision, 1)
    scores: Tensor = _score_entities(queries, entities, mask, precision)
    return scores


def _reference(queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str) -> Tensor:
    return queries @ apply_mask(entities, mask).T


_score_entities = operation("score_entities", _reference)


@fp32_kernel("score_entities", "cpu")
def _cpu(queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str) -> Tensor:
    dtype = product_dtype(precision)
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
    if mask is None:
        return grad @ entities, grad.T @ queries, None, None
    grad_entities = apply_mask((grad.T @ queries).contiguous(), mask)
    return grad @ apply_mask(entities, mask), grad_entities, None, None


_score_entities.register_autograd(_backward, setup_context=_setup)
