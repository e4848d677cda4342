"""Turns committed results into the tables and plots of README and docs: none is typed by hand.

python benchmarks/report.py                    # rewrite the tables, draw the plot again
python benchmarks/report.py --check            # exit 1 if they are not what the results say
python benchmarks/report.py --add-run RUN      # keep the summary of a training run first

From the root of a checkout `python -m benchmarks.report` is the same.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasd.experiments.study_report import Point

ROOT = Path(__file__).resolve().parent.parent
# `-m` puts the checkout, which may not be compiled, before the metasd that is installed.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT]
sys.path.append(str(Path(__file__).parent))  # where `-m` does not look for `modelled`
RESULTS = Path(__file__).parent / "results"

Rows = list[list[str]]


def table(rows: Rows) -> str:
    head, *body = rows
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


def load(name: str) -> dict[str, Any]:
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def machine(result: dict[str, Any]) -> str:
    about, versions = result["machine"], result["versions"]
    return (
        f"{about['processor']}, {about['threads']} threads, "
        f"{about['compiled']['instruction_set']}, torch {versions['torch']}"
    )


def comparison(title: str, *names: str) -> str:
    """What `measure.compare` found, of several results one below the other."""
    rows = [[title, "time", "times ours", "of the limit", "peak memory", "times ours"]]
    for name in names:
        result = load(name)
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


def evaluation() -> str:
    result = load("evaluation")
    rows = [["", "time", "times ours", "peak memory", "MRR", "Hits@10", "mean rank"]]
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


def scaling() -> str:
    result = load("scaling")
    rows = [["entities", "a step", "a score", "tables", "peak memory", "times tables"]]
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
    shape = result["shape"]
    return (
        f"{table(rows)}\n\n![time and memory of a step](benchmarks/results/scaling.svg)\n\n"
        f"rank {shape['rank']}, batch {shape['batch']:,}; {machine(result)}."
    )


def plot_scaling() -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    found = list(load("scaling")["contenders"].values())
    entities = [figures["entities"] for figures in found]
    # The same figures make the same file, and letters stay letters.
    mpl.rcParams.update({"svg.hashsalt": "metasd", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    axes[0].plot(entities, [1e9 * f["seconds_per_score"] for f in found], marker="o")
    axes[0].set(title="nanoseconds per triple and entity", xscale="log", ylim=(0, None))
    axes[1].plot(entities, [f["peak_bytes"] / 1e6 for f in found], marker="o", label="a step")
    axes[1].plot(entities, [f["table_bytes"] / 1e6 for f in found], "--", label="tables")
    axes[1].set(title="peak memory, MB", xscale="log", yscale="log")
    axes[1].legend()
    for axis in axes:
        axis.set_xlabel("entities")
    figure.savefig(RESULTS / "scaling.svg", metadata={"Date": None})


def topk_mask() -> str:
    result = load("topk_mask")
    rows = [["", "time", "times ours"]]
    for name, seconds in result["seconds"].items():
        rows.append([f"`{name}`", f"{seconds * 1e3:,.0f} ms", f"{result['time_ratio'][name]:.2f}"])
    return f"{table(rows)}\n\n{result['weights']:,} weights, 90 % pruned; {machine(result)}."


def compressed() -> str:
    result = load("compressed")
    head = ["", "tables", "folder", "resident", "load", "1 question", "64 questions"]
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


def training() -> str:
    rows = [
        [*("graph", "relation", "epochs", "triples/s", "peak memory"), "source", *["compact"] * 3],
        ["", "loss", "", "", "", "test MRR", "test MRR", "Hits@10", "ties"],
    ]
    machines: dict[str, list[str]] = {}
    for path in sorted(RESULTS.glob("train-*.json")):
        result = load(path.stem)
        graphs = machines.setdefault(machine(result), [])
        graphs += [result["graph"]] * (result["graph"] not in graphs)
        source, pruned = result["test"]["source"], result["test"]["compact"]
        rows.append(
            [
                f"{result['graph']}, rank {result['config']['model.rank']}",
                f"{result['config']['relation_prediction.weight']:g}",
                str(result["epochs"]),
                f"{result['triples_per_second']:,.0f}",
                f"{result['peak_memory_bytes'] / 1e6:,.0f} MB",
                f"{source['mrr']:.3f}",
                f"{pruned['mrr']:.3f}",
                f"{pruned['hits@10']:.3f}",
                f"{100 * pruned['tie_rate']:.1f} %",
            ]
        )
    where = "; ".join(f"{', '.join(graphs)}: {name}" for name, graphs in machines.items())
    return f"{table(rows)}\n\n{where}."


def study(name: str) -> "tuple[dict[str, Any], list[Point]]":
    """A committed study's results, and its models as points."""
    from metasd.experiments.study_report import points

    text = (ROOT / "studies" / name / "results.json").read_text(encoding="utf-8")
    results = json.loads(text)
    return results, points(results)


