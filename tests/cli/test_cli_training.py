"""The commands `train` and `resume`: outputs, notes, what continues."""

import json
from pathlib import Path

import pytest

from command_line import QUICK, SMALL, Command


def test_a_run_that_stopped_in_its_warm_up(metasd: Command, folder: Path) -> None:
    _, out, _ = metasd("train", folder, *QUICK, "--set", "train.max_steps=1", "--run", "x")
    assert "(chosen by: valid source.mrr)" in out
    assert "note: no compact model yet: in the first 1 epochs the source learns alone" in out
    code, _, err = metasd("compress", "x", "--out", "small")
    assert code == 2
    assert "has no compact model yet" in err
    assert metasd("compress", "x", "--out", "small", "--source")[0] == 0
    code, out, _ = metasd("resume", "x", "--set", "train.max_steps=null")
    assert (code, out.splitlines()[0]) == (0, "x: a run on mine, 1 of 2 epochs done")
    assert metasd("compress", "x", "--out", "small", "--overwrite")[0] == 0


def test_a_dry_run_looks_at_the_source(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    for rank, message in ((8, ""), (9, "is complex of rank 8"), (7, "is complex of rank 8")):
        settings = [f"model.rank={rank}", "compact.warmup_epochs=0", "compact.source=x"]
        every = [word for setting in settings for word in ("--set", setting)]
        code, _, err = metasd("train", folder, *every, "--dry-run")
        assert (code, message in err) == (2 if message else 0, True)


def test_a_model_of_a_size(metasd: Command, folder: Path) -> None:
    size, rank = ("--size", "1/9"), ("--set", "model.rank=32", "--set", "train.epochs=2")
    plan = json.loads(metasd("train", folder, *size, *rank, "--dry-run", "--json")[1])
    assert plan["size of the compact model at most"] == "1/9"
    assert plan["bytes of the compact model's tables"] <= plan["bytes of tables"] / 9
    assert plan["compact model"]["of 1/9"].startswith("int")
    code, out, _ = metasd("train", folder, *size, *rank, "--budget", "0", "--run", "x")
    assert code == 0
    assert "compact model of 1/9: int" in out
    assert metasd("compress", "x", "--out", "small")[0] == 0
    found = json.loads(metasd("info", "small", "--json")[1])
    assert found["bytes"]["tables"] == plan["bytes of the compact model's tables"]
    for wrong, message in (("1/9999", "the smallest that"), ("many", "must be a share of")):
        code, _, err = metasd("train", folder, "--size", wrong, "--run", "y")
        assert (code, message in err) == (2, True)
    assert not Path("y").exists()


def test_settings_without_effect_are_named(metasd: Command, folder: Path) -> None:
    idle = ["train.objective=dense", "distill.teachers=2", "prune.fraction=0.5"]
    every = [word for setting in idle for word in ("--set", setting)]
    code, out, _ = metasd("train", folder, *QUICK, *every, "--run", "x")
    assert code == 0
    assert "note: distill.teachers has no effect with train.objective=dense\n" in out
    assert "note: prune.fraction has no effect with train.objective=dense\n" in out
    assert "train.objective has no effect" not in out
    assert "no effect" not in metasd("train", folder, *QUICK, "--run", "y")[1]


def test_a_run_by_the_published_method_takes_more_epochs(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *SMALL, "--run", "x")[0] == 0
    code, out, _ = metasd("resume", "x", "--set", "train.epochs=3", "--json")
    assert code == 0
    assert json.loads(out)["protocol"]["epochs"] == 3


def test_the_table_says_of_which_epoch_it_is(metasd: Command, folder: Path) -> None:
    said = "after epoch 1 of 3 (chosen by: valid compact.mrr)"
    still = ["train.epochs=3", "eval.every=1", "train.lr=1e-9", "distill.meta_lr=1e-9"]
    every = [word for setting in still for word in ("--set", setting)]
    assert said in metasd("train", folder, *SMALL, *every, "--run", "x")[1]
    assert said.replace("3", "4") in metasd("resume", "x", "--set", "train.epochs=4")[1]
    assert said.replace("3", "4") in metasd("info", "x")[1]
    with Path("x", "history.jsonl").open("a") as file:  # as by another epoch, not evaluated yet
        file.write('{"epoch": 5}\n')
    assert json.loads(metasd("info", "x", "--json")[1])["finished"] is False


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_interrupt_says_how_to_continue(
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


def test_a_graph_without_valid_and_test(metasd: Command, folder: Path) -> None:
    file = folder / "train.txt"
    code, out, _ = metasd("train", file, "--split-ratios", "1,0,0", *QUICK, "--run", "x")
    assert code == 0
    assert "nothing to evaluate: the graph has no valid and no test triples" in out
    assert metasd("train", "--split-ratios", "nan,0.5,0.5")[0] == 2


def test_runs_are_numbered_when_not_named(metasd: Command, folder: Path) -> None:
    for number in (1, 2):
        assert metasd("train", folder, *QUICK)[0] == 0
        assert Path("runs", f"mine-{number}", "metrics.json").is_file()


def test_a_dry_run_plans_and_writes_nothing(metasd: Command, tmp_path: Path) -> None:
    code, out, _ = metasd(
        "train", "families:120", "--preset", "wn18rr-paper", "--dry-run", "--json"
    )
    assert code == 0
    plan = json.loads(out)
    assert plan["weights"] == (120 + 2 * 30) * 4000
    assert plan["bytes of tables"] == 4 * plan["weights"]
    assert plan["steps"] == plan["steps per epoch"] * 200
    assert list(tmp_path.iterdir()) == []


def test_a_run_continues_on_a_grown_graph(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    with (folder / "train.txt").open("a") as file:
        file.write("gil\tknows\tada\ngil\thates\ttea\n")
    plan = json.loads(metasd("train", folder, "--from", "x", "--dry-run", "--json")[1])
    assert (plan["model"], plan["epochs"]) == ("complex, rank 8", 2)
    code, out, _ = metasd("train", folder, "--from", "x", "--run", "y")
    assert code == 0
    assert "note: 8 entities start from x, 1 are new\n" in out
    assert "note: 2 relations start from x, 1 are new\n" in out
    settings = ("--from", "x", "--set", "model.rank=9", "--run", "z")
    for more in ((), ("--dry-run",)):
        code, _, err = metasd("train", folder, *settings, *more)
        assert code == 2
        assert "x is complex of rank 8; this run, which is to continue from it" in err
    assert not Path("z").exists()
