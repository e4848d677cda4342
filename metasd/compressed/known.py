"""Triples that a model was trained and tested on, five to eight bytes each: what answers omit."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from metasd.errors import InputError

Integers = npt.NDArray[np.int64]
Column = npt.NDArray[np.unsignedinteger[Any]]


class KnownTriples:
    """Triples sorted by head, relation, tail without duplicates, in the narrowest integers.

    Args:
        columns: head, relation and tail, unsigned (n,).
        num_entities, num_relations: N and R, without inverse relations.

    Raises:
        InputError: an id is out of range, or the order is another.
    """

    def __init__(
        self, columns: tuple[Column, Column, Column], num_entities: int, num_relations: int
    ) -> None:
        self.columns = columns
        self._num_relations = num_relations
        if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
            raise InputError("known triples need as many heads as relations and tails")
        sizes = (num_entities, num_relations, num_entities)
        for name, column, size in zip(("head", "relation", "tail"), columns, sizes, strict=True):
            if column.size and int(column.max()) >= size:
                raise InputError(f"a known {name} is {column.max()}; there are {size}")
        head, relation, tail = (column[1:] for column in columns)
        before_head, before_relation, before_tail = (column[:-1] for column in columns)
        rises = (relation > before_relation) | (
            (relation == before_relation) & (tail > before_tail)
        )
        rises = (head > before_head) | ((head == before_head) & rises)
        if not rises.all():
            raise InputError(f"known triple {int(np.argmin(rises)) + 1} is out of order")

    @staticmethod
    def of(triples: Integers, num_entities: int, num_relations: int) -> KnownTriples:
        """From int64 (n, 3): head, relation, tail in any order."""
        triples = np.unique(triples.reshape(-1, 3), axis=0)
        sizes = (num_entities, num_relations, num_entities)
        head, relation, tail = (
            np.ascontiguousarray(column.astype(np.min_scalar_type(size - 1)))
            for column, size in zip(triples.T, sizes, strict=True)
        )
        return KnownTriples((head, relation, tail), num_entities, num_relations)

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    def answers(self, entity: int, relation: int) -> Integers:
        """The sorted answers to (entity, relation); relations from R on ask for heads."""
        if relation < self._num_relations:
            given, relations, answers = self.columns
        else:
            given, relations, answers = self._inverse
            relation -= self._num_relations
        first = np.searchsorted(given, given.dtype.type(entity), "left")
        last = np.searchsorted(given, given.dtype.type(entity), "right")
        part = relations[first:last]
        begin = first + np.searchsorted(part, part.dtype.type(relation), "left")
        end = first + np.searchsorted(part, part.dtype.type(relation), "right")
        return answers[begin:end].astype(np.int64)

    def rows(self, entities: Integers, relations: Integers) -> tuple[Integers, Integers]:
        """The answers of a batch of queries as CSR arrays: indptr (B + 1,) and indices."""
        found = [self.answers(int(e), int(r)) for e, r in zip(entities, relations, strict=True)]
        indptr = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(part) for part in found], out=indptr[1:])
        return indptr, np.concatenate([*found, np.empty(0, np.int64)])

    @cached_property
    def _inverse(self) -> tuple[Column, Column, Column]:
        """Tail, relation, head, sorted by them."""
        head, relation, tail = self.columns
        order = np.lexsort((head, relation, tail))
        return tail[order], relation[order], head[order]
