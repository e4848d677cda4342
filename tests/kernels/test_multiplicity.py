"""Rows of a table that count as several entities: the same as if the table repeated them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from metasd.kernels import Sampling

CASES = [
    ((1, 37, 5), {"mask": "none"}),
    ((17, 250, 64), {"mask": "random", "weighted": True}),
    ((70, 131, 33), {"mask": "random", "quantised": True, "temperature": 1.5}),
    ((33, 4100, 20), {"mask": "none", "scale": 4.0, "temperature": 2.0}),
]


def counts(entities: int) -> Tensor:
    return torch.randint(1, 5, (entities,), generator=torch.Generator().manual_seed(3))


def repeated(c: kc.Case, count: Tensor) -> tuple[kc.Case, Tensor]:
    """The case with every entity as often as it counts, and which entity each row is."""
    index = torch.arange(len(count)).repeat_interleave(count)

    def rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[index].contiguous()

    entities, dentities = rows(c.entities), rows(c.dentities)
    assert entities is not None
    assert dentities is not None
    first = (count.cumsum(0) - count)[c.targets]
    case = replace(
        c,
        entities=entities,
        dentities=dentities,
        mask=rows(c.mask),
        weight=rows(c.weight),
        pruned=rows(c.pruned),
        targets=first,
    )
    return case, index


def wanted(name: str, c: kc.Case, count: Tensor) -> list[Tensor]:
    case, index = repeated(c.to(torch.float64), count)
    *results, gradient = kc.LOSSES[name][0](case)
    size = (len(count), gradient.shape[1])
    return [*results, gradient.new_zeros(size).index_add_(0, index, gradient)]


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_the_definition_repeats_rows(
    name: str, shape: tuple[int, int, int], options: dict[str, object]
) -> None:
    c, count = kc.case(*shape, **options), counts(shape[1])  # type: ignore[arg-type]
    found = kc.LOSSES[name][0](c.to(torch.float64), multiplicity=count.double())
    kc.assert_close(found, wanted(name, c, count), 1e-9)


@pytest.mark.parametrize("isa", kc.ISAS)
@pytest.mark.parametrize("name", kc.LOSSES)
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
    c, count = kc.case(*shape, **options), counts(shape[1])  # type: ignore[arg-type]
    with kc.isa(isa):
        found = kc.LOSSES[name][0](
            c, precision=precision, sampling=Sampling(threshold), multiplicity=count.float()
        )
    kc.assert_close(found, wanted(name, c, count), 2e-5 if precision == "fp32" else 3e-2, 1e-6)


@pytest.mark.parametrize("name", kc.LOSSES)
def test_sampled_entries_are_those_of_the_definition(name: str) -> None:
    c, count = kc.case(70, 131, 33), counts(131)
    ours, sampling = kc.LOSSES[name][0], Sampling(0.05, 77)
    exact = ours(c.to(torch.float64), sampling=sampling, multiplicity=count.double())
    found = ours(c, precision="fp32", sampling=sampling, multiplicity=count.float())
    kc.assert_close(found, exact, 4e-6, 1e-6)


def test_a_multiplicity_of_another_length_is_refused() -> None:
    c = kc.case(5, 20, 8)
    with pytest.raises(ValueError, match=r"multiplicity must be \(20,\), one per entity; got \(3,"):
        kernels.entity_cross_entropy(c.q_pruned, c.entities, c.targets, multiplicity=torch.ones(3))


@pytest.mark.parametrize("name", kc.LOSSES)
def test_a_gpu_counts_rows_too(name: str, gpu: str) -> None:
    c, count = kc.case(17, 50, 16), counts(50)
    on_gpu = replace(c, **{k: x.to(gpu) for k, x in vars(c).items() if isinstance(x, Tensor)})
    found = kc.LOSSES[name][0](on_gpu, precision="fp32", multiplicity=count.float().to(gpu))
    kc.assert_close([x.cpu() for x in found], wanted(name, c, count), 1e-5, 1e-6)
