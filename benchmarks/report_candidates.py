"""The tables of training on candidates, as Markdown, from benchmarks/results/*.json."""

from typing import Any

from report_tables import duration, listed, machine, table


def candidates() -> str:
    """Valid MRR and time on candidates, and on all entities."""
    rows = [["graph", "rank", "model", "seed", "epochs", "candidates", "MRR", "time", "of all"]]
    results = [r for r in listed("candidates") if r["measured"] == "accuracy"]
    for row in results:
        values = dict(setting.split("=", 1) for setting in row["settings"])
        objective, last = values.get("train.objective", "dense"), row["history"][-1]
        whole = [
            r["history"][-1]
            for r in results
            if r["candidates"] == "all" and alike(r, row, "graph", "settings", "seed")
        ]
        spent = last.get("cpu_seconds")
        all_spent = whole[-1].get("cpu_seconds") if whole else None
        for model, mrr in last["valid_mrr"].items():
            rows.append(
                [
                    *(row["graph"], values["model.rank"], f"{objective}: {model}"),
                    *(str(row["seed"]), str(last["epoch"]), str(row["candidates"])),
                    *(f"{mrr:.4f}", duration(spent) if spent else ""),
                    f"{spent / all_spent:.2f}" if spent and all_spent else "",
                ]
            )
    machines = dict.fromkeys(machine(row) for row in results)
    return (
        f"{table(rows)}\n\nValid MRR after the last epoch, of a sample of the triples; processor "
        f"time of one thread; {'; '.join(machines)}."
    )


def alike(a: dict[str, Any], b: dict[str, Any], *keys: str) -> bool:
    return all(a[key] == b[key] for key in keys)


def candidate_steps() -> str:
    """Time and memory of a step on candidates, by the number of entities."""
    rows = [
        [
            *("entities", "rank", "objective", "candidates", "step", "epoch"),
            *("tables and states", "peak beyond them"),
        ]
    ]
    results = [r for r in listed("candidates") if r["measured"] in ("steps", "graph")]
    for row in results:
        values = dict(setting.split("=", 1) for setting in row["settings"])
        name = f"{row['entities']:,}"
        epoch = ""
        if row["measured"] == "graph":
            name = f"{row['graph']}, {name}"
            epoch = duration(row["mean_cpu_seconds"] * row["steps_per_epoch"])
        rows.append(
            [
                *(name, values["model.rank"], values.get("train.objective", "dense")),
                values["train.candidates"],
                *(duration(row["cpu_seconds"]), epoch),
                f"{row['table_bytes'] / 1e9:.2f} GB",
                f"{(row['peak_bytes'] - row['table_bytes']) / 1e9:.2f} GB",
            ]
        )
    machines = dict.fromkeys(machine(row) for row in results)
    return f"{table(rows)}\n\nBatch 1,000; processor time of one thread; {'; '.join(machines)}."


def candidate_peers() -> str:
    """Training on candidates against that of PyKEEN on negative samples."""
    rows = [["graph", "rank", "", "negatives", "epochs", "time", "triples/s", "MRR"]]
    results = listed("peers")
    for row in results:
        for name, negatives in (("metasd", "candidates"), ("pykeen", "negatives")):
            found = row[name]
            rows.append(
                [
                    *(row["graph"], str(row["rank"])),
                    {
                        "metasd": "metasd, candidates",
                        "pykeen": f"PyKEEN {row['pykeen_version']}, sLCWA",
                    }[name],
                    *(
                        f"{row[negatives]:,}",
                        f"{found['epochs']:.2f}",
                        duration(found["cpu_seconds"]),
                    ),
                    *(f"{found['triples_per_second']:,.0f}", f"{found['valid_mrr']:.4f}"),
                ]
            )
    machines = dict.fromkeys(machine(row) for row in results)
    return (
        f"{table(rows)}\n\nValid MRR of a sample of the triples; processor time of one thread; "
        f"{'; '.join(machines)}."
    )


TABLES = {
    "candidates": candidates,
    "candidate_steps": candidate_steps,
    "candidate_peers": candidate_peers,
}
