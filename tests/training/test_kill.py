"""SIGKILL at random moments, twenty times in a row, ends in the same weights as never.

The child processes are forked from one that has imported everything but never computed, so that a
kill costs a fraction of a second; the whole drama runs in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRAMA = """
import json, os, random, signal, sys, time
from pathlib import Path

import pytest
import torch

import pytest

from metasd.training import trainer
from metasd.config import Config, preset
from metasd.data.load import load_graph

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
graph = load_graph("families:120")
config = preset("metasd").override({
    "model.rank": 16, "train.epochs": 400, "train.batch_size": 300, "eval.every": 5,
    "checkpoint.minutes": 0.0005, "train.max_steps": 250,
})

def attempt(path):
    if (path / "config.yaml").exists():
        trainer.resume(path, graph=graph)
    else:
        trainer.train(graph, config, path)

def forked(path):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        attempt(path)
        status = 0
    finally:
        os._exit(status)

start = time.monotonic()
assert os.waitpid(forked(folder / "whole"), 0)[1] == 0
duration = time.monotonic() - start
generator = random.Random(7)
killed = failed = early = 0
while killed < kills:
    child = forked(folder / "killed")
    time.sleep(generator.uniform(0, 0.5 * duration))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        killed += 1
        early += not (folder / "killed" / "checkpoints" / "last.safetensors").exists()
    elif status:
        failed += 1
    else:  # it had finished: begin again, so that every kill hits a run that is under way
        (folder / "killed").rename(folder / f"finished{killed}")
last = os.waitpid(forked(folder / "killed"), 0)[1]
print(json.dumps({"killed": killed, "failed": failed, "last": last, "early": early}))
"""


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAMA, str(tmp_path), "20"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["killed"] == 20
    assert outcome["failed"] == outcome["last"] == 0, done.stderr
    runs = sorted(p for p in tmp_path.iterdir() if p.name != "whole")
    for run in runs:
        for name in ("last", "best"):
            checkpoint = Path("checkpoints", f"{name}.safetensors")
            assert tensors(run / checkpoint) == tensors(tmp_path / "whole" / checkpoint)
        assert epochs(run) == epochs(tmp_path / "whole")


def tensors(path: Path) -> dict[str, bytes]:
    from metasd.training.checkpoint import Checkpoint

    return {name: t.numpy().tobytes() for name, t in Checkpoint.load(path).tensors.items()}


def epochs(run: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (run / "history.jsonl").open()]
