"""Graphs on disk: written once by streaming, then mapped into memory instead of read."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metasd.errors import InputError
from metasd.files import check_regular, new_folder, read_file, read_json, write_text

from .columns import check_columns
from .filter_index import KnownAnswers, runs
from .graph import Graph
from .mapped_labels import MappedHuman, MappedLabels
from .notes import duplicate_notes, label_notes, limit_of, split_notes
from .numbering import are_numbers, label_order
from .sorting import PART, IntArray, RowFile, parts, sorted_parts
from .sources import (
    ENTITY_LABELS,
    PREPARED,
    RELATION_LABELS,
    generate,
    graph_files,
    graph_name,
    is_prepared,
    is_saved,
    locate,
    source_arguments,
)
from .splits import DEFAULT_RATIOS, SPLITS, check_ratios, draw_splits
from .text_files import read_labels
from .triple_files import read_batches

DEFAULT_MEMORY = 1 << 30
_FORMAT = 1
_BLOCK = 4 << 20  # rows whose labels are numbered together
_SMALL = 1 << 20  # bytes of a file that is checked whole when it is loaded
_ARRAYS = (  # _text: uint8; the others: int64
    *SPLITS,
    *("entities_text", "entities_offsets", "relations_text", "relations_offsets"),
    *("human_text", "human_offsets", "human_order"),
    *("known_keys", "known_indptr", "known_indices"),
    *("entity_counts", "relation_counts"),
)


def prepare(
    name_or_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    columns: str = "hrt",
    split_ratios: tuple[float, float, float] = DEFAULT_RATIOS,
    seed: int = 0,
    header: bool | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Graph:
    """Write a graph into a folder that ``load_graph`` maps into memory: for graphs of any size.

    Ids, triples and digest are those that ``load_graph`` gives the same data. In memory are the
    distinct labels, 8 bytes an entity some times over, and ``memory``; where valid or test are
    drawn from train, 10 bytes a triple of train, too.

    Args:
        name_or_path, data_dir, columns, split_ratios, seed, header: as for ``load_graph``.
        out: the folder, which appears whole or not at all; while it is written, three times the
            size of the triples is needed beside it.
        memory: bytes for sorting.

    Returns:
        The graph, mapped.

    Raises:
        InputError: as ``load_graph``; or ``out`` is there already.
    """
    check_columns(columns)
    check_ratios(split_ratios)
    if memory < 1 << 20:
        raise InputError(f"memory must be at least 1 MiB (1048576); got {memory}")
    text, path = locate(name_or_path, data_dir)
    if path is not None and is_prepared(path):
        raise InputError(f"{path}: is prepared already")
    if path is not None and is_saved(path):
        raise InputError(f"{path}: was made by a run in memory, which prepare does not read")
    with new_folder(Path(out).expanduser()) as folder, ExitStack() as stack:
        files = {name: stack.enter_context(tempfile.TemporaryFile(dir=folder)) for name in SPLITS}
        notes: list[str] = []
        if path is None:
            spool = _generated(files, text, seed)
        else:
            spool = _Spool(files, pa.array([], pa.string()), pa.array([], pa.string()))
            for split, file in graph_files(path).items():
                spool.read(split, read_batches(file, columns, header, notes))
        entities, relations = spool.entities.sorted, spool.relations.sorted
        notes += _write_triples(spool, folder, memory)
        notes += label_notes(entities, relations)
        if path is not None and (missing := [s for s in SPLITS if s not in graph_files(path)]):
            sizes = len(entities), len(relations)
            notes.append(_draw(folder, path, sizes, missing, split_ratios, seed))
        _write_labels(folder, "entities", entities)
        _write_labels(folder, "relations", relations)
        _write_human(folder, path and path / ENTITY_LABELS, entities)
        description: dict[str, Any] = {
            "format": _FORMAT,
            "name": text if path is None else graph_name(path),
            "entities": len(entities),
            "relations": len(relations),
            "entities_are_numbers": are_numbers(entities),
            "relation_labels": _human_labels(path and path / RELATION_LABELS, relations),
            "notes": notes,
        }
        graph = _graph(description, {key: _map(folder, key) for key in _ARRAYS[:10]}, None)
        splits = {split: graph.split(split) for split in SPLITS}
        notes += split_notes(splits, graph.relations, graph.num_entities, limit_of(memory))
        _write_derived(graph, folder, memory)
        description |= {
            "unseen": graph.unseen,
            "digest": graph.digest,
            "files": {key: _found(folder, key) for key in _ARRAYS},
        }
        write_text(folder / PREPARED, json.dumps(description, indent=1) + "\n")
    made = Path(out).expanduser().resolve()
    return load_prepared(made, source_arguments("", made, "hrt", DEFAULT_RATIOS, 0, None))


def load_prepared(folder: Path, source: dict[str, Any] | None = None) -> Graph:
    """The graph in a folder of ``prepare``, mapped into memory.

    Shapes and sizes are checked, and the content of files under a MiB; larger ones are not read.

    Raises:
        InputError: the folder is incomplete or damaged, or of another version.
    """
    try:
        stored = read_json(folder / PREPARED)
        if stored["format"] != _FORMAT:
            raise InputError(
                f"{folder}: format {stored['format']}, not {_FORMAT}: prepare it again"
            )
        for key in _ARRAYS:
            if _found(folder, key) != stored["files"][key]:
                raise InputError(f"{folder / key}.npy: missing, damaged or of another graph")
        arrays = {key: _map(folder, key) for key in _ARRAYS}
        graph = _graph(stored, arrays, source)
        keys, indptr, indices = (arrays[f"known_{part}"] for part in ("keys", "indptr", "indices"))
        # What a graph computes when it is first asked is there already; copies compute their own.
        graph.__dict__.update(
            digest=stored["digest"],
            unseen=stored["unseen"],
            entity_counts=arrays["entity_counts"],
            relation_counts=arrays["relation_counts"],
            _known=KnownAnswers(keys, indptr, indices, graph.num_entities, 2 * graph.num_relations),
        )
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / PREPARED}: damaged") from None
    return graph


class _Numbers:
    """Distinct labels, numbered in the order in which they were met."""

    def __init__(self, labels: pa.Array) -> None:
        self._labels = labels.cast(pa.large_string())

    def of(self, columns: list[pa.DictionaryArray]) -> IntArray:
        """The numbers of all these labels, one column after the other."""
        dictionaries = [column.dictionary for column in columns]
        chunks = pa.chunked_array([self._labels, *dictionaries]).dictionary_encode().chunks
        self._labels = chunks[-1].dictionary
        numbers = [chunk.indices.to_numpy() for chunk in chunks[-len(columns) :]]
        return np.concatenate(
            [
                number[column.indices.to_numpy()]
                for number, column in zip(numbers, columns, strict=True)
            ]
        )

    @cached_property
    def sorted(self) -> pa.Array:
        """The labels by their ids."""
        return self._labels.take(self._order)

    @cached_property
    def ids(self) -> IntArray:
        """The id of each number."""
        ids = np.empty(len(self._order), dtype=np.int64)
        ids[self._order.to_numpy()] = np.arange(len(ids))
        return ids

    @cached_property
    def _order(self) -> pa.Array:
        return label_order(self._labels)


class _Spool:
    """The triples of the splits in files, as numbers of labels (int32) in the order of reading."""

    def __init__(
        self, files: Mapping[str, IO[bytes]], entities: pa.Array, relations: pa.Array
    ) -> None:
        self._files = files
        self.rows = dict.fromkeys(files, 0)
        self.entities, self.relations = _Numbers(entities), _Numbers(relations)

    def read(self, split: str, batches: Iterable[pa.RecordBatch]) -> None:
        for block in _blocks(batches):
            heads, relations, tails = (
                [batch[name] for batch in block] for name in ("head", "relation", "tail")
            )
            head, tail = np.split(self.entities.of(heads + tails), 2)
            self.write(split, np.stack([head, self.relations.of(relations), tail], axis=1))

    def write(self, split: str, rows: npt.NDArray[np.integer]) -> None:
        self._files[split].write(np.ascontiguousarray(rows, dtype=np.int32).data)
        self.rows[split] += len(rows)

    def triples(self, split: str) -> Iterator[IntArray]:
        file = self._files[split]
        file.seek(0)
        while read := file.read(12 * PART):
            head, relation, tail = np.frombuffer(read, dtype=np.int32).reshape(-1, 3).T
            entity, of_relation = self.entities.ids, self.relations.ids
            yield np.stack([entity[head], of_relation[relation], entity[tail]], axis=1)


def _generated(files: Mapping[str, IO[bytes]], text: str, seed: int) -> _Spool:
    """The triples of a generated graph."""
    entities, relations, generated = generate(text, seed)
    spool = _Spool(files, entities, relations)
    for split, rows in generated:
        spool.write(split, rows)
    return spool


def _blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches of at least so many rows together, but for the last."""
    block: list[pa.RecordBatch] = []
    for batch in batches:
        block.append(batch)
        if sum(map(len, block)) >= _BLOCK:
            yield block
            block = []
    if block:
        yield block


