"""Runs over several processes against the same run in one."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import processes
from metasd import compress, distributed, evaluate
from metasd.config import Config, preset
from metasd.data.batches import Epoch, Order, Triples
from metasd.data.load import load_graph
from metasd.distributed import SINGLE_PROCESS, ProcessGrid
from metasd.errors import InputError
from metasd.models import Scoring
from metasd.models.masks import draw_masks
from metasd.models.model import Model
from metasd.training.candidates import step_of
from metasd.training.checkpoint import Checkpoint, Layout
from metasd.training.run import Run
from metasd.training.schedule import Phase
from metasd.training.step import Step
from metasd.training.trainer import resume, train

ENTITIES, RELATIONS, RANK = 1003, 7, 10
CASES = [
    ("complex",),
    ("cp", "prune.granularity=row"),
    (
        "complex",
        "compact.weight_format=int3",
        "prune.granularity=column",
        "train.objective=distill",
    ),
    ("complex", "regularizer.name=n3", "train.precision=bf16"),
    ("complex", "train.gradient_sampling=0.05"),
    ("complex", "train.candidates=300", "train.gradient_sampling=0.05"),
    ("complex", "train.triples_per_query=8", "train.objective=distill"),
    (
        "complex",
        "train.triples_per_query=8",
        "train.objective=compact",
        "train.entity_weights=true",
    ),
    ("cp", "train.candidates=200", "compact.weight_format=int3", "train.objective=distill"),
]


def made(case: tuple[str, ...], processes: ProcessGrid, dtype: torch.dtype) -> tuple[Step, Tensor]:
    """A step with masks drawn, and the rows that its tables have of the whole ones."""
    name, *settings = case
    config = preset("metasd").override(
        {"model.name": name, "model.rank": RANK, "train.precision": "fp32"}
    )
    config = config.override(["relation_prediction.weight=1", *settings])
    scoring = Scoring.named(name)(RANK)
    model = Model.create(scoring, ENTITIES, RELATIONS, 0, config.compact.weight_format, processes)
    model.entities = (model.entities * 100).to(dtype)
    model.relations = (model.relations * 100).to(dtype)
    model.masks = draw_masks(model, 0.8, config.prune.granularity)
    block = processes.block(ENTITIES)
    starts = [role * ENTITIES for role in range(scoring.entity_roles)]
    rows = torch.cat([torch.arange(start + block.start, start + block.stop) for start in starts])
    weights = torch.linspace(0.5, 1.5, ENTITIES, dtype=dtype)[block].contiguous()
    step = step_of(model, config, weights)
    for (
        name,
        state,
    ) in step.optimizer_tensors().items():  # else first steps are signs of what may be rounding
        if name.endswith("sum"):
            state += 1e-4
    return step, rows


def triples(count: int, generator: torch.Generator) -> Tensor:
    """Some have head and relation in common; heads lie in every block."""
    heads = torch.randint(20, (count,), generator=generator) * (ENTITIES // 20)
    sizes = (2 * RELATIONS, ENTITIES)
    others = [torch.randint(n, (count,), generator=generator) for n in sizes]
    return torch.stack([heads, *others], dim=1)


def trained(
    case: tuple[str, ...], processes: ProcessGrid, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    step, rows = made(case, processes, dtype)
    assert step.model.masks is not None
    masks = [mask.clone() for mask in step.model.masks]
    generator = torch.Generator().manual_seed(1)
    losses: dict[str, Tensor] = {}
    for _ in range(20):
        batch, quiz = (triples(n, generator).T.contiguous() for n in (101, 37))
        losses = step(Phase.SHARED, step.batch(*batch), step.batch(*quiz))
    return {
        "rows": rows,
        "masks": masks,
        "entities": step.model.entities,
        "relations": step.model.relations,
        "density": step.model.density(),
        "losses": {name: float(loss) for name, loss in losses.items()},
    }


def place(shards: int, replicas: int) -> ProcessGrid:
    os.environ["WORLD_SIZE"] = str(shards * replicas)
    return distributed.start(replicas, shards)


def all_trained(group: str, shards: int, replicas: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    here = place(shards, replicas)
    return [trained(case, here) for case in CASES]


@pytest.fixture(scope="module")
def alone() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """One process's, and what it would have found without rounding."""
    return [
        (trained(case, SINGLE_PROCESS), trained(case, SINGLE_PROCESS, torch.float64))
        for case in CASES
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "replicas"), [(2, 1), (4, 1), (2, 2), (1, 2)])
def test_twenty_steps_are_those_of_one_process(
    alone: list[tuple[dict[str, Any], dict[str, Any]]], shards: int, replicas: int
) -> None:
    """Masks bit for bit; losses and weights but for rounding, as one process against fp64."""
    found = processes.run(all_trained, shards * replicas, shards, replicas)
    for i, (case, (whole, unrounded)) in enumerate(zip(CASES, alone, strict=True)):
        exact = "train.precision=bf16" not in case
        for one in (result[i] for result in found):
            assert torch.equal(one["masks"][0], whole["masks"][0][one["rows"]])
            assert torch.equal(one["masks"][1], whole["masks"][1])
            assert one["density"] == whole["density"]
            assert one["losses"] == pytest.approx(whole["losses"], rel=1e-6 if exact else 1e-3)
            for name, rows in (("entities", one["rows"]), ("relations", slice(None))):
                rounding = relative(whole[name][rows], unrounded[name][rows])
                assert relative(one[name], whole[name][rows]) < 3 * rounding
        assert all(
            torch.equal(one["relations"], found[0][i]["relations"])
            for one in (result[i] for result in found)
        )


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_a_random_table_in_parts_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Third(ProcessGrid):
        shards, shard = 3, 1

    monkeypatch.setattr("metasd.models.model._ROWS_AT_A_TIME", 16)
    for entities in (3, 17, 33, 200):
        scoring = Scoring.named("cp")(3)
        whole = Model.create(scoring, entities, 4, seed=5)
        generator = torch.Generator().manual_seed(5)
        assert torch.equal(whole.entities, torch.randn(2 * entities, 3, generator=generator) * 1e-3)
        assert torch.equal(whole.relations, torch.randn(8, 3, generator=generator) * 1e-3)
        part = Model.create(scoring, entities, 4, seed=5, processes=Third())
        block = Third().block(entities)
        heads, tails = whole.entities.chunk(2)
        assert torch.equal(part.entities, torch.cat([heads[block], tails[block]]))
        assert torch.equal(part.relations, whole.relations)


