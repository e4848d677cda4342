"""Turns committed results into the README's tables: no number there is typed by hand.

python benchmarks/report.py                    # rewrite the tables
python benchmarks/report.py --check            # exit 1 if they are not what the results say
python benchmarks/report.py --add-run RUN      # keep the summary of a training run first
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
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


def step() -> str:
    result = load("step")
    rows = [["one step", "time", "times ours", "peak memory", "times ours"]]
    for name, found in result["contenders"].items():
        rows.append(
            [
                name,
                f"{found['seconds'] * 1e3:,.0f} ms",
                f"{result['time_ratio'][name]:.2f}",
                f"{found['peak_bytes'] / 1e6:,.0f} MB",
                f"{result['memory_ratio'][name]:.2f}",
            ]
        )
    shape = ", ".join(f"{key} {value:,}" for key, value in result["shape"].items())
    return f"{table(rows)}\n\n{shape}; medians; {machine(result)}."


def topk_mask() -> str:
    result = load("topk_mask")
    rows = [["", "time", "times ours"]]
    for name, seconds in result["seconds"].items():
        rows.append([f"`{name}`", f"{seconds * 1e3:,.0f} ms", f"{result['time_ratio'][name]:.2f}"])
    return f"{table(rows)}\n\n{result['weights']:,} weights, 90 % pruned; {machine(result)}."


def training() -> str:
    rows = [
        ["graph", "epochs", "triples/s", "peak memory", "source", "pruned", "pruned", "ties"],
        ["", "", "", "", "test MRR", "test MRR", "test Hits@10", "pruned"],
    ]
    for path in sorted(RESULTS.glob("train-*.json")):
        result = load(path.stem)
        source, pruned = result["test"]["source"], result["test"]["pruned"]
        rows.append(
            [
                f"{result['graph']}, rank {result['config']['model.rank']}",
                str(result["epochs"]),
                f"{result['triples_per_second']:,.0f}",
                f"{result['peak_memory_bytes'] / 1e6:,.0f} MB",
                f"{source['mrr']:.3f}",
                f"{pruned['mrr']:.3f}",
                f"{pruned['hits@10']:.3f}",
                f"{100 * pruned['tie_rate']:.1f} %",
            ]
        )
    return f"{table(rows)}\n\n{machine(result)}."


TABLES = {"step": step, "topk_mask": topk_mask, "training": training}


def add_run(folder: Path) -> None:
    """Keeps what the table shows of a finished run, with its configuration and protocol."""
    from metasd.environment import environment
    from metasd.run import Run

    run = Run.load(folder)
    found = environment()
    keep = ("mrr", "mr", "hits@1", "hits@3", "hits@10", "tie_rate", "pessimistic", "by_frequency")
    seconds = sum(record["seconds"] for record in run.history)
    triples = sum(record["seconds"] * record["triples_per_second"] for record in run.history)
    result = {
        "graph": run.metrics["protocol"]["graph"],
        "machine": {key: found[key] for key in ("processor", "cores", "threads", "compiled")},
        "versions": {**found["packages"], "python": found["python"]},
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
    name = re.sub(r"\W+", "-", result["graph"].lower())
    (RESULTS / f"train-{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def rewritten(text: str) -> str:
    for name, make in TABLES.items():
        block = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
        assert block.search(text), f"README.md has no place for the table {name}"
        content = make()
        text = block.sub(lambda found: found[1] + content + "\n" + found[2], text)  # noqa: B023
    return text


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--check", action="store_true")
    arguments.add_argument("--add-run", type=Path, metavar="RUN")
    chosen = arguments.parse_args()
    if chosen.add_run:
        add_run(chosen.add_run)
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = rewritten(old)
    if chosen.check:
        sys.exit("README.md does not say what the results say" if new != old else 0)
    readme.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
