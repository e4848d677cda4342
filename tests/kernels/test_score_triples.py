import pytest
import torch

import kernel_cases as kc
from metasd import kernels


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (13, 67)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_triples_score_their_own_tail(shape: tuple[int, int], dtype: torch.dtype) -> None:
    q, t = kc.table(*shape, 1, dtype=dtype), kc.table(*shape, 2, dtype=dtype)
    z = kernels.score_triples(q, t)
    assert z.shape == shape[:1]
    wanted = torch.tensor([float(a.double() @ b.double()) for a, b in zip(q, t, strict=True)])
    kc.assert_close([z], [wanted.double()], 1e-6)
    every = kernels.score_entities(q, t, precision="fp32")
    kc.assert_close([z], [every.diagonal()], 1e-6)


def test_first_and_second_derivative() -> None:
    q = kc.leaf(kc.table(3, 5, 1, dtype=torch.float64))
    t = kc.leaf(kc.table(3, 5, 2, dtype=torch.float64))
    assert torch.autograd.gradcheck(kernels.score_triples, (q, t))
    assert torch.autograd.gradgradcheck(kernels.score_triples, (q, t))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"query must have 4 rows; got \(3, 8\)"):
        kernels.score_triples(torch.zeros(3, 8), torch.zeros(4, 8))
    with pytest.raises(ValueError, match=r"query must be \(4, 8\) to match \(4, 8\); got \(4, 7\)"):
        kernels.score_triples(torch.zeros(4, 7), torch.zeros(4, 8))
    with pytest.raises(TypeError, match="tails must be float32 or float64; got"):
        kernels.score_triples(torch.zeros(4, 8), torch.zeros(4, 8, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_operation_is_sound(dtype: torch.dtype) -> None:
    query, tails = (kc.leaf(kc.table(3, 40, seed, dtype=dtype)) for seed in (1, 3))
    torch.library.opcheck(torch.ops.metasd.score_triples.default, (query, tails))
