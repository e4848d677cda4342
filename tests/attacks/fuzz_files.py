"""Malformed graphs, settings, run folders and models, read in this process.

python tests/attacks/fuzz_files.py 100000     # one line of JSON with the counts

Each must load or be refused in one line, within 5 seconds and 1 GB.
"""

import gzip
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.extend([str(Path(__file__).parent), str(Path(__file__).parent.parent / "compressed")])

import fuzz_compressed
from file_attacks import Hang, Originals, quiet
from fuzz_compressed import flip
from metasd import Config, Run, load_graph, prepare
from metasd.config import preset
from metasd.errors import InputError

LONGEST_SECONDS = 5
HANGS = "hangs"
MOST_BYTES = 1 << 30
Read = Callable[[Path], object]


@dataclass
class Found:
    """What became of the cases, and of those that fell, why."""

    counts: Counter[str] = field(default_factory=Counter)
    fallen: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    peak_growth_bytes: int = 0

    def record(self) -> dict[str, Any]:
        return {
            "cases": sum(self.counts.values()),
            "counts": dict(sorted(self.counts.items())),
            "fallen": self.fallen[:20],
            "slowest_seconds": round(self.slowest_seconds, 3),
            "peak_growth_bytes": self.peak_growth_bytes,
        }


@dataclass
class Seed:
    """Files of a folder, one of which is damaged, and what reads the folder."""

    kind: str
    files: dict[str, bytes]
    read: Read


def seeds(originals: Originals) -> list[Seed]:
    triples = [(f"e{i % 7}", f"r{i % 2}", f"e{3 * i % 5}") for i in range(12)]
    tabs = "".join("\t".join(row) + "\n" for row in triples).encode()
    commas = b'head,relation,tail\n"a, b",r,c\n' + tabs.replace(b"\t", b",")
    nodes = "".join(f"<x:{h}> <x:{r}> <x:{t}> .\n" for h, r, t in triples).encode()
    table = pa.table(dict(zip("hrt", map(list, zip(*triples, strict=True)), strict=True)))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    labels = b"e0\tAda\ne1\tBo\n"
    config = (originals.run / "config.yaml").read_bytes()
    texts = {
        "train.tsv": tabs,
        "train.csv": commas,
        "train.nt": nodes,
        "train.ttl": b"@prefix x: <x:> .\n" + nodes,
        "train.tsv.gz": gzip.compress(tabs),
        "train.parquet": sink.getvalue().to_pybytes(),
    }
    found = [
        Seed(name, {name: data, "entity_labels.tsv": labels}, load_graph)
        for name, data in texts.items()
    ]
    found.append(Seed("prepare", {"train.tsv": tabs, "entity_labels.tsv": labels}, _prepare))
    for kind, folder, read in (
        ("prepared graph", originals.prepared, load_graph),
        ("saved graph", originals.saved, load_graph),
        ("run folder", originals.run, _read_run),
    ):
        found.append(Seed(kind, _content(folder), read))
    found.append(Seed("settings", {"config.yaml": config}, _read_config))
    return found


def fuzz(cases: int, seed: int, folder: Path) -> Found:
    """Half of the cases are model folders, the others everything else that a command reads."""
    random, found = np.random.default_rng(seed), Found()
    with quiet():
        originals = Originals(folder)
    chosen = seeds(originals)
    models = [_model(folder / "models", kind, i) for i, kind in enumerate(fuzz_compressed.KINDS)]
    work = folder / "work"
    signal.signal(signal.SIGALRM, _late)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for i in range(cases):
        if i % 2:
            files = fuzz_compressed.mutate(models[i // 2 % len(models)], random)
            case = Seed("model folder", files, fuzz_compressed.use)
        else:
            case = _damaged(chosen[i // 2 % len(chosen)], random)
        _write(work, case.files)
        begin = time.perf_counter()
        outcome = _outcome(case, work)
        if outcome == HANGS:  # the machine may have stood still: once more
            begin, outcome = time.perf_counter(), _outcome(case, work)
        found.slowest_seconds = max(found.slowest_seconds, time.perf_counter() - begin)
        if outcome not in ("loaded", "refused"):
            found.fallen.append(f"{case.kind}, case {i}: {outcome}")
            outcome = "fell"
        found.counts[f"{case.kind}: {outcome}"] += 1
    found.peak_growth_bytes = max(0, _memory("VmHWM") - before)
    return found


def _outcome(case: Seed, work: Path) -> str:
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    try:
        with np.errstate(all="ignore"):
            case.read(work)
        return "loaded"
    except InputError as error:
        return "refused" if "\n" not in str(error).strip() else f"several lines: {error}"
    except Hang:
        return HANGS
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {last.filename}, line {last.lineno}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _late(number: int, frame: FrameType | None) -> None:
    raise Hang


def _damaged(seed: Seed, random: np.random.Generator) -> Seed:
    """A seed with one of its files changed, sometimes in several places, or gone."""
    files = dict(seed.files)
    name = sorted(files)[int(random.integers(len(files)))]
    way = int(random.integers(20))
    if way == 0:
        del files[name]
    elif way < 8 and name.endswith(".json"):
        files[name] = json.dumps(fuzz_compressed.rewrite(json.loads(files[name]), random)).encode()
    elif name.endswith(".gz") and way < 10:  # what stands behind the checksum
        files[name] = gzip.compress(flip(gzip.decompress(files[name]), random), 1)
    else:
        for _ in range(int(random.integers(1, 4))):
            files[name] = flip(files[name], random)
    return Seed(seed.kind, files, seed.read)


def _model(folder: Path, kind: tuple[str, str, str, float], number: int) -> dict[str, bytes]:
    fuzz_compressed.small_model(*kind, number).save_pretrained(folder / str(number))
    return fuzz_compressed.read(folder / str(number))


def _content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "events" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Makes a folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _prepare(folder: Path) -> None:
    out = folder.with_name("out")
    if out.exists():
        for path in out.iterdir():
            path.unlink()
    prepare(folder, out)


def _read_run(folder: Path) -> None:
    run = Run.load(folder)
    run.answering(known=False).predict(
        head=run.vocabulary.entities[0], relation=run.vocabulary.relations[0]
    )


def _read_config(folder: Path) -> None:
    preset("default").override(Config.read(folder / "config.yaml"))


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition(f"{key}:")[2].split()[0])


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        found = fuzz(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0, Path(folder))
    print(json.dumps(found.record(), indent=1))


if __name__ == "__main__":
    main()
