import re
from typing import Any

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels


@pytest.mark.parametrize("shape", [*kc.SHAPES, (0, 5, 3), (4, 0, 3)], ids=str)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "none", "random"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scores_are_products_with_the_masked_table(
    shape: tuple[int, int, int], kind: str, dtype: torch.dtype
) -> None:
    rows, entities, width = shape
    q, e = kc.table(rows, width, 1, dtype=dtype), kc.table(entities, width, 2, dtype=dtype)
    mask = kc.packed(kind, entities, width)
    with kc.new_memory_is_nan():
        z = kernels.score_entities(q, e, mask, precision="fp32")
    assert z.dtype == dtype
    wanted = q.double() @ kc.masked(e, mask).double().T
    kc.assert_close([z], [wanted], 5e-7 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("shape", kc.SHAPES, ids=str)
def test_bf16_is_as_good_as_torch(shape: tuple[int, int, int]) -> None:
    rows, entities, width = shape
    q, e, mask = (
        kc.table(rows, width, 1),
        kc.table(entities, width, 2),
        kc.packed("random", entities, width),
    )
    exact, half = q.double() @ kc.masked(e, mask).double().T, torch.bfloat16
    eager = q.to(half) @ kc.masked(e, mask).to(half).T
    z = kernels.score_entities(q, e, mask, precision="bf16")
    assert z.dtype == torch.float32
    assert kc.error(z, exact) <= 2 * kc.error(eager, exact) + 2**-9 * float(exact.norm())
    assert torch.equal(z, z.to(half).float()), "bf16 products, held in fp32"


def test_tf32_is_fp32_on_a_cpu() -> None:
    q, e = kc.table(9, 33, 1), kc.table(20, 33, 2)
    wanted = kernels.score_entities(q, e, precision="fp32")
    assert torch.equal(kernels.score_entities(q, e, precision="tf32"), wanted)


@pytest.mark.parametrize("kind", ["none", "random", "zeros"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 34)], ids=str)
def test_first_and_second_derivative(kind: str, shape: tuple[int, int, int]) -> None:
    rows, entities, width = shape
    q = kc.leaf(kc.table(rows, width, 1, dtype=torch.float64))
    e = kc.leaf(kc.table(entities, width, 2, dtype=torch.float64))
    mask = kc.packed(kind, entities, width)

    def score(a: Tensor, b: Tensor) -> Tensor:
        return kernels.score_entities(a, b, mask)

    assert torch.autograd.gradcheck(score, (q, e), fast_mode=True)
    assert torch.autograd.gradgradcheck(score, (q, e), fast_mode=True)


@pytest.mark.parametrize("kind", kc.MASKS)
def test_fp32_gradient_is_that_of_the_product(kind: str) -> None:
    q, e, mask = kc.table(17, 65, 1), kc.table(50, 65, 2), kc.packed(kind, 50, 65)
    upstream = kc.table(17, 50, 3)
    a, b = kc.leaf(q), kc.leaf(e)
    got = torch.autograd.grad(kernels.score_entities(a, b, mask), (a, b), upstream)
    a, b = kc.leaf(q.double()), kc.leaf(e.double())
    wanted = torch.autograd.grad(a @ kc.masked(b, mask).T, (a, b), upstream.double())
    kc.assert_close(got, wanted, 1e-6)


bad_inputs: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"queries": [1.0]}, TypeError, "queries must be a torch.Tensor; got list"),
    (
        {"queries": torch.zeros(3, 39)},
        ValueError,
        "queries must be (N, 40) to match (6, 40); got (3, 39)",
    ),
    ({"queries": torch.zeros(3, 40).double()}, TypeError, "queries must be torch.float32 on cpu"),
    (
        {"queries": torch.zeros(40, 3).T},
        ValueError,
        "queries must be contiguous; got strides (1, 3)",
    ),
    (
        {"entities": torch.zeros(6, 0)},
        ValueError,
        "entities must be (rows, columns) with columns > 0",
    ),
    ({"entities": torch.zeros(6, 40).bfloat16()}, TypeError, "entities must be float32 or float64"),
    (
        {"mask": torch.zeros(6, 1, dtype=torch.int32)},
        ValueError,
        "mask must be (6, 2) for a table (6, 40)",
    ),
    (
        {"mask": torch.zeros(6, 2)},
        TypeError,
        "packed int32 words (see pack_mask); got torch.float32",
    ),
    ({"precision": "fp16"}, ValueError, "must be one of auto, fp32, tf32, bf16; got 'fp16'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), bad_inputs, ids=lambda x: str(x)[:40])
def test_bad_input_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "queries": torch.zeros(3, 40),
        "entities": torch.zeros(6, 40),
        "mask": torch.zeros(6, 2, dtype=torch.int32),
    }
    with pytest.raises(error, match=re.escape(message)):
        kernels.score_entities(**(arguments | changes))


def test_the_stride_of_a_dimension_of_one_row_does_not_matter() -> None:
    row = kc.table(1, 8).as_strided((1, 8), (2**60, 1))
    for precision in ("fp32", "bf16"):
        z = kernels.score_entities(row, row, precision=precision)
        kc.assert_close([z], [row @ row.T], 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["none", "random"])
def test_operations_are_sound(dtype: torch.dtype, kind: str) -> None:
    q, e = kc.leaf(kc.table(3, 40, 1, dtype=dtype)), kc.leaf(kc.table(5, 40, 2, dtype=dtype))
    arguments = (q, e, kc.packed(kind, 5, 40), "fp32")
    torch.library.opcheck(torch.ops.metasd.score_entities.default, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_scores_and_gradients_trace_as_one_graph(backend: str) -> None:
    mask = kc.packed("random", 5, 40)

    def loss(q: Tensor, e: Tensor) -> Tensor:
        tails = kernels.masked_rows(e, mask, torch.tensor([1, 1, 4]))
        return (
            kernels.score_entities(q, e, mask).logsumexp(1).sum()
            - kernels.score_triples(q, tails).sum()
        )

    q, e = kc.table(3, 40, 1), kc.table(5, 40, 2)
    results = []
    for function in (loss, kc.compiled(loss, backend)):
        leaves = kc.leaf(q), kc.leaf(e)
        results.append(torch.autograd.grad(function(*leaves), leaves))
    kc.assert_close(results[1], results[0], 1e-6)
