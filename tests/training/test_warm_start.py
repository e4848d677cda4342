"""Runs that continue on a graph that has grown."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from metasd import compress
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.models.complex import ComplEx
from metasd.models.model import Model
from metasd.training import trainer
from metasd.training.run import Run
from metasd.training.step import Step
from metasd.training.trainer import Interrupted, Trainer, resume, train
from metasd.training.warm_start import WarmStart


@pytest.fixture(scope="module")
def earlier(small_graph: Graph) -> Graph:
    """The graph without some entities and a relation, and with an entity that it has no more."""
    gone = [small_graph.entities.index(label) for label in small_graph.entities[::10]]
    lost = int(small_graph.relation_counts.argmin())
    parts = {}
    for split in ("train", "valid", "test"):
        rows = small_graph.split(split)
        there = ~(np.isin(rows[:, [0, 2]], gone).any(1) | (rows[:, 1] == lost))
        parts[split] = [
            (small_graph.entities[h], small_graph.relations[r], small_graph.entities[t])
            for h, r, t in rows[there].tolist()
        ]
    parts["train"].append((*parts["train"][0][:2], "somebody else"))
    labels = sorted({x for rows in parts.values() for row in rows for x in row[::2]})
    relations = sorted({row[1] for rows in parts.values() for row in rows})
    return Graph(
        name="earlier",
        entities=labels,
        relations=relations,
        **{
            split: np.array(
                [(labels.index(h), relations.index(r), labels.index(t)) for h, r, t in rows]
            )
            for split, rows in parts.items()
        },
    )


@pytest.fixture(scope="module")
def old(earlier: Graph, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = Config().override({"model.rank": 8, "train.epochs": 20, "train.batch_size": 200})
    return train(earlier, config, tmp_path_factory.mktemp("runs") / "old")


def test_rows_are_matched_by_label(small_graph: Graph, earlier: Graph, old: Run) -> None:
    start = WarmStart.load(old.path)
    model = Trainer(small_graph, start.config, trainer.RunFolder("none")).model
    random = model.entities.clone()
    start.fill(model, start.config, small_graph)
    for graph_labels, old_labels, table, source in (
        (small_graph.entities, earlier.entities, model.entities, old.model.entities),
        (small_graph.relations, earlier.relations, model.relations, old.model.relations),
    ):
        new_rows, old_rows = (
            x[: len(labels)] for x, labels in ((table, graph_labels), (source, old_labels))
        )
        for i, label in enumerate(graph_labels):
            if label in old_labels:
                assert torch.equal(new_rows[i], old_rows[old_labels.index(label)])
    fitted = [i for i, x in enumerate(small_graph.entities) if x not in earlier.entities]
    norms = model.entities.norm(dim=1)
    assert not torch.equal(model.entities[fitted], random[fitted])
    assert 0.3 < float(norms[fitted].mean() / norms.mean()) < 3
    record = start.record(small_graph)
    kept = len(set(earlier.entities) & set(small_graph.entities))
    new = len(small_graph.entities) - kept
    assert record["entities"] == {"kept": kept, "new": new, "dropped": 1}
    assert record["relations"]["new"] == 1


def test_a_run_continues_with_few_epochs(small_graph: Graph, old: Run, tmp_path: Path) -> None:
    run = train(small_graph, None, tmp_path / "new", continue_from=old.path)
    assert run.config == WarmStart.load(old.path).config
    assert run.config.train.epochs == 3
    assert run.config.warmup_epochs == 2
    assert run.config.tune.settings == []
    assert run.config.train.lr > old.config.train.lr
    assert WarmStart.load(run.path).config == run.config  # a third state of the graph
    compress(run, graph=small_graph).save_pretrained(tmp_path / "small")
    assert WarmStart.load(tmp_path / "small").config == run.config
    anew = train(small_graph, run.config, tmp_path / "anew")
    better = run.metrics["test"]["compact"]["mrr"] - anew.metrics["test"]["compact"]["mrr"]
    assert better > 0.05
    record = json.loads((run.path / "warm_start.json").read_text())
    assert run.metrics["protocol"]["continued_from"] == record
    assert record["path"] == str(old.path)
    assert "continued_from" not in anew.metrics["protocol"]
    longer = train(small_graph, {"train.epochs": 5}, tmp_path / "b", continue_from=str(old.path))
    assert longer.config.train.epochs == 5


def test_a_compressed_model_is_a_start(
    small_graph: Graph, earlier: Graph, old: Run, tmp_path: Path
) -> None:
    small = compress(old, graph=earlier)
    small.save_pretrained(tmp_path / "small")
    start = WarmStart.load(tmp_path / "small")
    assert start.config == WarmStart.load(old.path).config
    np.testing.assert_array_equal(start.entities, small.dense()[0])
    dataclasses.replace(small, about={}).save_pretrained(tmp_path / "bare")
    bare = WarmStart.load(tmp_path / "bare").config
    assert (bare.model.rank, bare.train.batch_size) == (8, Config().train.batch_size)
    run = train(small_graph, None, tmp_path / "run", continue_from=tmp_path / "small")
    assert run.metrics["test"]["source"]["mrr"] > 0.1


def test_columns_that_a_compressed_model_left_out_begin_anew(small_graph: Graph, old: Run) -> None:
    start = WarmStart.load(old.path)
    start.entities[:, 3], start.relations[:, 3] = 0, 0
    model = Model.create(ComplEx(8), small_graph.num_entities, small_graph.num_relations, 0)
    drawn = model.entities[:, 3].clone(), model.relations[:, 3].clone()
    start.fill(model, start.config, small_graph)
    kept = [small_graph.entities.index(label) for label in old.vocabulary.entities[:50]]
    assert torch.equal(model.entities[kept, 3], drawn[0][kept])
    assert float(model.entities[kept, 4].abs().mean()) > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.rank": 9}, "complex of rank 8; this run, .* is complex of rank 9"),
        ({"model.name": "distmult"}, "this run, .* is distmult of rank 8"),
        ({"compact.source": "x", "compact.warmup_epochs": 0}, "not from both"),
    ],
)
def test_what_does_not_fit_is_refused(
    small_graph: Graph, old: Run, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(small_graph, settings, tmp_path / "run", continue_from=old.path)
    other = dataclasses.replace(small_graph, entities=[f"x{x}" for x in small_graph.entities])
    with pytest.raises(InputError, match="no entity in common"):
        train(other, None, tmp_path / "run", continue_from=old.path)
    with pytest.raises(InputError, match="neither a run folder nor a model folder"):
        train(small_graph, None, tmp_path / "run", continue_from=tmp_path / "none")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("after", [0, 2])
def test_a_killed_run_resumes_to_the_same_weights(
    small_graph: Graph,
    old: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    whole = train(small_graph, None, tmp_path / "whole", continue_from=old.path)
    taken, call = 0, Step.__call__

    def stopping(self: Step, *given: object) -> object:
        nonlocal taken
        taken += 1
        if after == 0:
            raise KeyboardInterrupt  # before there is a checkpoint
        if taken == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "__call__", stopping)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(small_graph, None, tmp_path / "cut", continue_from=old.path)
    monkeypatch.undo()
    assert (tmp_path / "cut/checkpoints/last.safetensors").exists() == (after > 0)
    resumed = resume(tmp_path / "cut", graph=small_graph)
    for a, b in zip(whole.model.compact.weights, resumed.model.compact.weights, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.model.entities, resumed.model.entities)


def test_a_source_that_does_not_change_is_not_evaluated_again(
    small_graph: Graph,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluated: list[str] = []
    evaluate = Trainer._evaluate

    def noting(self: Trainer, split: str, view: object, label: str) -> object:
        evaluated.append(label)
        return evaluate(self, split, view, label)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_evaluate", noting)
    config = Config().override(
        {"model.rank": 8, "train.epochs": 5, "compact.warmup_epochs": 2, "eval.every": 1}
    )
    run = train(small_graph, config, tmp_path / "run")
    assert evaluated.count("valid source") == 2 + 1  # and once more of the best model
    assert evaluated.count("valid compact") == 3 + 1
    values = [record["valid/source"]["mrr"] for record in run.history]
    assert values[1] == values[2] == values[4] == run.metrics["valid"]["source"]["mrr"]
    lines = capsys.readouterr().err.splitlines()
    assert ["source 0." in line for line in lines] == [True, True, False, False, False]
    assert all("compact 0." in line for line in lines[2:])
    capsys.readouterr()
    meta = config.override({"train.objective": "metasd", "train.epochs": 4})
    evaluated.clear()
    train(small_graph, meta, tmp_path / "meta")
    assert evaluated.count("valid source") == 4 + 1  # the meta step changes it


def test_held_out_triples_of_the_old_train_are_counted(small_graph: Graph, tmp_path: Path) -> None:
    settings = {"model.rank": 4, "train.epochs": 1, "tune.settings": []}
    train("families:120", settings, tmp_path / "old")
    start = WarmStart.load(tmp_path / "old")
    assert start.seen(small_graph) == 0
    leaked = np.concatenate([small_graph.train[:5], small_graph.test])
    leaked = leaked[np.lexsort(leaked.T[::-1])]
    assert start.seen(dataclasses.replace(small_graph, test=leaked)) == 5
