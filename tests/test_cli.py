"""The command line as a user meets it: outputs, exit codes, one clear line for every mistake."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metasd import cli

Command = Callable[..., tuple[int, str, str]]

QUICK = ["--set", "model.rank=8", "--set", "train.epochs=2", "--set", "train.batch_size=400"]
SMALL = ["--preset", "small", *QUICK]


@pytest.fixture
def metasd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Runs a command in an empty folder; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("METASD_DATA", raising=False)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["metasd", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small graph of the user's own."""
    path = tmp_path / "mine"
    path.mkdir()
    people = ["ada", "bo", "cy", "di", "ed", "flo"]
    rows = [f"{a}\tknows\t{b}" for a in people for b in people if a < b]
    rows += [f"{a}\tlikes\ttea" for a in people[:4]] + ["ed\tlikes\tcake", "flo\tlikes\tcake"]
    (path / "train.txt").write_text("\n".join(rows[:16]) + "\n")
    (path / "valid.txt").write_text("\n".join(rows[16:18]) + "\n")
    (path / "test.txt").write_text("\n".join(rows[18:]) + "\n")
    return path


def test_from_a_folder_to_a_ranked_answer(metasd: Command, folder: Path) -> None:
    code, out, err = metasd("train", folder, *QUICK, "--run", "runs/x")
    assert code == 0
    assert [line.split(" of ")[0] for line in err.splitlines()] == ["epoch 1", "epoch 2"]
    assert "8 entities, 2 relations" in out
    assert "pruned" in out
    code, out, _ = metasd("predict", "runs/x", "--head", "ada", "--relation", "likes", "--json")
    assert code == 0
    answers = json.loads(out)
    assert "tea" not in [answer["label"] for answer in answers]  # known already
    assert len(answers) == 7
    code, out, _ = metasd("predict", "runs/x", "--tail", "tea", "-r", "likes", "-k", "1")
    assert code == 0
    assert out.split()[:3] == ["rank", "entity", "score"]
    code, out, _ = metasd("evaluate", "runs/x", "--json")
    assert code == 0
    assert set(json.loads(out)["test"]) == {"source", "pruned"}
    code, out, _ = metasd("evaluate", "runs/x", "--split", "valid")
    assert code == 0
    assert "third (1)" in out
    code, out, _ = metasd("info", "runs/x")
    assert "complex, rank 8" in out
    code, out, _ = metasd("report", "runs/x")
    assert code == 0
    assert Path(out.strip()).is_file()
    code, _, err = metasd("resume", "runs/x", "--set", "train.epochs=3")
    assert code == 2
    assert "train.epochs cannot change within this run: train.decay" in err


def test_a_run_that_stopped_in_its_warm_up(metasd: Command, folder: Path) -> None:
    _, out, _ = metasd("train", folder, *QUICK, "--set", "train.max_steps=1", "--run", "x")
    assert "(chosen by: valid source.mrr)" in out
    assert "note: no pruned model yet: in the first 1 epochs the source learns alone" in out
    code, _, err = metasd("compress", "x", "--out", "small")
    assert code == 2
    assert "has no pruned model yet" in err
    assert metasd("compress", "x", "--out", "small", "--source")[0] == 0
    assert metasd("resume", "x", "--set", "train.max_steps=null")[0] == 0
    assert metasd("compress", "x", "--out", "small")[0] == 0


