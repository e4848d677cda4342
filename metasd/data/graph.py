"""The type of a knowledge graph: triples of three splits over one vocabulary."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from metasd.errors import InputError

from .filter_index import KnownAnswers, runs
from .sorting import PART, IntArray, parts, sorted_unique
from .vocabulary import Vocabulary

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Graph(Vocabulary):
    """Triples of three splits over one vocabulary.

    Ids are the places of the labels in sorted order, and triples are sorted without duplicates, so
    the same data give the same arrays whatever the order of the rows in the files.

    Attributes:
        name: how the graph is called in reports.
        train, valid, test: int64 ``(n, 3)``, columns head, relation, tail.
        notes: one line for everything unusual that was found or done while reading.
        source: the arguments that make ``load_graph`` load it again, fit for JSON; None for a graph
            made in memory.
    """

    name: str
    train: IntArray
    valid: IntArray
    test: IntArray
    notes: tuple[str, ...] = ()
    source: dict[str, Any] | None = None

    def __repr__(self) -> str:
        sizes = "/".join(str(len(self.split(name))) for name in SPLITS)
        return (
            f"Graph({self.name}: {self.num_entities} entities, "
            f"{self.num_relations} relations, {sizes} triples)"
        )

    def split(self, name: str) -> IntArray:
        """The triples of ``train``, ``valid`` or ``test``; InputError for another name."""
        if name not in SPLITS:
            raise InputError(f'split must be train, valid or test; got "{name}"')
        triples: IntArray = getattr(self, name)
        return triples

    @cached_property
    def entity_counts(self) -> IntArray:
        """int64 ``(N,)``: how often each entity is a head or a tail in train."""
        counts = np.zeros(self.num_entities, dtype=np.int64)
        for part in parts(self.train):
            counts += np.bincount(part[:, [0, 2]].ravel(), minlength=self.num_entities)
        return counts

    @cached_property
    def relation_counts(self) -> IntArray:
        """int64 ``(R,)``: how many train triples each relation has."""
        counts = np.zeros(self.num_relations, dtype=np.int64)
        for part in parts(self.train):
            counts += np.bincount(part[:, 1], minlength=self.num_relations)
        return counts

    @cached_property
    def unseen(self) -> dict[str, int]:
        """What train lacks: entities, relations, and the valid and test triples with such a one."""
        new_entity, new_relation = self.entity_counts == 0, self.relation_counts == 0
        counts = {"entities": int(new_entity.sum()), "relations": int(new_relation.sum())}
        for name in ("valid", "test"):
            counts[name] = 0
            for head, relation, tail in (part.T for part in parts(self.split(name))):
                new = new_entity[head] | new_relation[relation] | new_entity[tail]
                counts[name] += int(new.sum())
        return counts

    @cached_property
    def digest(self) -> str:
        """sha256 over the labels and the triples of all splits, in hexadecimal."""
        digest = hashlib.sha256()
        for labels in (self.entities, self.relations):
            digest.update(f"{len(labels)}\n".encode())
            for start in range(0, len(labels), PART):
                digest.update(
                    b"\0" * (start > 0) + "\0".join(labels[start : start + PART]).encode()
                )
        for name in SPLITS:
            triples = self.split(name)
            digest.update(f"\n{name} {len(triples)}\n".encode())
            for part in parts(triples):
                digest.update(np.ascontiguousarray(part, dtype="<i8").data)
        return digest.hexdigest()

    def with_inverses(self, triples: IntArray) -> IntArray:
        """``(n, 3)`` -> ``(2n, 3)``: the rows ``(h, r, t)``, then the rows ``(t, r + R, h)``."""
        inverse = triples[:, ::-1] + np.array([0, self.num_relations, 0])
        return np.concatenate([triples, inverse])

    def known(self, splits: Sequence[str] = SPLITS) -> KnownAnswers:
        """Index the answers of every query of these splits, in both directions.

        It is built anew at each call: keep the result. That of all splits of a prepared graph is
        there already, mapped into memory.
        """
        if tuple(splits) == SPLITS and self._known is not None:
            return self._known
        num_relations = 2 * self.num_relations
        triples = self.with_inverses(np.concatenate([self.split(name) for name in splits]))
        triples = sorted_unique(triples, self.num_entities, num_relations)
        keys, starts = runs(triples, num_relations)
        return KnownAnswers(
            keys=keys,
            indptr=np.append(starts, len(triples)),
            indices=np.ascontiguousarray(triples[:, 2]),
            num_entities=self.num_entities,
            num_relations=num_relations,
        )

    @cached_property
    def _known(self) -> KnownAnswers | None:
        return None  # `store.load_prepared` puts it here; a copy with other triples has none
