"""Every attack that the project knows of, in large, against its own service and files, on loopback.

python tests/attacks/run.py --full                  # all of them: about 45 minutes
python tests/attacks/run.py --full --only service   # some: service, files, signals, kills, fuzz

Prints a table and keeps the figures in benchmarks/results/attacks.json. Without --full, in small.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent.parent / "benchmarks" / "results" / "attacks.json"
sys.path[:] = [str(HERE), *(path for path in sys.path if Path(path).resolve() != HERE)]

from file_attacks import Originals, quiet  # noqa: E402
from metasd.environment import measured_on  # noqa: E402
from metasd.export.compress import compress_tables  # noqa: E402
from service_attacks import ATTACKS  # noqa: E402
from service_trial import Server, attacked  # noqa: E402


def service(folder: Path, size: float) -> list[dict[str, Any]]:
    """Each attack on a server of 15,000 entities that has outlived those before."""
    from metasd import load_graph

    graph = load_graph("powerlaw:15000:100000")
    draw = np.random.default_rng(0)
    shapes = (graph.num_entities, 256), (2 * graph.num_relations, 256)
    tables = [draw.normal(size=shape).astype(np.float32) for shape in shapes]
    compress_tables("complex", 128, *tables, "int8", graph=graph).save_pretrained(folder / "m")
    found = []
    with Server(folder / "m", folder / "log") as server:
        attacked("nonsense", server, 2, size, rest=8)  # what is loaded at first use is loaded now
        for name, attack in ATTACKS.items():
            seconds, rest = (12, 8) if size >= 1 else (1, 0.5)
            outcome = attacked(name, server, seconds, size, rest=rest).record()
            found.append({**outcome, "what": str(attack.__doc__).strip().rstrip(".")})
            print(_service_row(found[-1]), flush=True)
    return found


def files(folder: Path, size: float) -> list[dict[str, Any]]:
    """Each hostile file, in a process of their own."""
    program = [sys.executable, "-P", str(HERE / "file_attacks.py"), str(size)]
    output = subprocess.run(program, stdout=subprocess.PIPE, check=True, text=True).stdout
    found = [json.loads(line) for line in output.splitlines()]
    for one in found:
        one["message"] = one["message"].rpartition("/")[2]
    return found


def signals(folder: Path, size: float, count: int = 200) -> dict[str, Any]:
    from signal_attacks import trial

    with quiet():
        outcomes = trial(Originals(folder), folder / "work", max(5, int(count * size)))
    ends = Counter(f"{one.command}: exit code {one.shell_code}" for one in outcomes)
    fallen = [
        f"{one.command}: {one.code} {one.left} {one.errors.strip().rpartition(chr(10))[2]}"
        for one in outcomes
        if not one.held
    ]
    return {"signals": len(outcomes), "ends": dict(sorted(ends.items())), "fallen": fallen}


def kills(folder: Path, size: float) -> dict[str, Any]:
    program = [sys.executable, str(HERE / "kill_attacks.py"), str(max(1, int(12 * size)))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": ""}
    output = subprocess.run(
        program, stdout=subprocess.PIPE, check=True, text=True, env=environment
    ).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def fuzz(folder: Path, size: float) -> dict[str, Any]:
    program = [sys.executable, "-P", str(HERE / "fuzz_files.py"), str(int(100_000 * size))]
    output = subprocess.run(program, stdout=subprocess.PIPE, check=True, text=True).stdout
    found: dict[str, Any] = json.loads(output)
    return found


SECTIONS: dict[str, Callable[..., Any]] = {
    "service": service,
    "files": files,
    "signals": signals,
    "kills": kills,
    "fuzz": fuzz,
}


def _service_row(one: dict[str, Any]) -> str:
    held = "held" if one["held"] else "FELL"
    memory = "/".join(f"{one[f'{when}_bytes'] / 1e6:.0f}" for when in ("before", "peak", "after"))
    return (
        f"{one['attack']:<22} {held}  {one['good_requests']:>4} good requests, {one['failed']} "
        f"failed, p50 {one['p50_ms']} ms, max {one['max_ms']} ms, {memory} MB, {one['lines']} lines"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="in large; keep the figures")
    parser.add_argument("--signals", type=int, default=200, help="how many, with --full")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    given = parser.parse_args()
    size = 1.0 if given.full else 0.02
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.only:
        shared = "/dev/shm" if name == "kills" and os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(dir=shared) as folder:
            more = {"count": given.signals} if name == "signals" else {}
            found = SECTIONS[name](Path(folder), size, **more)
        kept[name] = {**measured_on(), "found": found}
        if name != "service":
            rows = found if isinstance(found, list) else [found]
            fallen = [one for one in rows if not one.get("held", not one.get("fallen"))]
            print(f"{name}: {len(rows)} results, {len(fallen)} fell", *fallen, sep="\n", flush=True)
        if given.full:
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