def test_an_epoch_shows_every_triple_and_its_inverse_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("metasd.data.batches._STEPS", 4)
    rows = torch.arange(30).view(10, 3) % torch.tensor([50, 4, 50])
    numbers = Triples(rows.numpy(), 4, torch.device("cpu"))
    inverses = rows.flip(1) + torch.tensor([0, 4, 0])
    for rounds, length in ((1, 20), (4, 71)):
        generator = torch.Generator().manual_seed(2)
        orders = torch.cat([torch.randperm(20, generator=generator) for _ in range(rounds)])
        wanted = torch.cat([rows, inverses])[orders[:length]]

        def epoch(length: int = length) -> Epoch:
            order = Order(20, torch.Generator().manual_seed(2))
            return Epoch(numbers, order, length, 3)

        whole, last = epoch(), math.ceil(length / 3) - 1
        seen = [torch.stack(whole.columns(step), dim=1) for step in range(last + 1)]
        assert torch.equal(torch.cat(seen), wanted)
        assert torch.equal(torch.stack(epoch().columns(last), dim=1), seen[-1])  # after a resume


QUICK = preset("metasd").override(
    {
        "model.rank": 8,
        "train.epochs": 3,
        "train.batch_size": 301,
        "train.precision": "fp32",
        "eval.every": 1,
        "compact.warmup_epochs": 1,
    }
)
SEPARATE = QUICK.override(["compact.weights=separate", "train.decay=0.5", "prune.fraction=0.5"])
CANDIDATES = QUICK.override(["train.candidates=100"])


