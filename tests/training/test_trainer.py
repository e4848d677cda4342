"""Runs on a small graph: what they write, how they stop, and that resuming changes nothing."""

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import SEPARATE

from metasd.config import Config
from metasd.data.batches import Triples, entity_weights, split_quiz
from metasd.data.graph import Graph
from metasd.errors import Diverged, InputError
from metasd.evaluation import evaluate
from metasd.training.run import Run, RunFolder
from metasd.training.step import Step
from metasd.training.trainer import Interrupted, resume, train


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"train.device = cuda, but PyTorch finds no CUDA device"):
        train(small_graph, quick.override({"train.device": "cuda"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def same_weights(a: Run, b: Run) -> bool:
    return torch.equal(a.model.entities, b.model.entities) and torch.equal(
        a.model.relations, b.model.relations
    )


@pytest.mark.parametrize("objective", ["metasd", "distill", "compact", "dense"])
@pytest.mark.parametrize("name", ["complex", "cp"])
def test_every_objective_trains_and_reports(
    small_graph: Graph, quick: Config, tmp_path: Path, objective: str, name: str, device: str
) -> None:
    config = quick.override(
        {
            "train.objective": objective,
            "model.name": name,
            "train.epochs": 4,
            "train.device": device,
        }
    )
    run = train(small_graph, config, tmp_path / "run")
    random_mrr = 0.03
    assert run.metrics["test"]["source"]["mrr"] > 2 * random_mrr
    models = {"source"} if objective == "dense" else {"source", "compact"}
    assert set(run.metrics["test"]) == set(run.metrics["valid"]) == models
    losses = {key.removeprefix("loss/") for key in run.history[-1] if key.startswith("loss/")}
    assert ("quiz" in losses) == (objective == "metasd")
    assert run.history[-1]["loss/source"] < run.history[0]["loss/source"]


def test_the_run_folder_says_everything(small_graph: Graph, quick: Config, tmp_path: Path) -> None:
    run = train(small_graph, quick, tmp_path / "run")
    names = {path.name for path in run.path.iterdir()}
    assert {"config.yaml", "history.jsonl", "metrics.json", "checkpoints", "graph.json"} <= names
    assert {"entities.tsv", "relations.tsv", "events"} <= names
    assert Config.load(run.path / "config.yaml") == quick
    history = [json.loads(line) for line in (run.path / "history.jsonl").open()]
    assert [record["epoch"] for record in history] == [1, 2]
    steps = math.ceil(2 * len(small_graph.train) / 400)
    for record in history:
        assert record["steps"] == steps
        assert record["peak_memory_bytes"] > 1e7
        assert record["triples_per_second"] * record["seconds"] == pytest.approx(
            2 * len(small_graph.train)
        )
        assert set(record["valid/compact"]) == {"mrr", "mr", "hits@1", "hits@3", "hits@10"}
    protocol = json.loads((run.path / "metrics.json").read_text())["protocol"]
    assert protocol["filter"] == ["train", "valid", "test"]
    assert protocol["graph_sha256"] == small_graph.digest
    loaded = Run.load(run.path)
    assert same_weights(loaded, run)
    assert loaded.metrics == run.metrics


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    first = train(small_graph, quick, tmp_path / "a")
    assert same_weights(first, train(small_graph, quick, tmp_path / "b"))
    other = train(small_graph, quick.override(["train.seed=1"]), tmp_path / "c")
    assert not same_weights(first, other)


RAMP = {"train.epochs": 3, "prune.schedule": "cubic", "prune.ramp_epochs": 2}


SAMPLED = {"train.epochs": 3, "train.gradient_sampling": 0.05}
CANDIDATES = {"train.epochs": 3, "train.candidates": 60}


@pytest.mark.parametrize(
    "settings",
    [RAMP, SEPARATE, SAMPLED, CANDIDATES, {**SEPARATE, **CANDIDATES}],
    ids=["ramp", "separate", "sampled", "candidates", "separate on candidates"],
)
def test_resuming_after_any_step_ends_in_the_same_weights(
    small_graph: Graph,
    quick: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
) -> None:
    config = quick.override(settings)
    whole = train(small_graph, config, tmp_path / "whole")
    call = Step.__call__
    taken = 0

    def interrupting(self: Step, *given: object) -> dict[str, float]:
        nonlocal taken
        taken += 1
        if taken == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "__call__", interrupting)
    with pytest.raises(Interrupted, match="stopped in epoch 1"):
        train(small_graph, config, tmp_path / "cut")
    pauses = 1
    while True:
        taken = 0
        try:
            resumed = resume(tmp_path / "cut")
            break
        except Interrupted:
            pauses += 1
    assert pauses >= 3
    assert same_weights(whole, resumed)
    assert torch.equal(whole.model.masks[0], resumed.model.masks[0])  # type: ignore[index]
    assert torch.equal(whole.model.compact_weights[0], resumed.model.compact_weights[0])
    drop = ("seconds", "triples_per_second", "peak_memory_bytes")
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k not in drop} == {
            k: v for k, v in b.items() if k not in drop
        }


def test_the_rate_falls_to_zero_in_the_last_share_of_the_steps(
    small_graph: Graph, quick: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    call = Step.__call__

    def noting(self: Step, *batch: object) -> object:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return call(self, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "__call__", noting)
    run = train(small_graph, quick.override({"train.decay": 1.0}), tmp_path / "run")
    steps = sum(record["steps"] for record in run.history)
    lr = run.config.train.lr
    assert rates == pytest.approx([lr * (1 - i / steps) for i in range(steps)])
    rates.clear()
    train(small_graph, quick.override({"train.decay": 0.25}), tmp_path / "late")
    assert rates == pytest.approx([lr * min(1, 4 * (1 - i / steps)) for i in range(steps)])
    rates.clear()
    train(
        small_graph, quick.override(SEPARATE), tmp_path / "separate"
    )  # one epoch of the source, two of the compact model
    half = steps // 2
    assert rates[:half] == pytest.approx([lr * (1 - i / half) for i in range(half)])
    assert rates[half] == pytest.approx(lr)
    assert rates[-1] == pytest.approx(lr / (2 * half))


def test_a_finished_run_can_be_given_more_epochs(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    train(small_graph, quick, tmp_path / "a")
    longer = resume(tmp_path / "a", ["train.epochs=4"])
    assert same_weights(
        longer, train(small_graph, quick.override(["train.epochs=4"]), tmp_path / "b")
    )
    with pytest.raises(InputError, match=r"train\.lr cannot change within a run"):
        resume(tmp_path / "a", ["train.lr=0.2"])


def test_max_steps_stops_within_an_epoch(small_graph: Graph, quick: Config, tmp_path: Path) -> None:
    run = train(small_graph, quick.override(["train.max_steps=2"]), tmp_path / "run")
    assert [record["steps"] for record in run.history] == [2]


def test_the_quiz_is_a_seeded_share_of_train(small_graph: Graph, quick: Config) -> None:
    cpu = torch.device("cpu")
    share, seed = quick.distill.quiz_fraction, quick.train.seed
    train_rows, quiz = split_quiz(small_graph, share, seed, cpu, held_out=False)
    assert len(quiz) == 2 * round(0.02 * len(small_graph.train))
    assert len(train_rows) == 2 * len(small_graph.train)
    held, same_quiz = split_quiz(small_graph, share, seed, cpu, held_out=True)

    def rows_of(triples: Triples) -> list[tuple[int, ...]]:
        columns = triples.columns(torch.arange(len(triples)))
        return list(zip(*(column.tolist() for column in columns), strict=True))

    assert rows_of(quiz) == rows_of(same_quiz)
    rows = set(rows_of(held))
    assert len(rows) == len(train_rows) - len(quiz)
    assert not rows & set(rows_of(quiz))
    whole, quiz = split_quiz(small_graph, 1.0, seed, cpu, held_out=False)
    assert len(whole) == len(quiz) == 2 * len(small_graph.train)
    left, quiz = split_quiz(small_graph, 1.0, seed, cpu, held_out=True)
    assert (len(left), len(quiz)) == (2, len(whole) - 2)


def test_a_diverging_loss_stops_with_advice(
    small_graph: Graph, quick: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Step.__call__
    taken = 0

    def breaking(self: Step, *batch: object) -> dict[str, float]:
        nonlocal taken
        taken += 1
        if taken == 12:
            self.model.entities[0, 0] = math.nan
        return call(self, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Step, "__call__", breaking)
    with pytest.raises(
        InputError, match=r"not a finite number .*last good checkpoint.*smaller train\.lr"
    ):
        train(small_graph, quick.override(["train.epochs=9"]), tmp_path / "run")
    monkeypatch.undo()
    assert resume(tmp_path / "run").model.entities.isfinite().all()


def test_an_existing_folder_is_left_alone(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="already exists"):
        train(small_graph, quick, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", ["", ".", "a file/run"])
def test_a_folder_that_cannot_be_is_refused_before_any_work(
    small_graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").touch()
    monkeypatch.setattr("metasd.training.trainer.Trainer", None)
    with pytest.raises(InputError, match=r"needs a name|cannot be made \(.*a file is not a folder"):
        train(small_graph, None, name)


def test_a_folder_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"run: cannot be made \(.* may not be written to\)"):
        RunFolder(tmp_path / "new" / "run").check_new()


def test_graphs_and_settings_may_be_given_by_name(quick: Config, tmp_path: Path) -> None:
    run = train("families:120", quick.flat(), tmp_path / "run")
    assert run.config == quick
    assert evaluate(run.model.compact, "families:120") == run.metrics["test"]["compact"]
    with pytest.raises(InputError, match="trained on another graph"):
        resume(run.path, graph="families:121")


def test_a_signal_during_the_last_evaluation(
    small_graph: Graph, quick: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metasd.training import trainer

    finish = trainer.Trainer._finish

    def signalled(self: trainer.Trainer) -> Run:
        os.kill(os.getpid(), signal.SIGINT)
        return finish(self)

    monkeypatch.setattr(trainer.Trainer, "_finish", signalled)
    with pytest.raises(Interrupted, match="stopped before the evaluation"):
        train(small_graph, quick, tmp_path / "run")
    monkeypatch.undo()
    assert resume(tmp_path / "run").metrics["protocol"]["epochs"] == 2


def test_a_folder_is_trained_in_once_at_a_time(
    small_graph: Graph, quick: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metasd.training import trainer

    def meddling(self: trainer.Trainer) -> Run:
        return resume(tmp_path / "run")

    monkeypatch.setattr(trainer.Trainer, "run", meddling)
    with pytest.raises(InputError, match="another process is training"):
        train(small_graph, quick, tmp_path / "run")


def test_entity_weights_follow_counts_and_are_one_on_average(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    weights = entity_weights(small_graph)
    answers = torch.from_numpy(small_graph.train[:, [0, 2]].ravel())
    assert float(weights[answers].mean()) == pytest.approx(1)
    common = torch.from_numpy(small_graph.entity_counts).argmax()
    unseen = weights[common] / 10
    assert torch.equal(weights.argmax(), common)
    assert float(weights.min()) >= float(unseen) * (1 - 1e-6)
    plain = train(small_graph, quick, tmp_path / "a")
    weighted = train(small_graph, quick.override(["train.entity_weights=true"]), tmp_path / "b")
    assert weighted.history[0]["loss/source"] != plain.history[0]["loss/source"]


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not say where a folder went")
def test_a_run_goes_on_where_its_folder_was_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    append = RunFolder.append_history

    def move_after_the_first(folder: RunFolder, record: dict[str, Any]) -> None:
        append(folder, record)
        if record["epoch"] == 1:
            folder.path.rename(tmp_path / "moved")

    monkeypatch.setattr(RunFolder, "append_history", move_after_the_first)
    settings = {"train.epochs": 3, "model.rank": 4, "tune.budget": 0}
    run = train("families:60", settings, tmp_path / "run")
    assert run.path == tmp_path / "moved"
    assert [record["epoch"] for record in Run.load(run.path).history] == [1, 2, 3]
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_loss_ends_the_training(tmp_path: Path) -> None:
    settings = {"train.epochs": 3, "model.rank": 4, "train.lr": 1e6, "tune.budget": 0}
    with pytest.raises(Diverged, match=r"the source loss is .*e\+\d+ \(epoch 1"):
        train("families:60", settings, tmp_path / "run")


def test_the_loser_of_a_race_for_a_folder_says_that_it_is_there(
    small_graph: Graph, tmp_path: Path
) -> None:
    RunFolder(tmp_path / "run").create(small_graph, Config())
    with pytest.raises(InputError, match="run already exists"):
        RunFolder(tmp_path / "run").create(small_graph, Config())
