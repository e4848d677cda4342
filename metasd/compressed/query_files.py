"""Files of queries and of triples, and the files that answer them; `-` is a standard stream."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from metasd.errors import InputError, error_context
from metasd.files import write_lines

from .answers import Answers, Query
from .model import CompressedModel

_BATCH = 256  # queries answered between two reports of progress
_UNKNOWN = ("", "?")
_STANDARD = "-"  # input or output
_HEADER = "head\trelation\ttail\trank\tentity\tlabel\tscore\tprobability\tknown"

PathLike = str | os.PathLike[str]


class Answered(NamedTuple):
    """How many queries a file had, and how many known answers of them were left out."""

    queries: int
    hidden: int


def answer_file(
    model: CompressedModel,
    source: PathLike,
    target: PathLike = _STANDARD,
    k: int = 10,
    *,
    typed: bool = False,
    keep_known: bool = False,
    as_json: bool = False,
    columns: str = "hrt",
    header: bool | None = None,
    notes: list[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Answered:
    """Answers a file of queries by a file of lines.

    Args:
        source: a file as of a graph (see `load_graph`): head, relation and tail, one of head and
            tail empty or `?`.
        target: lines `head, relation, tail, rank, entity, label, score, probability, known` under a
            header, separated by tabs, the entity in its place; written whole or not at all.
        k: answers per query, at most.
        typed, keep_known: see `CompressedModel.answers`.
        as_json: writes a line of JSON per query instead: head, relation, tail (null for what is
            asked), answers, and how many known ones are hidden.
        columns, header: as for `load_graph`.
        notes: gets a line for everything unusual in the file.
        progress: called with how many queries are answered, and how many there are.

    Raises:
        InputError: a row is no query, or names what the model does not know.
    """
    queries: list[Query] = []
    for where, (head, relation, tail) in _read_rows(source, columns, header, notes, gaps=True):
        query = Query(_asked(head), relation, _asked(tail))
        with error_context(where):
            if not relation or (query.head is None) == (query.tail is None):
                raise InputError("wanted head, relation and tail, with ? for what is asked")
            model.query_ids(query)
        queries.append(query)
    hidden = 0

    def lines() -> Iterator[str]:
        nonlocal hidden
        if not as_json:
            yield _HEADER
        for start in range(0, len(queries), _BATCH):
            part = queries[start : start + _BATCH]
            found = model.answers(part, k, typed=typed, keep_known=keep_known)
            for query, answers in zip(part, found, strict=True):
                hidden += answers.num_hidden
                if as_json:
                    yield _answer_json(query, answers)
                else:
                    yield from _answer_lines(query, answers)
            if progress is not None:
                progress(start + len(part), len(queries))

    _write(target, lines())
    return Answered(len(queries), hidden)


def score_file(
    model: CompressedModel,
    source: PathLike,
    target: PathLike = _STANDARD,
    *,
    ranks: bool = False,
    as_json: bool = False,
    columns: str = "hrt",
    header: bool | None = None,
    notes: list[str] | None = None,
) -> int:
    """Scores a file of triples; returns their number.

    Args:
        source: a file as of a graph (see `load_graph`).
        target: lines `head, relation, tail, score` under a header, separated by tabs, or a JSON
            list of objects with these keys; written whole or not at all.
        ranks: also `head_rank` and `tail_rank`; see `CompressedModel.ranks`.
        columns, header, notes: as for `answer_file`.

    Raises:
        InputError: a row is no triple, or names what the model does not know.
    """
    triples, ids = [], []
    for where, triple in _read_rows(source, columns, header, notes, gaps=False):
        with error_context(where):
            ids.append(model.triple_ids([triple]))
        triples.append(triple)
    found = np.concatenate(ids)
    values = {"score": model.score(found).tolist()}
    if ranks:
        values |= dict(zip(("head_rank", "tail_rank"), model.ranks(found).T.tolist(), strict=True))
    names = ["head", "relation", "tail", *values]
    rows = [(*triple, *rest) for triple, *rest in zip(triples, *values.values(), strict=True)]
    if as_json:
        records = [dict(zip(names, row, strict=True)) for row in rows]
        _write(target, [json.dumps(records, indent=1)])
    else:
        shown = ([f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in rows)
        _write(target, ("\t".join(row) for row in [names, *shown]))
    return len(rows)


def _answer_lines(query: Query, answers: Answers) -> Iterator[str]:
    head, relation, tail = query
    for rank, (entity, label, score, probability, known) in enumerate(answers, 1):
        whole = (head or entity, relation, tail or entity, str(rank), entity, label)
        mark = "" if known is None else str(known).lower()
        yield "\t".join((*whole, f"{score:.6g}", f"{probability:.6g}", mark))


def _answer_json(query: Query, answers: Answers) -> str:
    found = [answer._asdict() for answer in answers]
    return json.dumps({**query._asdict(), "answers": found, "hidden": answers.num_hidden})


def _asked(field: str) -> str | None:
    return None if field in _UNKNOWN else field


def _read_rows(
    source: PathLike, columns: str, header: bool | None, notes: list[str] | None, *, gaps: bool
) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """The labels of each row, and where it is, for errors."""
    from metasd.data.columns import check_columns
    from metasd.data.triple_files import read_rows  # queries that are in no file need no pyarrow

    check_columns(columns)
    with _as_file(source) as (path, name):
        try:
            rows = list(read_rows(path, columns, header, [] if notes is None else notes, gaps=gaps))
        except InputError as error:
            raise InputError(str(error).replace(str(path), name)) from None
    for number, row in enumerate(rows, 1):
        yield f"{name}: row {number}", row


@contextmanager
def _as_file(source: PathLike) -> Iterator[tuple[Path, str]]:
    """A file and its name; standard input becomes a temporary one, which can be read again."""
    if str(source) != _STANDARD:
        yield Path(source), str(source)
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "standard input"
        path.write_bytes(sys.stdin.buffer.read())
        yield path, path.name


def _write(path: PathLike, lines: Iterable[str]) -> None:
    if str(path) != _STANDARD:
        write_lines(Path(path), lines)
        return
    for line in lines:
        sys.stdout.write(line + "\n")