def run_in_parts(group: str, folder: Path, config: Config, shards: int, replicas: int) -> None:
    """Trains two epochs, and with another call the third."""
    torch.set_num_threads(1)
    here, graph = place(shards, replicas), load_graph("families:203")
    if not folder.exists():
        steps = 2 * math.ceil(2 * len(graph.train) / config.train.batch_size)
        train(graph, config.override({"train.max_steps": steps}), folder, processes=here)
    else:
        resume(folder, ["train.max_steps=null"], graph, processes=here)


def asked(group: str, folder: Path) -> dict[str, Any]:
    """What a model in two blocks is measured to be, and what is refused."""
    here, graph = place(2, 1), load_graph("families:203")
    run = train(graph, QUICK, folder, processes=here)
    found: dict[str, Any] = {
        "report": evaluate(run.model.source, graph, "valid"),
    }
    other = QUICK.override({"train.lr": 0.1 + here.shard})
    for name, wrong in {
        "settings": lambda: train(graph, other, folder.with_name("new"), processes=here),
        "folder": lambda: train(graph, QUICK, folder.with_name(f"n{here.shard}"), processes=here),
        "graph": lambda: train(
            load_graph(f"families:{203 + here.shard}"), QUICK, folder.with_name("n"), processes=here
        ),
        "compress": lambda: compress(run),
        "predict": lambda: run.predict(graph.entities[0], "parent_of"),
    }.items():
        with pytest.raises(InputError) as refused:
            wrong()
        found[name] = str(refused.value)
    return found


@pytest.mark.slow
def test_a_model_in_blocks_is_evaluated_like_a_whole_one(tmp_path: Path) -> None:
    graph = load_graph("families:203")
    first, second = processes.run(asked, 2, tmp_path / "run")
    assert first == second
    whole = Run.load(tmp_path / "run")
    assert first["report"]["mrr"] == evaluate(whole.model.source, graph, "valid")["mrr"]
    for what in ("settings", "graph"):
        assert first[what] == f"every process must be given the same {what}; they differ"
    assert "the same run folder" in first["folder"]
    for what in ("compress", "predict"):
        assert "one shard" in first[what]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [QUICK, SEPARATE, CANDIDATES], ids=["shared", "separate", "candidates"]
)
def test_runs_continue_with_another_number_of_processes(config: Config, tmp_path: Path) -> None:
    graph = load_graph("families:203")
    train(graph, config, tmp_path / "whole")
    processes.run(run_in_parts, 2, tmp_path / "parts", config, 2, 1)
    processes.run(run_in_parts, 3, tmp_path / "parts", config, 3, 1)
    whole, parts = Run.load(tmp_path / "whole"), Run.load(tmp_path / "parts")
    assert relative(parts.model.entities, whole.model.entities) < 1e-4
    assert relative(parts.model.relations, whole.model.relations) < 1e-4
    for split in ("valid", "test"):
        for model in ("source", "compact"):
            found, wanted = (run.metrics[split][model] for run in (parts, whole))
            assert found["mrr"] == pytest.approx(wanted["mrr"], rel=2e-3)
            assert found["queries"] == wanted["queries"]
    assert [record["epoch"] for record in parts.history] == [1, 2, 3]
    assert parts.history[0]["loss/source"] == pytest.approx(whole.history[0]["loss/source"])


