"""Studies: grids, resuming, what is judged, and their report."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from metasd.cli import app
from metasd.data.load import load_graph
from metasd.errors import InputError
from metasd.experiments import study as sweep
from metasd.experiments import study_report as pareto
from metasd.experiments.study import Form, Study, run_study
from metasd.files import lock
from metasd.training.run import Run
from metasd.training.trainer import Interrupted

CONTENT = {
    "graph": "families:120",
    "seeds": [0, 1],
    "settings": {"model.rank": 8, "train.epochs": 1, "train.batch_size": 400},
    "runs": {
        "dense": {"train.objective": "dense"},
        "prune": {"train.objective": "prune", "prune.fraction": [0.5, 0.9]},
    },
    "store": ["source fp32", "source int8", "pruned sparse fp16", "one-shot sparse fp16"],
}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return path


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
    pruned = rows["prune prune.fraction=0.9", 1, "pruned sparse fp16"]
    assert pruned["bytes"] < rows["prune prune.fraction=0.5", 1, "pruned sparse fp16"]["bytes"]
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
    again = run_study(study, tmp_path / "out", test=["dense"])
    assert again["runs"] == first["runs"]
    assert {row["run"] for row in again["rows"] if "test" in row} == {"dense"}
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == again


def test_results_are_enough_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_study(Study.load(written(tmp_path, seeds=[0])), tmp_path / "out")
    for folder in (tmp_path / "out").glob("*__seed_0"):
        shutil.rmtree(folder)
    train, calls = sweep.train, []
    monkeypatch.setattr(sweep, "train", lambda *args: calls.append(args) or train(*args))  # type: ignore[func-returns-value]
    longer = run_study(Study.load(written(tmp_path)), tmp_path / "out")
    assert len(calls) == 3
    assert longer["rows"][: len(done["rows"])] == done["rows"]


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(InputError, match="of another graph"):
        run_study(elsewhere, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, 'unknown key sedes; did you mean "seeds"'),
        ({"seeds": ["a"]}, "seeds must be a list of different whole numbers"),
        ({"runs": {"x": {"model.rnak": 3}}}, "run x: unknown setting model.rnak"),
        ({"runs": [1]}, "runs must be names with settings"),
        ({"runs": {}}, "needs graph and runs"),
        ({"store": ["teacher fp32"]}, "must begin with one of source, pruned, one-shot"),
        ({"store": ["source fp12"]}, "must say how the model is stored"),
        ({"store": ["source sparse int2"]}, "sparse tables have no values 'int2'"),
        ({"store": "source fp16"}, "store must be a list of forms"),
        ({"store": ["one-shot fp16"]}, "run prune prune.fraction=0.5: no form of store"),
        ({"seeds": [0, 0]}, "seeds must be a list of different whole numbers"),
        ({"runs": {"x": {"train.epochs": []}}}, "run x: train.epochs has no values"),
        ({"runs": {"x": {"train.seed": 1}}}, "seeds in place of train.seed"),
        ({"runs": {"x/1": {}, "x_1": {}}}, "two runs have the folder x_1__seed_0"),
        ({"runs": {"x": {"source": ["y"]}}}, "no run"),
        ({"settings": {"train": {"seed": 3}}}, "seeds, not train.seed"),
        ({"runs": {"x": {"train": {"seed": 3}}}}, "seeds in place of train.seed"),
        ({"seeds": [0, 2**32]}, "train.seed: input should be less than 4294967296"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_study_is_told(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Study.load(written(tmp_path, **changes))


def test_unknown_test_runs_are_told_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run is called 'denes'"):
        run_study(Study.load(written(tmp_path)), tmp_path / "out", test=["denes"])
    assert not (tmp_path / "out").exists()


def test_forms_fit_the_runs_that_have_their_model() -> None:
    assert Form.of("pruned sparse int8") == Form("pruned", "sparse", "int8")
    assert Form.of("source int4") == Form("source", "int4", "int4")


def row(run: str, size: int, mrr: float, seed: int = 0) -> dict[str, object]:
    valid = {"mrr": mrr, "by_frequency": {"rare": {"mrr": 0.1}}}
    return {"run": run, "seed": seed, "form": "f", "bytes": size, "valid": valid}


def test_the_frontier_is_what_nothing_smaller_beats() -> None:
    rows = [row("a", 10, 0.3), row("b", 20, 0.2), row("c", 30, 0.5), row("c", 30, 0.3, seed=1)]
    found = pareto.points({"rows": rows})
    assert [(p.run, p.frontier) for p in found] == [("a", True), ("b", False), ("c", True)]
    assert found[2].mrr == pytest.approx(0.4)
    assert pareto.table(found)[3][4:8] == ["0.4000", "0.1000", "2", "0.2000"]


def test_the_command_line_sweeps_and_draws(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    path = str(written(tmp_path, seeds=[0], runs={"dense": {"train.objective": "dense"}}))
    assert CliRunner().invoke(app, ["sweep", path, "--out", out]).exit_code == 0
    result = CliRunner().invoke(app, ["report", out])
    assert result.exit_code == 0, result.output
    assert "one-shot sparse" in result.output
    assert "pareto.png" in (tmp_path / "out" / "study.md").read_text()
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_a_student_takes_over_the_source_of_the_same_seed(tmp_path: Path) -> None:
    runs = {
        "dense": {"train.objective": "dense"},
        "student": {
            "source": "dense",
            "train.objective": "distill",
            "compact.weight_format": "int2",
        },
    }
    study = Study.load(written(tmp_path, runs=runs, store=["source fp32", "pruned auto"]))
    results = run_study(study, tmp_path / "out")
    forms = [(row["run"], row["form"]) for row in results["rows"] if row["seed"] == 0]
    assert forms == [("dense", "source fp32"), ("student", "pruned auto")]
    for seed in (0, 1):
        dense, student = (
            Run.load(tmp_path / "out" / f"{name}__seed_{seed}").model for name in runs
        )
        assert torch.equal(student.entities, dense.entities)
        assert student.own
    shutil.rmtree(tmp_path / "out" / "student__seed_0")
    assert run_study(study, tmp_path / "out") == results


def test_a_student_of_a_student(tmp_path: Path) -> None:
    runs = {
        "a": {"train.objective": "dense"},
        "b": {"source": "a", "train.objective": "distill"},
        "c": {"source": "b", "train.objective": "prune"},
    }
    store = ["source fp32", "pruned auto"]
    study = Study.load(written(tmp_path, runs=runs, seeds=[0], store=store))
    rows = run_study(study, tmp_path / "out")["rows"]
    assert [row["run"] for row in rows] == ["a", "b", "c"]
    first, last = (Run.load(tmp_path / "out" / f"{name}__seed_0").model for name in "ac")
    assert torch.equal(first.entities, last.entities)
    shutil.rmtree(tmp_path / "out" / "b__seed_0")
    (tmp_path / "out" / "results.json").unlink()
    assert run_study(study, tmp_path / "out")["rows"] == rows


def test_a_form_that_cannot_hold_a_model_is_told_and_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"dense": {"train.objective": "dense"}}
    store = ["one-shot column int3", "source fp32"]
    study = Study.load(written(tmp_path, runs=runs, seeds=[0], store=store))
    results = run_study(study, tmp_path / "out")
    assert "dense, seed 0, one-shot column int3: int3 has no zero" in capsys.readouterr().err
    assert "int3 has no zero" in results["rows"][0]["refused"]
    assert [point.form for point in pareto.points(results)] == ["source fp32"]
    assert run_study(study, tmp_path / "out") == results


def test_one_sweep_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out"), pytest.raises(InputError, match="another process"):
        run_study(Study.load(written(tmp_path)), tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [{"runs": []}, {"rows": [3]}, {"rows": [{}]}, {"runs": {"x": {}}}, {"runs": {"x": 1}}],
    ids=str,
)
def test_damaged_results_are_told(tmp_path: Path, change: dict[str, object]) -> None:
    digest = load_graph("families:120").digest
    content = {"graph": "g", "graph_sha256": digest, "runs": {}, "rows": [], **change}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="damaged, or not of a study"):
        run_study(Study.load(written(tmp_path)), tmp_path / "out")


def test_a_student_of_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    runs = {"a": {"source": "dense"}, "dense": {"train.objective": "dense"}}
    with pytest.raises(InputError, match="no run above it is called 'dense'"):
        Study.load(written(tmp_path, runs=runs))
    runs = {"dense": {"train.objective": "dense", "seeds": [1]}, "z": {"source": "dense"}}
    with pytest.raises(InputError, match="its source 'dense' has no seed 0"):
        Study.load(written(tmp_path, runs=runs))


def test_nested_settings_are_those_of_dotted_keys(tmp_path: Path) -> None:
    dotted = Study.load(written(tmp_path))
    settings = {"model": {"rank": 8}, "train": {"epochs": 1, "batch_size": 400}}
    runs = {
        "dense": {"train": {"objective": "dense"}},
        "prune": {"train.objective": "prune", "prune": {"fraction": [0.5, 0.9]}},
    }
    assert Study.load(written(tmp_path, settings=settings, runs=runs)) == dotted


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("graph: families:60\nruns:\n  a: {model.rank: 4}\n  a: {model.rank: 5}\n")
    with pytest.raises(InputError, match="'a' in line 4 is there a second time"):
        Study.load(path)
    path.write_text("graph: families:60\nruns: &a\n  x: *a\n")
    with pytest.raises(InputError, match="nested without an end"):
        Study.load(path)


def test_a_moved_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"a": {"train.objective": "dense"}, "b": {"source": "a", "train.objective": "prune"}}
    study = Study.load(
        written(tmp_path, runs=runs, seeds=[0], store=["source fp32", "pruned auto"])
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


def test_a_model_that_is_gone_is_not_made_up_for_by_another(tmp_path: Path) -> None:
    study = Study.load(written(tmp_path, seeds=[0]))
    run_study(study, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "dense__seed_0")
    with pytest.raises(InputError, match="dense__seed_0 is gone, and with it the model"):
        run_study(study, tmp_path / "out", test=["dense"])


def test_runs_that_the_study_no_longer_has_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_study(Study.load(written(tmp_path, seeds=[0])), tmp_path / "out")
    runs = {"dense": CONTENT["runs"]["dense"]}  # type: ignore[index]
    run_study(Study.load(written(tmp_path, seeds=[0], runs=runs)), tmp_path / "out")
    assert "keeps what the study no longer has: prune prune.fraction=0.5" in capsys.readouterr().err
