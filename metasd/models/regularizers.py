"""Penalties on the rows of a batch, with their gradients in closed form: DURA, N3 and IVR."""

from collections.abc import Callable

import torch
from torch import Tensor

from metasd import kernels

from .base import Scoring

Penalty = tuple[Tensor, tuple[Tensor, Tensor, Tensor]]
"""A regularizer's value and its gradients with respect to the head, relation and tail rows."""


def dura(
    scoring: Scoring, head: Tensor, relation: Tensor, tail: Tensor, scale: float = 1.0
) -> Penalty:
    """`scale` times the sum over the batch of 0.5 (|h|^2 + |t|^2) + 1.5 (|h r|^2 + |r t|^2).

    Duality-induced regularization (Zhang, Cai, Wang; NeurIPS 2020). Where a relation acts on each
    coordinate by itself, |h r|^2 = |h|^2 |r|^2.

    Args:
        head, tail: (B, entity width). relation: (B, relation width).
    """
    if not scoring.matrix_relations:
        return kernels.dura(head, relation, tail, scoring.parts, scale)
    matrix = relation.view(-1, scoring.rank, scoring.rank)
    forward = scoring.query(head, relation)
    backward = (matrix @ tail[:, :, None])[:, :, 0]
    ends = head.square().sum() + tail.square().sum()
    products = forward.square().sum() + backward.square().sum()
    outer = scoring.relation_query(head, forward) + scoring.relation_query(backward, tail)
    return scale * (0.5 * ends + 1.5 * products), (
        scale * (head + 3 * (matrix @ forward[:, :, None])[:, :, 0]),
        3 * scale * outer,
        scale * (tail + 3 * (backward[:, None] @ matrix)[:, 0]),
    )


def n3(
    scoring: Scoring, head: Tensor, relation: Tensor, tail: Tensor, scale: float = 1.0
) -> Penalty:
    """`scale` times the sum over the batch of |h|^3 + |r|^3 + |t|^3 (Lacroix et al., ICML 2018)."""
    return ivr(scoring, head, relation, tail, scale)


def ivr(
    scoring: Scoring,
    head: Tensor,
    relation: Tensor,
    tail: Tensor,
    scale: float = 1.0,
    product_scale: float = 0.0,
    power: float = 3.0,
) -> Penalty:
    """The sum over the batch of `scale` (|h|^a + |r|^a + |t|^a)
    + `product_scale` (|h r|^a + |r t|^a + |t h|^a), with a the `power`, 2 at least.

    Intermediate variables regularization (Xiao, Cao; NeurIPS 2024), where a relation acts on each
    coordinate by itself; there what are four terms in general are two. N3 is the first of them.
    """
    rows = (head, relation, tail)
    moduli = [squares(scoring, x).sqrt_() for x in rows]
    h, r, t = (modulus.pow(power) for modulus in moduli)
    value = scale * torch.stack([h.sum(), r.sum(), t.sum()]).sum()
    if product_scale:
        value = value + product_scale * (h * r + r * t + t * h).sum()
    gradients = []
    for x, modulus, others in zip(rows, moduli, ((r, t), (t, h), (h, r)), strict=True):
        by = scale + product_scale * (others[0] + others[1]) if product_scale else scale
        factor = by * power * modulus.pow(power - 2)
        gradients.append((_coordinates(scoring, x) * factor[:, None]).view_as(x))
    head, relation, tail = gradients
    return value, (head, relation, tail)


PENALTIES: dict[str, Callable[..., Penalty]] = {"dura": dura, "n3": n3, "ivr": ivr}
"""By `regularizer.name`."""


def squares(scoring: Scoring, rows: Tensor) -> Tensor:
    """Squared modulus of every coordinate, (B, rank)."""
    return _coordinates(scoring, rows).square().sum(1)


def _coordinates(scoring: Scoring, rows: Tensor) -> Tensor:
    """(B, parts, rank)."""
    return rows.view(len(rows), rows.shape[1] // scoring.rank, scoring.rank)
