import re
from typing import Any

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels

EXCHANGES = [(3.0, 3.0, 1.0), (1.0, 1.0, 1.0), (0.5, 1.0, 3.0), (2.7, 0.0, 1.0), (4.0, 3.0, 0.0)]
"""(temperature, forward weight, backward weight), the published one first."""


def settings_of(exchange: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("temperature", "forward_weight", "backward_weight"), exchange, strict=True))


@pytest.mark.parametrize("shape", kc.few(kc.SHAPES, (1, 37, 5), (17, 250, 64)), ids=str)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "random"))
@pytest.mark.parametrize("quantised", [False, True])
def test_fp64_is_a_double_backward_through_the_inner_loss(
    shape: tuple[int, int, int], kind: str, quantised: bool
) -> None:
    for exchange in EXCHANGES:
        c = kc.case(*shape, mask=kind, quantised=quantised, **settings_of(exchange))
        kc.assert_is_definition("meta", c)


@pytest.mark.parametrize("exchange", EXCHANGES, ids=str)
def test_fp64_is_the_whole_unrolled_step(exchange: tuple[float, float, float]) -> None:
    """Inner step, quiz, and a backward pass through both, for a model with q = head * relation."""
    c = kc.case(1, 11, 6, **settings_of(exchange)).to(torch.float64)
    rate, weights = 0.3, kc.table(4, 6, 8, dtype=torch.float64)
    relation_mask = kc.packed("random", 4, 6)
    h, r, t = (
        torch.tensor([0, 3, 3, 10, 7]),
        torch.tensor([0, 1, 2, 3, 3]),
        torch.tensor([1, 1, 5, 0, 9]),
    )
    quiz_h, quiz_r, quiz_t = (
        torch.tensor([2, 3, 8]),
        torch.tensor([3, 1, 0]),
        torch.tensor([4, 10, 2]),
    )

    e, w = kc.leaf(c.entities), kc.leaf(weights)
    p_e, p_w = kc.leaf(c.scored), kc.leaf(kc.masked(weights, relation_mask))
    z_s, z_p = (e[h] * w[r]) @ e.T, (p_e[h] * p_w[r]) @ p_e.T
    inner = kc.cross_entropy(z_p, t, None) + kc.exchange(z_s, z_p, *c.exchange)
    g_e, g_w = torch.autograd.grad(inner, (p_e, p_w), create_graph=True)
    stepped_e = p_e - rate * kc.masked(g_e, c.mask)
    stepped_w = p_w - rate * kc.masked(g_w, relation_mask)
    quiz = kc.cross_entropy((stepped_e[quiz_h] * stepped_w[quiz_r]) @ stepped_e.T, quiz_t, None)
    wanted = torch.autograd.grad(quiz, (e, w), retain_graph=True)

    v_e, v_w = torch.autograd.grad(quiz, (stepped_e, stepped_w))
    v_w = kc.masked(v_w, relation_mask)
    dq = kc.masked(v_e, c.mask)[h] * p_w[r] + p_e[h] * v_w[r]
    q_s, q_p = e[h] * w[r], p_e[h] * p_w[r]
    grad_q, grad_e = kernels.meta_gradient(
        q_s.detach(),
        q_p.detach(),
        dq.detach(),
        c.entities,
        v_e,
        c.mask,
        *c.exchange,
        inner_lr=rate,
    )
    through_query = torch.autograd.grad(q_s, (e, w), grad_q)
    assert float(wanted[0].norm()) > 1e-4
    kc.assert_close([through_query[0] + grad_e, through_query[1]], wanted, 1e-9)


@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
@pytest.mark.parametrize(
    ("scale", "exchange"),
    [(1.0, EXCHANGES[0]), (10.0, EXCHANGES[0]), (10.0, EXCHANGES[2])],
    ids=str,
)
@pytest.mark.parametrize("shape", kc.few(kc.SHAPES[1:], (17, 250, 64)), ids=str)
def test_error_is_at_most_twice_that_of_eager_torch(
    shape: tuple[int, int, int], scale: float, exchange: tuple[float, float, float], precision: str
) -> None:
    kc.assert_as_good_as_eager("meta", shape, precision, scale=scale, **settings_of(exchange))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("exchange", EXCHANGES, ids=str)
def test_temperatures_and_weights_keep_the_error(
    exchange: tuple[float, float, float], precision: str
) -> None:
    kc.assert_as_good_as_eager("meta", (17, 250, 65), precision, scale=3.0, **settings_of(exchange))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "random"))
@pytest.mark.parametrize("quantised", [False, True])
def test_masks_and_values_keep_the_error(kind: str, quantised: bool, precision: str) -> None:
    kc.assert_as_good_as_eager("meta", (17, 250, 65), precision, mask=kind, quantised=quantised)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_exchange_no_rate_and_no_direction_give_zero(dtype: torch.dtype) -> None:
    silent = kc.case(9, 60, 33, forward_weight=0.0, backward_weight=0.0).to(dtype)
    still = kc.case(9, 60, 33, inner_lr=0.0).to(dtype)
    aimless = kc.case(9, 60, 33).to(dtype)
    aimless.dq_pruned = torch.zeros_like(aimless.dq_pruned)
    aimless.dentities = torch.zeros_like(aimless.dentities)
    for c in (silent, still, aimless):
        assert not any(bool(result.any()) for result in kc.meta_of(c))


