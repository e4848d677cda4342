"""Hostile files of a graph, a model and a run: each must be refused in one line.

python tests/attacks/file_attacks.py SIZE     # one line of JSON per attack; 1 is the size in large
"""

import contextlib
import gzip
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from metasd import Graph, Run, load_graph, prepare, resume, train
from metasd.compressed import CompressedModel
from metasd.errors import InputError
from metasd.export.compress import compress_tables

LONGEST_SECONDS = 5
MOST_GROWTH = 512 << 20
MODEL_FILES = ("config.json", "model.safetensors", "entities.tsv", "relations.tsv")
RUN_FILES = (
    *("config.yaml", "graph.json", "id", "entities.tsv", "relations.tsv", "metrics.json"),
    *("history.jsonl", "checkpoints/best.safetensors", "checkpoints/last.safetensors"),
)
GRAPH_FILES = ("train.txt", "valid.txt", "test.txt", "entity_labels.tsv", "relation_labels.tsv")
PREPARED_FILES = ("prepared.json", "train.npy", "entities_text.npy", "known_keys.npy")
SAVED_FILES = ("graph.json", "triples.parquet", "entities.tsv")
HARMLESS = ("sparse history", "1 GB of duplicates", "duplicates in plain text")
"""In small a line that is cut short, and triples that are read; the last in any size."""
READ = "read"
SETTINGS = {
    "train.epochs": 2,
    "train.decay": 0,
    "compact.warmup_epochs": 1,
    "model.rank": 4,
    "tune.budget": 0,
}


class Hang(BaseException):
    """An attack that took longer than it may."""


@dataclass
class Outcome:
    attack: str
    seconds: float
    growth_bytes: int
    message: str

    @property
    def held(self) -> bool:
        is_line = "\n" not in self.message
        seconds = self.seconds if self.message != READ else 0  # 200 MB of text take theirs
        return is_line and seconds < LONGEST_SECONDS and self.growth_bytes < MOST_GROWTH

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "held": self.held}


