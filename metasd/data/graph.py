"""The type of a knowledge graph: triples of three splits over one vocabulary."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from metasd.errors import InputError

from .filter_index import KnownAnswers, runs
from .notes import count_unseen
from .numbering import number_triples
from .sorting import PART, IntArray, parts, sorted_unique
from .splits import DEFAULT_RATIOS, check_ratios
from .splits import SPLITS as SPLITS
from .tables import as_splits
from .vocabulary import Vocabulary


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Graph(Vocabulary):
    """Triples of three splits over one vocabulary.

    Ids are the places of the labels in sorted order (as numbers, if all are), and triples are
    sorted without duplicates, so the same data give the same arrays whatever the order of the rows.

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

    @staticmethod
    def from_triples(
        train: Any,
        valid: Any = None,
        test: Any = None,
        *,
        columns: str = "hrt",
        split_ratios: tuple[float, float, float] = DEFAULT_RATIOS,
        seed: int = 0,
        name: str = "triples",
        entity_labels: Mapping[str, str] | None = None,
        relation_labels: Mapping[str, str] | None = None,
    ) -> Graph:
        """A graph of triples in memory; ids and digest are those that files of them would give.

        Each split is one of

        * an array or tensor (n, 3) of strings or integers;
        * a data frame or table of pandas, polars or pyarrow, or a dict of columns. Columns named
          head, relation and tail (or subject, predicate, object; source, type, target; ...) go by
          their names, else there are three in the order of ``columns``;
        * rows of three, such as a list of tuples; what is not a string becomes one by ``str``;
        * a ``TriplesFactory`` of PyKEEN; as train alone also a ``Dataset`` of PyKEEN.

        Integers are labels, too: 7 is the label "7". If all entities (or relations) are such
        numbers, their ids are in the order of the numbers: the ids 0 ... N - 1 stay what they are.

        Args:
            train: the triples.
            valid, test: likewise; one that is None is drawn from train, by ``split_ratios`` and
                ``seed``, so that train keeps every entity and relation; an empty one stays empty.
            columns: the order of columns without names.
            name: how the graph is called in reports.
            entity_labels, relation_labels: human labels by label.

        Raises:
            InputError: a split is none of these, or a label is missing or holds a tab, a line break
                or NUL: which split and which row.
        """
        check_ratios(split_ratios)
        fields = number_triples(
            name,
            as_splits(train, valid, test, columns),
            split_ratios,
            seed,
            entity_labels={str(raw): text for raw, text in (entity_labels or {}).items()},
            relation_labels={str(raw): text for raw, text in (relation_labels or {}).items()},
        )
        return Graph(name=name, **fields)

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
        splits = {name: self.split(name) for name in SPLITS}
        return counts | count_unseen(splits, new_entity, new_relation)

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

    @property
    def description(self) -> dict[str, Any]:
        """Name, digest, source and the number of triples per split (JSON): see ``comparison``."""
        triples = {name: len(self.split(name)) for name in SPLITS}
        return {
            "name": self.name,
            "digest": self.digest,
            "source": self.source,
            "triples": triples,
        }

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

    def packed_known(self) -> KnownAnswers:
        """The same of all splits with packed keys, as models store them."""
        triples = np.concatenate([self.split(name) for name in SPLITS])
        return KnownAnswers.of_triples(triples, self.num_entities, self.num_relations)

    @cached_property
    def _known(self) -> KnownAnswers | None:
        return None  # `store.load_prepared` puts it here; a copy with other triples has none
