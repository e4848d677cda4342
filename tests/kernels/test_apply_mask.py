import re

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", kc.MASKS)
@pytest.mark.parametrize("shape", [(0, 40), (1, 1), (7, 33), (5, 64), (3, 130)], ids=str)
def test_apply_mask_zeroes_what_is_dropped(
    dtype: torch.dtype, kind: str, shape: tuple[int, int]
) -> None:
    x, keep = kc.table(*shape, dtype=dtype), kc.kept(kind, *shape)
    wanted = x if keep is None else x.masked_fill(~keep, 0)
    if keep is not None:  # a dropped infinity becomes zero, not NaN
        x = x.masked_fill(~keep, torch.inf)
    mask = kc.packed(kind, *shape)
    assert torch.equal(kernels.apply_mask(x, mask), wanted)
    with kc.new_memory_is_nan():
        out = torch.empty_like(x)
        assert kernels.apply_mask(x, mask, out) is out
    assert torch.equal(out, wanted)
    assert torch.equal(kernels.apply_mask(x, mask, x), wanted)
    assert torch.equal(x, wanted), "in place"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_apply_mask_is_recorded_by_autograd(dtype: torch.dtype) -> None:
    x, keep = kc.table(4, 40, dtype=dtype).requires_grad_(), kc.kept("random", 4, 40)
    kernels.apply_mask(x, kc.packed("random", 4, 40)).sum().backward()
    assert keep is not None
    assert x.grad is not None
    assert torch.equal(x.grad.bool(), keep)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (torch.zeros(4, 40), ValueError, "out must have 5 rows; got (4, 40)"),
        (torch.zeros(5, 41), ValueError, "to match (5, 40); got (5, 41)"),
        (torch.zeros(5, 40).double(), TypeError, "out must be torch.float32"),
        (torch.zeros(40, 5).T, ValueError, "out must be contiguous"),
    ],
)
def test_apply_mask_refuses_an_out_that_does_not_fit(
    out: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        kernels.apply_mask(kc.table(5, 40), kc.packed("random", 5, 40), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_into_another_table_is_recorded_by_autograd(dtype: torch.dtype) -> None:
    x, mask = kc.leaf(kc.table(4, 40, dtype=dtype)), kc.packed("random", 4, 40)
    out = kernels.apply_mask(x, mask, torch.empty(4, 40, dtype=dtype))
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(grad.bool(), kc.kept("random", 4, 40))
    assert torch.equal(out.detach(), kc.masked(x.detach(), mask))


def test_first_and_second_derivative() -> None:
    x, mask = kc.leaf(kc.table(4, 35, dtype=torch.float64)), kc.packed("random", 4, 35)
    assert torch.autograd.gradcheck(lambda t: kernels.apply_mask(t, mask), x)
    assert torch.autograd.gradgradcheck(lambda t: kernels.apply_mask(t, mask), x)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.zeros(5, 40, dtype=torch.bool), TypeError, "packed int32 words (see pack_mask)"),
        (torch.zeros(5, 1, dtype=torch.int32), ValueError, "mask must be (5, 2) for a table"),
        (torch.zeros(2, 5, dtype=torch.int32).T, ValueError, "mask must be contiguous"),
    ],
)
def test_bad_input_is_named(mask: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        kernels.apply_mask(kc.table(5, 40), mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_operations_are_sound(dtype: torch.dtype) -> None:
    x, mask = kc.leaf(kc.table(5, 40, dtype=dtype)), kc.packed("random", 5, 40)
    torch.library.opcheck(torch.ops.metasd.apply_mask.default, (x, mask))
    out = torch.zeros(5, 40, dtype=dtype)
    torch.library.opcheck(torch.ops.metasd.apply_mask_out.default, (x.detach(), mask, out))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_in_place_traces_as_one_graph(backend: str) -> None:
    mask = kc.packed("random", 5, 40)

    def run(x: Tensor) -> Tensor:
        return kernels.apply_mask(x, mask, x) + 1

    x, y = kc.table(5, 40), kc.table(5, 40)
    assert torch.equal(kc.compiled(run, backend)(x), run(y))
    assert torch.equal(x, y)


def test_inference_mode_masks_in_place() -> None:
    mask = kc.packed("random", 5, 40)
    with torch.inference_mode():
        x = kc.table(5, 40)
        wanted = kc.masked(x, mask)
        assert torch.equal(kernels.apply_mask(x, mask, x), wanted)
