"""The DURA pass against its definition in float64."""

import pytest
import torch

import kernel_cases as kc
from metasd import kernels


@pytest.mark.parametrize(("parts", "rank"), [(1, 1), (1, 40), (2, 1), (2, 16), (2, 37), (4, 5)])
@pytest.mark.parametrize("count", [0, 1, 33])
@pytest.mark.parametrize("isa", kc.ISAS)
def test_penalty_and_gradients(isa: str, parts: int, rank: int, count: int) -> None:
    rows = [kc.table(count, parts * rank, seed) for seed in (1, 2, 3)]
    exact = [row.double().requires_grad_() for row in rows]
    wanted, _ = kernels.dura(*exact, parts, 0.3)
    with kc.isa(isa):
        value, gradients = kernels.dura(*rows, parts, 0.3)
    assert float(value) == pytest.approx(float(wanted), rel=1e-6)
    for found, truth in zip(gradients, torch.autograd.grad(wanted, exact), strict=True):
        torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-6)


def test_bad_input_is_named() -> None:
    a, b = torch.zeros(3, 6), torch.zeros(2, 6)
    with pytest.raises(ValueError, match="relation must have 3 rows"):
        kernels.dura(a, b, a, 2, 1.0)
    with pytest.raises(ValueError, match="parts must divide the 6 columns; got 4"):
        kernels.dura(a, a, a, 4, 1.0)
