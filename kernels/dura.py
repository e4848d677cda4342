"""The DURA regulariser of diagonal models, with its gradients, in one pass over a batch's rows."""

from typing import Any

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_table
from ._operations import fp32_kernel, operation


def dura(
    head: Tensor, relation: Tensor, tail: Tensor, parts: int, scale: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """`scale` times the sum of 0.5 (|h|^2 + |t|^2) + 1.5 |r|^2 (|h|^2 + |t|^2), and its gradients.

    Duality-induced regularisation (Zhang, Cai, Wang; NeurIPS 2020), where a relation acts on each
    coordinate by itself. The penalty is differentiable once.

    Args:
        head, relation, tail: fp32 or fp64 (B, parts * rank); the squared modulus of coordinate i is
            taken over the columns i, rank + i, ...
        parts: real numbers per coordinate: 1, or 2 of complex ones.
        scale: factor of the penalty and of the gradients.

    Returns:
        The penalty, a scalar, and the gradients of head, relation and tail, each (B, parts * rank).

    Raises:
        ValueError: `parts` does not divide the columns.
    """
    check_table("head", head)
    check_table("relation", relation, head.shape[0], like=head)
    check_table("tail", tail, head.shape[0], like=head)
    if parts < 1 or head.shape[1] % parts:
        raise ValueError(f"parts must divide the {head.shape[1]} columns; got {parts}")
    penalty, *gradients = _dura(head, relation, tail, parts, scale)
    return penalty, (gradients[0], gradients[1], gradients[2])


def _reference(
    head: Tensor, relation: Tensor, tail: Tensor, parts: int, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (head.shape[0], parts, head.shape[1] // parts)
    h, r, t = head.view(shape), relation.view(shape), tail.view(shape)
    ends = h.square().sum(1, keepdim=True) + t.square().sum(1, keepdim=True)
    factor = 0.5 + 1.5 * r.square().sum(1, keepdim=True)
    return (
        (ends * factor).sum() * scale,
        (h * (2 * scale * factor)).view_as(head),
        (r * (3 * scale * ends)).view_as(relation),
        (t * (2 * scale * factor)).view_as(tail),
    )


_dura = operation("dura", _reference)


@fp32_kernel("dura", "cpu")
def _cpu(
    head: Tensor, relation: Tensor, tail: Tensor, parts: int, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
    return penalty.sum(), *gradients


@_dura.register_fake
def _fake(
    head: Tensor, relation: Tensor, tail: Tensor, parts: int, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = torch.empty_like(head), torch.empty_like(relation), torch.empty_like(tail)
    return head.new_empty(()), *gradients


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *others: Tensor | None) -> tuple[Any, ...]:
    if any(other is not None for other in others):
        raise RuntimeError(
            "metasd::dura is differentiable once: its gradients are closed forms that carry no "
            "graph"
        )
    if grad is None:
        return (None,) * 5
    return *(grad * gradient for gradient in ctx.saved_tensors), None, None


_dura.register_autograd(_backward, setup_context=_setup)
