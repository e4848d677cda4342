import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels

FORMATS = [(8, 128.0), (4, 8.0), (3, 3.5), (2, 1.5)]


def coded(rows: int, width: int, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """(codes as they are stored, scales, the codes as numbers), with columns past the width."""
    planes, runs = (8, 3) if bits == 3 else (8 // bits, 1)
    share = -(-width // planes)
    generator = torch.Generator().manual_seed(bits)
    numbers = torch.randint(1 << bits, (rows, planes, share), generator=generator)
    stored = torch.zeros(rows, runs, share, dtype=torch.int64)
    for plane in range(planes):
        number = numbers[:, plane]
        if bits == 3:
            stored[:, plane % 2] |= (number & 3) << plane // 2 * 2
            stored[:, 2] |= number >> 2 << plane
        else:
            stored[:, 0] |= number << bits * plane
    scale = torch.rand(rows, generator=generator) + 0.5
    return stored.flatten(1).to(torch.uint8), scale, numbers.flatten(1)[:, :width]


def check(bits: int, zero: float, rows: int, width: int, device: str) -> None:
    codes, scale, numbers = coded(rows, width, bits)
    dense = (numbers.double() - zero) * scale[:, None].double()
    q, chosen = kc.table(3, width, 1), torch.tensor([rows - 1, 0])
    for at, first in ((None, 0), (None, rows // 3), (chosen, 0)):
        picked = dense[first:] if at is None else dense[at]
        out = torch.full((3, len(picked)), torch.nan, device=device)
        arguments = (codes.to(device), scale.to(device), q.to(device), bits, zero)
        kernels.code_scores(*arguments, None if at is None else at.to(device), first, out)
        exact = q.double() @ picked.T
        bound = 2e-6 * (q.double().abs() @ picked.abs().T) + 1e-30
        assert ((out.cpu().double() - exact).abs() <= bound).all()


@pytest.mark.parametrize(("bits", "zero"), FORMATS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (17, 33), (150, 300)])
def test_scores_are_those_of_the_decoded_rows(
    bits: int, zero: float, rows: int, width: int
) -> None:
    check(bits, zero, rows, width, "cpu")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("bits", "zero"), FORMATS)
@pytest.mark.parametrize(
    ("rows", "width"),
    [(17, 33), *(pytest.param(*x, marks=pytest.mark.slow) for x in [(1, 1), (150, 300)])],
)
def test_a_gpu_scores_codes(bits: int, zero: float, rows: int, width: int, gpu: str) -> None:
    check(bits, zero, rows, width, gpu)


def test_operation_is_sound() -> None:
    codes, scale, _ = coded(5, 40, 3)
    arguments = (codes, scale, kc.table(2, 40), 3, 3.5, None, 1, torch.zeros(2, 4))
    torch.library.opcheck(torch.ops.metasd.code_scores.default, arguments)
