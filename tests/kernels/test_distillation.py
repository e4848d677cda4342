import re
from typing import Any

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels

BOTH = ["inner", "mutual"]
EXCHANGES = [(3.0, 3.0, 1.0), (1.0, 1.0, 1.0), (0.5, 1.0, 3.0), (2.7, 0.0, 1.0), (4.0, 3.0, 0.0)]
"""(temperature, forward weight, backward weight), the published one first."""


def settings_of(exchange: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("temperature", "forward_weight", "backward_weight"), exchange, strict=True))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("shape", kc.few(kc.SHAPES, (1, 37, 5), (17, 250, 64)), ids=str)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "none", "random"))
@pytest.mark.parametrize("quantised", [False, True])
def test_fp64_is_the_definition(
    name: str, shape: tuple[int, int, int], kind: str, quantised: bool
) -> None:
    for exchange in EXCHANGES:
        options = settings_of(exchange)
        c = kc.case(*shape, mask=kind, weighted=True, quantised=quantised, **options)
        kc.assert_is_definition(name, c)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
@pytest.mark.parametrize(
    ("scale", "exchange"),
    [(1.0, EXCHANGES[0]), (10.0, EXCHANGES[0]), (10.0, EXCHANGES[2])],
    ids=str,
)
@pytest.mark.parametrize("shape", kc.few(kc.SHAPES[1:], (17, 250, 64)), ids=str)
def test_error_is_at_most_twice_that_of_eager_torch(
    name: str,
    shape: tuple[int, int, int],
    scale: float,
    exchange: tuple[float, float, float],
    precision: str,
) -> None:
    kc.assert_as_good_as_eager(name, shape, precision, scale=scale, **settings_of(exchange))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
