"""Files of queries and of triples, and the files that answer them; `-` is a standard stream."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
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
    progress: Callable[[int, int], None] | None = None,
) -> Answered:
    """Answers a TSV file of queries by a TSV file.

    Args:
        source: lines `head<TAB>relation<TAB>tail`, one of head and tail empty or `?`.
        target: lines `head, relation, tail, rank, entity, label, score, probability, known` under a
            header, the entity in its place; written whole or not at all.
        k: answers per query, at most.
        typed, keep_known: see `CompressedModel.answers`.
        progress: called with how many queries are answered, and how many there are.

    Raises:
        InputError: a line is no query, or names what the model does not know.
    """
    queries: list[Query] = []
    for where, (head, relation, tail) in _read_lines(source):
        query = Query(_asked(head), relation, _asked(tail))
        with error_context(where):
            if (query.head is None) == (query.tail is None):
                raise InputError("wanted head<TAB>relation<TAB>tail with ? for what is asked")
            model.query_ids(query)
        queries.append(query)
    hidden = 0

    def lines() -> Iterator[str]:
        nonlocal hidden
        yield _HEADER
        for start in range(0, len(queries), _BATCH):
            part = queries[start : start + _BATCH]
            found = model.answers(part, k, typed=typed, keep_known=keep_known)
            for query, answers in zip(part, found, strict=True):
                hidden += answers.num_hidden
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
) -> int:
    """Scores a TSV file of triples; returns their number.

    Args:
        source: lines `head<TAB>relation<TAB>tail`.
        target: lines `head, relation, tail, score` under a header, or a JSON list of objects with
            these keys; written whole or not at all.
        ranks: also `head_rank` and `tail_rank`; see `CompressedModel.ranks`.

    Raises:
        InputError: a line is no triple, or names what the model does not know.
    """
    triples, ids = [], []
    for where, triple in _read_lines(source):
        with error_context(where):
            ids.append(model.triple_ids([triple]))
        triples.append(triple)
    found = np.concatenate(ids)
    columns = {"score": model.score(found).tolist()}
    if ranks:
        columns |= dict(zip(("head_rank", "tail_rank"), model.ranks(found).T.tolist(), strict=True))
    names = ["head", "relation", "tail", *columns]
    rows = [(*triple, *rest) for triple, *rest in zip(triples, *columns.values(), strict=True)]
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


def _asked(field: str) -> str | None:
    return None if field in _UNKNOWN else field


def _read_lines(path: PathLike) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """The three fields of each line, and where it is, for errors."""
    name = "standard input" if str(path) == _STANDARD else str(path)
    try:
        data = sys.stdin.buffer.read() if str(path) == _STANDARD else Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text") from None
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != 3:
            raise InputError(
                f"{name}: line {number}: wanted head<TAB>relation<TAB>tail; "
                f"got {len(fields)} fields"
            )
        yield f"{name}: line {number}", (fields[0], fields[1], fields[2])


def _write(path: PathLike, lines: Iterable[str]) -> None:
    if str(path) != _STANDARD:
        write_lines(Path(path), lines)
        return
    for line in lines:
        sys.stdout.write(line + "\n")
