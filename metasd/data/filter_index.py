"""Known answers of (entity, relation) questions as CSR arrays: what filtered ranking leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .sorting import IntArray


@dataclass(frozen=True, eq=False)
class KnownAnswers:
    """For each query (entity, relation), inverse relations included, its known answers.

    Attributes:
        keys: sorted int64, ``entity * num_relations + relation`` of the queries with answers.
        indptr: int64 ``(len(keys) + 1,)``: where the answers of each key begin and end.
        indices: int64 entities, sorted and unique within a key.
        num_entities: ``N``.
        num_relations: inverse relations included.
    """

    keys: IntArray
    indptr: IntArray
    indices: IntArray
    num_entities: int
    num_relations: int

    def rows(self, entity: npt.ArrayLike, relation: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """The answers of a batch of queries as compressed rows.

        Args:
            entity: integers ``(B,)``; queries may repeat.
            relation: integers ``(B,)``, inverse relations included.

        Returns:
            ``indptr`` int64 ``(B + 1,)`` and ``indices`` int64: the answers of row ``i`` are
            ``indices[indptr[i]:indptr[i + 1]]``, sorted; none for an unknown query.

        Raises:
            ValueError: the shapes differ, or an id is out of range.
        """
        entity, relation = np.asarray(entity), np.asarray(relation)
        if entity.ndim != 1 or entity.shape != relation.shape:
            raise ValueError(
                f"entity and relation must both be (B,); got {entity.shape} and {relation.shape}"
            )
        _check_range("entity", entity, self.num_entities)
        _check_range("relation", relation, self.num_relations)
        indptr = np.zeros(len(entity) + 1, dtype=np.int64)
        if not len(self.keys):
            return indptr, self.indices
        query = entity.astype(np.int64) * self.num_relations + relation
        place = np.minimum(np.searchsorted(self.keys, query), len(self.keys) - 1)
        count = np.where(self.keys[place] == query, self.indptr[place + 1] - self.indptr[place], 0)
        np.cumsum(count, out=indptr[1:])
        shift = np.repeat(self.indptr[place] - indptr[:-1], count)
        return indptr, self.indices[shift + np.arange(len(shift))]

    def answers(self, entity: int, relation: int) -> IntArray:
        """The sorted known answers of one query."""
        return self.rows([entity], [relation])[1]


def runs(triples: IntArray, num_relations: int) -> tuple[IntArray, IntArray]:
    """The keys of sorted distinct triples, and where the answers of each begin."""
    queries = triples[:, 0] * num_relations + triples[:, 1]
    starts = np.flatnonzero(np.diff(queries, prepend=-1))
    return queries[starts], starts.astype(np.int64)


def _check_range(name: str, ids: npt.NDArray[np.generic], size: int) -> None:
    if not np.issubdtype(ids.dtype, np.integer) and ids.size:
        raise ValueError(f"{name} must hold integers; got {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        raise ValueError(f"{name} must be in 0 ... {size - 1}; got {ids.min()} ... {ids.max()}")