def _write_triples(spool: _Spool, folder: Path, memory: int) -> list[str]:
    """Writes the arrays of the splits; returns notes."""
    sizes = len(spool.entities.ids), len(spool.relations.ids)
    dropped = {}
    for split in SPLITS:
        triples = functools.partial(spool.triples, split)
        with RowFile(folder / f"{split}.npy", 3) as file:
            for rows in sorted_parts(triples, *sizes, folder, memory):
                file.append(rows)
        dropped[split] = spool.rows[split] - file.rows
    return duplicate_notes(dropped)


def _draw(
    folder: Path,
    path: Path,
    sizes: tuple[int, int],
    missing: list[str],
    shares: tuple[float, float, float],
    seed: int,
) -> str:
    """Moves triples from train to the splits that are missing; returns a note."""
    (folder / "train.npy").rename(folder / "whole.npy")
    whole = _map(folder, "whole")
    number, note = draw_splits(path, whole, sizes, missing, shares, seed)
    for split in ("train", *missing):
        with RowFile(folder / f"{split}.npy", 3) as file:
            for rows, numbers in zip(parts(whole), parts(number), strict=True):
                file.append(rows[numbers == SPLITS.index(split)])
    (folder / "whole.npy").unlink()
    return note


def _write_labels(folder: Path, name: str, labels: pa.Array) -> None:
    """Writes a whole array of large strings that has no nulls."""
    _, offsets, text = labels.buffers()
    ends = np.frombuffer(offsets, np.int64)[labels.offset :][: len(labels) + 1]
    letters = np.frombuffer(b"" if text is None else text, np.uint8)[ends[0] : ends[-1]]
    np.save(folder / f"{name}_text.npy", letters, allow_pickle=False)
    np.save(folder / f"{name}_offsets.npy", ends - ends[0], allow_pickle=False)


