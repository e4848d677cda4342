"""The scoring functions of metasd.models in numpy: queries whose products with rows are scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metasd.errors import InputError

from .table import Floats


@dataclass(frozen=True)
class Scoring:
    """`query(head rows, relation rows)` is (B, width), and the shapes of the tables.

    Attributes:
        roles: rows per entity: with 2, row i is entity i as a head and row N + i as a tail.
        parts: numbers per coordinate of an entity.
        matrix: whether a relation is a matrix, rank * rank.
    """

    query: Callable[[Floats, Floats], Floats]
    roles: int = 1
    parts: int = 1
    matrix: bool = False

    def relation_width(self, rank: int) -> int:
        return rank * rank if self.matrix else self.parts * rank


def _complex(head: Floats, relation: Floats) -> Floats:
    (a, b), (c, d) = np.split(head, 2, axis=1), np.split(relation, 2, axis=1)
    return np.concatenate([a * c - b * d, a * d + b * c], axis=1)


def _rescal(head: Floats, relation: Floats) -> Floats:
    rank = head.shape[1]
    found: Floats = (head[:, None] @ relation.reshape(-1, rank, rank))[:, 0]
    return found


_SCORINGS = {
    "complex": Scoring(_complex, parts=2),
    "cp": Scoring(np.multiply, roles=2),
    "distmult": Scoring(np.multiply),
    "rescal": Scoring(_rescal, matrix=True),
}


def scoring_named(name: str) -> Scoring:
    if name not in _SCORINGS:
        known = ", ".join(_SCORINGS)
        raise InputError(f"a compressed model scores by one of {known}; got {name!r}")
    return _SCORINGS[name]
