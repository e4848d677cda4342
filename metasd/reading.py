"""Triple files, text or Parquet, as columns of labels; errors name the file and the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from metasd.errors import InputError


class Column(NamedTuple):
    """Strings as a dictionary of distinct labels and int codes into it."""

    labels: pa.Array
    codes: npt.NDArray[np.integer]


class Triples(NamedTuple):
    head: Column
    relation: Column
    tail: Column


def read_triples(path: Path, columns: str) -> Triples:
    names = {"h": "head", "r": "relation", "t": "tail"}
    fields = [names[letter] for letter in columns]
    read = _read_parquet if path.suffix == ".parquet" else read_text
    return Triples(**read(path, fields))


def read_text(path: Path, fields: Sequence[str]) -> dict[str, Column]:
    data = _read_bytes(path)
    if not data.strip():
        raise InputError(f"{path}: the file is empty")
    try:
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(column_names=list(fields)),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.dictionary(pa.int32(), pa.string()) for name in fields},
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        line = _first_bad_line(path, data, len(fields))
        raise InputError(line or f"{path}: {str(error).splitlines()[0]}") from None
    columns = {name: _column(table[name]) for name in fields}
    if any(pc.any(_bad(column.labels)).as_py() for column in columns.values()):
        raise InputError(_first_bad_line(path, data, len(fields)) or f"{path}: a bad field")
    return columns


def _read_parquet(path: Path, fields: Sequence[str]) -> dict[str, Column]:
    try:
        table = pq.read_table(path)
        if table.num_columns != len(fields):
            raise InputError(f"{path}: {table.num_columns} columns, wanted {len(fields)}")
        if set(table.column_names) != set(fields):
            table = table.rename_columns(list(fields))
        table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a Parquet file of text columns ({reason})") from None
    if not table.num_rows:
        raise InputError(f"{path}: the file has no triples")
    for name in fields:
        if (row := pc.index(pc.fill_null(_bad(table[name]), True), True).as_py()) >= 0:
            label = table[name][row].as_py()
            what = f"{label!r} holds a tab, a line break or NUL" if label else "is empty"
            raise InputError(f"{path}: row {row + 1}: {name} {what}")
    return {name: _column(table[name].dictionary_encode()) for name in fields}


def _bad(labels: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Which of them are empty, or could not be written in a line of a file with tabs."""
    return pc.match_substring_regex(labels, r"^$|[\t\n\r\x00]")


def _column(column: pa.ChunkedArray) -> Column:
    chunks = column.unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
    return Column(chunks[0].dictionary, codes)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file ({error})") from None
    except (EOFError, zlib.error):
        raise InputError(f"{path}: the gzip file is damaged or cut off") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _first_bad_line(path: Path, data: bytes, width: int) -> str:
    """What is wrong with the first line that is not ``width`` UTF-8 fields; "" if none is."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        fields = line.split(b"\t")
        if not line:
            continue
        if len(fields) != width:
            count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
            return f"{path}: line {number}: {count}, wanted {width} separated by tabs"
        if not all(fields):
            return f"{path}: line {number}: field {fields.index(b'') + 1} is empty"
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"{path}: line {number}: not UTF-8 text"
        if b"\0" in line:
            return f"{path}: line {number}: a label holds NUL"
    return ""
