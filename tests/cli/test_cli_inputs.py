"""What a run and a model store about their graph: later processes find it again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import metasd as package
from command_line import QUICK, Command
from graph_folders import random_rows, text_of, write_folder
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.training.run import Run

ROWS = sorted(set(random_rows(300)))


def check_run_and_model(metasd: Command, run: Path, graph: Graph) -> None:
    """Evaluation and prediction by the run, and by the model made of it, without --graph."""
    metrics = json.loads((run / "metrics.json").read_text())["test"]["compact"]["mrr"]
    code, out, err = metasd("evaluate", run, "--json")
    assert code == 0, err
    assert json.loads(out)["test"]["compact"]["mrr"] == pytest.approx(metrics, abs=1e-6)
    asked = ("--head", graph.entity_name(0), "-r", graph.relation_name(0), "--json")
    code, from_run, err = metasd("predict", run, *asked)
    assert code == 0, err
    assert Run.load(run).graph().digest == graph.digest
    code, _, err = metasd("compress", run, "--out", "small", "--codec", "column")
    assert code == 0, err
    code, out, err = metasd("evaluate", "small", "--json")
    assert code == 0, err
    code, out, err = metasd("predict", "small", *asked)
    assert code == 0, err
    assert {a["entity"] for a in json.loads(out)} == {a["entity"] for a in json.loads(from_run)}


def test_a_file_with_options(metasd: Command, tmp_path: Path) -> None:
    text = "a,b,c\n" + "".join(f"{t},{r},{h}\n" for h, r, t in ROWS)
    (tmp_path / "my.csv").write_text(text)
    options = ["--header", "--columns", "trh", "--split-ratios", "0.8,0.1,0.1"]
    code, out, err = metasd("train", "my.csv", *options, *QUICK, "--run", "run")
    assert code == 0, err
    assert "were drawn from" in out
    wanted = Graph.from_triples(ROWS, split_ratios=(0.8, 0.1, 0.1))
    check_run_and_model(metasd, tmp_path / "run", wanted)


def test_a_folder_that_an_environment_variable_named(
    metasd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "data" / "talk", ROWS[20:], ROWS[:10], ROWS[10:20])
    (folder / "relation_labels.tsv").write_text("r0\tlikes\n")
    monkeypatch.setenv("METASD_DATA", str(tmp_path / "data"))
    code, _, err = metasd("train", "talk", *QUICK, "--run", "run")
    assert code == 0, err
    monkeypatch.delenv("METASD_DATA")
    graph = Graph.from_triples(ROWS[20:], ROWS[:10], ROWS[10:20], relation_labels={"r0": "likes"})
    check_run_and_model(metasd, tmp_path / "run", graph)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    for model in ("run", "small"):
        code, _, err = metasd("evaluate", model)
        assert code == 2
        assert "say by --graph where the graph of" in err
        assert metasd("evaluate", model, "--graph", tmp_path / "moved" / "talk")[0] == 0
        assert metasd("evaluate", model, "--data-dir", tmp_path / "moved")[0] == 0


def test_a_graph_made_in_memory(metasd: Command, tmp_path: Path, quick: Config) -> None:
    human = {"e0": "Zero"}
    graph = Graph.from_triples(ROWS[20:], ROWS[:10], ROWS[10:20], entity_labels=human)
    run = package.train(graph, quick, run_dir=tmp_path / "first")
    assert run.predict(head="Zero", relation="r1")
    shutil.move(tmp_path / "first", tmp_path / "run")  # with its triples
    check_run_and_model(metasd, tmp_path / "run", graph)
    code, _, err = metasd("resume", "run", "--set", "train.epochs=3")
    assert code == 0, err
    assert len(Run.load(tmp_path / "run").history) == 3


def test_ids_without_a_sorted_vocabulary(tmp_path: Path, quick: Config) -> None:
    triples = np.array([[i, 0, (i + 1) % 5] for i in range(5)])
    graph = Graph(
        name="made", entities=list("edcbaz"), relations=["r"],
        train=triples, valid=triples[:0], test=triples[:1],
    )  # fmt: skip
    package.train(graph, quick, run_dir=tmp_path / "run")
    again = Run.load(tmp_path / "run").graph()
    assert again.digest == graph.digest
    assert list(again.entities) == list("edcbaz")


def test_notes_are_shown(metasd: Command, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"from\trel\tto\n" + text_of(ROWS))
    for arguments in (["train", "a.tsv", "--dry-run"], ["prepare", "a.tsv", "--out", "out"]):
        code, out, err = metasd(*arguments)
        assert code == 0, err
        assert "note: a.tsv: line 1 (from, rel, to) is taken as a header" in out
        assert "train keeps every entity and relation" in out
    code, out, _ = metasd("train", "a.tsv", "--dry-run", "--json")
    assert json.loads(out)["notes"]
