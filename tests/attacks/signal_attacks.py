"""SIGINT and SIGTERM at random moments of commands: exit codes, lines, and what is left."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from file_attacks import Originals
from metasd import Run, load_graph
from metasd.compressed import CompressedModel
from metasd.errors import InputError
from metasd.training.run import RunFolder

_SETTINGS = ("--set", "train.epochs=4", "--set", "model.rank=4", "--budget", "0")


@dataclass
class Command:
    """A command line, and what raises unless the folder that it ran in is as it may be."""

    name: str
    arguments: tuple[str | Path, ...]
    check: Callable[[Path], None]


@dataclass
class Outcome:
    command: str
    number: int
    after: float  # seconds
    code: int  # negative where Python, on its way out, did not handle signals any more
    errors: str
    left: str = ""

    @property
    def shell_code(self) -> int:
        return self.code if self.code >= 0 else 128 - self.code

    @property
    def held(self) -> bool:
        lines = [line for line in self.errors.splitlines() if "metasd: " in line]
        said = self.code <= 0 or len(lines) in (1, 2)  # training says at once that it has heard
        documented = self.code in (0, 128 + self.number, -self.number)
        return documented and said and "Traceback" not in self.errors and not self.left


def commands(originals: Originals) -> list[Command]:
    study = originals.folder / "study.yaml"
    study.write_text(
        "graph: families:60\nruns:\n  a: {train.epochs: 2, model.rank: 4, tune.budget: 0}\n"
    )
    return [
        Command("start-up", ("env",), lambda folder: None),
        Command("train", ("train", originals.graph, "--run", "out", *_SETTINGS), _run_or_none),
        Command("compress", ("compress", originals.run, "--out", "out"), _model_or_none),
        Command("prepare", ("prepare", originals.graph, "--out", "out"), _graph_or_none),
        Command("sweep", ("sweep", study, "--out", "out"), _sweep_or_none),
    ]


def interrupted(command: Command, folder: Path, number: int, after: float) -> Outcome:
    """Runs a command, sends it a signal `after` seconds from when it handles signals."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    arguments = [sys.executable, "-P", "-m", "metasd", *map(str, command.arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(arguments, cwd=folder, **pipes)
    while process.poll() is None and not _catches(process.pid, signal.SIGTERM):
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    outcome = Outcome(command.name, number, after, process.returncode, errors)
    try:
        command.check(folder)
    except (InputError, AssertionError) as error:
        outcome.left = str(error) or "wrong"
    return outcome


def duration(command: Command, folder: Path) -> float:
    """Seconds that a command takes from when it handles signals."""
    begin = time.perf_counter()
    interrupted(command, folder, 0, 0)
    return time.perf_counter() - begin


def trial(originals: Originals, folder: Path, count: int, seed: int = 0) -> list[Outcome]:
    """That many signals, in turn to each command, at moments drawn from the time that it takes."""
    draw = random.Random(seed)
    chosen = commands(originals)
    seconds = [duration(command, folder) for command in chosen[:count]]
    found = []
    for i in range(count):
        command, number = chosen[i % len(chosen)], (signal.SIGINT, signal.SIGTERM)[i // 5 % 2]
        after = draw.uniform(0, seconds[i % len(chosen)])
        found.append(interrupted(command, folder, number, after))
    return found


def _catches(process: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


def _nothing_hidden(folder: Path) -> None:
    left = [path.name for path in folder.rglob(".*") if path.name != ".lock"]
    assert not left, f"left: {', '.join(left)}"


def _run_or_none(folder: Path) -> None:
    _nothing_hidden(folder)
    if (folder / "out").exists():
        run = RunFolder(folder / "out")
        run.require()
        run.load_graph()
        if run.last.exists():
            Run.load(folder / "out")


def _model_or_none(folder: Path) -> None:
    _nothing_hidden(folder)
    if (folder / "out").exists():
        CompressedModel.from_pretrained(folder / "out")


def _graph_or_none(folder: Path) -> None:
    _nothing_hidden(folder)
    if (folder / "out").exists():
        load_graph(folder / "out")


def _sweep_or_none(folder: Path) -> None:
    _nothing_hidden(folder)
    for config in folder.rglob("config.yaml"):
        RunFolder(config.parent).load_graph()
