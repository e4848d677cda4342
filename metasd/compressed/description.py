"""What is said about a compressed model: its sizes, and the README of its folder."""

from __future__ import annotations

import json
from typing import Any

from .storage import ModelParts


def describe(model: ModelParts) -> dict[str, Any]:
    """Sizes in bytes, density, and how many times smaller than dense tables (JSON)."""
    tables = (model.entities, model.relations)
    table_bytes = sum(table.nbytes for table in tables)
    weights = sum(table.rows * table.width for table in tables)
    nonzero = model.entities.nonzero + model.relations.nonzero
    labels = model.entity_labels.text.nbytes + model.relation_labels.text.nbytes
    known = model.known.nbytes if model.known is not None else 0
    table = model.entities
    codec = (table.codec, table.columns, table.weight_format)
    row_scales = 4 * (model.entities.rows + model.relations.rows)
    dense = {"fp32": 4 * weights, "fp16": 2 * weights, "int8": weights + row_scales}
    return {
        "model": f"{model.scoring}, rank {model.rank}",
        "entities": len(model.entity_labels),
        "relations": len(model.relation_labels),
        "codec": " ".join(dict.fromkeys(codec)).replace("all ", ""),
        "weights": weights,
        "density": round(nonzero / weights, 6),
        "temperature": model.temperature,
        "bytes": {
            "tables": table_bytes,
            "labels": labels,
            "known triples": known,
            "together": table_bytes + labels + known,
        },
        "times smaller than dense": {
            f"{name} ({what})": round(size / mine, 2)
            for name, size in dense.items()
            for what, mine in (
                ("tables", table_bytes),
                ("with labels and known triples", table_bytes + labels + known),
            )
        },
    }


def model_card(model: ModelParts) -> str:
    """Markdown: what the model is, how to ask it, its sizes, and its metrics as trained."""
    info, about = describe(model), model.about
    head = json.dumps(model.entity_labels.human(0), ensure_ascii=False)
    relation = json.dumps(model.relation_labels.human(0), ensure_ascii=False)
    graph = about.get("graph", {}).get("name", "a graph of its own")
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
        'model = CompressedModel.from_pretrained("path/to/this/folder")',
        f"model.predict(head={head}, relation={relation}, k=10)",
        "```",
        "",
        "| | |",
        "| --- | --- |",
        f"| codec | {info['codec']} |",
        f"| weights that are not zero | {100 * info['density']:.2f} % |",
        f"| bytes of the tables | {info['bytes']['tables']:,} |",
        f"| times smaller than dense fp32 tables | "
        f"{info['times smaller than dense']['fp32 (tables)']} |",
    ]
    for split, found in about.get("metrics", {}).items():
        for name, metrics in found.items():
            lines.append(f"| {split} MRR of the {name} model, as trained | {metrics['mrr']:.4f} |")
    return "\n".join([*lines, ""])
