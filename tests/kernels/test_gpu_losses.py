"""The GPU's losses against their definitions; without a GPU under Triton's interpreter."""

from typing import Any

import pytest
import torch
from torch import Tensor

import gpu_cases as gc
import kernel_cases as kc
from metasd import kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of rows past the end
RELATIVE = {"fp32": 2e-6, "tf32": 1e-3, "bf16": 2e-2}
EXCHANGES = [(3.0, 3.0, 1.0), (1.0, 1.0, 1.0), (2.0, 1.0, 3.0), (2.7, 0.0, 1.0), (4.0, 3.0, 0.0)]
"""(temperature, forward weight, backward weight): every whole power, and none."""


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize(
    ("shape", "precision"),
    [
        ((5, 131, 33), "fp32"),
        *(
            pytest.param(shape, precision, marks=pytest.mark.slow)
            for shape, precision in [
                ((5, 131, 33), "tf32"),
                ((5, 131, 33), "bf16"),
                ((1, 2, 1), "fp32"),
                ((17, 250, 64), "fp32"),
                ((67, 140, 97), "fp32"),
                ((130, 129, 40), "fp32"),
            ]
        ),
    ],
    ids=str,
)
def test_results_are_the_definition(
    name: str, shape: tuple[int, int, int], precision: str, gpu: str
) -> None:
    c = kc.case(*shape, weighted=True)
    gc.assert_is_definition(name, c, gpu, RELATIVE[precision], precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("kind", kc.MASKS)
@pytest.mark.parametrize("options", [{}, {"quantised": True}], ids=str)
def test_masks_and_values(name: str, kind: str, options: dict[str, bool], gpu: str) -> None:
    c = kc.case(7, 140, 37, mask=kind, **options)
    gc.assert_is_definition(name, c, gpu, 2e-6, precision="fp32")


@pytest.mark.parametrize("name", ["inner", "mutual", "meta"])
@pytest.mark.parametrize("exchange", kc.few(EXCHANGES, EXCHANGES[3]), ids=str)
def test_temperatures_and_weights(
    name: str, exchange: tuple[float, float, float], gpu: str
) -> None:
    temperature, forward, backward = exchange
    c = kc.case(
        5,
        131,
        9,
        scale=3.0,
        temperature=temperature,
        forward_weight=forward,
        backward_weight=backward,
    )
    gc.assert_is_definition(name, c, gpu, 4e-6, precision="fp32")


@pytest.mark.parametrize("name", kc.few(kc.LOSSES, "cross_entropy"))
def test_auto_is_bf16(name: str, gpu: str) -> None:
    c = kc.case(3, 40, 20)
    assert gc.same_bits(gc.run(name, c, gpu), gc.run(name, c, gpu, precision="bf16"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "precision", "shape"),
    [
        *((name, "fp32", (130, 131, 9)) for name in kc.LOSSES),
        ("mutual", "bf16", (130, 131, 9)),
        ("cross_entropy", "fp32", (1100, 70, 5)),
    ],
    ids=str,
)
def test_many_blocks_agree_with_one(
    name: str, precision: str, shape: tuple[int, int, int], gpu: str
) -> None:
    """Blocks of entities, of rows of statistics, and of both."""
    c = kc.case(*shape, weighted=True, scale=3.0)
    whole = gc.run(name, c, gpu, precision=precision)
    parts = gc.run(name, c, gpu, precision=precision, score_memory=1)
    kc.assert_close(parts, whole, {"fp32": 2e-6, "bf16": 1e-2}[precision])


@pytest.mark.slow
@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("rising", [False, True])
def test_maxima_may_come_anywhere_in_a_row(name: str, rising: bool, gpu: str) -> None:
    c = kc.case(3, 300, 3, mask="none", temperature=1.0)
    slope = torch.linspace(-60, 60, 300) * (1 if rising else -1)
    c.entities[:, 0], c.q_source[:, 0], c.q_pruned[:, 0] = slope, 1.0, 0.9
    gc.assert_is_definition(name, c, gpu, 1e-3, precision="fp32")


@pytest.mark.parametrize("name", kc.few(kc.LOSSES, "mutual"))
@pytest.mark.parametrize("precision", kc.few(RELATIVE, "bf16"))
def test_every_result_is_written_and_the_same_again(name: str, precision: str, gpu: str) -> None:
    c = kc.case(7, 150, 19, weighted=True, quantised=True)
    before = {k: v.clone() for k, v in vars(c).items() if isinstance(v, Tensor)}
    wanted = gc.run(name, c, gpu, precision=precision)
    with kc.new_memory_is_nan():
        assert gc.same_bits(gc.run(name, c, gpu, precision=precision), wanted)
    assert all(torch.equal(getattr(c, k), v) for k, v in before.items())


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize(("rows", "entities"), [(0, 7), (0, 0)])
def test_an_empty_batch_teaches_nothing(name: str, rows: int, entities: int, gpu: str) -> None:
    c = kc.case(rows, 7, 5)
    c.entities, c.dentities = c.entities[:entities], c.dentities[:entities]
    c.mask = kc.packed("random", entities, 5)
    with kc.new_memory_is_nan():
        results = gc.run(name, c, gpu)
    assert not any(bool(result.any()) for result in results)
    assert results[-1].shape == (entities, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_entropy", "inner", "mutual"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_single_entity_is_certain(name: str, precision: str, gpu: str) -> None:
    for result in gc.run(name, kc.case(6, 1, 9), gpu, precision=precision):
        assert float(result.abs().max()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", kc.LOSSES)
def test_scores_far_apart_do_not_overflow(name: str, gpu: str) -> None:
    c = kc.case(5, 140, 8, scale=1e4)
    for precision in RELATIVE:
        results = gc.run(name, c, gpu, precision=precision)
        assert all(bool(result.isfinite().all()) for result in results)


@pytest.mark.slow
@pytest.mark.parametrize("precision", RELATIVE)
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF])
def test_a_nan_makes_the_loss_nan(precision: str, bits: int, gpu: str) -> None:
    c = kc.case(2, 140, 8, mask="none")
    c.entities[137] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    c.targets[:] = 3
    for name in ("cross_entropy", "inner", "mutual"):
        losses = [x for x in gc.run(name, c, gpu, precision=precision) if x.dim() == 0]
        assert all(loss.isnan() for loss in losses)


def test_the_loss_is_differentiable(gpu: str) -> None:
    c = gc.to(kc.case(5, 40, 33, weighted=True), gpu)
    q, e = kc.leaf(c.q_pruned), kc.leaf(c.entities)
    loss = kernels.entity_cross_entropy(q, e, c.targets, c.mask, c.weight, precision="fp32")
    got = torch.autograd.grad(-2.5 * loss, (q, e))
    value, dq, de = kc.cross_entropy_by_autograd(c)
    kc.assert_close([loss, *got], [value, -2.5 * dq, -2.5 * de], 2e-6)


@pytest.mark.parametrize("name", kc.LOSSES)
def test_fp64_is_left_to_the_reference(name: str, gpu: str) -> None:
    c = kc.case(5, 40, 9).to(torch.float64)
    kc.assert_close(gc.run(name, c, gpu), kc.LOSSES[name][1](c), 1e-9)


@pytest.mark.parametrize("name", kc.few(["cross_entropy", "inner", "mutual"], "cross_entropy"))
@pytest.mark.parametrize("target", [-1, 40])
def test_targets_out_of_range_are_refused(name: str, target: int, gpu: str) -> None:
    c = kc.case(5, 40, 9)
    gc.run(name, c, gpu)  # the same tensor was sound when it was looked at last
    c.targets[2] = target
    with pytest.raises(ValueError, match=rf"targets must lie in 0 .. 39; got {target}"):
        gc.run(name, c, gpu)


@pytest.mark.slow
def test_operations_are_sound(gpu: str) -> None:
    c = gc.to(kc.case(3, 10, 40, weighted=True), gpu)
    tables: tuple[Any, ...] = (c.q_source, c.q_pruned, c.entities, c.mask, c.pruned)
    arguments = (*tables, c.targets, c.weight, *c.exchange, True, "fp32", 1)
    torch.library.opcheck(torch.ops.metasd.distillation.default, arguments)
