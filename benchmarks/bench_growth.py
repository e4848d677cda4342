"""A graph that grows: training anew, continuing a run, and adding entities to a compressed model.

A tenth of the entities of `families`, and their triples, are held back and come later. All are
judged by the test triples of the whole graph, and by those of them that have a new entity. The
settings were chosen on other graphs and draws, by valid (`test_growth_settings`).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import metasd
from metasd.compressed import CompressedModel
from metasd.data.graph import SPLITS, Graph
from metasd.evaluation import metrics
from metasd.models import new_rows
from metasd.training import warm_start

RANK, SHARE, SEED = 64, 0.1, 0
DRAWS = [("families:1000", 1), ("families", 1), ("families", 2), ("umls", 1), ("kinships", 1)]
"""Graphs and seeds (of a generated graph and of the held-out tenth) that settings are chosen on."""
RATES = [(1, 0.5), (2, 1), (3, 1), (3, 1.5), (4, 1.5)]
"""Times the old `train.lr` and `compact.lr`."""
FITS = [(3, 1000), (6, 500), (6, 1000), (6, 2000), (10, 1000), (10, 2000), (15, 1000)]
"""Steps, candidates."""
RIDGES = [0.06, 0.25]
"""In place of 0.125."""


def earlier_graph(graph: Graph, seed: int = SEED) -> tuple[Graph, npt.NDArray[np.bool_]]:
    """The graph without a share of its entities, and which entities of the graph are new to it."""
    held = np.random.default_rng(seed).random(graph.num_entities) < SHARE
    parts = {name: graph.split(name) for name in SPLITS}
    parts = {name: rows[~held[rows[:, [0, 2]]].any(axis=1)] for name, rows in parts.items()}
    new = np.ones(graph.num_entities, bool)
    new[np.concatenate([rows[:, [0, 2]].ravel() for rows in parts.values()])] = False
    place = np.cumsum(~new) - 1
    for rows in parts.values():
        rows[:, [0, 2]] = place[rows[:, [0, 2]]]
    labels = [graph.entities[i] for i in np.flatnonzero(~new)]
    return Graph(name="earlier", entities=labels, relations=graph.relations, **parts), new


def named_new_triples(graph: Graph, new: npt.NDArray[np.bool_]) -> list[tuple[str, str, str]]:
    """The train triples with a new entity, by label."""
    added = graph.train[new[graph.train[:, [0, 2]]].any(axis=1)]
    return [
        (graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in added.tolist()
    ]


def scores(
    small: CompressedModel, graph: Graph, new: npt.NDArray[np.bool_], split: str = "test"
) -> dict[str, float]:
    """MRR over all triples of a split, and over those with a new entity."""
    triples = graph.split(split)
    given, relations, targets = (np.ascontiguousarray(x) for x in graph.with_inverses(triples).T)
    above, equal = small.rank_targets(given, relations, targets, graph.known().rows)
    ranks = (1 + above + equal / 2).reshape(2, -1)
    touched = new[triples[:, [0, 2]]].any(axis=1)
    return {
        "mrr": metrics(ranks.ravel())["mrr"],
        "mrr_new": metrics(ranks[:, touched].ravel())["mrr"],
    }


def test_growth(
    benchmark: Any, record: Any, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = metasd.load_graph("families:200" if quick else "families")
    before, new = earlier_graph(graph)
    settings = {"model.rank": 8 if quick else RANK, "tune.settings": []}
    old = metasd.train(before, settings, tmp_path / "old")
    named = named_new_triples(graph, new)
    compressed = metasd.compress(old, graph=before)
    compressed.save_pretrained(tmp_path / "small")

    def anew() -> CompressedModel:
        return metasd.compress(metasd.train(graph, settings, tmp_path / "anew"), graph=graph)

    def continued() -> CompressedModel:
        run = metasd.train(graph, None, tmp_path / "continued", continue_from=old.path)
        return metasd.compress(run, graph=graph)

    def continued_unfitted() -> CompressedModel:
        monkeypatch.setattr(warm_start, "fit_rows", lambda *_: None)
        run = metasd.train(graph, None, tmp_path / "unfitted", continue_from=old.path)
        return metasd.compress(run, graph=graph)

    def short() -> CompressedModel:
        config = warm_start.WarmStart.load(old.path).config
        return metasd.compress(metasd.train(graph, config, tmp_path / "short"), graph=graph)

    def entities_added() -> CompressedModel:
        small = CompressedModel.from_pretrained(tmp_path / "small")
        grown = metasd.add_entities(small, named)
        grown.save_pretrained(tmp_path / "grown")
        return grown

    def added_unfitted() -> CompressedModel:
        monkeypatch.setattr(new_rows, "_STEPS", 0)
        grown = metasd.add_entities(compressed, named)
        rows = grown.entities.dense()
        random = np.random.default_rng(SEED).standard_normal(rows[new].shape)
        rows[new] = random * np.sqrt(np.mean(rows[~new] ** 2))
        return metasd.CompressedModel.of_tables(
            grown.scoring, grown.rank, rows, grown.relations.dense(), graph
        )

    contenders: dict[str, Callable[[], CompressedModel]] = {
        "trained anew": anew,
        "trained anew, epochs of `--from`": short,
        "`metasd train --from`": continued,
        "the same, random rows": continued_unfitted,
        "`metasd add`": entities_added,
        "the same, random rows of that size": added_unfitted,
    }
    found = {}
    for name, make in contenders.items():
        start, start_cpu = time.perf_counter(), time.process_time()
        small = make()
        seconds = {
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - start_cpu,
        }
        found[name] = {**seconds, **scores(small, graph, new)}
        monkeypatch.undo()
    figures = {
        "shape": {
            "entities": graph.num_entities,
            "new_entities": int(new.sum()),
            "train": len(graph.train),
            "new_train": len(named),
            "rank": settings["model.rank"],
            "epochs": old.config.train.epochs,
            "epochs_continued": warm_start.WarmStart.load(old.path).config.train.epochs,
        },
        "contenders": found,
    }
    record("growth", figures)
    benchmark.pedantic(metasd.add_entities, (compressed, named), rounds=1)


def test_growth_settings(
    benchmark: Any, record: Any, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valid MRR under the rates of a continued run and the settings of the fit."""
    draws = [("families:200", 1)] if quick else DRAWS
    rates: dict[tuple[float, float], list[float]] = {pair: [] for pair in RATES}
    fits = [(*pair, 0.125) for pair in FITS] + [(6, 1000, ridge) for ridge in RIDGES]
    fitted: dict[tuple[float, ...], list[dict[str, float]]] = {fit: [] for fit in fits}
    unfitted: list[float] = []
    for name, seed in draws:
        folder, graph = tmp_path / f"{name}-{seed}", metasd.load_graph(name, seed=seed)
        before, new = earlier_graph(graph, seed)
        settings = {"model.rank": 8 if quick else RANK, "tune.settings": []}
        old = metasd.train(before, settings, folder / "old")
        for i, (lr, compact_lr) in enumerate(rates):
            changed = {
                "train.lr": lr * old.config.train.lr,
                "compact.lr": compact_lr * old.config.compact.lr,
            }
            run = metasd.train(graph, changed, folder / str(i), continue_from=old.path)
            rates[lr, compact_lr].append(run.metrics["valid"]["compact"]["mrr"])
        monkeypatch.setattr(warm_start, "fit_rows", lambda *_: None)
        run = metasd.train(graph, None, folder / "unfitted", continue_from=old.path)
        unfitted.append(run.metrics["valid"]["compact"]["mrr"])
        compressed, named = metasd.compress(old, graph=before), named_new_triples(graph, new)
        for steps, candidates, ridge in fits:
            monkeypatch.setattr(new_rows, "_STEPS", steps)
            monkeypatch.setattr(new_rows, "_CANDIDATES", candidates)
            monkeypatch.setattr(new_rows, "_RIDGE", ridge)
            start = time.process_time()
            grown = metasd.add_entities(compressed, named)
            seconds = time.process_time() - start
            found = {"processor_seconds": seconds, **scores(grown, graph, new, "valid")}
            fitted[steps, candidates, ridge].append(found)
        monkeypatch.undo()
    figures = {
        "draws": [f"{name}, seed {seed}" for name, seed in draws],
        "rates": [
            {"lr": lr, "compact_lr": compact_lr, "valid_mrr": values}
            for (lr, compact_lr), values in rates.items()
        ],
        "random_rows": unfitted,
        "fits": [
            {"steps": fit[0], "candidates": fit[1], "ridge": fit[2], "valid": values}
            for fit, values in fitted.items()
        ],
    }
    record("growth_settings", figures)
    benchmark.pedantic(metasd.add_entities, (compressed, named), rounds=1)
