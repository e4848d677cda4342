import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import kernel_cases as kc
from metasd import kernels


@pytest.mark.parametrize("shape", kc.few(kc.SHAPES, (1, 37, 5), (17, 250, 64)), ids=str)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "none", "random"))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_fp64_is_the_definition(
    shape: tuple[int, int, int], kind: str, weighted: bool, quantised: bool
) -> None:
    c = kc.case(*shape, mask=kind, weighted=weighted, quantised=quantised)
    kc.assert_is_definition("cross_entropy", c)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("shape", kc.few(kc.SHAPES[1:], (17, 250, 64)), ids=str)
def test_error_is_at_most_twice_that_of_eager_torch(
    shape: tuple[int, int, int], scale: float, precision: str
) -> None:
    kc.assert_as_good_as_eager("cross_entropy", shape, precision, scale=scale)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "random"))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_masks_weights_and_values_keep_the_error(
    kind: str, weighted: bool, quantised: bool, precision: str
) -> None:
    kc.assert_as_good_as_eager(
        "cross_entropy", (17, 250, 65), precision, mask=kind, weighted=weighted, quantised=quantised
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["none", "random"])
def test_loss_is_differentiable(dtype: torch.dtype, kind: str) -> None:
    c = kc.case(9, 40, 33, mask=kind, weighted=True).to(dtype)
    q, e = kc.leaf(c.q_pruned), kc.leaf(c.entities)
    loss = kernels.entity_cross_entropy(q, e, c.targets, c.mask, c.weight, precision="fp32")
    got = torch.autograd.grad(-2.5 * loss, (q, e))
    value, dq, de = kc.cross_entropy_by_autograd(c)
    kc.assert_close([loss, *got], [value, -2.5 * dq, -2.5 * de], 1e-6)


def test_loss_without_options_is_that_of_torch() -> None:
    c = kc.case(9, 40, 33)
    wanted = functional.cross_entropy((c.q_pruned @ c.entities.T).double(), c.targets)
    loss = kernels.entity_cross_entropy(c.q_pruned, c.entities, c.targets, precision="fp32")
    assert loss.shape == ()
    kc.assert_close([loss], [wanted], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_second_derivative_is_refused(dtype: torch.dtype) -> None:
    c = kc.case(3, 10, 8).to(dtype)
    q, e = kc.leaf(c.q_pruned), kc.leaf(c.entities)
    loss = kernels.entity_cross_entropy(q, e, c.targets)
    dq, de = torch.autograd.grad(loss, (q, e), create_graph=True)
    for gradient in (dq, de):
        with pytest.raises(RuntimeError, match="differentiable once"):
            gradient.square().sum().backward(retain_graph=True)
    _, dq, _ = kernels.entity_cross_entropy_gradients(q, e, c.targets)
    with pytest.raises(RuntimeError, match="differentiable once"):
        dq.sum().backward()


def test_the_gradient_goes_to_the_masked_entities_not_to_the_quantised_values() -> None:
    c = kc.case(5, 20, 33, quantised=True)
    assert c.pruned is not None
    e, values = kc.leaf(c.entities), kc.leaf(c.pruned)
    loss = kernels.entity_cross_entropy(c.q_pruned, e, c.targets, c.mask, pruned=values)
    de, dvalues = torch.autograd.grad(loss, (e, values), allow_unused=True)
    assert dvalues is None
    keep = kc.kept("random", 20, 33)
    assert keep is not None
    assert bool(de[keep].any())
    assert not de[~keep].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("entities", [0, 7])
def test_an_empty_batch_loses_nothing(dtype: torch.dtype, entities: int) -> None:
    with kc.new_memory_is_nan():
        loss, dq, de = kernels.entity_cross_entropy_gradients(
            torch.zeros(0, 5, dtype=dtype),
            kc.table(entities, 5, dtype=dtype),
            torch.zeros(0, dtype=torch.int64),
            kc.packed("random", entities, 5),
            torch.ones(entities, dtype=dtype),
        )
    assert loss.item() == 0
    assert dq.shape == (0, 5)
    assert torch.equal(de, torch.zeros(entities, 5, dtype=dtype))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_single_entity_is_certain(precision: str) -> None:
    c = kc.case(6, 1, 9)
    for result in kc.cross_entropy_of(c, precision=precision):
        assert not result.any()


def test_scores_far_apart_do_not_overflow() -> None:
    e = torch.tensor([[3e4], [0.0], [-3e4]])
    q = torch.tensor([[1.0], [-1.0], [1.0]])
    loss, dq, _ = kernels.entity_cross_entropy_gradients(
        q, e, torch.tensor([0, 0, 1]), precision="fp32"
    )
    assert loss.item() == pytest.approx((0 + 6e4 + 3e4) / 3)
    assert (dq[:, 0] * 3).tolist() == pytest.approx([0.0, -6e4, 3e4])


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FC00001, 0x7FFFFFFF])
@pytest.mark.parametrize("column", [0, 5, 16])
def test_a_nan_in_a_table_makes_the_loss_nan(bits: int, column: int) -> None:
    c = kc.case(1, 17, 8, mask="none")
    c.entities[column] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    c.targets[:] = 3
    assert kc.cross_entropy_of(c, precision="fp32")[0].isnan()


