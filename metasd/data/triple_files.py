"""Triple files, text or Parquet, as columns of labels; errors name the file and the line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from metasd.errors import InputError

_BLOCK = 16 << 20  # bytes of text that are parsed at once
_ROWS = 1 << 20  # rows of Parquet likewise
_DICTIONARY = pa.dictionary(pa.int32(), pa.large_string())


class Column(NamedTuple):
    """Strings as a dictionary of distinct labels and int codes into it."""

    labels: pa.Array
    codes: npt.NDArray[np.integer]


class Triples(NamedTuple):
    head: Column
    relation: Column
    tail: Column


def read_triples(path: Path, columns: str) -> Triples:
    return Triples(**whole(read_batches(path, columns)))


def read_batches(path: Path, columns: str) -> Iterator[pa.RecordBatch]:
    """The rows in order, some at a time: dictionary columns ``head``, ``relation`` and ``tail``."""
    names = {"h": "head", "r": "relation", "t": "tail"}
    fields = [names[letter] for letter in columns]
    return (_read_parquet if path.suffix == ".parquet" else read_text)(path, fields)


def whole(batches: Iterable[pa.RecordBatch]) -> dict[str, Column]:
    """All rows at once."""
    table = pa.Table.from_batches(list(batches)).unify_dictionaries()
    columns = {}
    for name in table.column_names:
        chunks = table[name].chunks
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
        columns[name] = Column(chunks[0].dictionary, codes)
    return columns


def read_text(path: Path, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        with _open(path) as file:
            batches = pacsv.open_csv(
                file,
                read_options=pacsv.ReadOptions(column_names=list(fields), block_size=_BLOCK),
                parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(fields, _DICTIONARY), strings_can_be_null=False
                ),
            )
            for batch in batches:
                if any(pc.any(_bad(column.dictionary)).as_py() for column in batch.columns):
                    raise InputError(_first_bad_line(path, len(fields)) or f"{path}: a bad field")
                rows += len(batch)
                if len(batch):
                    yield batch
        if not rows:
            raise InputError(f"{path}: the file is empty")
    except pa.ArrowInvalid as error:
        line = _first_bad_line(path, len(fields))
        raise InputError(line or f"{path}: {str(error).splitlines()[0]}") from None
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file ({error})") from None
    except (EOFError, zlib.error):
        raise InputError(f"{path}: the gzip file is damaged or cut off") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _read_parquet(path: Path, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(names) != len(fields):
                raise InputError(f"{path}: {len(names)} columns, wanted {len(fields)}")
            names = names if set(names) == set(fields) else list(fields)
            schema = pa.schema([(name, pa.large_string()) for name in names])
            for batch in file.iter_batches(_ROWS):
                table = pa.Table.from_batches([batch]).rename_columns(names).cast(schema)
                for name in fields:
                    bad = pc.fill_null(_bad(table[name]), True)
                    if (row := pc.index(bad, True).as_py()) >= 0:
                        label = table[name][row].as_py()
                        what = (
                            f"{label!r} holds a tab, a line break or NUL" if label else "is empty"
                        )
                        raise InputError(f"{path}: row {rows + row + 1}: {name} {what}")
                rows += len(table)
                columns = [table[name].combine_chunks().dictionary_encode() for name in names]
                if len(table):
                    yield pa.RecordBatch.from_arrays(columns, names)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a Parquet file of text columns ({reason})") from None
    if not rows:
        raise InputError(f"{path}: the file has no triples")


def _bad(labels: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Which of them are empty, or could not be written in a line of a file with tabs."""
    return pc.match_substring_regex(labels, r"^$|[\t\n\r\x00]")


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _first_bad_line(path: Path, width: int) -> str:
    """What is wrong with the first line that is not ``width`` UTF-8 fields; "" if none is."""
    empty = True
    with io.TextIOWrapper(_open(path), encoding="latin-1") as file:  # any byte, any line end
        for number, text in enumerate(file, start=1):
            line = text.encode("latin-1").removesuffix(b"\n")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            fields = line.split(b"\t")
            if not line:
                continue
            empty = False
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
    return f"{path}: the file is empty" if empty else ""
