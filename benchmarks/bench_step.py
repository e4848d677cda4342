"""One MetaSD step against the dense baseline and against its matrix products alone."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from measure_step import CONTENDERS, parser

# glibc hands large freed blocks back to the system, which costs the dense baseline half its time;
# these settings keep them, for more memory. Both baselines are shown.
TUNED = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}

RIVALS: dict[str, tuple[str, str, dict[str, str]]] = {
    "metasd": ("metasd", "auto", {}),
    "metasd, fp32": ("metasd", "fp32", {}),
    "dense, fp32": ("dense", "fp32", {}),
    "dense, fp32, memory kept": ("dense", "fp32", TUNED),
    "dense, bf16 products": ("dense", "bf16", {}),
    "dense, bf16 products, memory kept": ("dense", "bf16", TUNED),
    "products alone": ("products", "auto", {}),
    "products alone, fp32": ("products", "fp32", {}),
}


def in_process(contender: str, options: list[str], settings: dict[str, str]) -> dict[str, float]:
    script = Path(__file__).with_name("measure_step.py")
    done = subprocess.run(
        [sys.executable, str(script), contender, *options],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **settings},
    )
    return dict(json.loads(done.stdout))


def test_step(benchmark: Any, record: Any, quick: bool) -> None:
    options = ["--entities", "2000", "--rank", "16", "--batch", "200", "--quiz", "200"] * quick
    rounds, repeats = (1, 2) if quick else (2, 5)
    shape = parser().parse_args(["metasd", *options])
    # Rivals take turns, each in a process of its own, so that a busy moment hits all of them.
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RIVALS}
    for _ in range(rounds):
        for name, (contender, precision, settings) in RIVALS.items():
            arguments = [*options, "--precision", precision, "--repeats", str(repeats)]
            found[name].append(in_process(contender, arguments, settings))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    ours = medians["metasd"]
    record(
        "step",
        {
            "shape": {k: v for k, v in vars(shape).items() if isinstance(v, int)},
            "contenders": medians,
            "time_ratio": {n: m["seconds"] / ours["seconds"] for n, m in medians.items()},
            "memory_ratio": {n: m["peak_bytes"] / ours["peak_bytes"] for n, m in medians.items()},
        },
    )
    benchmark.pedantic(CONTENDERS["metasd"](shape), rounds=repeats, warmup_rounds=2)
