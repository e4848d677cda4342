"""The tables of trainings: how accurate, and after how long; from benchmarks/results/*.json."""

import json
from functools import partial
from typing import Any

from report_tables import RESULTS, duration, listed, load, machine, on_each_processor, table


def accuracy() -> str:
    """Size and test metrics of a run's models as they are compressed, for every such result."""
    rows = [["model", "tables", "smaller", "folder", "test MRR", "difference", "Hits@1", "Hits@10"]]
    below = []
    for path in sorted(RESULTS.glob("accuracy-*.json")):
        result = load(path.stem)
        rank, dense = result["config"]["model.rank"], result["dense_fp32_bytes"]
        rows.append([f"**{result['graph']}, rank {rank}**", *[""] * 7])
        for name, found in result["models"].items():
            exact = result["models"][name.partition(",")[0]]
            compressed = "folder_bytes" in found
            folder = f"{found['folder_bytes'] / 1e6:,.1f} MB" if compressed else ""
            apart = f"{found['mrr'] - exact['mrr']:+.4f}" if compressed else ""
            size = [f"{found['bytes'] / 1e6:,.1f} MB", f"{dense / found['bytes']:.1f}x", folder]
            hits = [f"{found[key]:.4f}" for key in ("hits@1", "hits@10")]
            rows.append([name, *size, f"{found['mrr']:.4f}", apart, *hits])
        below.append(f"{result['graph']}: {result['epochs']} epochs; {machine(result)}")
    if not below:
        raise FileNotFoundError
    return f"{table(rows)}\n\n{'; '.join(below)}."


def growth(processor: str) -> str:
    result = load("growth", processor)
    first = next(iter(result["contenders"].values()))
    times = ["wall time", "processor time", "relative"]
    rows = [["", *times, "test MRR", "test MRR, new entities", "relative"]]
    for name, found in result["contenders"].items():
        rows.append(
            [
                name,
                duration(found["seconds"]),
                duration(found["processor_seconds"]),
                f"{found['processor_seconds'] / first['processor_seconds']:.3f}",
                f"{found['mrr']:.4f}",
                f"{found['mrr_new']:.4f}",
                f"{found['mrr_new'] / first['mrr_new']:.2f}",
            ]
        )
    shape = result["shape"]
    return (
        f"{table(rows)}\n\nfamilies, rank {shape['rank']}; {shape['new_entities']:,} of "
        f"{shape['entities']:,} entities are new, and {shape['new_train']:,} of {shape['train']:,} "
        f"train triples; {shape['epochs']} epochs, {shape['epochs_continued']} of `--from`; MRR of "
        f"the compressed models; {machine(result)}."
    )


def tuning() -> str:
    """The settings that are chosen, against the best of many trials."""
    rows = [
        [
            *("graph", "entities", "train triples", "rank", "epochs"),
            *("rules", "search", "best", "of trials", "lost", "time"),
        ]
    ]
    results = load("tuning")
    for name, found in results.items():
        best, chosen = found["best"]["test"], found["search"]["test"]
        rows.append(
            [
                name,
                f"{found['entities']:,}",
                f"{found['train']:,}",
                str(found["rank"]),
                str(found["epochs"]),
                f"{found['rules']['test']:.3f}",
                f"{chosen:.3f}",
                f"{best:.3f}",
                str(found["trials"]),
                f"{1 - chosen / best:.1%}",
                f"{1 + found['search_seconds'] / found['training_seconds']:.2f}",
            ]
        )
    machines = dict.fromkeys(machine(found) for found in results.values())
    return (
        f"{table(rows)}\n\nTest MRR of the source with settings by rules alone, after the search, "
        "and with the best on valid of some trials at the same rank and epochs "
        "(drawn at random; two thirds of them stop after a fifth of the epochs, two thirds of the "
        "others after half), of the best validation; what the search loses of the best; time of "
        f"search and training, relative to the training. {'; '.join(machines)}."
    )


def growth_settings(processor: str) -> str:
    result = load("growth_settings", processor)
    names = [f"x {row['lr']:g}, x {row['compact_lr']:g}" for row in result["rates"]]
    names += ["default rates, random rows"]
    found = [row["valid_mrr"] for row in result["rates"]] + [result["random_rows"]]
    rates = [["`train.lr`, `compact.lr`", *result["draws"], "mean"]]
    for name, values in zip(names, found, strict=True):
        rates.append([name, *(f"{x:.4f}" for x in [*values, sum(values) / len(values)])])
    fits = [["steps", "candidates", "ridge", "processor time", "valid MRR", "new entities"]]
    for row in result["fits"]:
        found = row["valid"]
        seconds, mrr, mrr_new = (
            sum(each[key] for each in found) / len(found)
            for key in ("processor_seconds", "mrr", "mrr_new")
        )
        cells = [duration(seconds), f"{mrr:.4f}", f"{mrr_new:.4f}"]
        fits.append([str(row["steps"]), f"{row['candidates']:,}", f"{row['ridge']:g}", *cells])
    return (
        f"{table(rates)}\n\nValid MRR of the compact model, by rates relative to the old run's.\n\n"
        f"{table(fits)}\n\n`metasd add`: means over the same graphs; {machine(result)}."
    )