bad_inputs: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"queries": torch.zeros(3, 39)},
        ValueError,
        "queries must be (N, 40) to match (6, 40); got (3, 39)",
    ),
    ({"queries": torch.zeros(40, 3).T}, ValueError, "queries must be contiguous"),
    ({"entities": torch.zeros(6, 40).half()}, TypeError, "entities must be float32 or float64"),
    ({"entities": torch.zeros(6, 40).double()}, TypeError, "queries must be torch.float64 on cpu"),
    ({"targets": torch.tensor([0, 5, 6])}, ValueError, "targets must lie in 0 .. 5; got 6"),
    ({"targets": torch.tensor([0, 5, -1])}, ValueError, "targets must lie in 0 .. 5; got -1"),
    ({"targets": torch.tensor([0, 5])}, ValueError, "targets must be (3,); got (2,)"),
    (
        {"targets": torch.zeros(3, 1, dtype=torch.int64)},
        ValueError,
        "targets must be (3,); got (3, 1)",
    ),
    ({"targets": torch.zeros(3)}, TypeError, "targets must be an int64 tensor; got torch.float32"),
    ({"targets": torch.zeros(6, dtype=torch.int64)[::2]}, ValueError, "targets must be contiguous"),
    (
        {"mask": torch.zeros(5, 2, dtype=torch.int32)},
        ValueError,
        "mask must be (6, 2) for a table (6, 40)",
    ),
    ({"weight": torch.zeros(3)}, ValueError, "weight must be (6,), one per entity; got (3,)"),
    ({"weight": torch.zeros(6).double()}, TypeError, "weight must be torch.float32 on cpu"),
    ({"weight": [1.0] * 6}, TypeError, "weight must be a torch.Tensor; got list"),
    ({"pruned": torch.zeros(5, 40)}, ValueError, "pruned must have 6 rows; got (5, 40)"),
    (
        {"pruned": torch.zeros(6, 39)},
        ValueError,
        "pruned must be (6, 40) to match (6, 40); got (6, 39)",
    ),
    ({"pruned": torch.zeros(6, 40).double()}, TypeError, "pruned must be torch.float32 on cpu"),
    ({"precision": "fp8"}, ValueError, "must be one of auto, fp32, tf32, bf16; got 'fp8'"),
    ({"score_memory": 0}, ValueError, "score_memory must be a positive number of bytes; got 0"),
    ({"score_memory": -5}, ValueError, "score_memory must be a positive number of bytes; got -5"),
]


@pytest.mark.parametrize(("changes", "error", "message"), bad_inputs, ids=lambda x: str(x)[:40])
def test_bad_input_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "queries": torch.zeros(3, 40),
        "entities": torch.zeros(6, 40),
        "targets": torch.tensor([0, 5, 2]),
        "mask": torch.zeros(6, 2, dtype=torch.int32),
    }
    with pytest.raises(error, match=re.escape(message)):
        kernels.entity_cross_entropy(**(arguments | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("quantised", [False, True])
def test_operation_is_sound(dtype: torch.dtype, quantised: bool) -> None:
    c = kc.case(3, 10, 40, weighted=True, quantised=quantised).to(dtype)
    arguments = (c.q_pruned, c.entities, c.targets, c.mask, c.pruned, c.weight, "fp32", 1)
    torch.library.opcheck(torch.ops.metasd.entity_cross_entropy.default, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_loss_and_gradient_trace_as_one_graph(backend: str) -> None:
    c = kc.case(9, 40, 33, weighted=True)

    def loss(q: Tensor, e: Tensor, targets: Tensor) -> Tensor:
        return kernels.entity_cross_entropy(2 * q, e, targets, c.mask, c.weight, precision="fp32")

    function = kc.compiled(loss, backend)
    results = []
    for f in (loss, function):
        leaves = kc.leaf(c.q_pruned), kc.leaf(c.entities)
        results.append(torch.autograd.grad(f(*leaves, c.targets), leaves))
    kc.assert_close(results[1], results[0], 1e-6)
    with pytest.raises(ValueError, match=re.escape("targets must lie in 0 .. 39; got 40")):
        function(c.q_pruned, c.entities, c.targets + 40 - c.targets.max())
