"""The DURA regulariser of diagonal models, with its gradients, in one pass over a batch's rows."""

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_table, is_plain


def dura(
    head: Tensor, relation: Tensor, tail: Tensor, parts: int, scale: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """`scale` times the sum of 0.5 (|h|^2 + |t|^2) + 1.5 |r|^2 (|h|^2 + |t|^2), and its gradients.

    Duality-induced regularisation (Zhang, Cai, Wang; NeurIPS 2020), where a relation acts on each
    coordinate by itself.

    Args:
        head, relation, tail: fp32 or fp64 (B, parts * rank); the squared modulus of coordinate i is
            taken over the columns i, rank + i, ...
        parts: real numbers of a coordinate: 1, or 2 of complex ones.

    Returns:
        The penalty, and gradients of head, relation and tail, each (B, parts * rank).
    """
    check_table("head", head)
    check_table("relation", relation, head.shape[0], like=head)
    check_table("tail", tail, head.shape[0], like=head)
    if parts < 1 or head.shape[1] % parts:
        raise ValueError(f"parts must divide the {head.shape[1]} columns; got {parts}")
    if not is_plain(head, relation, tail):
        return _reference(head, relation, tail, parts, scale)
    gradients = torch.empty_like(head), torch.empty_like(relation), torch.empty_like(tail)
    penalty = head.new_empty(head.shape[0])
    _C.dura(
        (head.data_ptr(), relation.data_ptr(), tail.data_ptr()),
        (gradients[0].data_ptr(), gradients[1].data_ptr(), gradients[2].data_ptr()),
        penalty.data_ptr(),
        head.shape[0],
        head.shape[1] // parts,
        parts,
        scale,
        torch.get_num_threads(),
    )
    return penalty.sum(), gradients


def _reference(
    head: Tensor, relation: Tensor, tail: Tensor, parts: int, scale: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    shape = (head.shape[0], parts, head.shape[1] // parts)
    h, r, t = head.view(shape), relation.view(shape), tail.view(shape)
    ends = h.square().sum(1, keepdim=True) + t.square().sum(1, keepdim=True)
    factor = 0.5 + 1.5 * r.square().sum(1, keepdim=True)
    return (ends * factor).sum() * scale, (
        (h * (2 * scale * factor)).view_as(head),
        (r * (3 * scale * ends)).view_as(relation),
        (t * (2 * scale * factor)).view_as(tail),
    )