def test_the_gradient_is_linear_in_the_direction_and_in_the_rate() -> None:
    c = kc.case(9, 60, 33).to(torch.float64)
    wanted = [6 * result for result in kc.meta_of(c)]
    c.dq_pruned, c.dentities, c.inner_lr = 2 * c.dq_pruned, 2 * c.dentities, 3 * c.inner_lr
    kc.assert_close(kc.meta_of(c), wanted, 1e-12)


def test_the_direction_is_masked() -> None:
    c = kc.case(9, 60, 33)
    wanted = kc.meta_of(c, precision="fp32")
    c.dentities = kc.masked(c.dentities, c.mask)
    assert kc.same_bits(kc.meta_of(c, precision="fp32"), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "entities"), [(0, 7), (0, 0), (4, 0)])
@pytest.mark.parametrize("score_memory", [1, 1 << 20])
def test_empty_inputs_give_zeros(
    dtype: torch.dtype, rows: int, entities: int, score_memory: int
) -> None:
    c = kc.case(rows, 7, 5).to(dtype)
    c.entities, c.dentities = c.entities[:entities], c.dentities[:entities]
    c.mask = kc.packed("random", entities, 5)
    for precision in ("fp32", "bf16"):
        with kc.new_memory_is_nan():
            dq, de = kc.meta_of(c, precision=precision, score_memory=score_memory)
        assert torch.equal(dq, torch.zeros(rows, 5, dtype=dtype))
        assert torch.equal(de, torch.zeros(entities, 5, dtype=dtype))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_far_apart_do_not_overflow(precision: str) -> None:
    for exchange in EXCHANGES:
        results = kc.meta_of(
            kc.case(5, 40, 8, scale=1e4, **settings_of(exchange)), precision=precision
        )
        assert all(bool(result.isfinite().all()) for result in results)


def test_the_result_cannot_be_differentiated() -> None:
    c = kc.case(3, 10, 8)
    c.q_source.requires_grad_()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        kc.meta_of(c)[0].sum().backward()


bad_inputs: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"q_source": torch.zeros(3, 39)}, ValueError, "q_source must be (N, 40) to match (6, 40)"),
    ({"q_pruned": torch.zeros(2, 40)}, ValueError, "q_pruned must have 3 rows; got (2, 40)"),
    ({"dq_pruned": torch.zeros(4, 40)}, ValueError, "dq_pruned must have 3 rows; got (4, 40)"),
    ({"dq_pruned": None}, TypeError, "dq_pruned must be a torch.Tensor; got NoneType"),
    ({"dq_pruned": torch.zeros(40, 3).T}, ValueError, "dq_pruned must be contiguous"),
    ({"dentities": torch.zeros(5, 40)}, ValueError, "dentities must have 6 rows; got (5, 40)"),
    (
        {"dentities": torch.zeros(6, 40).double()},
        TypeError,
        "dentities must be torch.float32 on cpu",
    ),
    ({"entities": torch.zeros(6, 40, dtype=torch.int32)}, TypeError, "entities must be float32 or"),
    (
        {"mask": torch.zeros(6, 1, dtype=torch.int32)},
        ValueError,
        "mask must be (6, 2) for a table (6, 40)",
    ),
    ({"pruned": torch.zeros(7, 40)}, ValueError, "pruned must have 6 rows; got (7, 40)"),
    ({"temperature": -1.0}, ValueError, "temperature must be positive and finite; got -1.0"),
    ({"forward_weight": -1.0}, ValueError, "finite and not negative; got -1.0 and 1.0"),
    ({"precision": "half"}, ValueError, "must be one of auto, fp32, tf32, bf16; got 'half'"),
    ({"score_memory": 0}, ValueError, "score_memory must be a positive number of bytes; got 0"),
]


@pytest.mark.parametrize(("changes", "error", "message"), bad_inputs, ids=lambda x: str(x)[:40])
def test_bad_input_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "q_source": torch.zeros(3, 40),
        "q_pruned": torch.zeros(3, 40),
        "dq_pruned": torch.zeros(3, 40),
        "entities": torch.zeros(6, 40),
        "dentities": torch.zeros(6, 40),
        "mask": torch.zeros(6, 2, dtype=torch.int32),
    }
    with pytest.raises(error, match=re.escape(message)):
        kernels.meta_gradient(**(arguments | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("quantised", [False, True])
def test_operation_is_sound(dtype: torch.dtype, quantised: bool) -> None:
    c = kc.case(3, 10, 40, quantised=quantised).to(dtype)
    tables = (c.q_source, c.q_pruned, c.dq_pruned, c.entities, c.dentities, c.mask, c.pruned)
    arguments = (*tables, *c.exchange, c.inner_lr, "fp32", 1)
    torch.library.opcheck(torch.ops.metasd.meta_gradient.default, arguments)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_operation_traces_as_one_graph(backend: str) -> None:
    c = kc.case(9, 40, 33)

    def run(q_source: Tensor, q_pruned: Tensor) -> tuple[Tensor, ...]:
        c.q_source, c.q_pruned = 2 * q_source, 2 * q_pruned
        return kc.meta_of(c, precision="fp32")

    queries = c.q_source, c.q_pruned
    kc.assert_close(kc.compiled(run, backend)(*queries), run(*queries), 1e-6)