@pytest.mark.parametrize("exchange", [*EXCHANGES, (3.0, 0.0, 0.0)], ids=str)
def test_temperatures_and_weights_keep_the_error(
    name: str, exchange: tuple[float, float, float], precision: str
) -> None:
    kc.assert_as_good_as_eager(name, (17, 250, 65), precision, scale=3.0, **settings_of(exchange))


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "random"))
@pytest.mark.parametrize("options", [{}, {"weighted": True}, {"quantised": True}], ids=str)
def test_masks_class_weights_and_values_keep_the_error(
    name: str, kind: str, options: dict[str, bool], precision: str
) -> None:
    kc.assert_as_good_as_eager(name, (17, 250, 65), precision, mask=kind, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_without_exchange_both_models_only_see_their_cross_entropy(dtype: torch.dtype) -> None:
    c = kc.case(9, 60, 33, forward_weight=0.0, backward_weight=0.0, weighted=True).to(dtype)
    loss, dq, de = kc.cross_entropy_of(c, precision="fp32")
    kc.assert_close(kc.inner_of(c, precision="fp32"), [loss, dq, de], 1e-6)
    alone = kernels.entity_cross_entropy_gradients(
        c.q_source, c.entities, c.targets, None, c.weight, precision="fp32"
    )
    wanted = [alone[0], loss, alone[1], dq, alone[2] + de]
    kc.assert_close(kc.mutual_of(c, precision="fp32"), wanted, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equal_models_have_nothing_to_teach(dtype: torch.dtype) -> None:
    c = kc.case(9, 60, 33, mask="none").to(dtype)
    c.q_pruned = c.q_source
    loss, dq, de = kc.cross_entropy_of(c, precision="fp32")
    kc.assert_close(kc.inner_of(c, precision="fp32"), [loss, dq, de], 1e-6)
    kc.assert_close(kc.mutual_of(c, precision="fp32"), [loss, loss, dq, dq, 2 * de], 1e-6)


def test_mutual_is_the_inner_loss_with_the_weights_exchanged() -> None:
    c = kc.case(9, 60, 33, forward_weight=2.0, backward_weight=0.5).to(torch.float64)
    _, loss, _, dq, _ = kc.mutual_of(c)
    c.forward_weight, c.backward_weight = c.backward_weight, c.forward_weight
    kc.assert_close(kc.inner_of(c)[:2], [loss, dq], 1e-12)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("entities", [0, 7])
def test_an_empty_batch_teaches_nothing(name: str, dtype: torch.dtype, entities: int) -> None:
    c = kc.case(0, max(entities, 1), 5).to(dtype)
    c.entities, c.mask = c.entities[:entities], kc.packed("random", entities, 5)
    with kc.new_memory_is_nan():
        results = kc.LOSSES[name][0](c)
    assert all(not bool(result.any()) for result in results)
    assert results[-1].shape == (entities, 5)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_single_entity_is_certain(name: str, precision: str) -> None:
    for result in kc.LOSSES[name][0](kc.case(6, 1, 9), precision=precision):
        assert float(result.abs().max()) < 1e-6


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_far_apart_do_not_overflow(name: str, precision: str) -> None:
    for exchange in EXCHANGES:
        c = kc.case(5, 40, 8, scale=1e4, **settings_of(exchange))
        results = kc.LOSSES[name][0](c, precision=precision)
        assert all(bool(result.isfinite().all()) for result in results)


@pytest.mark.parametrize("name", BOTH)
def test_results_cannot_be_differentiated(name: str) -> None:
    c = kc.case(3, 10, 8)
    c.q_pruned.requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        kc.LOSSES[name][0](c)[0].backward()


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("model", ["q_source", "q_pruned"])
def test_a_nan_makes_the_loss_nan(name: str, model: str) -> None:
    c = kc.case(3, 50, 8, mask="none")
    getattr(c, model)[1, 2] = torch.nan
    losses = [x for x in kc.LOSSES[name][0](c, precision="fp32") if x.dim() == 0]
    assert all(loss.isnan() for loss in losses)


bad_inputs: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q_source": torch.zeros(3, 39)}, ValueError, "q_source must be (N, 40) to match (6, 40)"),
    ({"q_pruned": torch.zeros(2, 40)}, ValueError, "q_pruned must have 3 rows; got (2, 40)"),
    ({"q_pruned": torch.zeros(3, 40).double()}, TypeError, "q_pruned must be torch.float32 on cpu"),
    ({"q_pruned": torch.zeros(40, 3).T}, ValueError, "q_pruned must be contiguous"),
    ({"entities": torch.zeros(40)}, ValueError, "entities must be (rows, columns)"),
    (
        {"mask": torch.zeros(6, 40, dtype=torch.bool)},
        TypeError,
        "packed int32 words (see pack_mask)",
    ),
    (
        {"mask": torch.zeros(3, 2, dtype=torch.int32)},
        ValueError,
        "mask must be (6, 2) for a table (6, 40)",
    ),
    ({"targets": torch.tensor([0, 5, 6])}, ValueError, "targets must lie in 0 .. 5; got 6"),
    ({"targets": torch.tensor([0, -9, 1])}, ValueError, "targets must lie in 0 .. 5; got -9"),
    ({"targets": torch.tensor([0])}, ValueError, "targets must be (3,); got (1,)"),
    ({"weight": torch.ones(5)}, ValueError, "weight must be (6,), one per entity; got (5,)"),
    ({"pruned": torch.zeros(7, 40)}, ValueError, "pruned must have 6 rows; got (7, 40)"),
    ({"temperature": 0.0}, ValueError, "temperature must be positive and finite; got 0.0"),
    ({"temperature": -3.0}, ValueError, "temperature must be positive and finite; got -3.0"),
    ({"temperature": float("nan")}, ValueError, "temperature must be positive and finite; got nan"),
    ({"forward_weight": -1.0}, ValueError, "finite and not negative; got -1.0 and 1.0"),
    ({"backward_weight": -1.0}, ValueError, "finite and not negative; got 3.0 and -1.0"),
    ({"precision": ""}, ValueError, "must be one of auto, fp32, tf32, bf16; got ''"),
    ({"score_memory": 0}, ValueError, "score_memory must be a positive number of bytes; got 0"),
]


@pytest.mark.parametrize("function", [kernels.inner_distillation, kernels.mutual_distillation])
@pytest.mark.parametrize(("changes", "error", "message"), bad_inputs, ids=lambda x: str(x)[:40])
def test_bad_input_is_named(
    function: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "q_source": torch.zeros(3, 40),
        "q_pruned": torch.zeros(3, 40),
        "entities": torch.zeros(6, 40),
        "mask": torch.zeros(6, 2, dtype=torch.int32),
        "targets": torch.tensor([0, 5, 2]),
    }
    with pytest.raises(error, match=re.escape(message)):
        function(**(arguments | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("options", [{}, {"weighted": True, "quantised": True}], ids=str)
def test_operation_is_sound(dtype: torch.dtype, mutual: bool, options: dict[str, bool]) -> None:
    c = kc.case(3, 10, 40, **options).to(dtype)
    tables = (c.q_source, c.q_pruned, c.entities, c.mask, c.pruned, c.targets, c.weight)
    arguments = (*tables, *c.exchange, mutual, "fp32", 1)
    torch.library.opcheck(torch.ops.metasd.distillation.default, arguments)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_operations_trace_as_one_graph(name: str, backend: str) -> None:
    c = kc.case(9, 40, 33, weighted=True)

    def run(q_source: Tensor, q_pruned: Tensor) -> tuple[Tensor, ...]:
        c.q_source, c.q_pruned = 2 * q_source, 2 * q_pruned
        return kc.LOSSES[name][0](c, precision="fp32")

    queries = c.q_source, c.q_pruned
    kc.assert_close(kc.compiled(run, backend)(*queries), run(*queries), 1e-6)
