"""Loading a graph: by path or by name, from text, Parquet, a prepared folder or a generator."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .graph import SPLITS, Graph
from .sorting import IntArray, sorted_unique
from .sources import (
    ENTITY_LABELS,
    generate,
    graph_name,
    is_prepared,
    locate,
    source_arguments,
    split_files,
)
from .splits import DEFAULT_RATIOS, check_options, draw_splits, notes_of
from .triple_files import Column, Triples, read_text, read_triples, whole


def load_graph(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    columns: str = "hrt",
    split_ratios: tuple[float, float, float] = DEFAULT_RATIOS,
    seed: int = 0,
) -> Graph:
    """Load a graph by path or by name.

    Tried in this order: a folder or file of that path; ``families``, ``families:N``,
    ``powerlaw:N`` or ``powerlaw:N:T``, which are generated; a folder of that name in ``data_dir``,
    then in the folders that the environment variable METASD_DATA lists, whatever the case and
    punctuation; the graphs that PyKEEN brings.

    A folder holds ``train``, ``valid`` and ``test`` as .txt or .tsv (also .gz) or .parquet, and may
    hold ``entity_labels.tsv`` (``id<TAB>label``). Text is UTF-8, tab-separated, without header.
    Labels hold no NUL and, in .parquet, neither tabs nor line breaks. A folder that ``prepare``
    wrote is mapped into memory, not read.

    Args:
        name_or_path: what to load; with a slash in it, it is only ever a path.
        data_dir: where to look for a name first.
        columns: which column of the file is head, relation and tail: a permutation of ``hrt``.
            Parquet columns that are named head, relation and tail go by their names.
        split_ratios: the shares of train, valid and test when the path is a single file.
        seed: for splitting a single file and for generating a graph.

    Raises:
        InputError: nothing is found, or a file is not as described (with file and line number).
    """
    check_options(columns, split_ratios)
    text, path = locate(name_or_path, data_dir)
    source = source_arguments(text, data_dir, columns, split_ratios, seed)
    if path is None:
        graph = _from_generator(text, seed)
    elif is_prepared(path):
        from .store import load_prepared  # it is made of Graph

        return load_prepared(path, source)
    else:
        folder = path.is_dir()
        graph = (
            _from_folder(path, columns) if folder else _from_file(path, columns, split_ratios, seed)
        )
    return dataclasses.replace(graph, source=source)


def as_graph(graph: Graph | str | os.PathLike[str]) -> Graph:
    """The graph itself, or what ``load_graph`` loads by that name or path."""
    return graph if isinstance(graph, Graph) else load_graph(graph)


def _from_generator(text: str, seed: int) -> Graph:
    entities, relations, parts_of = generate(text, seed)
    found: dict[str, list[IntArray]] = {name: [] for name in SPLITS}
    for name, rows in parts_of:
        found[name].append(rows)
    splits: dict[str, Triples] = {}
    for name in SPLITS:
        head, relation, tail = np.concatenate(found[name]).T
        splits[name] = Triples(
            Column(entities, head), Column(relations, relation), Column(entities, tail)
        )
    return _build(text, splits)


def _from_folder(folder: Path, columns: str) -> Graph:
    files = split_files(folder)
    splits = {name: read_triples(path, columns) for name, path in files.items()}
    labels = folder / ENTITY_LABELS
    human = whole(read_text(labels, ("id", "label"))) if labels.exists() else None
    return _build(graph_name(folder), splits, human)


def _from_file(
    path: Path, columns: str, split_ratios: tuple[float, float, float], seed: int
) -> Graph:
    graph = _build(graph_name(path), {"train": read_triples(path, columns)})
    number, note = draw_splits(path, len(graph.train), split_ratios, seed)
    chosen = {name: graph.train[number == i] for i, name in enumerate(SPLITS)}
    return dataclasses.replace(graph, **chosen, notes=(*graph.notes, note))


def _build(name: str, splits: dict[str, Triples], human: dict[str, Column] | None = None) -> Graph:
    """Number the labels in sorted order and turn the splits into sorted unique id triples."""
    entities = _sorted_labels([c for part in splits.values() for c in (part.head, part.tail)])
    relations = _sorted_labels([part.relation for part in splits.values()])
    triples, dropped = {}, {}
    for split in SPLITS:
        if split not in splits:
            triples[split] = np.empty((0, 3), dtype=np.int64)
            continue
        part = splits[split]
        ids = np.stack(
            [_ids(part.head, entities), _ids(part.relation, relations), _ids(part.tail, entities)],
            axis=1,
        )
        triples[split] = sorted_unique(ids, len(entities), len(relations))
        dropped[split] = len(ids) - len(triples[split])
    notes = notes_of(triples, dropped, len(entities), len(relations))
    raw_labels: list[str] = entities.to_pylist()
    labels: dict[str, str] = {}
    if human:
        raw, label = (c.labels.take(pa.array(c.codes)).to_pylist() for c in human.values())
        used = set(raw_labels)
        labels = {r: text for r, text in zip(raw, label, strict=True) if r in used}
    return Graph(
        name=name,
        entities=raw_labels,
        relations=relations.to_pylist(),
        entity_labels=labels,
        train=triples["train"],
        valid=triples["valid"],
        test=triples["test"],
        notes=tuple(notes),
    )


def _sorted_labels(columns: Sequence[Column]) -> pa.Array:
    """The distinct labels in code point order (UTF-8 sorts by bytes as by code points)."""
    return pa.chunked_array([column.labels for column in columns]).unique().sort()


def _ids(column: Column, labels: pa.Array) -> IntArray:
    places = pc.index_in(column.labels, value_set=labels).to_numpy(zero_copy_only=False)
    ids: IntArray = places.astype(np.int64)[column.codes]
    return ids
