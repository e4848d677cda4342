"""Products of complex rows, the query encoder of ComplEx and all of its gradients."""

from typing import Any

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_table
from ._operations import fp32_kernel, operation


def complex_product(x: Tensor, y: Tensor, conjugate: bool = False) -> Tensor:
    """`x * y`, or `conj(x) * y`, of rows of complex numbers, differentiable any number of times.

    ComplEx (Trouillon et al., ICML 2016): `head * relation` is the query of a tail,
    `conj(head) * tail` that of a relation.

    Args:
        x, y: fp32 or fp64 (B, 2 rank), real parts in the first half of a row, imaginary in the
            second.
        conjugate: whether `x` is conjugated.

    Returns:
        (B, 2 rank) in the same arrangement.

    Raises:
        ValueError: an odd number of columns.

    Equivalent to: `torch.complex(a, b) * torch.complex(c, d)` with `(a, b), (c, d) = x.chunk(2, 1),
    y.chunk(2, 1)`.
    """
    check_table("x", x)
    check_table("y", y, x.shape[0], like=x)
    if x.shape[1] % 2:
        raise ValueError(f"x must have an even number of columns; got {tuple(x.shape)}")
    product: Tensor = _complex_product(x, y, conjugate)
    return product


def _reference(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    (a, b), (c, d) = x.chunk(2, dim=1), y.chunk(2, dim=1)
    if conjugate:
        b = -b
    return torch.cat([a * c - b * d, a * d + b * c], dim=1)


_complex_product = operation("complex_product", _reference)


@fp32_kernel("complex_product", "cpu")
def _cpu(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    out = torch.empty_like(x)
    _C.complex_product(
        out.data_ptr(),
        x.data_ptr(),
        y.data_ptr(),
        x.shape[0],
        x.shape[1] // 2,
        conjugate,
        torch.get_num_threads(),
    )
    return out


@_complex_product.register_fake
def _fake(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    return torch.empty_like(x)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    x, y, ctx.conjugate = inputs
    ctx.save_for_backward(x, y)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, y = ctx.saved_tensors
    grad = grad.contiguous()
    if ctx.conjugate:
        return _complex_product(grad, y, True), _complex_product(x, grad, False), None
    return _complex_product(y, grad, True), _complex_product(x, grad, True), None


_complex_product.register_autograd(_backward, setup_context=_setup)
