"""What is said about a compressed model: its sizes, and the README of its folder."""

from __future__ import annotations

import json
from typing import Any

from .storage import ModelParts
from .table import Table


def describe(model: ModelParts) -> dict[str, Any]:
    """Sizes in bytes, density, and how many times smaller than dense tables (JSON)."""
    tables = (model.entities, model.relations)
    table_bytes = sum(table.nbytes for table in tables)
    weights = sum(table.rows * table.width for table in tables)
    nonzero = model.entities.nonzero + model.relations.nonzero
    labels = model.entity_labels.text.nbytes + model.relation_labels.text.nbytes
    known = model.known.nbytes if model.known is not None else 0
    row_scales = 4 * (model.entities.rows + model.relations.rows)
    dense = {"fp32": 4 * weights, "fp16": 2 * weights, "int8": weights + row_scales}
    sizes = {"tables": table_bytes, "with labels and known triples": table_bytes + labels + known}
    return {
        "model": f"{model.scoring}, rank {model.rank}",
        "entities": len(model.entity_labels),
        "relations": len(model.relation_labels),
        "codec": codec_name(model.entities),
        "weights": weights,
        "density": round(nonzero / weights, 6),
        "temperature": model.temperature,
        "bytes": {
            "tables": table_bytes,
            "labels": labels,
            "known triples": known,
            "together": sizes["with labels and known triples"],
        },
        "times smaller than dense": {
            f"{name} ({what})": round(size / mine, 2)
            for name, size in dense.items()
            for what, mine in sizes.items()
        },
    }


def codec_name(table: Table) -> str:
    """Such as "sparse delta8 int8", "column int3" or "int4"; a column table of all is "fp16"."""
    if table.codec == "sparse":
        return f"sparse {table.columns} {table.weight_format}"
    if table.codec == "column" and len(table.arrays["columns"]) < table.width:
        return f"column {table.weight_format}"
    return table.weight_format


def readable(info: dict[str, Any]) -> dict[str, Any]:
    """What `describe` found, with ratios in words."""
    shown = {key: value for key, value in info.items() if key != "times smaller than dense"}
    ratios = info["times smaller than dense"]
    return {
        **shown,
        "compared with dense": {name: in_words(times) for name, times in ratios.items()},
    }


def in_words(times_smaller: float) -> str:
    """2.5 is "2.5 times smaller", 0.8 "1.25 times larger"."""
    if times_smaller == 1:
        return "as large"
    if times_smaller > 1:
        return f"{times_smaller:.3g} times smaller"
    return f"{1 / max(times_smaller, 0.01):.3g} times larger"


def readable_bytes(count: int) -> str:
    """Bytes in the largest decimal unit of which there is at least one."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} B"


def summary(model: ModelParts) -> list[str]:
    """A few lines for people: the graph, the model, sizes, and metrics if there are any."""
    name = model.about.get("graph", {}).get("name", "a graph")
    table, known = model.entities, model.known
    size = readable_bytes(table.nbytes + model.relations.nbytes)
    return [
        f"CompressedModel of {name}: {len(model.entity_labels):,} entities, "
        f"{len(model.relation_labels):,} relations",
        f"  {model.scoring}, rank {model.rank}; {codec_name(table)}, {size} of tables",
        "  no known triples" if known is None else f"  {len(known):,} known triples",
        *metric_lines(model.about.get("metrics") or {}, " before compression"),
    ]


def metric_lines(metrics: dict[str, Any], when: str = "") -> list[str]:
    """One line per split of metrics.json: the MRR and Hits@10 of every model."""
    lines = []
    for split in ("valid", "test"):
        shown = ", ".join(
            f"{name} {found['mrr']:.3f} ({found['hits@10']:.3f})"
            for name, found in metrics.get(split, {}).items()
        )
        if shown:
            lines.append(f"  {split} MRR (Hits@10){when}: {shown}")
    return lines


def model_card(model: ModelParts, name: str = "path/to/this/folder") -> str:
    """Markdown: what the model is, how to ask it, its sizes, and its metrics as trained.

    Args:
        model: the model.
        name: what `from_pretrained` finds it by.
    """
    info, about = describe(model), model.about
    ratios = info["times smaller than dense"]
    head = json.dumps(model.entity_labels.human(0), ensure_ascii=False)
    relation = json.dumps(model.relation_labels.human(0), ensure_ascii=False)
    added = about.get("added", {})
    graph = about.get("graph", added.get("to", {})).get("name", "a graph of its own")
    if added:
        graph += f" and {added['entities']:,} entities added since"
    lines = [
        "---",
        "library_name: metasd",
        "tags: [knowledge-graph-embeddings, link-prediction]",
        "---",
        "",
        f"# {info['model']}, compressed",
        "",
        f"Answers (head, relation, ?) and (?, relation, tail) about {graph}: "
        f"{info['entities']:,} entities, {info['relations']:,} relations.",
        "",
        "```python",
        "from metasd.compressed import CompressedModel",
        "",
        f"model = CompressedModel.from_pretrained({json.dumps(name)})",
        f"model.predict(head={head}, relation={relation}, k=10)",
        "```",
        "",
        "| | |",
        "| --- | --- |",
        f"| codec | {info['codec']} |",
        f"| weights that are not zero | {100 * info['density']:.2f} % |",
        f"| bytes of the tables | {info['bytes']['tables']:,} |",
        f"| compared with dense fp32 tables | {in_words(ratios['fp32 (tables)'])} |",
    ]
    for split, found in about.get("metrics", {}).items():
        for name, metrics in found.items():
            lines.append(f"| {split} MRR of the {name} model, as trained | {metrics['mrr']:.4f} |")
    return "\n".join([*lines, ""])
