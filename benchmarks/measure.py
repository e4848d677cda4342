"""Time and peak memory of contenders, each measured in a process of its own.

A contender's `prepare` makes what it needs and returns the call that is timed. Memory is what the
calls need at most above what was there before the first of them (tables, masks, optimiser states).
"""

import ctypes
import importlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metasd import _C, kernels

Options = SimpleNamespace
Call = Callable[[], object]


class Contender(NamedTuple):
    """A function of a benchmark's module, its options beside the shape, and how it is measured."""

    prepare: Callable[[Options], Call]
    options: Mapping[str, Any] = {}
    repeats: int = 5
    warmup: int = 2
    keep_memory: bool = True
    """The C library hands large freed blocks back to the system, which costs eager PyTorch half its
    time. When it keeps them, as in the trainer, everyone is faster, and some need more memory."""


def compare(
    contenders: Mapping[str, Contender], shape: Mapping[str, Any], quick: bool, rounds: int = 1
) -> dict[str, Any]:
    """Measures all, and relates them to the first, which is ours.

    Contenders take turns, so that a busy moment hits all of them. The products alone (`products...`
    by name) are the limit of contenders that multiply in their precision. A quick comparison runs
    once, all but the first contender in this very process.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(1 if quick else rounds):
        for name, contender in contenders.items():
            alone = not quick or not runs[next(iter(contenders))]
            runs[name].append((in_process if alone else measure)(contender, shape, quick))
    found = {
        name: {"precision": _precision(contenders[name]), **_median(runs[name])} for name in runs
    }
    limits = {f["precision"]: f["seconds"] for n, f in found.items() if n.startswith("products")}
    ours = next(iter(found.values()))
    for figures in found.values():
        figures["time_ratio"] = figures["seconds"] / ours["seconds"]
        figures["memory_ratio"] = figures["peak_bytes"] / max(ours["peak_bytes"], 1)
        if figures["precision"] in limits:
            figures["share_of_limit"] = limits[figures["precision"]] / figures["seconds"]
    return {"shape": dict(shape), "contenders": found}


def _precision(contender: Contender) -> str | None:
    """What it multiplies in, or None for one whose products are others than ours."""
    asked = contender.options.get("precision")
    return asked and str(kernels.product_dtype(asked)).removeprefix("torch.")


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("seconds", "peak_bytes")
    return {**runs[-1], **{key: statistics.median(run[key] for run in runs) for key in keys}}


def in_process(contender: Contender, shape: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """`measure` in a new process, which finds `prepare` by its name."""
    prepare, *settings = contender
    arguments = {"contender": settings, "shape": dict(shape), "quick": quick}
    done = subprocess.run(
        [sys.executable, __file__, prepare.__module__, prepare.__name__, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(contender: Contender, shape: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """Median seconds and peak bytes of a contender in this process, and what it returned last.

    The latter only where it is a dict, by which a benchmark sees that contenders did the same.
    """
    if contender.keep_memory:
        _C.keep_freed_memory()
    torch.manual_seed(0)
    call = contender.prepare(Options(**{**shape, **contender.options}))
    repeats, warmup = (1, 0) if quick else (contender.repeats, contender.warmup)
    ctypes.CDLL(None).malloc_trim(0)  # what `prepare` freed would hide as much of the calls' memory
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    held = _resident("VmRSS")
    seconds, returned = [], None
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        returned = call()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[warmup:]),
        "peak_bytes": _resident("VmHWM") - held,
        **({"returned": returned} if isinstance(returned, dict) else {}),
    }


def _resident(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS, or its high-water mark VmHWM (Linux)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


# What several benchmarks prepare


def load_operators() -> None:
    """Loads what PyTorch loads at an operator's first call: 130 MB of code, not of the operation's.

    Making a mask does it too.
    """
    row = torch.ones(1, 1, requires_grad=True)
    kernels.entity_cross_entropy(row, row, torch.zeros(1, dtype=torch.int64)).backward()


TURNS = 3


def random_tables(options: Options) -> tuple[Tensor, Tensor]:
    """Entities (N, 2 * rank) and relations (R, 2 * rank)."""
    return (
        torch.randn(options.entities, 2 * options.rank).mul_(0.1),
        torch.randn(options.relations, 2 * options.rank).mul_(0.1),
    )


def random_triples(options: Options, rows: int) -> Tensor:
    limits = (options.entities, options.relations, options.entities)
    return torch.stack([torch.randint(limit, (rows,)) for limit in limits], dim=1)


def random_queries(options: Options) -> Any:
    """Batches in an endless turn: queries (B, 2 * rank), targets (B,)."""
    return itertools.cycle(
        [
            (
                torch.randn(options.batch, 2 * options.rank),
                torch.randint(options.entities, (options.batch,)),
            )
            for _ in range(TURNS)
        ]
    )


def products_alone(options: Options) -> Call:
    """Matrix products into memory that is there already, as many as `options.products` says.

    For each batch, by the name of its size, a pair: how many products give scores, and how many
    score matrices have a gradient, which takes two products.
    """
    dtype = kernels.product_dtype(options.precision)
    table = torch.randn(options.entities, 2 * options.rank).to(dtype)
    grad_table = torch.empty_like(table)

    def sizes(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        queries = torch.randn(rows, 2 * options.rank).to(dtype)
        return queries, torch.empty_like(queries), torch.empty(rows, options.entities, dtype=dtype)

    batches = [
        (*sizes(getattr(options, name)), *counts) for name, counts in options.products.items()
    ]

    def call() -> None:
        for queries, grad_queries, scores, forward, backward in batches:
            for _ in range(forward):
                torch.mm(queries, table.T, out=scores)
            for _ in range(backward):
                torch.mm(scores, table, out=grad_queries)
                torch.mm(scores.T, queries, out=grad_table)

    return call


if __name__ == "__main__":
    module, name, text = sys.argv[1:]
    arguments = json.loads(text)
    prepare = getattr(importlib.import_module(module), name)
    contender = Contender(prepare, *arguments["contender"])
    print(json.dumps(measure(contender, arguments["shape"], arguments["quick"])))
