"""The order of triples in an epoch."""

import pytest
import torch

from metasd.data.batches import QueryOrder


def queries() -> torch.Tensor:
    """400 triples of queries that are asked once to many times."""
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(400, generator=generator) ** 3 * 60).long()


def order(together: int, seed: int = 0) -> torch.Tensor:
    asked = queries()
    return QueryOrder(asked, together, torch.Generator().manual_seed(seed))[: len(asked)]


@pytest.mark.parametrize("together", [1, 3, 8, 1000])
def test_every_triple_comes_once(together: int) -> None:
    assert order(together).sort().values.tolist() == list(range(400))


@pytest.mark.parametrize("together", [1, 3, 8, 1000])
def test_triples_of_a_query_follow_each_other(together: int) -> None:
    asked = queries()
    runs = [len(run) for run in _runs(asked[order(together)].tolist())]
    groups = sum(-(-count // together) for count in asked.bincount().tolist() if count)
    assert len(runs) <= groups  # two groups of a query may meet
    if together > 400:
        assert len(runs) == len(asked.unique())
    if together == 1:
        assert len(runs) > 300


def test_orders_differ_by_seed_alone() -> None:
    assert torch.equal(order(8), order(8))
    assert not torch.equal(order(8), order(8, seed=1))
    inside = [[x for x in order(1000, seed).tolist() if queries()[x] == 0] for seed in (0, 1)]
    assert inside[0] != inside[1]
    assert sorted(inside[0]) == sorted(inside[1])


def _runs(values: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs
