"""Lines of fields separated by tabs or commas, plain or gzip, as columns of labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from metasd.errors import InputError

from .bounded import file_errors, open_lines
from .columns import FIELDS, choose_columns, looks_named, named_columns

DICTIONARY = pa.dictionary(pa.int32(), pa.large_string())
_BLOCK = 16 << 20  # bytes that are parsed at once
_DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons"}


class Layout(NamedTuple):
    """How the lines of a file are written.

    Attributes:
        delimiter: between fields; but for tabs, fields may be in double quotes.
        header: whether the first line is none of the data.
        width: fields per line.
        places: those that are read.
        names: what they are called.
        gaps: whether fields may be empty.
    """

    delimiter: str
    header: bool
    width: int
    places: Sequence[int]
    names: Sequence[str]
    gaps: bool = False

    def fields(self, line: str) -> list[str]:
        return next(self.reader([line]), [])

    def reader(self, lines: io.TextIOBase | Sequence[str]) -> Iterator[list[str]]:
        if self.delimiter == "\t":
            return (line.rstrip("\r\n").split("\t") for line in lines)
        return csv.reader(lines, delimiter=self.delimiter, strict=True)


def read_labels(path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file with tabs and no header, some at a time: dictionary columns."""
    layout = Layout("\t", False, len(names), range(len(names)), names)
    return _read(path, layout, None)


