"""Sampled gradients: the entries of the definition, right on average, whatever cuts the work."""

from typing import Any

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from metasd.kernels import Sampling
from metasd.kernels._sampling import sampled

KEY = 0x0123_4567_89AB_CDEF


def kept(queries: int, entities: int, sampling: Sampling, score: int = 0) -> Tensor:
    """Which entries are kept where every one has an even chance: bool (queries, entities)."""
    g = torch.full((queries, entities), 0.5, dtype=torch.float64)
    return sampled(g, 1.0, 1.0, sampling.draw, score) != 0


@pytest.mark.parametrize("isa", kc.ISAS)
@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("threshold", [1e-9, 0.01, 0.2])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 37, 5), {"mask": "none"}),
        ((17, 250, 64), {"mask": "random", "weighted": True}),
        ((70, 131, 33), {"mask": "random", "quantised": True, "temperature": 1.5}),
        ((33, 100, 20), {"mask": "zeros", "scale": 4.0}),
    ],
    ids=str,
)
def test_entries_are_those_of_the_definition(
    isa: str, name: str, threshold: float, shape: tuple[int, int, int], options: dict[str, Any]
) -> None:
    ours = kc.LOSSES[name][0]
    c = kc.case(*shape, **options)
    sampling = Sampling(threshold, KEY, first_query=5, first_entity=9)
    wanted = ours(c.to(torch.float64), sampling=sampling)
    with kc.isa(isa):
        kc.assert_close(ours(c, precision="fp32", sampling=sampling), wanted, 4e-6, 1e-6)


@pytest.mark.parametrize("isa", [name for name in kc.ISAS if "bf16" in name])
@pytest.mark.parametrize("name", kc.LOSSES)
def test_products_of_bf16_numbers(isa: str, name: str) -> None:
    """With a threshold that drops nothing: others are not the same entries where scores differ."""
    ours = kc.LOSSES[name][0]
    c = kc.case(67, 303, 97)
    wanted = ours(c.to(torch.float64))
    with kc.isa(isa):
        found = ours(c, precision="bf16", sampling=Sampling(1e-9))
    kc.assert_close(found, wanted, 1e-2)


@pytest.mark.parametrize("name", kc.LOSSES)
def test_gradients_are_right_on_average(name: str) -> None:
    """A thousand draws: sums along some directions, within three standard errors of the exact."""
    ours = kc.LOSSES[name][0]
    c = kc.case(9, 120, 8, scale=3.0)
    exact = ours(c, precision="fp32")
    gradients = [i for i, x in enumerate(exact) if x.dim() == 2]
    directions = {i: kc.table(4, exact[i].numel(), i) for i in gradients}

    def along(results: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([directions[i] @ results[i].flatten() for i in gradients]).double()

    draws = torch.stack(
        [along(ours(c, precision="fp32", sampling=Sampling(0.1, key))) for key in range(1000)]
    )
    error = draws.std(0) / 1000**0.5
    assert bool((error > 0).all()), "nothing was sampled"
    deviation = (draws.mean(0) - along(exact)).abs() / error
    assert float(deviation.max()) < 3, deviation


@pytest.mark.parametrize("name", kc.LOSSES)
def test_losses_are_exact(name: str) -> None:
    c = kc.case(9, 120, 8)
    ours = kc.LOSSES[name][0]
    exact = ours(c, precision="fp32")
    found = ours(c, precision="fp32", sampling=Sampling(0.1))
    numbers = [(x, y) for x, y in zip(found, exact, strict=True) if x.dim() == 0]
    assert len(numbers) == {"cross_entropy": 1, "inner": 1, "mutual": 2, "meta": 0}[name]
    for x, y in numbers:
        assert float(x) == pytest.approx(float(y), rel=1e-5)


@pytest.mark.parametrize("name", kc.LOSSES)
def test_neither_threads_nor_memory_change_a_bit(name: str) -> None:
    ours = kc.LOSSES[name][0]
    c = kc.case(150, 1031, 33)
    results = []
    for count, memory in ((1, 1 << 30), (2, 1 << 30), (3, 1 << 20), (2, 1)):
        with kc.threads(count):
            results.append(ours(c, score_memory=memory, sampling=Sampling(0.02, KEY)))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


def test_a_part_of_queries_and_entities_is_drawn_as_in_the_whole() -> None:
    whole = kept(40, 60, Sampling(key=KEY))
    part = kept(13, 21, Sampling(key=KEY, first_query=20, first_entity=30))
    assert torch.equal(part, whole[20:33, 30:51])


def test_chance_is_even_and_independent() -> None:
    size, bound = 1 << 10, 5 / (1 << 10)  # five standard deviations of a mean of size^2 signs
    first = kept(size, size, Sampling(key=KEY)).double() * 2 - 1
    others = [
        kept(size, size, Sampling(key=KEY + 1)).double() * 2 - 1,
        kept(size, size, Sampling(key=KEY), score=1).double() * 2 - 1,
        first.roll(1, 0),
        first.roll(1, 1),
        first.roll((1, 1), (0, 1)),
        first.roll(4, 0),
        first.T,
    ]
    assert abs(float(first.mean())) < bound
    for i, other in enumerate(others):
        assert abs(float((first * other).mean())) < bound, i
    for means in (first.mean(0), first.mean(1)):  # standard deviation 1 / 32 each
        assert 0.8 < float(means.std()) * size**0.5 < 1.2


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), float("inf")])
def test_thresholds_without_meaning_are_named(threshold: float) -> None:
    c = kc.case(2, 5, 3)
    for ours, _ in kc.LOSSES.values():
        with pytest.raises(ValueError, match=r"threshold must lie in 0 \.\. 1; got"):
            ours(c, sampling=Sampling(threshold))


def test_an_empty_batch_has_no_gradient() -> None:
    c = kc.case(0, 5, 3)
    loss, dq, de = kernels.entity_cross_entropy_gradients(
        c.q_pruned, c.entities, c.targets, sampling=Sampling(0.1)
    )
    assert float(loss) == 0
    assert dq.shape == (0, 3)
    assert bool((de == 0).all())
