"""Sweeps: what is trained once, what continues, what is evaluated."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from metasd.data.load import load_graph
from metasd.errors import InputError
from metasd.experiments import study_report, sweep
from metasd.experiments.study import Study
from metasd.experiments.sweep import run_study, time_left
from metasd.files import lock
from metasd.training.run import Run
from metasd.training.trainer import Interrupted
from study_files import CONTENT, written


@pytest.mark.slow
def test_a_study_is_done_once_and_judged_by_valid(tmp_path: Path) -> None:
    study = Study.load(written(tmp_path))
    assert list(study.runs) == ["dense", "prune prune.fraction=0.5", "prune prune.fraction=0.9"]
    results = run_study(study, tmp_path / "out")
    rows = {(row["run"], row["seed"], row["form"]): row for row in results["rows"]}
    assert len(rows) == len(results["rows"]) == 2 * (3 + 3 + 3)
    assert not any("test" in row for row in results["rows"])
    dense = rows["dense", 0, "source fp32"]
    metrics = json.loads((tmp_path / "out" / "dense__seed_0" / "metrics.json").read_text())
    assert dense["valid"]["mrr"] == pytest.approx(metrics["valid"]["source"]["mrr"], abs=1e-6)
    pruned = rows["prune prune.fraction=0.9", 1, "compact sparse fp16"]
    assert pruned["bytes"] < rows["prune prune.fraction=0.5", 1, "compact sparse fp16"]["bytes"]
    assert rows["dense", 1, "one-shot sparse fp16"]["bytes"] < dense["bytes"] / 5
    record = results["runs"]["dense, seed 1"]
    assert record["config"]["train.seed"] == 1
    assert {"training_seconds", "machine", "versions", "commit"} <= record.keys()


def test_a_second_call_trains_nothing_and_adds_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.load(written(tmp_path, seeds=[0]))
    first = run_study(study, tmp_path / "out")
    monkeypatch.setattr(sweep, "train", None)
    again = run_study(study, tmp_path / "out", test=["den"])
    assert again["runs"] == first["runs"]
    assert {row["run"] for row in again["rows"] if "test" in row} == {"dense"}
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == again


@pytest.mark.slow
def test_results_are_enough_to_continue_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_study(Study.load(written(tmp_path, seeds=[0])), tmp_path / "out")
    for folder in (tmp_path / "out").glob("*__seed_0"):
        shutil.rmtree(folder)
    train, calls = sweep.train, []
    monkeypatch.setattr(sweep, "train", lambda *args: calls.append(args) or train(*args))  # type: ignore[func-returns-value]
    longer = run_study(Study.load(written(tmp_path)), tmp_path / "out")
    assert len(calls) == 3
    assert longer["rows"][: len(done["rows"])] == done["rows"]


@pytest.mark.slow
def test_an_interrupted_study_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study.load(written(tmp_path, seeds=[0]))
    train, calls = sweep.train, []

    def stops(*args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise Interrupted("stopped")
        return train(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "train", stops)
    with pytest.raises(Interrupted):
        run_study(study, tmp_path / "out")
    done = run_study(study, tmp_path / "out")["runs"]
    assert list(done) == [f"{name}, seed 0" for name in study.runs]
    assert len(calls) == 4


def test_a_run_of_other_settings_is_not_taken_for_this_one(tmp_path: Path) -> None:
    run_study(Study.load(written(tmp_path, seeds=[0])), tmp_path / "out")
    changed = Study.load(written(tmp_path, seeds=[0], settings={"model.rank": 9}))
    with pytest.raises(InputError, match="trained with other settings"):
        run_study(changed, tmp_path / "out")
    elsewhere = Study.load(written(tmp_path, graph="families:130"))
    with pytest.raises(
        InputError, match="than families:130: entities differ \\(130 instead of 120"
    ):
        run_study(elsewhere, tmp_path / "out")
    content = {"graph": "g", "graph_sha256": "another", "runs": {}, "rows": []}
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"of another graph \(g\) than families:130 is now"):
        run_study(elsewhere, tmp_path / "bare")


def test_unknown_test_runs_are_reported_before_anything_is_trained(tmp_path: Path) -> None:
    study = Study.load(written(tmp_path))
    with pytest.raises(InputError, match='no run is called "denes"; there are "dense", "prune '):
        run_study(study, tmp_path / "out", test=["denes"])
    with pytest.raises(InputError, match=r'"prune" begins the names of 2 runs: .*=0.5", "prune '):
        run_study(study, tmp_path / "out", test=["prune"])
    assert not (tmp_path / "out").exists()


def test_a_run_takes_over_the_source_of_the_same_seed(tmp_path: Path) -> None:
    runs = {
        "dense": {"train.objective": "dense"},
        "small": {
            "source": "dense",
            "train.objective": "distill",
            "compact.weight_format": "int2",
        },
    }
    study = Study.load(written(tmp_path, runs=runs, store=["source fp32", "compact auto"]))
    results = run_study(study, tmp_path / "out")
    forms = [(row["run"], row["form"]) for row in results["rows"] if row["seed"] == 0]
    assert forms == [("dense", "source fp32"), ("small", "compact auto")]
    for seed in (0, 1):
        dense, small = (Run.load(tmp_path / "out" / f"{name}__seed_{seed}").model for name in runs)
        assert torch.equal(small.entities, dense.entities)
        assert small.separate
    shutil.rmtree(tmp_path / "out" / "small__seed_0")
    assert run_study(study, tmp_path / "out") == results


@pytest.mark.slow
def test_a_source_that_was_taken_over_itself(tmp_path: Path) -> None:
    runs = {
        "a": {"train.objective": "dense"},
        "b": {"source": "a", "train.objective": "distill"},
        "c": {"source": "b", "train.objective": "compact"},
    }
    store = ["source fp32", "compact auto"]
    study = Study.load(written(tmp_path, runs=runs, seeds=[0], store=store))
    rows = run_study(study, tmp_path / "out")["rows"]
    assert [row["run"] for row in rows] == ["a", "b", "c"]
    first, last = (Run.load(tmp_path / "out" / f"{name}__seed_0").model for name in "ac")
    assert torch.equal(first.entities, last.entities)
    shutil.rmtree(tmp_path / "out" / "b__seed_0")
    (tmp_path / "out" / "results.json").unlink()
    assert run_study(study, tmp_path / "out")["rows"] == rows


def test_a_form_that_cannot_hold_a_model_is_reported_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"dense": {"train.objective": "dense"}}
    store = ["one-shot column int3", "source fp32"]
    study = Study.load(written(tmp_path, runs=runs, seeds=[0], store=store))
    results = run_study(study, tmp_path / "out")
    assert "dense, seed 0, one-shot column int3: int3 has no zero" in capsys.readouterr().err
    assert "int3 has no zero" in results["rows"][0]["refused"]
    assert [point.form for point in study_report.points(results)] == ["source fp32"]
    assert run_study(study, tmp_path / "out") == results


@pytest.mark.parametrize(
    ("seconds", "done", "total", "said"),
    [
        (2, 1, 4, "; about 6 s left"),
        (0.1, 1, 4, "; about 1 s left"),
        (60, 1, 3, "; about 2 min left"),
        (3600, 4, 12, "; about 2.0 h left"),
        (9, 4, 4, ""),
    ],
)
def test_the_time_left_is_in_a_unit_that_fits(
    seconds: float, done: int, total: int, said: str
) -> None:
    assert time_left(seconds, done, total) == said


def test_a_report_before_the_first_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(*_: object) -> None:
        raise Interrupted("stopped")

    monkeypatch.setattr(sweep, "train", stops)
    with pytest.raises(Interrupted):
        run_study(Study.load(written(tmp_path)), tmp_path / "out")
    with pytest.raises(InputError, match=r"results.json: no run is finished yet; `metasd sweep"):
        study_report.write_study_report(tmp_path / "out")


def test_one_sweep_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out"), pytest.raises(InputError, match="another process"):
        run_study(Study.load(written(tmp_path)), tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [{"runs": []}, {"rows": [3]}, {"rows": [{}]}, {"runs": {"x": {}}}, {"runs": {"x": 1}}],
    ids=str,
)
def test_damaged_results_are_reported(tmp_path: Path, change: dict[str, object]) -> None:
    digest = load_graph("families:120").digest
    content = {"graph": "g", "graph_sha256": digest, "runs": {}, "rows": [], **change}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="damaged, or not of a study"):
        run_study(Study.load(written(tmp_path)), tmp_path / "out")


@pytest.mark.slow
def test_a_moved_study_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"a": {"train.objective": "dense"}, "b": {"source": "a", "train.objective": "compact"}}
    study = Study.load(
        written(tmp_path, runs=runs, seeds=[0], store=["source fp32", "compact auto"])
    )
    first = run_study(study, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "moved")
    monkeypatch.setattr(sweep, "train", None)
    again = run_study(study, tmp_path / "moved", test=["b"])
    assert again["runs"] == first["runs"]
    assert [row["run"] for row in again["rows"] if "test" in row] == ["b"]
    for file in ("results.json", "b__seed_0/metrics.json"):  # as if stopped at its end
        (tmp_path / "moved" / file).unlink()
    (tmp_path / "moved").rename(tmp_path / "again")
    assert run_study(study, tmp_path / "again")["rows"] == first["rows"]


@pytest.mark.slow
def test_a_model_that_is_gone_is_not_made_up_for_by_another(tmp_path: Path) -> None:
    study = Study.load(written(tmp_path, seeds=[0]))
    run_study(study, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "dense__seed_0")
    with pytest.raises(InputError, match="dense__seed_0 is gone, and with it the model"):
        run_study(study, tmp_path / "out", test=["dense"])


def test_runs_that_the_study_no_longer_has_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(Study.load(written(tmp_path, seeds=[0])), tmp_path / "out")
    runs = {"dense": CONTENT["runs"]["dense"]}
    run_study(Study.load(written(tmp_path, seeds=[0], runs=runs)), tmp_path / "out")
    assert "keeps what the study no longer has: prune prune.fraction=0.5" in capsys.readouterr().err
