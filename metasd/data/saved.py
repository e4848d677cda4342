"""A graph made in memory, kept in a folder: labels by id, and its triples as Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metasd.errors import InputError
from metasd.files import read_json, write_text

from .graph import Graph
from .sources import SAVED
from .splits import SPLITS
from .triple_files import open_parquet
from .vocabulary import load_vocabulary

_DESCRIPTION = "graph.json"


def save_graph(graph: Graph, folder: Path) -> None:
    """Write a graph into a new folder, from which ``load_graph`` reads the same ids and digest.

    ``triples.parquet`` has the columns split, head, relation and tail (ids); ``entities.tsv`` and
    ``relations.tsv`` have the labels.
    """
    graph.save_vocabulary(folder)
    rows = [graph.split(name) for name in SPLITS]
    split = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(SPLITS), dtype=np.int8), [len(part) for part in rows]), SPLITS
    )
    ids = dict(zip(("head", "relation", "tail"), np.concatenate(rows).T, strict=True))
    columns = {name: np.ascontiguousarray(column) for name, column in ids.items()}
    pq.write_table(pa.table({"split": split, **columns}), folder / SAVED)
    description = {"name": graph.name, "notes": list(graph.notes)}
    write_text(folder / _DESCRIPTION, json.dumps(description, indent=1) + "\n")


def load_saved(folder: Path, source: dict[str, Any] | None = None) -> Graph:
    """The graph in a folder of ``save_graph``.

    Raises:
        InputError: a file is missing or damaged.
    """
    vocabulary = load_vocabulary(folder)
    try:
        description = read_json(folder / _DESCRIPTION)
        name, notes = str(description["name"]), tuple(map(str, description["notes"]))
        with open_parquet(folder / SAVED) as file:
            table = file.read(use_threads=False)
        split = table["split"].cast(pa.string()).to_numpy()
        ids = [table[field].to_numpy().astype(np.int64) for field in ("head", "relation", "tail")]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        raise InputError(f"{folder}: {_DESCRIPTION} or {SAVED} is missing or damaged") from None
    triples = np.stack(ids, axis=1)
    sizes = (vocabulary.num_entities, vocabulary.num_relations, vocabulary.num_entities)
    if ((triples < 0) | (triples >= sizes)).any():
        raise InputError(f"{folder / SAVED}: an id has no label")
    return Graph(
        name=name,
        notes=notes,
        source=source,
        **{part: triples[split == part] for part in SPLITS},
        **vars(vocabulary),
    )
