"""SIGKILL between write, flush and rename: what was there before, or what was to be, is whole.

Each act runs in a fork that kills itself at one of the calls that make a file durable.

OMP_NUM_THREADS=1 python tests/attacks/kill_attacks.py KILLS    # of each act; forks have no threads
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import metasd.files
from file_attacks import SETTINGS, Originals
from metasd import Run, load_graph, prepare, resume, train
from metasd.compressed import CompressedModel


@dataclass
class Act:
    """Something that writes.

    Attributes:
        begin: makes what is there before, in an empty folder.
        act: writes in that folder.
        check: raises unless the folder holds the old or the new, whole; `act` goes on from there.
    """

    name: str
    begin: Callable[[Path], None]
    act: Callable[[Path], object]
    check: Callable[[Path], None]


class Killer:
    """Counts the calls that make files durable, before and after each; kills at one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def install(self) -> None:
        for owner, name in (
            (os, "fsync"),
            (Path, "replace"),
            (Path, "chmod"),
            (Path, "write_text"),
            (Path, "write_bytes"),
            (metasd.files, "_exchange"),
            (shutil, "rmtree"),
        ):
            setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._point()
            value = call(*args, **kwargs)
            self._point()
            return value

        return counted

    def _point(self) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(act: Callable[[], object], at: int) -> int | None:
    """Runs an act in a fork that kills itself at a point; how many points it has, or None."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            killer = Killer(at)
            killer.install()
            act()
            os.write(writing, str(killer.count).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as file:
        points = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status:
        raise AssertionError(f"the act failed before its point {at} ({status})")
    return int(points)


def acts(originals: Originals) -> list[Act]:
    def model_is_whole(folder: Path) -> None:
        CompressedModel.from_pretrained(folder / "m")

    def new_model(folder: Path) -> None:
        CompressedModel.from_pretrained(originals.model).save_pretrained(folder / "m")

    def no_model_or_whole(folder: Path) -> None:
        if (folder / "m").exists():
            model_is_whole(folder)

    def graph_or_none(folder: Path) -> None:
        if (folder / "g").exists():
            load_graph(folder / "g")
            shutil.rmtree(folder / "g")

    def run_or_none(folder: Path) -> None:
        if (folder / "r").exists():
            assert resume(folder / "r").metrics["test"]
            Run.load(folder / "r")
            shutil.rmtree(folder / "r")

    def begin_run(folder: Path) -> None:
        shutil.copytree(originals.run, folder / "r")

    def run_is_whole(folder: Path) -> None:
        Run.load(folder / "r")
        assert resume(folder / "r", ["train.epochs=3"]).metrics["test"]

    return [
        Act("a new model", lambda folder: None, new_model, no_model_or_whole),
        Act("a model in place of an older one", new_model, new_model, model_is_whole),
        Act(
            "prepare",
            lambda folder: None,
            lambda folder: prepare(originals.graph, folder / "g"),
            graph_or_none,
        ),
        Act(
            "train",
            lambda folder: None,
            lambda folder: train(load_graph(originals.graph), SETTINGS, folder / "r"),
            run_or_none,
        ),
        Act(
            "resume",
            begin_run,
            lambda folder: resume(folder / "r", ["train.epochs=3"]),
            run_is_whole,
        ),
    ]


def kill(act: Act, folder: Path, at: int) -> bool:
    """Kills an act at a point and checks what it left; False where it has no such point."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    act.begin(folder)
    if forked(lambda: act.act(folder), at) is not None:
        return False
    act.check(folder)
    act.act(folder)  # what a killed process has left is in nobody's way
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left, left
    return True


def points(act: Act, folder: Path) -> int:
    """How many points an act has."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    act.begin(folder)
    found = forked(lambda: act.act(folder), sys.maxsize)
    assert found is not None
    return found


def trial(folder: Path, kills: int) -> dict[str, Any]:
    """Kills every act so often, from its first point to its last."""
    counts: Counter[str] = Counter()
    fallen = []
    for act in acts(Originals(folder)):
        last = points(act, folder / "work")
        for at in np.linspace(1, last, kills).astype(int).tolist():
            try:
                counts[act.name] += kill(act, folder / "work", at)
            except Exception as error:
                fallen.append(f"{act.name}, point {at} of {last}: {error}")
    return {"kills": sum(counts.values()), "by_act": dict(counts), "fallen": fallen}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, contextlib.redirect_stdout(sys.stderr):
        found_all = trial(Path(made), int(sys.argv[1]))
    print(json.dumps(found_all))
