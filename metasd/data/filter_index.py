"""Known answers of queries (entity, relation): what filtered ranking and predictions leave out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from metasd.errors import InputError

from .sorting import IntArray, distinct, sorted_unique

_CHECKED = 1 << 13  # keys unpacked at a time: what is freed stays with the process
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class KnownAnswers:
    """For each query (entity, relation), inverse relations included, its known answers.

    A query has one key, `entity * relations + relation`; keys are sorted, and `rows` finds the
    queries of a batch by bisection. There are two layouts of keys:

    * **int64**, for training and evaluation: one key and one offset per distinct query, both
      directions together, in memory or mapped from the folder of a prepared graph: 8 bytes per
      answer and 16 per query.
    * **packed**, for compressed models: one key per triple, in as few bytes as hold it, beside
      answers in the narrowest integers: 5 bytes per triple on FB15k-237 and WN18RR, on disk and in
      memory, where int64 would take 16 and more. The keys of the other direction (tail, relation)
      are made when they are first needed. Big-endian bytes compare like the numbers that they are,
      so that numpy searches both layouts alike.

    Attributes:
        keys: sorted, `(n,)`: int64, distinct, `relations` being `num_relations`; or packed, of
            numpy's type `V<bytes>`, one per answer, `relations` being `num_relations // 2`.
        indptr: int64 `(n + 1,)`: where the answers of each key begin and end; None for packed keys,
            where key i has answer i.
        indices: integers, the answers, sorted and unique per query.
        num_entities: `N`.
        num_relations: inverse relations included.
    """

    keys: Array
    indptr: IntArray | None
    indices: Array
    num_entities: int
    num_relations: int

    @staticmethod
    def of_triples(triples: IntArray, num_entities: int, num_relations: int) -> KnownAnswers:
        """Packed keys of triples int64 (n, 3), in any order; `num_relations` without inverses."""
        triples = sorted_unique(triples.reshape(-1, 3), num_entities, num_relations)
        head, relation, tail = triples.T
        width = key_bytes(num_entities, num_relations)
        return KnownAnswers(
            _packed(head * num_relations + relation, width),
            None,
            tail.astype(np.min_scalar_type(num_entities - 1)),
            num_entities,
            2 * num_relations,
        )

    @staticmethod
    def of_arrays(keys: Array, tails: Array, num_entities: int, num_relations: int) -> KnownAnswers:
        """Packed keys from their bytes, which are checked and stay where they are.

        Args:
            keys: uint8 `(n, key_bytes(N, R))`, as `key_array` gave them.
            tails: unsigned `(n,)`, the answers.
            num_entities: `N`.
            num_relations: `R`, without inverse relations.

        Raises:
            InputError: shapes or types are others, an id is out of range, or triples are not sorted
                and distinct.
        """
        width = key_bytes(num_entities, num_relations)
        if keys.shape != (len(tails), width) or keys.dtype != np.uint8 or tails.dtype.kind != "u":
            raise InputError(
                f"known triples need keys of {width} bytes and as many tails; got {keys.dtype} "
                f"{keys.shape} and {tails.dtype} {tails.shape}"
            )
        packed = np.ascontiguousarray(keys).view(f"V{width}")[:, 0]
        if tails.size and int(tails.max()) >= num_entities:
            raise InputError(f"a known tail is {tails.max()}; there are {num_entities}")
        for start in range(0, len(packed), _CHECKED):
            part = slice(max(start - 1, 0), start + _CHECKED)
            numbers, answers = _unpacked(packed[part]), tails[part]
            if (largest := int(numbers.max())) >= num_entities * num_relations:
                raise InputError(f"a known query is {largest}; it must be below N * R")
            before, after = numbers[:-1], numbers[1:]
            rises = (after > before) | ((after == before) & (answers[1:] > answers[:-1]))
            if not rises.all():
                place = part.start + int(np.argmin(rises)) + 1
                raise InputError(f"known triple {place} is out of order")
        return KnownAnswers(packed, None, tails, num_entities, 2 * num_relations)

    def rows(self, entity: npt.ArrayLike, relation: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """The answers of a batch of queries as compressed rows.

        Args:
            entity: integers `(B,)`; queries may repeat.
            relation: integers `(B,)`, inverse relations included.

        Returns:
            `indptr` int64 `(B + 1,)` and `indices` int64: the answers of row `i` are
            `indices[indptr[i]:indptr[i + 1]]`, sorted; none for an unknown query.

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
        entity = entity.astype(np.int64, copy=False)
        relation = relation.astype(np.int64, copy=False)
        if self.indptr is not None:
            return self._found(entity * self.num_relations + relation)
        half = self.num_relations // 2
        inverse = relation >= half
        if not inverse.any():
            return self._found(entity * half + relation)
        if inverse.all():
            return self._inverse._found(entity * half + relation - half)
        order = inverse.argsort(kind="stable")
        ahead = len(inverse) - np.count_nonzero(inverse)
        parts = [self.rows(entity[some], relation[some]) for some in np.split(order, [ahead])]
        mixed = _offsets(np.concatenate([np.diff(indptr) for indptr, _ in parts]))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        indptr = _offsets(np.diff(mixed)[back])
        return indptr, np.concatenate([found for _, found in parts])[_places(mixed[back], indptr)]

    def answers(self, entity: int, relation: int) -> IntArray:
        """The sorted known answers of one query."""
        return self.rows([entity], [relation])[1]

    @property
    def triples(self) -> IntArray:
        """The triples behind packed keys, int64 (n, 3), sorted."""
        head, relation = np.divmod(_unpacked(self.keys), self.num_relations // 2)
        return np.stack([head, relation, self.indices.astype(np.int64)], axis=1)

    def entities_of(self, relation: int) -> IntArray:
        """The sorted entities that are a tail of the relation, or a head of an inverse one."""
        begin, end = self._by_relation[0][relation : relation + 2]
        return self._by_relation[1][begin:end]

    def __len__(self) -> int:
        """Answers: one per triple with packed keys, else one per triple and direction."""
        return len(self.indices)

    @property
    def key_array(self) -> npt.NDArray[np.uint8]:
        """Packed keys as bytes, uint8 `(n, key_bytes(N, R))`."""
        return self.keys.view(np.uint8).reshape(-1, self.keys.dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, without the other direction of packed keys."""
        offsets = 0 if self.indptr is None else self.indptr.nbytes
        return self.keys.nbytes + offsets + self.indices.nbytes

    @cached_property
    def _inverse(self) -> KnownAnswers:
        """Of the same triples, with packed keys, the heads that answer (tail, relation)."""
        half = self.num_relations // 2
        head, relation = np.divmod(_unpacked(self.keys), half)
        key = self.indices.astype(np.int64) * half + relation
        order = np.lexsort((head, key))
        keys = _packed(key[order], self.keys.dtype.itemsize)
        heads = head[order].astype(self.indices.dtype)
        return KnownAnswers(keys, None, heads, self.num_entities, self.num_relations)

    @cached_property
    def _by_relation(self) -> tuple[IntArray, IntArray]:
        """What `entities_of` gives for each relation, as compressed rows."""
        answers = self.indices.astype(np.int64)
        if self.indptr is None:
            half = self.num_relations // 2
            head, relation = np.divmod(_unpacked(self.keys), half)
            relation, entity = np.concatenate([[relation, answers], [relation + half, head]], 1)
        else:
            relation = np.repeat(self.keys % self.num_relations, np.diff(self.indptr))
            entity = answers
        pairs = distinct(relation * self.num_entities + entity)
        firsts = np.arange(self.num_relations + 1) * self.num_entities
        return np.searchsorted(pairs, firsts), pairs % self.num_entities

    def _found(self, wanted: IntArray) -> tuple[IntArray, IntArray]:
        """The answers of each key, as compressed rows."""
        if self.indptr is None:
            wanted = _packed(wanted, self.keys.dtype.itemsize)
        begin = self.keys.searchsorted(wanted, "left")
        end = self.keys.searchsorted(wanted, "right")
        if self.indptr is not None:
            begin, end = self.indptr[begin], self.indptr[end]
        indptr = _offsets(end - begin)
        return indptr, self.indices[_places(begin, indptr)].astype(np.int64, copy=False)


def runs(triples: IntArray, num_relations: int) -> tuple[IntArray, IntArray]:
    """The keys of sorted distinct triples, and where the answers of each begin."""
    queries = triples[:, 0] * num_relations + triples[:, 1]
    starts = np.flatnonzero(np.diff(queries, prepend=-1))
    return queries[starts], starts.astype(np.int64)


def key_bytes(num_entities: int, num_relations: int) -> int:
    """Bytes of a packed key; `num_relations` without inverses."""
    return max(1, -(-(num_entities * num_relations - 1).bit_length() // 8))


def _packed(numbers: IntArray, width: int) -> Array:
    """Numbers as big-endian bytes, type `V<width>` (n,), which sort like the numbers."""
    whole = numbers.astype(">u8").view(np.uint8).reshape(-1, 8)
    return np.ascontiguousarray(whole[:, 8 - width :]).view(f"V{width}")[:, 0]


def _unpacked(keys: Array) -> IntArray:
    width = keys.dtype.itemsize
    whole = np.zeros((len(keys), 8), np.uint8)
    whole[:, 8 - width :] = keys.view(np.uint8).reshape(-1, width)
    return whole.view(">u8")[:, 0].astype(np.int64)


def _offsets(counts: IntArray) -> IntArray:
    """Where every row begins, and where the last one ends: int64 (n + 1,)."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    counts.cumsum(out=offsets[1:])
    return offsets


def _places(first: IntArray, offsets: IntArray) -> IntArray:
    """The places from `first` on of every row, one row after the other."""
    return (first - offsets[:-1]).repeat(offsets[1:] - offsets[:-1]) + np.arange(offsets[-1])


def _check_range(name: str, ids: npt.NDArray[np.generic], size: int) -> None:
    if ids.dtype.kind not in "iu" and ids.size:
        raise ValueError(f"{name} must hold integers; got {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        raise ValueError(f"{name} must be in 0 ... {size - 1}; got {ids.min()} ... {ids.max()}")