def studies() -> str:
    """The best by valid of each kind of model at equal bytes."""
    heads = ("epochs", "valid MRR", "spread", "test MRR", "rare", "to its source")
    rows = [["", "form", "bytes", *heads]]
    notes = []
    for name in ("fb15k-237", "wn18rr"):
        results, found = study(name)
        runs = {run["run"]: run for run in results["runs"].values()}
        sources = {point.run: point for point in found if point.form == "source fp32"}
        source = sources[next(iter(runs))]
        rows.append([f"**{results['graph']}**, {source.run}", *_cells(source, runs, sources)])
        for share in (10, 20):
            rows.append([f"**at most 1/{share}**", *[""] * (len(rows[0]) - 1)])
            budget = source.bytes / share
            small = [point for point in found if point.bytes <= budget * (1 + OVER)]
            for kind in KINDS:
                if fit := [p for p in small if _kind(p.form, runs[p.run]["config"]) == kind]:
                    best = max(fit, key=lambda point: point.mrr)
                    rows.append([f"{kind}: {best.run}", *_cells(best, runs, sources)])
        notes.append(_cost(results))
    return f"{table(rows)}\n\n{'; '.join(notes)}."


def ablations() -> str:
    """What a part of the method is worth: both models of each run of the study that varies them.

    A dense run's small model is its source in three bits, as those of students are.
    """
    results, found = study("umls")
    heads = ("fp32 valid MRR", "spread", "small", "valid MRR", "spread", "bytes")
    rows = [["run", *heads]]
    for run in dict.fromkeys(row["run"] for row in results["rows"]):
        forms = {point.form: point for point in found if point.run == run}
        small = forms.get("pruned auto") or forms["source int3"]
        size = f"{small.bytes / 1e3:.1f} kB"
        rows.append([run, *_mrr(forms.get("source fp32")), small.form, *_mrr(small), size])
    return f"{table(rows)}\n\n{_cost(results)}."


def _mrr(point: "Point | None") -> list[str]:
    if point is None:
        return ["", ""]
    return [f"{point.mrr:.3f}", point.spread(3)]


def _cost(results: dict[str, Any]) -> str:
    runs = list(results["runs"].values())
    hours = sum(run["training_seconds"] for run in runs) / 3600
    machines = " or ".join(sorted({machine(run) for run in runs}))
    return f"{results['graph']}: {len(runs)} runs, {hours:.1f} h; {machines}"


OVER = 0.06
"""A model of a kind may be so much larger than its share: a rank is a whole number."""

PRUNED = {  # by weights and objective
    ("shared", "prune"): "a mask alone",
    ("shared", "distill"): "without the meta step",
    ("shared", "metasd"): "published method",
    ("own", "prune"): "student",
    ("own", "distill"): "student with a teacher",
}
KINDS = ("dense", "dense, fewer bits", "pruned in one shot", *PRUNED.values())


def _kind(form: str, config: dict[str, Any]) -> str:
    """Which of `KINDS` a run's model in a form is; the sources of pruned models are of none."""
    model, codec = form.split(" ", 1)
    objective = config["train.objective"]
    if model == "pruned":
        return PRUNED[config["compact.weights"], objective]
    if objective != "dense":
        return ""
    if model == "one-shot":
        return "pruned in one shot"
    return "dense, fewer bits" if codec in ("int3", "int2") else "dense"