def test_a_dry_run_looks_at_the_source(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    for rank, message in ((8, ""), (9, "is complex of rank 8"), (7, "is complex of rank 8")):
        settings = [f"model.rank={rank}", "compact.warmup_epochs=0", "compact.source=x"]
        every = [word for setting in settings for word in ("--set", setting)]
        code, _, err = metasd("train", folder, *every, "--dry-run")
        assert (code, message in err) == (2 if message else 0, True)


def test_a_run_by_the_published_method_takes_more_epochs(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *SMALL, "--run", "x")[0] == 0
    code, out, _ = metasd("resume", "x", "--set", "train.epochs=3", "--json")
    assert code == 0
    assert json.loads(out)["protocol"]["epochs"] == 3


def test_the_table_says_of_which_epoch_it_is(metasd: Command, folder: Path) -> None:
    said = "after epoch 1 of 3 (chosen by: valid pruned.mrr)"
    still = ["train.epochs=3", "eval.every=1", "train.lr=1e-9", "distill.meta_lr=1e-9"]
    every = [word for setting in still for word in ("--set", setting)]
    assert said in metasd("train", folder, *SMALL, *every, "--run", "x")[1]
    assert said.replace("3", "4") in metasd("resume", "x", "--set", "train.epochs=4")[1]
    assert said.replace("3", "4") in metasd("info", "x")[1]
    with Path("x", "history.jsonl").open("a") as file:  # as by another epoch, not evaluated yet
        file.write('{"epoch": 5}\n')
    assert json.loads(metasd("info", "x", "--json")[1])["finished"] is False


def test_a_graph_that_was_moved_or_changed(metasd: Command, folder: Path) -> None:
    moved, columns = folder.with_name("moved"), ("--columns", "trh")
    assert metasd("train", folder, *QUICK, *columns, "--run", "x")[0] == 0
    folder.rename(moved)
    commands = [
        ("evaluate", "x"),
        ("resume", "x"),
        ("predict", "x", "--tail", "ada", "-r", "knows"),
    ]
    for command in commands:
        code, _, err = metasd(*command)
        assert code == 2
        assert "no such file or folder; say by --graph where the graph of x is now" in err
        assert metasd(*command, "--graph", moved)[0] == 0
    with (moved / "train.txt").open("a") as file:
        file.write("ada\tlikes\tmilk\n")
    for command in commands:
        code, _, err = metasd(*command, "--graph", moved)
        assert code == 2
        assert "trained on another graph" in err


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_interrupt_says_how_to_go_on(
    metasd: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        f"metasd.training.trainer.Trainer.{'run' if begun else '__init__'}", interrupted
    )
    code, _, err = metasd("train", folder, *QUICK, "--run", "x")
    assert code == 130
    assert err == "metasd: interrupted" + "; continue with `metasd resume x`" * begun + "\n"


def test_a_dense_run_has_no_pruned_model(metasd: Command, folder: Path) -> None:
    dense = ["--set", "train.objective=dense"]
    assert metasd("train", folder, *QUICK, *dense, "--run", "x")[0] == 0
    info = json.loads(metasd("info", "x", "--json")[1])
    assert info["density of the pruned model"] is info["values of the pruned model"] is None
    for command in (["evaluate"], ["report"], ["predict", "--head", "ada", "-r", "likes"]):
        code, out, err = metasd(command[0], "x", *command[1:])
        assert (code, err) == (0, "")
        assert "pruned" not in out


def test_a_graph_without_valid_and_test(metasd: Command, folder: Path) -> None:
    file = folder / "train.txt"
    code, out, _ = metasd("train", file, "--split", "1,0,0", *QUICK, "--run", "x")
    assert code == 0
    assert "nothing to evaluate: the graph has no valid and no test triples" in out
    assert metasd("train", "--split", "nan,0.5,0.5")[0] == 2


def test_runs_are_numbered_when_not_named(metasd: Command, folder: Path) -> None:
    for number in (1, 2):
        assert metasd("train", folder, *QUICK)[0] == 0
        assert Path("runs", f"mine-{number}", "metrics.json").is_file()


def test_a_dry_run_plans_and_writes_nothing(metasd: Command, tmp_path: Path) -> None:
    code, out, _ = metasd("train", "families:120", "--preset", "wn18rr", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["weights"] == (120 + 2 * 30) * 4000
    assert plan["bytes of tables"] == 4 * plan["weights"]
    assert plan["steps"] == plan["steps an epoch"] * 200
    assert list(tmp_path.iterdir()) == []


def test_a_prepared_graph_trains_like_its_files(metasd: Command, folder: Path) -> None:
    code, out, _ = metasd("prepare", folder, "--out", "big/mine", "--memory", "1", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["graph"], told["entities"], told["train triples"]) == ("mine", 8, 16)
    found = []
    for graph, run in ((folder, "a"), ("big/mine", "b")):
        assert metasd("train", graph, *SMALL, "--run", run)[0] == 0
        found.append(json.loads(metasd("evaluate", run, "--json")[1]))
    assert found[0] == found[1]
    assert Path("a/entities.tsv").read_bytes() == Path("b/entities.tsv").read_bytes()
    assert metasd("resume", "b", "--set", "train.epochs=3")[0] == 0
    assert metasd("evaluate", "a", "--graph", "big/mine")[0] == 0
    code, _, err = metasd("prepare", folder, "--out", "big/mine")
    assert (code, err) == (2, "metasd: big/mine already exists\n")


def test_env_and_datasets(metasd: Command) -> None:
    code, out, _ = metasd("env", "--json")
    assert code == 0
    assert json.loads(out)["compiled"]["instruction_set"] in (
        "amx",
        "avx512bf16",
        "avx512",
        "avx2",
        "portable",
    )
    code, out, _ = metasd("datasets")
    assert code == 0
    assert "families" in out


def test_no_argument_shows_help(metasd: Command) -> None:
    _, out, err = metasd()
    assert "train" in out + err


def spoil(folder: Path, name: str, text: str | None) -> None:
    path = folder / name
    path.unlink()
    if text is not None:
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train.txt", None, "no train file"),
        ("train.txt", "", "train.txt"),
        ("test.txt", "a\tb\tc\na\tb\n", "line 2"),
        ("valid.txt", "a\tb\tc\td\n", "line 1"),
        ("test.txt", "\n", "test.txt"),
    ],
)
def test_bad_files_are_named_with_their_line(
    metasd: Command, folder: Path, name: str, text: str | None, message: str
) -> None:
    spoil(folder, name, text)
    code, out, err = metasd("train", folder, *QUICK, "--run", "runs/x")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere/graph"], "no such file or folder"),
        (["train", "familes"], 'did you mean "families"'),
        (["train", "--preset", "smal"], 'did you mean "small"'),
        (["train", "--set", "train.epocs=3"], 'did you mean "train.epochs"'),
        (["train", "--set", "prune.fraction=2"], "less than 1; got 2"),
        (["train", "--set", "model.rank=0"], "greater than or equal to 1; got 0"),
        (["train", "--config", "none.yaml"], "none.yaml"),
        (["train", "--run", ""], "needs a name"),
        (["train", "--split", "1,2"], "three shares"),
        (["train", "--split", "0.8,0.1,0.1"], "a graph in a single file; got families"),
        (["train", "--columns", "hhh"], "permutation"),
        (["resume", "nowhere"], "not a run folder"),
        (["evaluate", "nowhere"], "not a run folder"),
        (["predict", "nowhere", "-r", "x", "--head", "y"], "not a run folder"),
        (["report", "nowhere"], "not a run folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    metasd: Command, arguments: list[str], message: str
) -> None:
    code, _, err = metasd(*arguments)
    assert code == 2
    assert message in err
    assert err.startswith("metasd: ")
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_an_existing_run_is_not_overwritten(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    before = Path("x", "metrics.json").read_bytes()
    code, out, err = metasd("train", "nowhere/graph", *QUICK, "--run", "x")  # nothing is loaded
    assert (code, out) == (2, "")
    assert "already exists" in err
    assert Path("x", "metrics.json").read_bytes() == before
    code, _, err = metasd("predict", "x", "--head", "adda", "-r", "likes")
    assert code == 2
    assert 'did you mean "ada"' in err
    code, _, err = metasd("evaluate", "x", "--split", "tset")
    assert code == 2
    assert "tset" in err
