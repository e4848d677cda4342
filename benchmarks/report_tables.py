"""The tables of measurements, as Markdown, from benchmarks/results/*.json."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import modelled

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

Rows = list[list[str]]


def table(rows: Rows) -> str:
    head, *body = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


PROCESSORS = ("amx", "avx512bf16", "avx512", "avx2")
"""Instruction sets that benchmarks are measured with, each in a folder of results."""


DRAWN = PROCESSORS[0]
"""The one that figures are drawn for."""


def load(name: str, processor: str = "") -> dict[str, Any]:
    """A result, of one instruction set or (a run's, say) of none."""
    return dict(json.loads((RESULTS / processor / f"{name}.json").read_text(encoding="utf-8")))


def listed(name: str) -> list[dict[str, Any]]:
    """Results that were added one by one."""
    return list(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def on_each_processor(name: str, made: Callable[[str], str]) -> str:
    """What is made of a result, for every instruction set that it is there of."""
    there = [each for each in PROCESSORS if (RESULTS / each / f"{name}.json").exists()]
    if not there:
        raise FileNotFoundError(name)
    return "\n\n".join(made(processor) for processor in there)


def machine(*results: dict[str, Any]) -> str:
    """Where results were measured: one machine, but for its number of threads."""
    rest, threads = set(), set()
    for result in results:
        about, versions = result["machine"], result["versions"]
        compiled = about["compiled"]["instruction_set"]
        rest.add((about["processor"], f"{compiled}, torch {versions['torch']}"))
        threads.add(about["threads"])
    number = " or ".join(str(count) for count in sorted(threads))
    plural = "s" * (threads != {1})
    return " or ".join(f"{name}, {number} thread{plural}, {other}" for name, other in sorted(rest))


def comparison(title: str, names: Sequence[str], processor: str) -> str:
    """The results of `measure.compare`, several of them one below the other."""
    rows = [[title, "time", "relative", "of the limit", "peak memory", "relative"]]
    for name in names:
        result = load(name, processor)
        if len(names) > 1:
            rows.append([f"**{name.partition('-')[2]}**", *[""] * 5])
        for contender, found in result["contenders"].items():
            share = found.get("share_of_limit")
            rows.append(
                [
                    contender,
                    duration(found["seconds"]),
                    f"{found['time_ratio']:.2f}",
                    "" if share is None else f"{100 * share:.0f} %",
                    f"{found['peak_bytes'] / 1e6:,.0f} MB",
                    f"{found['memory_ratio']:.2f}",
                ]
            )
    plain = {key: value for key, value in result["shape"].items() if isinstance(value, int)}
    shape = ", ".join(f"{key} {value:,}" for key, value in plain.items())
    return f"{table(rows)}\n\n{shape}; medians; {machine(result)}."


def duration(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:,.1f} s"
    return f"{seconds * 1e3:,.{0 if seconds > 0.1 else 1}f} ms"


def evaluation(processor: str) -> str:
    result = load("evaluation", processor)
    rows = [["", "time", "relative", "peak memory", "MRR", "Hits@10", "mean rank"]]
    for name, found in result["contenders"].items():
        metrics = found["returned"]
        rows.append(
            [
                name,
                duration(found["seconds"]),
                f"{found['time_ratio']:.1f}",
                f"{found['peak_bytes'] / 1e6:,.0f} MB",
                f"{metrics['mrr']:.6f}",
                f"{metrics['hits@10']:.6f}",
                f"{metrics['mr']:,.2f}",
            ]
        )
    shape = result["shape"]
    return (
        f"{table(rows)}\n\n{shape['graph']}, {result['queries']:,} queries of the {shape['split']} "
        f"split, random embeddings of rank {shape['rank']}; {machine(result)}."
    )


def scaling(processor: str) -> str:
    result = load("scaling", processor)
    rows = [["entities", "step", "per score", "tables", "peak memory", "relative to tables"]]
    for found in result["contenders"].values():
        rows.append(
            [
                f"{found['entities']:,}",
                duration(found["seconds"]),
                f"{found['seconds_per_score'] * 1e9:.2f} ns",
                f"{found['table_bytes'] / 1e6:,.0f} MB",
                f"{found['peak_bytes'] / 1e6:,.0f} MB",
                f"{found['peak_bytes'] / found['table_bytes']:.2f}",
            ]
        )
    figure = "![time and memory of a step](docs/images/scaling.svg)\n\n"
    figure *= processor == DRAWN
    shape = result["shape"]
    return (
        f"{table(rows)}\n\n{figure}"
        f"rank {shape['rank']}, batch {shape['batch']:,}; {machine(result)}."
    )


def topk_mask(processor: str) -> str:
    result = load("topk_mask", processor)
    rows = [["", "time", "relative"]]
    for name, seconds in result["seconds"].items():
        rows.append([f"`{name}`", f"{seconds * 1e3:,.0f} ms", f"{result['time_ratio'][name]:.2f}"])
    return f"{table(rows)}\n\n{result['weights']:,} weights, 90 % pruned; {machine(result)}."


def compressed(processor: str) -> str:
    result = load("compressed", processor)
    head = ["", "tables", "folder", "resident", "load", "1 query", "64 queries"]
    rows = [head]
    dense = result["dense_fp32_bytes"]
    baseline = {n: found["torch, dense fp32"]["seconds"] for n, found in result["queries"].items()}
    for name in result["queries"]["1"]:
        row = [name, *[""] * 4]
        if name in result["sizes"]:
            size, loaded = result["sizes"][name], result["loading"][name]
            held = loaded["resident_bytes"]
            row = [name]
            for bytes_ in (size["tables"], size["folder"], held):
                row.append(f"{bytes_ / 1e6:,.1f} MB, {dense / bytes_:.1f}x")
            row.append(f"{loaded['seconds'] * 1e3:,.0f} ms")
        for count, found in result["queries"].items():
            seconds = found[name]["seconds"]
            row.append(f"{seconds * 1e3:,.2f} ms, {baseline[count] / seconds:.1f}x")
        rows.append(row)
    shape = ", ".join(f"{key} {value:,}" for key, value in result["shape"].items())
    return (
        f"{table(rows)}\n\n{shape}; times smaller than dense fp32 tables ({dense / 1e6:,.0f} MB), "
        f"and times faster than their product and top k in torch; {machine(result)}."
    )


def sharding() -> str:
    result, shape = load("sharding"), load("sharding")["shape"]
    rows = [
        [
            *("entities", "step, 1 process", "2 processes"),
            *("peak memory, 1", "2, each", "ratio"),
            *("sent by each", "by the formula"),
        ]
    ]
    width = 2 * shape["rank"]
    for case in [*result["cases"], *load("sharding-graph")["cases"]]:
        one, two = case["1"], case["2"]
        formula = modelled.traffic(2, shape["batch"], width, case["1"]["relations"])
        triples = f", {case['1']['triples'] / 1e6:.0f} million triples" if case["graph"] else ""
        rows.append(
            [
                f"{case['entities']:,}{triples}",
                duration(one["seconds"]),
                duration(two["seconds"]),
                f"{one['peak_bytes'] / 1e9:.2f} GB",
                f"{two['peak_bytes'] / 1e9:.2f} GB",
                f"{two['peak_bytes'] / one['peak_bytes']:.2f}",
                f"{two['sent_bytes'] / 2e6:.2f} MB",
                f"{formula / 1e6:.2f} MB",
            ]
        )
    return f"{table(rows)}\n\nrank {shape['rank']}, batch {shape['batch']:,}; {machine(result)}."


def modelled_steps() -> str:
    rows = [
        [
            "graph",
            "scored",
            *("GPUs", "memory per GPU", "traffic per GPU", "step", "epoch", "limit"),
        ]
    ]
    rank, batch, counts = 256, 4096, (1, 8, 64, 512)
    for graph, candidates, shards in product(modelled.GRAPHS, (None, 4 * batch), counts):
        step = modelled.step(graph, shards, batch, 2 * rank, candidates)
        steps = 2 * graph.triples / batch
        fits = step.memory < modelled.Machine().memory
        rows.append(
            [
                f"{graph.name}, {graph.entities / 1e6:.1f} million entities",
                "all" if candidates is None else f"{candidates:,}",
                str(shards),
                f"{step.memory / 1e9:,.1f} GB",
                f"{step.traffic / 1e6:,.0f} MB",
                *(
                    (duration(step.total), f"{steps * step.total / 3600:,.2f} h", step.limit)
                    if fits
                    else ("", "", "does not fit")
                ),
            ]
        )
    return f"{table(rows)}\n\nrank {rank}, batch {batch:,}."


DISTILLATION = [f"distillation-{loss}" for loss in ("inner", "meta", "mutual")]


TABLES = {
    "step": partial(on_each_processor, "step", partial(comparison, "one step", ["step"])),
    "source_step": partial(
        on_each_processor, "source_step", partial(comparison, "a source's step", ["source_step"])
    ),
    "cross_entropy": partial(
        on_each_processor, "cross_entropy", partial(comparison, "cross entropy", ["cross_entropy"])
    ),
    "distillation": partial(
        on_each_processor,
        "distillation-mutual",
        partial(comparison, "loss and gradients", DISTILLATION),
    ),
    "scaling": partial(on_each_processor, "scaling", scaling),
    "evaluation": partial(on_each_processor, "evaluation", evaluation),
    "compressed": partial(on_each_processor, "compressed", compressed),
    "topk_mask": partial(on_each_processor, "topk_mask", topk_mask),
    "sharding": sharding,
    "modelled": modelled_steps,
}