def _write_human(folder: Path, path: Path | None, entities: pa.Array) -> None:
    """Writes human labels by entity, or none at all; of two for the same entity the last."""
    ids, texts = [np.empty(0, dtype=np.int64)], [pa.array([], pa.large_string())]
    for block in _blocks(read_labels(path, ("id", "label"))) if path and path.exists() else ():
        raw, text = (
            pa.chunked_array([batch[name].dictionary_decode() for batch in block])
            for name in ("id", "label")
        )
        places = pc.index_in(raw, value_set=entities)
        ids.append(places.drop_null().to_numpy().astype(np.int64))
        texts.extend(text.filter(places.is_valid()).chunks)
    found = np.concatenate(ids)
    order = np.empty(0, dtype=np.int64)
    human = pa.array([], pa.large_string())
    if len(found):
        last = np.full(len(entities), -1)
        last[found] = np.arange(len(found))
        human = pa.chunked_array(texts).take(pa.array(last, mask=last < 0))
        human = human.fill_null("").combine_chunks()
        order = np.flatnonzero(last >= 0)
        order = order[pc.array_sort_indices(human.take(pa.array(order))).to_numpy()]
    _write_labels(folder, "human", human)
    np.save(folder / "human_order.npy", order, allow_pickle=False)


def _human_labels(path: Path | None, relations: pa.Array) -> dict[str, str]:
    """Human label by label of relations; of two for the same relation the last."""
    if path is None or not path.exists():
        return {}
    used, human = set(relations.to_pylist()), {}
    for batch in read_labels(path, ("id", "label")):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        human.update({raw: text for raw, text in rows if raw in used})
    return human


def _write_derived(graph: Graph, folder: Path, memory: int) -> None:
    """Writes the known answers of all splits, and how often everything is in train."""
    num_relations = 2 * graph.num_relations

    def triples() -> Iterator[IntArray]:
        for split in SPLITS:
            for rows in parts(graph.split(split)):
                yield graph.with_inverses(rows)

    with ExitStack() as stack:
        keys, indptr, indices = (
            stack.enter_context(RowFile(folder / f"known_{name}.npy"))
            for name in ("keys", "indptr", "indices")
        )
        for rows in sorted_parts(triples, graph.num_entities, num_relations, folder, memory):
            queries, starts = runs(rows, num_relations)
            keys.append(queries)
            indptr.append(starts + indices.rows)
            indices.append(rows[:, 2])
        indptr.append(np.array([indices.rows]))
    for name in ("entity_counts", "relation_counts"):
        np.save(folder / f"{name}.npy", getattr(graph, name), allow_pickle=False)


def _graph(stored: dict[str, Any], arrays: dict[str, Any], source: dict[str, Any] | None) -> Graph:
    numbers = bool(stored.get("entities_are_numbers"))
    entities, relations, human = (
        MappedLabels(arrays[f"{kind}_text"], arrays[f"{kind}_offsets"], order, numbers=by_length)
        for kind, order, by_length in (
            ("entities", None, numbers),
            ("relations", None, False),
            ("human", arrays["human_order"], False),
        )
    )
    return Graph(
        name=stored["name"],
        entities=entities,
        relations=list(relations),
        entity_labels=MappedHuman(entities, human) if len(human) else {},
        relation_labels=dict(stored.get("relation_labels", {})),
        train=arrays["train"],
        valid=arrays["valid"],
        test=arrays["test"],
        notes=tuple(stored["notes"]),
        source=source,
    )


def _map(folder: Path, name: str) -> Any:
    """The array in a file; triples as a memory map, which tells what it is."""
    path = folder / f"{name}.npy"
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (SyntaxError, TokenError) as error:  # its header is read as Python's literals
        raise ValueError(f"{path}: {error}") from None
    return array if array.ndim == 2 else array.view(np.ndarray)


def _found(folder: Path, name: str) -> dict[str, Any] | None:
    """What tells an array's file: its shape and size, and the content of a small one."""
    path = folder / f"{name}.npy"
    try:
        array, size = _map(folder, name), path.stat().st_size
    except (OSError, ValueError, EOFError, AttributeError):
        return None
    crc = zlib.crc32(read_file(path)) if size <= _SMALL else None
    return {"shape": list(array.shape), "dtype": array.dtype.str, "bytes": size, "crc32": crc}
