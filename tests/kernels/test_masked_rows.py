import re
from typing import Any

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from row_cases import SHAPES, index_of


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", kc.MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_are_gathered_and_masked(
    shape: tuple[int, int, int], kind: str, dtype: torch.dtype
) -> None:
    rows, columns, count = shape
    x, mask, index = (
        kc.table(rows, columns, dtype=dtype),
        kc.packed(kind, rows, columns),
        index_of(rows, count),
    )
    with kc.new_memory_is_nan():
        got = kernels.masked_rows(x, mask, index)
    assert torch.equal(got, kc.masked(x, mask)[index])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", kc.MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_is_that_of_indexing(
    shape: tuple[int, int, int], kind: str, dtype: torch.dtype
) -> None:
    rows, columns, count = shape
    x, mask, index = (
        kc.table(rows, columns, dtype=dtype),
        kc.packed(kind, rows, columns),
        index_of(rows, count),
    )
    upstream = kc.table(count, columns, 9, dtype=dtype)
    gradients = []
    for gather in (kernels.masked_rows, lambda t, m, i: kc.masked(t, m)[i]):
        leaf = kc.leaf(x)
        gradients += torch.autograd.grad(gather(leaf, mask, index), leaf, upstream)
    kc.assert_close(gradients[:1], gradients[1:], 1e-6 if dtype == torch.float32 else 1e-14)


def test_gradient_takes_an_upstream_that_is_not_contiguous() -> None:
    x, index = kc.leaf(kc.table(6, 40)), torch.tensor([1, 1, 4])
    (grad,) = torch.autograd.grad(kernels.masked_rows(x, None, index).sum(), x)  # expanded ones
    assert grad[:, 0].tolist() == [0, 2, 0, 0, 1, 0]


@pytest.mark.parametrize("kind", ["none", "random"])
def test_first_and_second_derivative(kind: str) -> None:
    x, mask = kc.leaf(kc.table(4, 35, dtype=torch.float64)), kc.packed(kind, 4, 35)
    index = torch.tensor([2, 0, 2])

    def gather(t: Tensor) -> Tensor:
        return kernels.masked_rows(t, mask, index)

    assert torch.autograd.gradcheck(gather, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(gather, x, fast_mode=True)
    cubed = gather(x).pow(3).sum()  # a second derivative that is not zero
    (first,) = torch.autograd.grad(cubed, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    times = torch.bincount(index, minlength=4)[:, None]
    torch.testing.assert_close(second, 6 * kc.masked(x.detach(), mask) * times)


def test_threads_do_not_change_a_bit() -> None:
    x, mask, index = kc.table(50, 75), kc.packed("random", 50, 75), index_of(50, 300)
    results = []
    for count in (1, 2, 3, 5):
        with kc.threads(count):
            results.append([kernels.masked_rows(x, mask, index)])
    assert all(kc.same_bits(result, results[0]) for result in results)


bad_inputs: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"table": [1.0]}, TypeError, "table must be a torch.Tensor; got list"),
    ({"table": torch.zeros(6, 40).half()}, TypeError, "table must be float32 or float64"),
    ({"table": torch.zeros(40, 6).T}, ValueError, "table must be contiguous"),
    ({"table": torch.zeros(6)}, ValueError, "table must be (rows, columns)"),
    ({"mask": torch.zeros(6, 40, dtype=torch.bool)}, TypeError, "packed int32 words"),
    (
        {"mask": torch.zeros(6, 3, dtype=torch.int32)},
        ValueError,
        "mask must be (6, 2) for a table (6, 40)",
    ),
    ({"mask": torch.zeros(2, 6, dtype=torch.int32).T}, ValueError, "mask must be contiguous"),
    ({"mask": "all"}, TypeError, "packed int32 words (see pack_mask); got str"),
    ({"index": [0]}, TypeError, "index must be an int64 tensor; got list"),
    ({"index": torch.tensor([0], dtype=torch.int32)}, TypeError, "int64 tensor; got torch.int32"),
    ({"index": torch.tensor(0)}, ValueError, "index must be (B,); got ()"),
    ({"index": torch.zeros(4, dtype=torch.int64)[::2]}, ValueError, "index must be contiguous"),
    ({"index": torch.tensor([0, 6])}, ValueError, "index must lie in 0 .. 5; got 6"),
    ({"index": torch.tensor([0, -1])}, ValueError, "index must lie in 0 .. 5; got -1"),
    ({"index": torch.tensor([2**62])}, ValueError, "index must lie in 0 .. 5"),
    ({"table": torch.zeros(0, 40), "mask": None}, ValueError, "index must lie in 0 .. -1; got 0"),
]


@pytest.mark.parametrize(("changes", "error", "message"), bad_inputs, ids=lambda x: str(x)[:40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bad_input_is_named(
    changes: dict[str, Any], error: type[Exception], message: str, dtype: torch.dtype
) -> None:
    arguments = {
        "table": torch.zeros(6, 40, dtype=dtype),
        "mask": torch.zeros(6, 2, dtype=torch.int32),
        "index": torch.tensor([0]),
    }
    with pytest.raises(error, match=re.escape(message)):
        kernels.masked_rows(**(arguments | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["none", "random"])
def test_operations_are_sound(dtype: torch.dtype, kind: str) -> None:
    x, mask, index = kc.table(6, 40, dtype=dtype), kc.packed(kind, 6, 40), torch.tensor([1, 5, 1])
    torch.library.opcheck(torch.ops.metasd.masked_rows.default, (kc.leaf(x), mask, index))
    grad = kc.leaf(kc.table(3, 40, dtype=dtype))
    torch.library.opcheck(torch.ops.metasd.masked_rows_backward.default, (grad, mask, index, 6))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_gather_and_its_gradient_trace_as_one_graph(backend: str) -> None:
    mask, index = kc.packed("random", 6, 40), torch.tensor([1, 5, 1])

    def loss(x: Tensor) -> Tensor:
        return kernels.masked_rows(x, mask, index).square().sum()

    x = kc.table(6, 40)
    gradients = [
        torch.autograd.grad(f(leaf := kc.leaf(x)), leaf) for f in (loss, kc.compiled(loss, backend))
    ]
    kc.assert_close(gradients[1], gradients[0], 1e-6)