def read_text_triples(
    path: Path,
    columns: str,
    header: bool | None,
    notes: list[str],
    *,
    commas: bool,
    gaps: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Dictionary columns ``head``, ``relation`` and ``tail``, some rows at a time.

    Args:
        columns: the order of the columns where no header names them.
        header: whether the first line is one; None: if it is made of the names of columns.
        notes: gets a line for a header, for what looks like one, and for columns that are not read.
        commas: fields are separated by commas or semicolons, and may be in quotes; else by tabs.
        gaps: fields may be empty.
    """
    with file_errors(path):
        line = _first_line(path)
        layout = _layout(path, line, columns, header, notes, commas)._replace(gaps=gaps)
    return _read(path, layout, line)


def bad_labels(
    labels: pa.Array | pa.ChunkedArray, gaps: bool = False
) -> pa.Array | pa.ChunkedArray:
    """Which could not be written in a line of a file with tabs, or are empty where no gaps are."""
    return pc.match_substring_regex(labels, r"[\t\n\r\x00]" + "|^$" * (not gaps))


def _first_line(path: Path) -> bytes:
    """The first line that is not empty, with its end."""
    with open_lines(path) as file:
        while line := file.readline():
            if line.removeprefix(b"\xef\xbb\xbf").strip(b"\r\n"):
                return line
    raise InputError(f"{path}: the file is empty")


def _layout(
    path: Path, line: bytes, columns: str, header: bool | None, notes: list[str], commas: bool
) -> Layout:
    text = line.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    order = [columns.index(letter) for letter in FIELDS]
    plain = Layout("\t", False, 3, order, list(FIELDS.values()))
    if commas:
        counts = {mark: text.count(mark) for mark in ",;\t"}
        plain = plain._replace(delimiter=next((m for m in ",;\t" if counts[m] > 1), ","))
    try:
        first = plain.fields(text.rstrip("\r\n").encode("latin-1").decode())
    except (csv.Error, UnicodeDecodeError):
        return plain  # what is wrong with the line is said when it is read
    shown = f"{path.name}: line 1 ({', '.join(first[:6])}{', ...' * (len(first) > 6)})"
    if header is None and named_columns(first, letters=False) is not None:
        notes.append(f"{shown} is taken as a header; --no-header takes it as a triple")
        header = True
    elif header is None and len(first) == 3 and looks_named(first):
        notes.append(f"{shown} looks like a header; it counts as a triple without --header")
    if not header:
        return plain
    places = choose_columns(first, columns, path)
    if len(first) > 3:
        left = [name for i, name in enumerate(first) if i not in places]
        notes.append(f"{path.name}: {len(left)} columns are not read ({', '.join(left[:6])})")
    return plain._replace(header=True, width=len(first), places=places)


def _read(path: Path, layout: Layout, header_line: bytes | None) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        with file_errors(path), open_lines(path) as file:
            for block in _blocks(file):
                if header_line is not None and layout.header:
                    block = block.partition(header_line)[2]
                    header_line = None
                if not block.strip(b"\r\n"):
                    continue
                batch = _parse(block, layout)
                bad = (bad_labels(column.dictionary, layout.gaps) for column in batch.columns)
                if any(pc.any(found).as_py() for found in bad):
                    raise InputError(_first_bad_line(path, layout) or f"{path}: a bad field")
                rows += len(batch)
                if len(batch):
                    yield batch
    except pa.ArrowInvalid as error:
        line = _first_bad_line(path, layout)
        raise InputError(line or f"{path}: {str(error).splitlines()[0]}") from None
    if not rows:
        what = "there is nothing below the header" if layout.header else "the file is empty"
        raise InputError(f"{path}: {what}")


def _blocks(file: io.BufferedReader) -> Iterator[bytes]:
    """The file in blocks of whole lines."""
    rest = b""
    while read := file.read(_BLOCK):
        end = read.rfind(b"\n") + 1
        if end:
            yield rest + read[:end]
            rest = read[end:]
        else:
            rest += read
    if rest:
        yield rest


def _parse(block: bytes, layout: Layout) -> pa.RecordBatch:
    """Rows of a block of lines.

    ``pyarrow.csv.open_csv`` would read the file in a thread of its own. That thread asks for
    Python's lock; after an error the interpreter may be gone by then, and the process aborts.
    """
    names = [str(i) for i in range(layout.width)]
    chosen = [names[place] for place in layout.places]
    table = pacsv.read_csv(
        pa.BufferReader(block),
        read_options=pacsv.ReadOptions(
            column_names=names, block_size=len(block) + 1, use_threads=False
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=layout.delimiter, quote_char=False if layout.delimiter == "\t" else '"'
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(chosen, DICTIONARY),
            include_columns=chosen,
            strings_can_be_null=False,
        ),
    )
    table = table.rename_columns(list(layout.names)).combine_chunks()
    columns = [table[name].chunk(0) for name in layout.names]
    return pa.RecordBatch.from_arrays(columns, list(layout.names))


def _first_bad_line(path: Path, layout: Layout) -> str:
    """What is wrong with the first line that is not as the layout says; "" if none is."""
    empty = True
    with file_errors(path), io.TextIOWrapper(open_lines(path), "latin-1", newline="\n") as file:
        for number, text in enumerate(file, start=1):  # latin-1: any byte
            line = text.encode("latin-1").removesuffix(b"\n").removesuffix(b"\r")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line:
                continue
            if empty and layout.header:
                empty = False
                continue
            empty = False
            if wrong := _wrong(line, layout):
                return f"{path}: line {number}: {wrong}"
    return f"{path}: the file is empty" if empty else ""


def _wrong(line: bytes, layout: Layout) -> str:
    """What is wrong with a line; "" if nothing is."""
    try:
        fields = layout.fields(line.decode("latin-1"))
    except csv.Error as error:
        return f"not fields in double quotes ({error})"
    if len(fields) != layout.width:
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        return f"{count}, wanted {layout.width} separated by {_DELIMITERS[layout.delimiter]}"
    for place in sorted(layout.places):
        if not fields[place] and not layout.gaps:
            return f"field {place + 1} is empty"
    try:
        line.decode()
    except UnicodeDecodeError:
        return "not UTF-8 text"
    for mark, name in (("\0", "NUL"), ("\t", "a tab"), ("\r", "a carriage return")):
        if any(mark in fields[place] for place in layout.places):
            return f"a label holds {name}"
    return ""
