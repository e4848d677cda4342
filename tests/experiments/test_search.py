"""A search for settings: what it tries, how it continues, what it refuses."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from metasd.cli import app
from metasd.config import Config
from metasd.errors import InputError
from metasd.experiments import sweep
from metasd.experiments.search import Search, run_search
from metasd.export.compress import compress
from metasd.files import lock
from metasd.training.run import Run
from metasd.training.sizing import limit
from metasd.training.trainer import Interrupted

CONTENT = {
    "graph": "families:60",
    "preset": "metasd",
    "settings": {"model.rank": 4, "train.epochs": 1, "train.batch_size": 400},
    "search": {
        "train.lr": {"low": 0.01, "high": 1.0, "log": True},
        "model.rank": {"low": 2, "high": 6},
        "distill.temperature": [1, 3],
    },
}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    return path


def test_a_search_continues_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, out = Search.load(written(tmp_path)), tmp_path / "out"
    train, configs = sweep.train, []

    def stops(graph: object, config: object, path: object) -> object:
        configs.append(config)
        if len(configs) == 3:
            raise Interrupted("stopped")
        return train(graph, config, path)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "train", stops)
    with pytest.raises(Interrupted):
        run_search(search, out, 4)
    best = run_search(search, out, 4)
    assert len(configs) == 5
    assert configs[2] == configs[3]  # the trial that was stopped
    assert all(0.01 <= c.train.lr <= 1 and 2 <= c.model.rank <= 6 for c in configs)
    assert len({c.train.lr for c in configs}) == 4
    paths = sorted(out.glob("trial-*/metrics.json"))
    assert [path.parent.name for path in paths] == [f"trial-00{n}" for n in (1, 2, 3, 4)]
    found = [json.loads(path.read_text()) for path in paths]
    values = [metrics["valid"]["compact"]["mrr"] for metrics in found]
    assert best["value"] == max(values)
    assert best["trial"] == paths[values.index(max(values))].parent.name
    assert Config.load(out / "best.yaml") == Config.load(out / best["trial"] / "config.yaml")
    assert run_search(search, out, 4) == best
    assert len(configs) == 5


def test_another_search_is_not_mixed_in(tmp_path: Path) -> None:
    run_search(Search.load(written(tmp_path)), tmp_path / "out", 1)
    other = Search.load(written(tmp_path, settings={"train.epochs": 2}))
    with pytest.raises(InputError, match="is of another search"):
        run_search(other, tmp_path / "out", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serach": {}}, 'unknown key serach; did you mean "search"'),
        ({"search": {"train.lrr": [1]}}, "unknown setting train.lrr"),
        ({"search": {"train.lr": {"low": 1}}}, "train.lr must be a list, or low, high"),
        ({"search": {"train.lr": {"low": 1, "high": 0.1}}}, "low must be below high"),
        ({"search": {"train.lr": [-1]}}, "train.lr"),
        ({"search": {}}, "needs graph and search"),
        ({"search": {"eval.metric": ["source.mrr"]}}, "belongs among the settings"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_search_is_reported(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Search.load(written(tmp_path, **changes))


@pytest.mark.slow
def test_what_cannot_be_trained_counts_as_a_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"train.lr": [0.1, 1e30], "train.epochs": [1, 3], "compact.warmup_epochs": [0, 2]}
    settings = {**CONTENT["settings"], "train.epochs": 3}  # type: ignore[dict-item]
    search = Search.load(written(tmp_path, settings=settings, search=space))
    best = run_search(search, tmp_path / "out", 8)
    assert best["settings"]["train.lr"] == 0.1
    log = capsys.readouterr().err
    assert "is not a finite number any more" in log
    assert "leaves the compact model none" in log
    assert "[8/8]" in log
    hopeless = Search.load(written(tmp_path, search={"train.lr": [1e30]}))
    with pytest.raises(InputError, match="none of 1 trials came to a value; the last: trial-001: "):
        run_search(hopeless, tmp_path / "hopeless", 1)


def test_one_search_a_folder_and_a_damaged_journal_is_reported(tmp_path: Path) -> None:
    search, out = Search.load(written(tmp_path)), tmp_path / "out"
    run_search(search, out, 1)
    with lock(out), pytest.raises(InputError, match="another process"):
        run_search(search, out, 2)
    journal = out / "trials.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-9])  # killed while it said what the trial came to
    assert run_search(search, out, 1)["trial"] == "trial-001"
    journal.write_bytes(whole.replace(b"op_code", b"op-code", 1))
    with pytest.raises(InputError, match="damaged, or not of a search"):
        run_search(search, out, 2)


def test_the_command_prints_the_best(tmp_path: Path) -> None:
    command = ["search", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--trials", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "trial-00" in result.stdout
    assert "train.lr" in result.stdout
    best = tmp_path / "out" / "best.yaml"
    plan = ["train", "families:60", "--dry-run", "--config", str(best)]
    assert f"metasd train families:60 --config {best}" in result.stdout
    assert CliRunner().invoke(app, plan).exit_code == 0
    report = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert "is the folder of a search" in str(report.exception)


def test_the_same_settings_are_trained_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, out = Search.load(written(tmp_path, search={"model.rank": [3]})), tmp_path / "out"
    run_search(search, out, 1)
    monkeypatch.setattr(sweep, "train", None)
    assert run_search(search, out, 3)["trial"] == "trial-001"


def test_a_size_that_cannot_be_counts_as_a_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"train.epochs": 2, "model.rank": 16, "tune.budget": 0}
    space = {"compact.size": ["1/9", "1/9000"]}
    path = written(tmp_path, preset="default", settings=settings, search=space)
    best = run_search(Search.load(path), tmp_path / "out", 6)
    assert best["settings"]["compact.size"] == "1/9"
    assert "1/9000 leaves" in capsys.readouterr().err


def test_every_trial_has_columns_for_its_size(tmp_path: Path) -> None:
    settings = {"train.epochs": 2, "compact.size": "1/9", "tune.budget": 0}
    space = {"model.rank": [32, 64], "compact.weight_format": ["int4", "int3"]}
    path = written(tmp_path, preset="default", settings=settings, search=space)
    run_search(Search.load(path), tmp_path / "out", 3)
    for trial in sorted((tmp_path / "out").glob("trial-*")):
        run = Run.load(trial)
        graph = run.graph()
        assert compress(run, known=False).nbytes <= limit(graph, run.config)
        assert run.config.compact.size == "1/9"
