import pytest
import torch

import kernel_cases as kc
from metasd import kernels


@pytest.mark.parametrize("rank", [1, 8, 15, 16, 33, 128])
@pytest.mark.parametrize("conjugate", [False, True])
@pytest.mark.parametrize("isa", kc.ISAS)
def test_is_the_product_of_complex_numbers(rank: int, conjugate: bool, isa: str) -> None:
    x, y = kc.table(7, 2 * rank, 1), kc.table(7, 2 * rank, 2)
    a, b = (torch.complex(z[:, :rank].double(), z[:, rank:].double()) for z in (x, y))
    wanted = (a.conj() if conjugate else a) * b
    with kc.isa(isa):
        got = kernels.complex_product(x, y, conjugate)
    torch.testing.assert_close(
        got.double(), torch.cat([wanted.real, wanted.imag], dim=1), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("conjugate", [False, True])
def test_differentiable_twice(conjugate: bool) -> None:
    x, y = (kc.table(3, 6, seed, dtype=torch.float64).requires_grad_() for seed in (1, 2))
    product = kernels.complex_product
    assert torch.autograd.gradcheck(lambda a, b: product(a, b, conjugate), (x, y))
    assert torch.autograd.gradgradcheck(lambda a, b: product(a, b, conjugate), (x, y))


def test_compiles_and_has_a_fake() -> None:
    x = kc.table(3, 6)
    torch.library.opcheck(torch.ops.metasd.complex_product, (x, x, True))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((3, 5), (3, 5), "even"),
        ((3, 4), (2, 4), "3 rows"),
        ((3, 4), (3, 6), "match"),
    ],
    ids=str,
)
def test_bad_input(x: tuple[int, int], y: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.complex_product(torch.zeros(x), torch.zeros(y))
