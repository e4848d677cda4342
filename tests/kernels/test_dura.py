"""The DURA pass against its definition in float64."""

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels

PARTS = [(1, 1), (1, 40), (2, 1), (2, 16), (2, 37), (4, 5)]
"""(real numbers per coordinate, rank)."""


def penalty(head: Tensor, relation: Tensor, tail: Tensor, parts: int, scale: float) -> Tensor:
    h, r, t = (x.unflatten(1, (parts, -1)).square().sum(1) for x in (head, relation, tail))
    return scale * (0.5 * (h + t) + 1.5 * (h * r + r * t)).sum()


@pytest.mark.parametrize(("parts", "rank"), PARTS)
@pytest.mark.parametrize("count", [0, 1, 33])
@pytest.mark.parametrize("isa", kc.ISAS)
def test_penalty_and_gradients(isa: str, parts: int, rank: int, count: int) -> None:
    rows = [kc.table(count, parts * rank, seed) for seed in (1, 2, 3)]
    exact = [kc.leaf(row.double()) for row in rows]
    wanted = penalty(*exact, parts, 0.3)
    truths = torch.autograd.grad(wanted, exact)
    with kc.isa(isa), kc.new_memory_is_nan():
        value, gradients = kernels.dura(*rows, parts, 0.3)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-6)
    for found, truth in zip(gradients, truths, strict=True):
        torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-6)
    value, gradients = kernels.dura(*(row.double() for row in rows), parts, 0.3)
    kc.assert_close([value, *gradients], [wanted, *truths], 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_penalty_is_differentiable_once(dtype: torch.dtype) -> None:
    rows = [kc.leaf(kc.table(3, 8, seed, dtype=dtype)) for seed in (1, 2, 3)]
    value, gradients = kernels.dura(*rows, 2, 0.3)
    kc.assert_close(torch.autograd.grad(-2.5 * value, rows), [-2.5 * g for g in gradients], 1e-6)
    with pytest.raises(RuntimeError, match="metasd::dura is differentiable once"):
        kernels.dura(*rows, 2, 0.3)[1][0].sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_operation_is_sound(dtype: torch.dtype) -> None:
    rows = [kc.table(3, 8, seed, dtype=dtype) for seed in (1, 2, 3)]
    torch.library.opcheck(torch.ops.metasd.dura.default, (*rows, 2, 0.3))


def test_traces_as_one_graph() -> None:
    rows = [kc.table(3, 8, seed) for seed in (1, 2, 3)]

    def run(*rows: Tensor) -> list[Tensor]:
        value, gradients = kernels.dura(*rows, 2, 0.3)
        return [value, *gradients]

    kc.assert_close(kc.compiled(run)(*rows), run(*rows), 1e-6)


def test_bad_input_is_named() -> None:
    a, b = torch.zeros(3, 6), torch.zeros(2, 6)
    with pytest.raises(ValueError, match="relation must have 3 rows"):
        kernels.dura(a, b, a, 2, 1.0)
    with pytest.raises(ValueError, match="parts must divide the 6 columns; got 4"):
        kernels.dura(a, a, a, 4, 1.0)