def training() -> str:
    rows = [
        [
            *("graph", "relation loss", "epochs", "triples/s", "peak memory"),
            *("source: test MRR", "compact: test MRR", "Hits@10", "ties"),
        ]
    ]
    machines: dict[str, list[str]] = {}
    for path in sorted(RESULTS.glob("train-*.json")):
        result = load(path.stem)
        graphs = machines.setdefault(machine(result), [])
        graphs += [result["graph"]] * (result["graph"] not in graphs)
        source, compact = result["test"]["source"], result["test"]["compact"]
        rows.append(
            [
                f"{result['graph']}, rank {result['config']['model.rank']}",
                f"{result['config']['relation_prediction.weight']:g}",
                " + ".join(str(result[x]) for x in ("source_epochs", "epochs") if x in result),
                f"{result['triples_per_second']:,.0f}",
                f"{result['peak_memory_bytes'] / 1e6:,.0f} MB",
                f"{source['mrr']:.3f}",
                f"{compact['mrr']:.3f}",
                f"{compact['hits@10']:.3f}",
                f"{100 * compact['tie_rate']:.1f} %",
            ]
        )
    where = "; ".join(f"{', '.join(graphs)}: {name}" for name, graphs in machines.items())
    return f"{table(rows)}\n\n{where}."


def shortcuts(setting: str, name: str, timed: bool) -> str:
    """Valid MRR with and without a shortcut, and how long it takes."""
    rows = [["graph", "rank", "epochs", "model", "seed", name, "exact"]]
    if timed:
        rows[0].append("time")
    pairs: dict[tuple[Any, ...], dict[bool, dict[str, Any]]] = {}
    results = [row for row in listed("shortcuts") if row["setting"] == setting]
    for row in results:
        key = (row["graph"], tuple(row["settings"]), row["seed"])
        pairs.setdefault(key, {})[row["value"] in ("off", 1)] = row
    for (graph, settings, seed), found in pairs.items():
        if len(found) < 2:
            continue
        values = dict(setting.split("=", 1) for setting in settings)
        objective = values.get("train.objective", "dense")
        for model, mrr in found[True]["valid_mrr"].items():
            rows.append(
                [
                    *(graph, values["model.rank"], values["train.epochs"]),
                    *(f"{objective}: {model}", str(seed)),
                    *(f"{found[False]['valid_mrr'][model]:.4f}", f"{mrr:.4f}"),
                ]
            )
            if timed:
                rows[-1].append(f"{found[False]['seconds'] / found[True]['seconds']:.2f}")
    machines = dict.fromkeys(machine(row) for row in results)
    caption = "Valid MRR after the last epoch"
    if timed:
        caption += "; processor time of one thread, relative to exact"
    return f"{table(rows)}\n\n{caption}; {'; '.join(machines)}."


LEVELS = {"FB15k-237": (0.30, 0.34, 0.36), "WN18RR": (0.42, 0.45, 0.47)}
"""Valid MRRs that `time_to_accuracy` gives the times of."""


def time_to_accuracy() -> str:
    """When the curves of each system first reach the levels of their graph."""
    results = json.loads((RESULTS / "time-to-accuracy.json").read_text(encoding="utf-8"))
    parts = []
    for graph, levels in LEVELS.items():
        there = [result for result in results if result["graph"] == graph]
        if not there:
            continue
        rows = [[graph, "settings", "an epoch", *(f"MRR {level:.2f}" for level in levels)]]
        for result in there:
            curve = result["curve"]
            last = curve[-1]
            row = [result["system"], _asked(result["settings"])]
            row.append(duration(last["seconds"] / last["epoch"]))
            for level in levels:
                reached = [at["seconds"] for at in curve if at["valid_mrr"] >= level]
                row.append(f"{reached[0]:,.0f} s" if reached else f"> {last['seconds']:,.0f} s")
            rows.append(row)
        parts.append(table(rows))
    machines = dict.fromkeys(machine(result) for result in results)
    return "\n\n".join([*parts, f"Seconds of the processor; {'; '.join(machines)}."])


def _asked(settings: dict[str, Any]) -> str:
    plain = {key: value for key, value in settings.items() if key != "set"}
    return ", ".join([*(f"{key} {value}" for key, value in plain.items()), *settings["set"]])


def sizes() -> str:
    """Compact models of a size with nothing else set, and the best dense model of their bytes."""
    heads = ("format", "bytes", "source", "compact", "to source", "rival", "valid MRR", "time")
    rows = [["graph, size", "entities", "train triples", *heads]]
    results = load("sizes")
    for name, found in results.items():
        rival = found["rivals"][found["best rival"]]
        source, compact = found["source"]["valid"], found["compact"]["valid"]
        rows.append(
            [
                *(name, f"{found['entities']:,}", f"{found['train']:,}", found["formats"][0]),
                f"{found['bytes'] / 1e3:.1f} kB",
                *(f"{source:.4f}", f"{compact:.4f}", f"{compact / source - 1:+.1%}"),
                f"rank {rival['rank']}, {found['best rival']}",
                *(f"{rival['valid']:.4f}", f"{found['processor time']:.2f}"),
            ]
        )
    machines = dict.fromkeys(machine(found) for found in results.values())
    return (
        f"{table(rows)}\n\nValid MRR of source, compact model, and the best by valid of dense "
        "models of at most those bytes, rounded after as many epochs as source and compact model "
        "had; time of everything, the choice of settings included, relative to the training of "
        f"the source. {'; '.join(machines)}."
    )


TABLES = {
    "training": training,
    "growth": partial(on_each_processor, "growth", growth),
    "tuning": tuning,
    "sampling": partial(shortcuts, "train.gradient_sampling", "sampled", timed=False),
    "shared_queries": partial(shortcuts, "train.triples_per_query", "shared", timed=True),
    "growth_settings": partial(on_each_processor, "growth_settings", growth_settings),
    "time_to_accuracy": time_to_accuracy,
    "accuracy": accuracy,
    "sizes": sizes,
}
