"""Estimates of a run: the rank for a size, and times."""

import dataclasses
from pathlib import Path

import pytest

from metasd import compress
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.training import estimate
from metasd.training.trainer import train

QUICK = {"train.epochs": 1, "tune.settings": []}


@pytest.mark.parametrize("name", ["complex", "cp", "rescal"])
def test_the_rank_for_a_size_fits_it(
    small_graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(estimate, "_SIZES", (0.02,))
    config = Config(**{**QUICK, "model.name": name})
    (rank,) = estimate.ranks_by_size(small_graph, config).values()
    sizes = []
    for r in (rank, rank + 8):
        run = train(small_graph, config.override({"model.rank": r}), tmp_path / str(r))
        sizes.append(compress(run, "int3", known=False).entities.nbytes)
        relations = compress(run, "int3", known=False).relations
        sizes[-1] += 4 * relations.rows + relations.rows * relations.width * 3 // 8
    assert sizes[0] <= 20_000 * 1.05
    assert sizes[1] > 20_000 * 0.95


def test_times_are_of_what_a_run_does(small_graph: Graph) -> None:
    dense = Config(**{**QUICK, "train.epochs": 4, "train.objective": "dense", "model.rank": 4})
    found = estimate.timing(small_graph, dense)
    assert found["search"] == 0
    assert found["total"] == pytest.approx(sum(found.values()) - found["total"], abs=0.2)
    empty = small_graph.valid[:0]
    alone = dataclasses.replace(small_graph, valid=empty, test=empty)
    assert estimate.timing(alone, dense)["evaluation"] == 0