class Originals:
    """A graph as files, prepared and saved, a model and a run, from which attacks take copies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        graph = load_graph("families:60")
        self.graph = folder / "graph"
        self.graph.mkdir()
        for split in ("train", "valid", "test"):
            names = (graph.entities, graph.relations, graph.entities)
            rows = graph.split(split).tolist()
            lines = ("\t".join(n[i] for n, i in zip(names, row, strict=True)) for row in rows)
            (self.graph / f"{split}.txt").write_text("\n".join(lines) + "\n")
        (self.graph / "entity_labels.tsv").write_text(f"{graph.entities[0]}\tA\n")
        (self.graph / "relation_labels.tsv").write_text(f"{graph.relations[0]}\tR\n")
        self.prepared = folder / "prepared"
        prepare(self.graph, self.prepared)
        self.run = folder / "run"
        run = train(load_graph(self.graph), SETTINGS, self.run)
        self.other = folder / "other"
        train(load_graph(self.graph), {**SETTINGS, "train.seed": 1}, self.other)
        self.saved = folder / "memory" / "graph"
        triples = [(f"e{i % 30}", f"r{i % 3}", f"e{7 * i % 29}") for i in range(300)]
        train(Graph.from_triples(triples), SETTINGS, self.saved.parent)
        self.model = folder / "model"
        rows = run.model.source
        tables = (rows.entities.numpy(), rows.relations.numpy())
        compress_tables("complex", 4, *tables, "int8", graph=graph).save_pretrained(self.model)


Act = Callable[[], object]


def attacks(originals: Originals, work: Path, size: float) -> Iterator[tuple[str, Act]]:
    """Names, and what must raise an InputError; each may write to `work`."""

    def copy(folder: Path) -> Path:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(folder, work)
        return work

    places: list[tuple[str, Path, tuple[str, ...], Callable[[Path], object]]] = [
        ("graph", originals.graph, GRAPH_FILES, load_graph),
        ("graph to prepare", originals.graph, GRAPH_FILES, _prepare),
        ("prepared graph", originals.prepared, PREPARED_FILES, load_graph),
        ("saved graph", originals.saved, SAVED_FILES, load_graph),
        ("model", originals.model, MODEL_FILES, CompressedModel.from_pretrained),
        ("run", originals.run, RUN_FILES, _use_run),
    ]
    large = int(size * (1 << 30))
    for what, folder, names, read in places:
        for name in names:
            path = copy(folder) / name
            path.unlink()
            os.mkfifo(path)
            yield f"pipe for {name} of a {what}", lambda read=read: read(work)
            path.unlink()
            with path.open("wb") as file:
                file.truncate(large)
            yield f"sparse {name} of a {what}", lambda read=read: read(work)
    for name in ("config.yaml", "graph.json", "metrics.json"):
        (copy(originals.run) / name).write_text("[" * 20_000)
        yield f"20,000 brackets in {name}", lambda: _use_run(work)
    (copy(originals.model) / "config.json").write_text("[" * 20_000)
    yield "20,000 brackets in config.json", lambda: CompressedModel.from_pretrained(work)
    packed = copy(originals.graph) / "train.txt.gz"
    (work / "train.txt").unlink()
    _pack(packed, b"x" * (1 << 20), large >> 20)
    yield "a line of 1 GB in 1 MB of gzip", lambda: load_graph(work)
    triples = (originals.graph / "train.txt").read_bytes()
    _pack(packed, triples[: 1 << 14].rpartition(b"\n")[0] + b"\n", large >> 14)
    yield "1 GB of duplicates in gzip", lambda: load_graph(work)
    yield "duplicates in plain text", lambda: _load_duplicates(work, large // 5)
    for name, read in (("best", Run.load), ("last", lambda path: resume(path, ["train.epochs=3"]))):
        path = copy(originals.run) / "checkpoints" / f"{name}.safetensors"
        shutil.copy(originals.other / "checkpoints" / path.name, path)
        yield f"{path.name} of another run", lambda read=read: read(work)
    for key, value in (("distill.temperature", 1e-300), ("train.lr", 1e6)):
        shutil.rmtree(work, ignore_errors=True)
        settings = {**SETTINGS, "train.epochs": 30, key: value}
        yield f"{key} = {value}", lambda settings=settings: train("families:60", settings, work)


def _load_duplicates(folder: Path, size: int) -> int:
    """Loads a file whose few triples are there again and again."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    part = b"".join(b"e%d\tr\te%d\n" % (i, i + 1) for i in range(100_000))
    with (folder / "train.txt").open("wb") as file:
        for _ in range(max(1, size // len(part))):
            file.write(part)
    return len(load_graph(folder).train)


def measured(name: str, act: Act) -> Outcome:
    """What an attack did to this process."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 4 * LONGEST_SECONDS)
    begin = time.perf_counter()
    try:
        act()
        message = READ if name.startswith(HARMLESS) else "not refused\n"
    except InputError as error:
        message = str(error)
    except Hang:
        message = "hangs\n"
    except BaseException as error:
        message = f"{type(error).__name__}: {error}\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.perf_counter() - begin
    return Outcome(name, round(seconds, 3), max(0, _memory("VmHWM") - before), message)


def outcomes(size: float) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as folder, quiet():
        originals, work = Originals(Path(folder)), Path(folder) / "work"
        for name, act in attacks(originals, work, size):
            yield measured(name, act)


def _use_run(path: Path) -> None:
    """What a command does with a run folder: reads the model, then its graph, then continues."""
    Run.load(path).graph()
    resume(path, ["train.epochs=3"])


def _prepare(path: Path) -> None:
    out = path.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    prepare(path, out)


def _pack(path: Path, piece: bytes, count: int) -> None:
    """Writes a piece that many times into a gzip file, in little time: deflated blocks repeat."""
    with gzip.open(path, "wb", compresslevel=6) as file:
        for _ in range(count):
            file.write(piece)


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{key}:")[2].split()[0])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what a training says."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        yield


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
    for outcome in outcomes(float(sys.argv[1])):
        print(json.dumps(outcome.record()), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
