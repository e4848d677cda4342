"""Queries with several targets: the same as if every target had a query of its own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from metasd.kernels import Sampling

LOSSES = ["cross_entropy", "inner", "mutual"]
CASES = [
    ((1, 37, 5), {"mask": "none"}),
    ((17, 250, 64), {"mask": "random", "weighted": True}),
    ((70, 131, 33), {"mask": "random", "quantised": True, "weighted": True, "temperature": 1.5}),
    ((33, 4100, 20), {"mask": "none", "scale": 4.0, "temperature": 2.0}),
]


def shared(c: kc.Case, seed: int = 1) -> tuple[kc.Case, Tensor]:
    """The case with about three targets per query, in any order, and whose each is; some twice."""
    generator = torch.Generator().manual_seed(seed)
    queries, entities = len(c.q_source), len(c.entities)
    query_of = torch.randint(queries, (3 * queries,), generator=generator)
    targets = torch.randint(entities, (3 * queries,), generator=generator)
    targets[1:3] = targets[0]
    query_of[1] = query_of[0]
    return replace(c, targets=targets), query_of


def wanted(name: str, c: kc.Case, query_of: Tensor) -> list[Tensor]:
    """By autograd, from the definition with a query per target."""
    c = c.to(torch.float64)
    rows = {key: getattr(c, key)[query_of] for key in ("q_source", "q_pruned", "dq_pruned")}
    results = list(kc.LOSSES[name][1](replace(c, **rows)))
    for i, x in enumerate(results):
        if x.shape[:1] == query_of.shape:
            results[i] = x.new_zeros(c.q_source.shape).index_add_(0, query_of, x)
    return results


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_the_definition_scores_a_query_per_target(
    name: str, shape: tuple[int, int, int], options: dict[str, object]
) -> None:
    c, query_of = shared(kc.case(*shape, **options))  # type: ignore[arg-type]
    found = kc.LOSSES[name][0](c.to(torch.float64), query_of=query_of)
    kc.assert_close(found, wanted(name, c, query_of), 1e-9)


@pytest.mark.parametrize("isa", kc.ISAS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threshold", [0.0, 1e-9])
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_so_does_every_engine(
    isa: str,
    name: str,
    precision: str,
    threshold: float,
    shape: tuple[int, int, int],
    options: dict[str, object],
) -> None:
    c, query_of = shared(kc.case(*shape, **options))  # type: ignore[arg-type]
    with kc.isa(isa):
        found = kc.LOSSES[name][0](
            c, precision=precision, sampling=Sampling(threshold), query_of=query_of
        )
    bound = 2e-5 if precision == "fp32" else 3e-2
    kc.assert_close(found, wanted(name, c, query_of), bound, 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_sampled_entries_are_right_on_average(name: str) -> None:
    """And no larger than those of a query per target: the threshold is of a mean over targets."""
    c, query_of = shared(kc.case(20, 61, 8, mask="none"))
    exact = wanted(name, c, query_of)[-1]
    draws = torch.stack(
        [
            kc.LOSSES[name][0](
                c, precision="fp32", sampling=Sampling(0.05, key), query_of=query_of
            )[-1].double()
            for key in range(1000)
        ]
    )
    errors = draws.std(0) / 1000**0.5
    assert ((draws.mean(0) - exact).abs() <= 5 * errors + 1e-6).all()
    assert (draws.std(0) > 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_no_targets_give_no_loss(name: str) -> None:
    c, _ = shared(kc.case(3, 20, 8))
    none = torch.zeros(0, dtype=torch.int64)
    for x in kc.LOSSES[name][0](replace(c, targets=none), query_of=none):
        assert not x.any()


def test_a_query_that_there_is_not_is_refused() -> None:
    c, query_of = shared(kc.case(5, 20, 8))
    query_of[3] = 5
    with pytest.raises(ValueError, match=r"query_of must lie in 0 \.\. 4; got 5"):
        kc.cross_entropy_of(c, query_of=query_of)
    with pytest.raises(ValueError, match=r"query_of must be \(15,\); got \(2,\)"):
        kc.cross_entropy_of(c, query_of=query_of[:2])


@pytest.mark.parametrize("name", LOSSES)
def test_a_gpu_scores_them_as_well(name: str, gpu: str) -> None:
    c, query_of = shared(kc.case(17, 50, 16))
    on_gpu = replace(c, **{k: x.to(gpu) for k, x in vars(c).items() if isinstance(x, Tensor)})
    found = kc.LOSSES[name][0](on_gpu, precision="fp32", query_of=query_of.to(gpu))
    kc.assert_close([x.cpu() for x in found], wanted(name, c, query_of), 1e-5, 1e-6)


def test_the_loss_of_unshared_queries_is_differentiable_as_before() -> None:
    c = kc.case(5, 20, 8)
    q = kc.leaf(c.q_pruned)
    kernels.entity_cross_entropy(q, c.entities, c.targets).backward()
    assert q.grad is not None
    assert q.grad.any()
