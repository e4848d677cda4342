"""Loading a graph: by path or by name, from files, a prepared folder or a generator."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metasd.errors import InputError

from .columns import check_columns
from .graph import Graph
from .numbering import GraphFields, number_triples
from .saved import load_saved
from .sorting import IntArray
from .sources import (
    ENTITY_LABELS,
    RELATION_LABELS,
    generate,
    graph_files,
    graph_name,
    is_prepared,
    is_saved,
    locate,
    source_arguments,
)
from .splits import DEFAULT_RATIOS, SPLITS, check_ratios
from .store import load_prepared
from .text_files import read_labels
from .triple_files import Column, Triples, read_triples, whole


def load_graph(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    columns: str = "hrt",
    split_ratios: tuple[float, float, float] = DEFAULT_RATIOS,
    seed: int = 0,
    header: bool | None = None,
) -> Graph:
    """Load a graph by path or by name.

    Tried in this order: a folder or file of that path; ``families``, ``families:N``,
    ``powerlaw:N`` or ``powerlaw:N:T``, which are generated; a folder of that name in ``data_dir``,
    then in the folders that the environment variable METASD_DATA lists, whatever the case and
    punctuation; the graphs that PyKEEN brings.

    A file is text with tabs (.txt, .tsv), with commas (.csv), N-Triples (.nt), Turtle (.ttl), each
    also .gz, or .parquet. A folder holds ``train`` and perhaps ``valid`` and ``test``, or a single
    file of any name; splits that are missing are drawn from train. It may hold
    ``entity_labels.tsv`` and ``relation_labels.tsv`` (``label<TAB>human label``). Labels hold no
    NUL, tabs or line breaks. A folder that ``prepare`` wrote is mapped into memory, not read.

    Args:
        name_or_path: what to load; with a slash in it, it is only ever a path.
        data_dir: where to look for a name first.
        columns: which column of the file is head, relation and tail: a permutation of ``hrt``.
            Columns that are named head, relation and tail, or the like, go by their names.
        split_ratios: the shares of train, valid and test of which those that are missing are drawn.
        seed: of that draw, and for generating a graph.
        header: whether the first line of text files is a header; None: if it names the columns.

    Raises:
        InputError: nothing is found, or a file is not as described (with file and line number).
    """
    check_columns(columns)
    check_ratios(split_ratios)
    text, path = locate(name_or_path, data_dir)
    source = source_arguments(text, path, columns, split_ratios, seed, header)
    if path is None:
        return Graph(name=text, source=source, **_generated(text, seed))
    if is_prepared(path):
        return load_prepared(path, source)
    if is_saved(path):
        return load_saved(path, source)
    notes: list[str] = []
    found = {
        name: read_triples(file, columns, header, notes) for name, file in graph_files(path).items()
    }
    fields = number_triples(
        path,
        found,
        split_ratios,
        seed,
        entity_labels=_human_labels(path / ENTITY_LABELS),
        relation_labels=_human_labels(path / RELATION_LABELS),
        notes=notes,
    )
    return Graph(name=graph_name(path), source=source, **fields)


def as_graph(graph: Graph | str | os.PathLike[str]) -> Graph:
    """The graph itself, or what ``load_graph`` loads by that name or path."""
    return graph if isinstance(graph, Graph) else load_graph(graph)


def load_source(
    source: Mapping[str, Any],
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    moved: str | os.PathLike[str] | None = None,
) -> Graph:
    """Load a graph again, as ``Graph.source`` says.

    Args:
        source: the arguments of ``load_graph``; those that are not there have their defaults.
        name: what the graph is called: looked up where its file or folder is gone.
        data_dir: where to look for a name first.
        moved: the name or path of the graph, if that is no longer what it was.

    Raises:
        InputError: it is found nowhere, or the arguments are not those of ``load_graph``.
    """
    known: dict[str, tuple[type, ...]] = {
        "name_or_path": (str,),
        "data_dir": (str, type(None)),
        "columns": (str,),
        "split_ratios": (list, tuple),
        "seed": (int,),
        "header": (bool, type(None)),
    }
    options = {key: source[key] for key in known if key in source}
    if wrong := [key for key, value in options.items() if not isinstance(value, known[key])]:
        raise InputError(f"the {wrong[0]} with which {name} was loaded is not readable")
    where, stored = options.pop("name_or_path", name), options.pop("data_dir", None)
    data_dir = data_dir if data_dir is not None else stored
    if moved is not None:
        where = os.fspath(moved)
    elif os.sep in where and not Path(where).exists() and Path(name).name == name:
        try:
            return load_graph(name, data_dir, **options)
        except InputError:
            pass  # what is missing is the file or folder that the graph came from
    return load_graph(where, data_dir, **options)


def _generated(text: str, seed: int) -> GraphFields:
    entities, relations, parts_of = generate(text, seed)
    found: dict[str, list[IntArray]] = {name: [] for name in SPLITS}
    for name, rows in parts_of:
        found[name].append(rows)
    splits: dict[str, Triples] = {}
    for name in SPLITS:
        head, relation, tail = np.concatenate(found[name]).T
        splits[name] = Triples(
            Column(entities, head), Column(relations, relation), Column(entities, tail), len(head)
        )
    return number_triples(text, splits, DEFAULT_RATIOS, seed)


def _human_labels(path: Path) -> dict[str, str]:
    """Human label by label; none if there is no such file."""
    if not path.exists():
        return {}
    columns = whole(read_labels(path, ("id", "label"))).values()
    raw, human = (column.labels.take(pa.array(column.codes)).to_pylist() for column in columns)
    return dict(zip(raw, human, strict=True))
