"""Checkpoints: whole or absent, and refused when they are not this run's."""

import resource
from pathlib import Path

import pytest
import torch

from metasd.config import Config
from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.errors import InputError
from metasd.files import write_text
from metasd.training.checkpoint import Checkpoint
from metasd.training.run import Run, RunFolder
from metasd.training.trainer import resume, train


@pytest.fixture
def folder(small_graph: Graph, quick: Config, tmp_path: Path) -> RunFolder:
    train(small_graph, quick, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Checkpoint({"x": torch.arange(5.0)}, {"loss": 0.1 + 0.2}).save(path)
    loaded = Checkpoint.load(path)
    assert torch.equal(loaded.tensors["x"], torch.arange(5.0))
    assert loaded.state["loss"] == 0.1 + 0.2


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_checkpoint_is_refused(folder: RunFolder, size: int) -> None:
    data = folder.last.read_bytes()
    folder.last.write_bytes(data[:size])
    with pytest.raises(InputError, match=r"last\.safetensors: damaged"):
        resume(folder.path)


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    tensors = {"x": torch.arange(12.0).reshape(3, 4), "n": torch.tensor(7, dtype=torch.int32)}
    Checkpoint(tensors, {"loss": 0.5}).save(path)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in (1, 64):
            path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
            with pytest.raises(InputError, match=r"c\.safetensors: damaged"):
                Checkpoint.load(path)


def test_a_missing_best_model_is_said(folder: RunFolder) -> None:
    folder.best.unlink()
    folder.last.unlink()
    with pytest.raises(InputError, match="there is no checkpoint"):
        Run.load(folder.path)


def test_a_damaged_best_model_is_found_before_any_step(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder.best.read_bytes()
    folder.best.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    monkeypatch.setattr("metasd.training.trainer.Trainer.run", None)
    with pytest.raises(InputError, match=r"best\.safetensors: damaged .*checksum"):
        resume(folder.path, ["train.epochs=9"])


def test_a_lost_checkpoint_does_not_start_the_run_over(folder: RunFolder) -> None:
    folder.last.unlink()
    before = folder.best.read_bytes()
    with pytest.raises(InputError, match="there is no checkpoint"):
        resume(folder.path)
    assert folder.best.read_bytes() == before


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(folder: RunFolder) -> None:
    kept = Run.load(folder.path)
    for file in (folder.last, folder.best, folder.metrics):
        file.unlink()
    assert folder.read_history()
    again = resume(folder.path)
    assert torch.equal(again.model.entities, kept.model.entities)
    assert [record["epoch"] for record in again.history] == [1, 2]


def test_epochs_cannot_be_taken_back(folder: RunFolder) -> None:
    with pytest.raises(InputError, match=r"train\.epochs = 1, but .* has 2 already"):
        resume(folder.path, ["train.epochs=1"])


def test_another_graph_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    other = load_graph("families:121")
    with pytest.raises(InputError, match="trained on another graph"):
        resume(folder.path, graph=other)
    foreign = train(other, Config.load(folder.config), tmp_path / "other")
    folder.last.write_bytes(RunFolder(foreign.path).last.read_bytes())
    with pytest.raises(InputError, match="a checkpoint of another run"):
        resume(folder.path)
    folder.id.unlink()  # as in a folder of an earlier version
    with pytest.raises(InputError, match="a checkpoint of another graph"):
        resume(folder.path)


def test_the_checkpoint_of_another_seed_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    graph = load_graph("families:120")
    config = Config.load(folder.config).override({"train.seed": 7})
    foreign = RunFolder(train(graph, config, tmp_path / "other").path)
    folder.best.write_bytes(foreign.best.read_bytes())
    with pytest.raises(InputError, match=r"best\.safetensors: a checkpoint of another run"):
        Run.load(folder.path)
    folder.id.unlink()
    assert Run.load(folder.path).history


def test_another_configuration_is_refused(folder: RunFolder) -> None:
    text = folder.config.read_text().replace("rank: 8", "rank: 9")
    folder.config.write_text(text)
    with pytest.raises(InputError, match=r"another configuration \(model\.rank\)"):
        resume(folder.path)
    with pytest.raises(InputError, match="another graph or configuration"):
        Run.load(folder.path)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Checkpoint({"x": torch.ones(10)}, {}).save(path)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(
            InputError, match=r"could not be written .*the checkpoint before it is kept"
        ):
            Checkpoint({"x": torch.ones(100_000)}, {}).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert Checkpoint.load(path).tensors["x"].shape == (10,)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_full_disk_says_which_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*results\.json"):
            write_text(path, "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_text() == "old"


def test_a_full_disk_at_the_first_checkpoint(tmp_path: Path) -> None:
    missing = tmp_path / "no folder" / "c.safetensors"
    with pytest.raises(InputError, match=r"could not be written .*; there is none before it"):
        Checkpoint({}, {}).save(missing)


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        Run.load(tmp_path)
    with pytest.raises(InputError, match="not a run folder"):
        resume(tmp_path / "nowhere")
