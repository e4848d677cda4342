"""N-Triples and Turtle, read by pyoxigraph, as columns of labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from metasd.errors import InputError

from .bounded import file_errors, open_lines

_ROWS = 1 << 18  # triples that are gathered at once
_ANONYMOUS = re.compile(r"[0-9a-f]{20,32}")  # how pyoxigraph names a blank node that has no name


def read_rdf(path: Path, notes: list[str], *, turtle: bool) -> Iterator[pa.RecordBatch]:
    """Dictionary columns ``head``, ``relation`` and ``tail``, some rows at a time.

    Labels are IRIs without angle brackets, and blank nodes such as ``_:b0``; those of Turtle that
    have no name are numbered in the order of the file. Triples with a literal are left out.

    Args:
        notes: gets a line with their number.
    """
    try:
        from pyoxigraph import RdfFormat, parse
    except ModuleNotFoundError:
        raise InputError(
            f'{path}: N-Triples and Turtle are read by pyoxigraph: pip install "metasd[rdf]"'
        ) from None
    names = _Names(turtle)
    skipped, count = 0, 0
    rows: list[tuple[str, str, str]] = []
    try:
        with file_errors(path), open_lines(path) as file:
            stream = cast(IO[bytes], file)
            for triple in parse(stream, RdfFormat.TURTLE if turtle else RdfFormat.N_TRIPLES):
                head, tail = names.of(triple.subject), names.of(triple.object)
                if head is None or tail is None:
                    skipped += 1
                    continue
                rows.append((head, triple.predicate.value, tail))
                if len(rows) == _ROWS:
                    yield _batch(rows)
                    count += len(rows)
                    rows = []
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        reason = re.sub(r"^Parser error .*?\d: ", "", str(error.msg).splitlines()[0])
        raise InputError(f"{path}: {where}{reason}") from None
    if rows:
        yield _batch(rows)
    if skipped:
        notes.append(f"{path.name}: {skipped:,} triples with a literal are left out")
    if not count + len(rows):
        raise InputError(f"{path}: no triples" + f" but {skipped:,} with a literal" * (skipped > 0))


class _Names:
    """The labels of nodes."""

    def __init__(self, turtle: bool) -> None:
        self._turtle = turtle
        self._anonymous: dict[str, str] = {}

    def of(self, node: Any) -> str | None:
        """A label; None of a literal, or of a triple that is itself a node."""
        from pyoxigraph import BlankNode, NamedNode

        if isinstance(node, NamedNode):
            return node.value
        if not isinstance(node, BlankNode):
            return None
        if not self._turtle or not _ANONYMOUS.fullmatch(node.value):
            return f"_:{node.value}"
        number = len(self._anonymous) + 1
        return self._anonymous.setdefault(node.value, f"_:anonymous{number}")


def _batch(rows: list[tuple[str, str, str]]) -> pa.RecordBatch:
    columns = [
        pa.array(column, pa.large_string()).dictionary_encode()
        for column in zip(*rows, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, ["head", "relation", "tail"])
