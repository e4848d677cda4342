"""Queries and answers: what a caller writes, what it gets, and the checks between."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metasd.errors import InputError

from .table import Integers


class Query(NamedTuple):
    """What completes (head, relation, ?) or (?, relation, tail): one of head and tail is None."""

    head: str | None
    relation: str
    tail: str | None = None


class Answer(NamedTuple):
    """One entity that completes a triple.

    Attributes:
        entity: its id in the data.
        label: its human label, or the id where there is none.
        score: the higher, the better; comparable within one query only.
        probability: its share of the softmax.
        known: the completed triple is in the graph; None where the model stores no known triples.
    """

    entity: str
    label: str
    score: float
    probability: float
    known: bool | None = None


class Answers(list[Answer]):
    """The answers to one query, the best first.

    Attributes:
        num_hidden: how many known answers were left out.
    """

    def __init__(
        self,
        answers: Iterable[Answer] = (),
        num_hidden: int = 0,
        find_hidden: Callable[[], list[Answer]] = list,
    ) -> None:
        super().__init__(answers)
        self.num_hidden = num_hidden
        self._find_hidden = find_hidden

    @cached_property
    def hidden(self) -> list[Answer]:
        """The known answers that were left out, the best first; scored when first asked for."""
        return self._find_hidden() if self.num_hidden else []

    def __reduce__(self) -> tuple[Any, ...]:  # pickled and copied without the model
        return Answers, (list(self), self.num_hidden, partial(list, self.hidden))


def as_queries(values: Any) -> list[Query]:
    """Queries from any (head, relation, tail), None for what is asked; InputError if it is not."""
    wanted = "queries are a list of (head, relation, tail), None for what is asked"
    queries = as_list(values, wanted)
    for query in queries:
        if not isinstance(query, tuple | list) or len(query) != 3:
            raise InputError(f"{wanted}; one of them is {query!r:.80}")
    return [Query(*query) for query in queries]


def as_list(values: Any, wanted: str) -> list[Any]:
    """The values of anything but a text; InputError, which says what was wanted, if it has none."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError(f"{wanted}; got {values!r:.80} ({type(values).__name__})")
    return list(values)


def as_ids(values: Any, width: int, what: str) -> Integers:
    """Rows of ids, int64 (n, width); InputError if they are something else."""
    found = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    if not found.size:
        return np.empty((0, width), np.int64)
    if found.ndim != 2 or found.shape[1] != width or found.dtype.kind not in "iu":
        raise InputError(f"{what} must be integers (n, {width}); got {found.dtype} {found.shape}")
    return found.astype(np.int64, copy=False)


def check_k(k: Any) -> int:
    """k as an int; InputError if it is no whole number or below 1."""
    try:
        number = operator.index(k)
    except TypeError:
        raise InputError(f"k must be a whole number; got {k!r:.80}") from None
    if number < 1:
        raise InputError(f"k must be at least 1; got {number}")
    return number


def find_sorted(rows: Integers, wanted: Integers) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Where each of `wanted` would be among the sorted `rows`, and whether it is there."""
    place = np.searchsorted(rows, wanted)
    there = place < len(rows)
    there[there] = rows[place[there]] == wanted[there]
    return place, there


def places_among(indptr: Integers, indices: Integers, rows: Integers) -> tuple[Integers, Integers]:
    """CSR answers as places among the sorted `rows`, without those that are not there."""
    place, there = find_sorted(rows, indices)
    kept = np.concatenate([[0], np.cumsum(there)])
    return kept[indptr], place[there]