def _cells(
    point: "Point", runs: dict[str, dict[str, Any]], sources: "dict[str, Point]"
) -> list[str]:
    """Its epochs are counted with those of the run whose source it took over."""
    largest = sources[next(iter(runs))]
    taken = runs[point.run]["config"].get("compact.source")
    own = sources[taken or point.run]
    epochs = runs[point.run]["epochs"] + (runs[taken]["epochs"] if taken else 0)
    return [
        point.form,
        f"{point.bytes / 1e6:.2f} MB, 1/{largest.bytes / point.bytes:.1f}",
        str(epochs),
        f"{point.mrr:.4f}",
        point.spread(),
        point.tested,
        f"{point.rare:.4f}",
        f"{100 * (point.mrr / own.mrr - 1):+.1f} %",
    ]


def sharding() -> str:
    import modelled

    result, shape = load("sharding"), load("sharding")["shape"]
    rows = [
        [
            *("entities", "a step, 1 process", "2 processes"),
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
    import modelled

    rows = [["graph", "GPUs", "memory each", "traffic each", "a step", "an epoch", "limit"]]
    rank, batch = 256, 4096
    for graph in modelled.GRAPHS:
        for shards in (1, 8, 64, 512):
            step = modelled.step(graph, shards, batch, 2 * rank)
            steps = 2 * graph.triples / batch
            fits = step.memory < modelled.Machine().memory
            rows.append(
                [
                    f"{graph.name}, {graph.entities / 1e6:.1f} million entities",
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


SCALING_TABLES = {"sharding": sharding, "modelled": modelled_steps}
TABLES = {
    "training": training,
    "step": partial(comparison, "one step", "step"),
    "cross_entropy": partial(comparison, "cross entropy", "cross_entropy"),
    "distillation": partial(
        comparison,
        "loss and gradients",
        *(f"distillation-{loss}" for loss in ("inner", "meta", "mutual")),
    ),
    "scaling": scaling,
    "evaluation": evaluation,
    "compressed": compressed,
    "accuracy": accuracy,
    "topk_mask": topk_mask,
    "studies": studies,
    "ablations": ablations,
}


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": TABLES,
    "docs/scaling.md": SCALING_TABLES,
}


def add_run(folder: Path) -> None:
    """Keeps, by the name of a finished run's folder, what the table shows and how it came about."""
    from metasd.environment import measured_on
    from metasd.training.run import Run

    run = Run.load(folder)
    keep = ("mrr", "mr", "hits@1", "hits@3", "hits@10", "tie_rate", "pessimistic", "by_frequency")
    seconds = sum(record["seconds"] for record in run.history)
    triples = sum(record["seconds"] * record["triples_per_second"] for record in run.history)
    result = {
        "graph": run.metrics["protocol"]["graph"],
        **measured_on(),
        "config": run.config.flat(),
        "protocol": run.metrics["protocol"],
        "epochs": len(run.history),
        "training_seconds": seconds,
        "triples_per_second": triples / seconds,
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in run.history),
        **{
            split: {
                model: {key: metrics[key] for key in keep}
                for model, metrics in run.metrics[split].items()
            }
            for split in ("valid", "test")
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"train-{folder.name}.json").write_text(json.dumps(result, indent=1) + "\n")


def rewritten(page: str, tables: dict[str, Callable[[], str]]) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in tables.items():
        block = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
        assert block.search(text), f"{page} has no place for the table {name}"
        try:
            content = make()
        except FileNotFoundError:
            content = "Not measured yet."
        text = block.sub(lambda found: found[1] + content + "\n" + found[2], text)  # noqa: B023
    return text


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--check", action="store_true")
    arguments.add_argument("--add-run", type=Path, metavar="RUN")
    chosen = arguments.parse_args()
    if chosen.add_run:
        add_run(chosen.add_run)
    pages = {page: rewritten(page, tables) for page, tables in PAGES.items()}
    if chosen.check:
        for page, text in pages.items():
            if text != (ROOT / page).read_text(encoding="utf-8"):
                sys.exit(f"{page} does not say what the results say")
        return
    for page, text in pages.items():
        (ROOT / page).write_text(text, encoding="utf-8")
    if (RESULTS / "scaling.json").exists():
        plot_scaling()


if __name__ == "__main__":
    main()
