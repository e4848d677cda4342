"""Settings that are chosen for the graph: rules, the search on valid, and how it continues."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import metasd
from metasd import Config, Graph, InputError, load_graph
from metasd.config import SIZED
from metasd.training import trainer, tune
from metasd.training.run import RunFolder
from metasd.training.stop_signal import Interrupted

ALL = ("regularizer.weight", "relation_prediction.weight", "train.lr")
SMALL = {"model.rank": 8, "train.epochs": 12, "train.objective": "dense"}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return load_graph("families:150")


@pytest.fixture
def config(graph: Graph) -> Config:
    return tune.by_rules(graph, Config(**SMALL))


def test_rules_choose_what_is_not_given(graph: Graph) -> None:
    found = tune.by_rules(graph, Config(**{"model.rank": 7}))
    assert found.model.rank == 7
    given = Config(**{"model.rank": 7}).tune.settings
    assert found.tune.settings == [key for key in given if key not in SIZED]
    steps = -(-2 * len(graph.train) // found.train.batch_size)
    assert found.train.epochs == 40 or found.train.epochs * steps >= 1500
    large = replace(graph, entities=[*graph.entities, *(f"~{i}" for i in range(300_000))])
    assert tune.by_rules(large, Config()).model.rank < tune.by_rules(graph, Config()).model.rank
    assert tune.by_rules(graph, metasd.preset("metasd")) == metasd.preset("metasd")


def test_the_search_takes_what_is_best_on_valid_and_never_reads_test(
    graph: Graph, config: Config, tmp_path: Path
) -> None:
    hidden = replace(graph, test=np.full_like(graph.test, -1))  # an id that would be an error
    found = tune.settled(hidden, config, tmp_path / "tuning.jsonl")
    plan, *lines = [json.loads(line) for line in (tmp_path / "tuning.jsonl").open()]
    long = [line for line in lines if line["epochs"] == plan["long"]]
    chosen = {key: found.flat()[key] for key in long[0]["settings"]}
    (line,) = [line for line in long if line["settings"] == chosen]
    assert found.tune.settings == []
    # A smaller weight and a higher rate have to be 3 % better each.
    assert line["valid_mrr"] * 1.03**2 >= max(each["valid_mrr"] for each in long)
    assert plan["long"] <= 12
    assert plan["rank"] <= 8
    relation = {line["settings"]["relation_prediction.weight"] for line in long}
    assert relation == {0.0, 0.25, 2.0}


def test_a_search_that_was_stopped_continues(
    graph: Graph, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    found = tune.settled(graph, config, whole)
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[:3]) + lines[3][:20])  # killed while it wrote
    ran = []
    train = tune._Trials._train

    def counted(self: tune._Trials, settings: dict[str, float], epochs: int) -> float:
        ran.append(settings)
        return train(self, settings, epochs)

    monkeypatch.setattr(tune._Trials, "_train", counted)
    assert tune.settled(graph, config, cut) == found
    assert len(ran) == len(lines) - 3
    cut.write_text('{"rank": 3}\n')
    with pytest.raises(InputError, match=r"cut\.jsonl: damaged"):
        tune.settled(graph, config, cut)


def test_a_run_stores_what_was_chosen_and_resumes_within_the_search(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = metasd.train(graph, SMALL, tmp_path / "whole")
    stored = Config.load(run.path / "config.yaml")
    assert stored.tune.settings == []
    assert stored == run.config
    train = tune._Trials._train

    def stopped(self: tune._Trials, settings: dict[str, float], epochs: int) -> float:
        if len(self._done) == 2:
            raise Interrupted("stopped")
        return train(self, settings, epochs)

    monkeypatch.setattr(tune._Trials, "_train", stopped)
    with pytest.raises(Interrupted):
        metasd.train(graph, SMALL, tmp_path / "cut")
    monkeypatch.setattr(tune._Trials, "_train", train)
    assert Config.load(tmp_path / "cut" / "config.yaml").tune.settings
    again = trainer.resume(tmp_path / "cut", graph=graph)
    assert again.config == run.config
    assert again.metrics["test"] == run.metrics["test"]


@pytest.mark.parametrize(
    ("given", "searched"),
    [
        ({"tune.budget": 0}, set()),
        ({"regularizer.weight": 0.1, "train.lr": 0.1}, {"relation_prediction.weight"}),
        ({"relation_prediction.weight": 1, "train.lr": 0.1}, {"regularizer.weight"}),
        ({"regularizer.name": "none"}, {"relation_prediction.weight", "train.lr"}),
        (dict.fromkeys(ALL, 0.2), set()),
        ({"train.max_steps": 5}, set()),
    ],
)
def test_only_what_is_not_given_is_searched(
    graph: Graph, tmp_path: Path, given: dict[str, float], searched: set[str]
) -> None:
    config = tune.by_rules(graph, Config(**SMALL).override(given))
    record = tmp_path / "tuning.jsonl"
    found = tune.settled(graph, config, record)
    lines = [json.loads(line) for line in record.open()][1:] if record.exists() else []
    assert {key for line in lines for key in line["settings"]} == searched
    assert all(found.flat()[key] == value for key, value in given.items())


def test_without_valid_the_rules_decide(graph: Graph, config: Config, tmp_path: Path) -> None:
    alone = replace(graph, valid=graph.valid[:0])
    found = tune.settled(alone, config, tmp_path / "tuning.jsonl")
    assert found == config.override({"tune.settings": []})
    assert not (tmp_path / "tuning.jsonl").exists()


def test_a_budget_decides_how_long_trials_are(graph: Graph, config: Config) -> None:
    plans = [tune.plan(graph, config.override({"tune.budget": b})) for b in (1e-6, 60)]
    assert plans[0] is None
    assert plans[1] == tune.Plan(8, 10, 12)


def test_a_run_on_a_source_has_its_settings(graph: Graph, tmp_path: Path) -> None:
    source = metasd.train(graph, {**SMALL, "tune.budget": 0}, tmp_path / "source")
    taken = Config(**{"compact.source": str(source.path), "compact.warmup_epochs": 0})
    found = tune.by_rules(graph, taken)
    assert (found.model.rank, found.tune.settings) == (8, [])


def test_the_folder_of_a_run_without_a_search_has_no_trials(graph: Graph, tmp_path: Path) -> None:
    run = metasd.train(graph, {**SMALL, "tune.budget": 0}, tmp_path / "run")
    assert not RunFolder(run.path).tuning.exists()
