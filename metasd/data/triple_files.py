"""Triple files of every format as columns of labels; errors name the file and the line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metasd.errors import InputError
from metasd.files import open_regular

from .bounded import inflation_limit, too_inflated
from .columns import FIELDS, choose_columns
from .rdf_files import read_rdf
from .sorting import sorted_unique
from .text_files import bad_labels, read_text_triples

_KINDS = (".txt", ".tsv", ".csv", ".nt", ".ttl")
SUFFIXES = (*(kind + packed for kind in _KINDS for packed in ("", ".gz")), ".parquet")

_ROWS = 1 << 20  # rows of Parquet that are read at once
_GATHERED = 4 << 20  # rows after which those that are there twice are dropped


class Column(NamedTuple):
    """Strings as a dictionary of distinct labels and int codes into it."""

    labels: pa.Array
    codes: npt.NDArray[np.integer]


class Triples(NamedTuple):
    """`rows`: how many the file has; of many, those that are there twice may have been dropped."""

    head: Column
    relation: Column
    tail: Column
    rows: int


def suffix_of(path: Path) -> str:
    """The part of a name that says the format, such as ``.csv.gz``; "" if it is none that is known.

    A file of another name is read like ``.tsv``.
    """
    name = path.name.casefold()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def read_triples(path: Path, columns: str, header: bool | None, notes: list[str]) -> Triples:
    """All triples of a file, in memory in proportion to those that differ."""
    gathered: list[pa.RecordBatch] = []
    rows = held = 0
    most = _GATHERED
    for batch in read_batches(path, columns, header, notes):
        gathered.append(batch)
        rows, held = rows + len(batch), held + len(batch)
        if held > most:
            gathered = [_distinct(gathered)]
            held = len(gathered[0])
            most = 2 * held + _GATHERED
    return Triples(**whole(gathered), rows=rows)


def read_rows(
    path: Path, columns: str, header: bool | None, notes: list[str], *, gaps: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Head, relation and tail of each row; the arguments are those of ``read_batches``."""
    for batch in read_batches(path, columns, header, notes, gaps=gaps):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def read_batches(
    path: Path, columns: str, header: bool | None, notes: list[str], *, gaps: bool = False
) -> Iterator[pa.RecordBatch]:
    """The rows in order, some at a time: dictionary columns ``head``, ``relation`` and ``tail``.

    Args:
        columns: the order of the columns where they have no names.
        header: of text files, whether their first line names the columns; None: if it looks so.
        notes: gets a line for everything unusual, at the latest when all rows are read.
        gaps: labels may be missing, and are empty then.
    """
    kind = suffix_of(path).removesuffix(".gz")
    if kind == ".parquet":
        return _read_parquet(path, columns, notes, gaps)
    if kind in (".nt", ".ttl"):
        return read_rdf(path, notes, turtle=kind == ".ttl")
    return read_text_triples(path, columns, header, notes, commas=kind == ".csv", gaps=gaps)


def whole(batches: Iterable[pa.RecordBatch]) -> dict[str, Column]:
    """All rows at once."""
    table = pa.Table.from_batches(list(batches)).unify_dictionaries()
    columns = {}
    for name in table.column_names:
        chunks = table[name].chunks
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
        columns[name] = Column(chunks[0].dictionary, codes)
    return columns


def _distinct(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch:
    """The rows that differ, sorted by their codes."""
    columns = whole(batches)
    head, relation, tail = (column.codes.astype(np.int64) for column in columns.values())
    labels = [column.labels for column in columns.values()]
    sizes = max(len(labels[0]), len(labels[2])), len(labels[1])
    codes = sorted_unique(np.stack([head, relation, tail], axis=1), *sizes).astype(np.int32)
    arrays = [
        pa.DictionaryArray.from_arrays(pa.array(np.ascontiguousarray(code)), label)
        for code, label in zip(codes.T, labels, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, list(columns))


def label_batch(
    table: pa.Table, where: object, before: int = 0, gaps: bool = False
) -> pa.RecordBatch:
    """Three columns of labels or numbers as dictionary columns.

    Args:
        table: columns ``head``, ``relation`` and ``tail``; numbers become their decimal digits.
        where: what the table is, for errors.
        before: the number of rows before it, for errors.
        gaps: labels may be missing, and are empty then.

    Raises:
        InputError: a label is missing, empty, or holds a tab, a line break or NUL.
    """
    names = list(FIELDS.values())
    table = table.cast(pa.schema([(name, pa.large_string()) for name in names]))
    for place, name in enumerate(names):
        if gaps:
            table = table.set_column(place, name, pc.fill_null(table[name], ""))
        bad = pc.fill_null(bad_labels(table[name], gaps), True)
        if (row := pc.index(bad, True).as_py()) >= 0:
            label = table[name][row].as_py()
            what = f"{label!r} holds a tab, a line break or NUL" if label else "is empty"
            raise InputError(f"{where}: row {before + row + 1}: {name} {what}")
    columns = [table[name].combine_chunks().dictionary_encode() for name in names]
    arrays = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns]
    for array in arrays:
        array.dictionary.validate(full=True)  # Parquet's strings may be no UTF-8
    return pa.RecordBatch.from_arrays(arrays, names)


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, whose pages inflate no more than those of a .gz may.

    Raises:
        InputError: they do.
        OSError, ArrowException: it is no Parquet file.
    """
    with open_regular(path) as opened, pq.ParquetFile(opened) as file:
        metadata = file.metadata
        groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
        size = max(metadata.num_rows, sum(group.total_byte_size for group in groups))
        if size > inflation_limit(path.stat().st_size):
            raise too_inflated(path)
        yield file


def _read_parquet(
    path: Path, columns: str, notes: list[str], gaps: bool
) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        with open_parquet(path) as file:
            names = file.schema_arrow.names
            places = choose_columns(names, columns, path)
            if len(names) > 3:
                left = [name for i, name in enumerate(names) if i not in places]
                shown = ", ".join(left[:6])
                notes.append(f"{path.name}: {len(left)} columns are not read ({shown})")
            wanted = [names[place] for place in places] if len(names) > 3 else None
            for batch in file.iter_batches(_ROWS, columns=wanted):
                table = pa.Table.from_batches([batch])
                order = places if wanted is None else [table.column_names.index(n) for n in wanted]
                if len(table):
                    named = table.select(order).rename_columns(list(FIELDS.values()))
                    yield label_batch(named, path, rows, gaps)
                rows += len(table)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["damaged"])[0]
        raise InputError(f"{path}: not a Parquet file of text columns ({reason})") from None
    if not rows:
        raise InputError(f"{path}: the file has no triples")
