"""Files of queries, answered by files of answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from metasd.errors import InputError, error_context
from metasd.files import write_atomically

from .model import CompressedModel, Query

_BATCH = 256  # queries answered between two reports of progress
_UNKNOWN = ("", "?")
_HEADER = "head\trelation\ttail\trank\tentity\tlabel\tscore\tprobability\n"


def answer_file(
    model: CompressedModel,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    k: int = 10,
    *,
    keep_known: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Answers a TSV file of queries by a TSV file; returns the number of queries.

    Args:
        source: lines `head<TAB>relation<TAB>tail`, one of head and tail empty or `?`.
        target: lines `head, relation, tail, rank, entity, label, score, probability` under a
            header, the entity in its place; written whole or not at all.
        k: answers per query, at most.
        keep_known: also gives answers that are in the graph already.
        progress: called with how many queries are answered, and how many there are.

    Raises:
        InputError: a line is no query, or names what the model does not know.
    """
    queries = list(_read_queries(Path(source)))
    for number, query in enumerate(queries, 1):
        with error_context(f"{source}: line {number}"):
            model.query_ids(query)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_HEADER)
            for start in range(0, len(queries), _BATCH):
                part = queries[start : start + _BATCH]
                found = model.answers(part, k, keep_known=keep_known)
                for query, answers in zip(part, found, strict=True):
                    for rank, (entity, label, score, probability) in enumerate(answers, 1):
                        head, relation, tail = query
                        whole = (head or entity, relation, tail or entity, rank, entity, label)
                        file.write("\t".join(map(str, whole)))
                        file.write(f"\t{score:.6g}\t{probability:.6g}\n")
                if progress is not None:
                    progress(start + len(part), len(queries))

    write_atomically(Path(target), write)
    return len(queries)


def _read_queries(path: Path) -> Iterator[Query]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != 3 or (fields[0] in _UNKNOWN) == (fields[2] in _UNKNOWN):
            raise InputError(
                f"{path}: line {number}: wanted head<TAB>relation<TAB>tail with ? for what is asked"
            )
        head, relation, tail = (None if value in _UNKNOWN else value for value in fields)
        yield Query(head, relation or "", tail)