def written(group: str, path: Path) -> tuple[Tensor, Tensor, str]:
    """A table in two blocks, written together, read by each; then a disk that is full for one."""
    here = place(2, 1)
    layout = Layout(here, 7, roles=2)
    block = here.block(7)
    rows = torch.arange(28.0).view(2, 7, 2)[:, block].reshape(-1, 2)
    state = {"step": 5, "seconds": "1" * (1 + 50 * here.shard)}  # clocks differ between processes
    Checkpoint({"entities": rows, "relations": torch.ones(3)}, state).save(path, layout)
    again = Checkpoint.load(path, layout=layout)
    assert again.state["step"] == 5
    if here.is_main:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        Checkpoint({"entities": rows + 1}, {}).save(path, layout)
        return again.tensors["entities"], rows, "written"
    except InputError as error:
        return again.tensors["entities"], rows, str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def test_processes_write_one_checkpoint_together(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    for read, rows, error in processes.run(written, 2, path):
        assert torch.equal(read, rows)
        assert "could not be written" in error
        assert "is kept" in error
    whole = Checkpoint.load(path)
    assert torch.equal(whole.tensors["entities"], torch.arange(28.0).view(14, 2))
    assert torch.equal(whole.tensors["relations"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_wrong_number_of_processes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.start() is SINGLE_PROCESS
    with pytest.raises(InputError, match="2 shards x 3 replicas need 6 processes; there is 1"):
        distributed.start(3, 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match="3 shards x 1 replicas need 3 processes; there are 4"):
        distributed.start(1, 3)
    with pytest.raises(InputError, match="must be at least 1; got 0 and 1"):
        distributed.start(1, 0)


# Under torchrun

TORCHRUN = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
LONG = ["--set", "train.epochs=10000", "--set", "model.rank=8", "--set", "checkpoint.minutes=0.001"]


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TORCHRUN, "--master-port", str(20000 + os.getpid() % 10000), "-m", "metasd", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def training(folder: Path, process: subprocess.Popen[str]) -> list[int]:
    """The process ids of both ranks, once a checkpoint is there."""
    waiting = time.monotonic() + 120
    while not (folder / "run" / "checkpoints" / "last.safetensors").exists():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < waiting
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    return [int(child) for child in children]


def ended(process: subprocess.Popen[str], within: float) -> str:
    try:
        return process.communicate(timeout=within)[0]
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_stops_the_others_and_the_run_continues(tmp_path: Path, lost: int) -> None:
    process = started(tmp_path, "train", "families:120", *LONG, "--run-dir", "run")
    os.kill(training(tmp_path, process)[lost], signal.SIGKILL)
    output = ended(process, 30)
    assert process.returncode != 0
    assert f"metasd, rank {1 - lost}: " in output
    assert "continue with `metasd resume run`" in output
    before = Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors")
    done = before.state["state"]["total_steps"]
    assert done > 0
    os.environ.pop("WORLD_SIZE", None)
    run = resume(tmp_path / "run", [f"train.max_steps={done + 1}"])
    assert run.metrics["test"]["source"]["mrr"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_an_interrupt_ends_all_with_a_checkpoint(tmp_path: Path) -> None:
    process = started(tmp_path, "train", "families:120", *LONG, "--run-dir", "run")
    training(tmp_path, process)
    process.send_signal(signal.SIGINT)
    output = ended(process, 30)
    assert "stopped in epoch" in output
    resumed = Checkpoint.load(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert resumed.state["state"]["total_steps"] > 0


@pytest.mark.slow
def test_a_mistake_is_said_by_the_first_and_ends_all(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("kept")
    output = ended(started(tmp_path, "train", "families:120", "--run-dir", "run"), 60)
    assert "run already exists" in output
    output = ended(started(tmp_path, "train", "families:120", "--shards", "3"), 60)
    assert "3 shards x 1 replicas need 3 processes; there are 2" in output


@pytest.mark.slow
def test_only_the_first_process_speaks(tmp_path: Path) -> None:
    settings = ["--set", "train.epochs=2", "--set", "model.rank=4", "--run-dir", "run"]
    process = started(tmp_path, "train", "families:120", *settings)
    output = ended(process, 60)
    assert process.returncode == 0, output
    assert output.count("epoch 2 of 2;") == 1
    assert output.count("run folder: ") == 2
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["test"]["compact"]["queries"] > 0
