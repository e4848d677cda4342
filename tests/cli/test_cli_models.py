"""The commands on what was trained, from a first run to its answers."""

import json
from pathlib import Path

from command_line import QUICK, SMALL, Command

HIDDEN = "1 known answer hidden: tea; --keep-known shows it\n"


def test_from_a_folder_to_a_ranked_answer(metasd: Command, folder: Path) -> None:
    code, out, err = metasd("train", folder, *QUICK, "--run", "runs/x")
    assert code == 0
    assert [line.split(" of ")[0] for line in err.splitlines()] == ["epoch 1", "epoch 2"]
    assert "8 entities, 2 relations" in out
    assert "compact" in out
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
    assert set(json.loads(out)["test"]) == {"source", "compact"}
    code, out, _ = metasd("evaluate", "runs/x", "--split", "valid")
    assert code == 0
    assert "source MRR  compact MRR" in out
    assert "medium (1)" in out
    code, out, _ = metasd("info", "runs/x")
    assert "complex, rank 8" in out
    code, out, _ = metasd("report", "runs/x")
    assert code == 0
    assert Path(out.strip()).is_file()
    code, _, err = metasd("resume", "runs/x", "--set", "train.epochs=3")
    assert code == 2
    assert "train.epochs cannot change within this run: train.decay" in err


def test_compress_and_evaluate(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *SMALL, "--run", "x")[0] == 0
    options = ("--codec", "sparse", "--weight-format", "int8", "--calibrate")
    code, out, _ = metasd("compress", "x", "--out", "small", *options, "--json")
    assert code == 0
    assert json.loads(out)["codec"] == "sparse delta8 int8"
    found = json.loads(metasd("evaluate", "small", "--graph", folder, "--json")[1])
    assert set(found["test"]) == {"compressed"}
    assert "before compression:" in metasd("info", "small")[1]
    code, _, err = metasd("report", "small")
    assert (code, "small is a compressed model; a report is of a run" in err) == (2, True)
    assert "run folders" in metasd("predict", "small", "--source", "--head", "ada")[2]


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
        assert (
            "x was trained on another graph than moved: entities differ (9 instead of 8; "
            'first that only the graph has: "milk")'
        ) in err


def test_a_dense_run_has_no_compact_model(metasd: Command, folder: Path) -> None:
    dense = ["--set", "train.objective=dense"]
    assert metasd("train", folder, *QUICK, *dense, "--run", "x")[0] == 0
    info = json.loads(metasd("info", "x", "--json")[1])
    assert info["density of the compact model"] is None
    assert info["weight format of the compact model"] is None
    for command in (["evaluate"], ["report"], ["predict", "--head", "ada", "-r", "likes"]):
        code, out, err = metasd(command[0], "x", *command[1:])
        assert (code, err) == (0, HIDDEN if command[0] == "predict" else "")
        assert "compact" not in out


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


def test_add_entities_to_a_model(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    assert metasd("compress", "x", "--out", "small")[0] == 0
    Path("new.tsv").write_text("gil\tknows\tada\ngil\tlikes\ttea\n")
    code, out, _ = metasd("add", "small", "new.tsv", "--out", "grown", "--json")
    assert code == 0
    assert json.loads(out)["new entities"] == 1
    assert "gil" not in metasd("predict", "small", "--tail", "tea", "-r", "likes")[1]
    assert "gil" not in metasd("predict", "grown", "--tail", "tea", "-r", "likes")[1]  # known
    assert metasd("predict", "grown", "--head", "gil", "-r", "likes")[0] == 0
    assert metasd("add", "small", "new.tsv")[0] == 0  # in its place
    assert json.loads(metasd("info", "small", "--json")[1])["entities"] == 9
    Path("new.tsv").write_text("gil\thates\tada\n")
    code, _, err = metasd("add", "small", "new.tsv")
    assert (code, err.count("\n"), "hates" in err) == (2, 1, True)
    code, _, err = metasd("add", "x", "new.tsv")
    assert (code, "is no compressed model" in err) == (2, True)
