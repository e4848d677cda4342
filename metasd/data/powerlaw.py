"""A generated graph of any size, for tests of scale: few entities are in very many triples.

Entities lie in clusters, and each relation leads from one cluster to another, so many clusters
further for all of them: a bilinear model of small rank can learn that. How often an entity is a
head falls with the power 3/4 of its rank, how often a tail, within its cluster, with the power 2/3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metasd.errors import InputError

from .sorting import IntArray, distinct

_MIN_ENTITIES = 100
_DRAWN = 1 << 20  # triples that are drawn together; with another number they are others
_MAX_HELD_OUT = 10_000
_SKEWED_DRAWS = 3  # then what a head still lacks is drawn evenly, which soon ends


@dataclass(frozen=True)
class PowerLaw:
    """A graph of exactly that many entities and distinct triples, the same ones for the same seed.

    Each entity is the head of a train triple; valid and test get a thousandth of the triples each,
    ten thousand at most. Memory does not grow with the number of triples.

    Args:
        num_entities: at least 100.
        num_triples: at least two an entity.

    Raises:
        InputError: too few entities, or fewer or more triples than such a graph can have.
    """

    num_entities: int
    num_triples: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_entities < _MIN_ENTITIES:
            raise InputError(
                f"powerlaw needs at least {_MIN_ENTITIES} entities; got {self.num_entities}"
            )
        least, most = 2 * self.num_entities, self.num_entities * self._most_of_a_head
        if not least <= self.num_triples <= most:
            raise InputError(
                f"powerlaw:{self.num_entities} can have {least} to {most} triples; "
                f"got {self.num_triples}"
            )

    @property
    def num_relations(self) -> int:
        return round(math.cbrt(self.num_entities))

    @property
    def clusters(self) -> int:
        return math.isqrt(self.num_entities) // 2

    @property
    def _most_of_a_head(self) -> int:
        return self.num_relations * (self.num_entities // self.clusters) // 2

    @property
    def _stride(self) -> int:
        """The entity of rank k is k times this, modulo N: ranks do not show in the ids."""
        stride = round(0.618 * self.num_entities)
        while math.gcd(stride, self.num_entities) > 1:
            stride += 1
        return stride

    def entities(self) -> pa.Array:
        """The labels, such as e0000001, in sorted order."""
        numbers = pc.cast(pa.array(np.arange(self.num_entities)), pa.large_string())
        padded = pc.utf8_lpad(numbers, max(7, len(str(self.num_entities - 1))), "0")
        start, nothing = pa.scalar("e", pa.large_string()), pa.scalar("", pa.large_string())
        return pc.binary_join_element_wise(start, padded, nothing)

    def relations(self) -> pa.Array:
        width = len(str(self.num_relations - 1))
        return pa.array([f"r{number:0{width}}" for number in range(self.num_relations)])

    def cluster(self, entities: IntArray) -> IntArray:
        """Which cluster each entity is in."""
        back = pow(self._stride, -1, self.num_entities)
        return entities * back % self.num_entities % self.clusters

    def parts(self) -> Iterator[tuple[str, IntArray]]:
        """Names of splits, each with some of its triples ``(n, 3)``; sorted within a split."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        shifts = rng.permutation(self.clusters)[: self.num_relations]
        degree = self._degrees()
        ends = np.cumsum(degree)
        held_out = self._hold_out(degree, rng)
        first = 0
        while first < self.num_entities:
            before = int(ends[first] - degree[first])
            last = max(first + 1, int(np.searchsorted(ends, before + _DRAWN, "right")))
            draw = np.random.Generator(np.random.PCG64([self.seed, first]))
            triples = self._draw(first, degree[first:last], shifts, draw)
            split = np.zeros(len(triples), dtype=np.int8)
            for number, places in enumerate(held_out, 1):
                inside = (places >= before) & (places < before + len(triples))
                split[places[inside] - before] = number
            for number, name in enumerate(("train", "valid", "test")):
                yield name, triples[split == number]
            first = last

    def _degrees(self) -> IntArray:
        """Of how many triples each entity is the head."""
        root = np.sqrt(np.arange(1.0, self.num_entities + 1))
        share = np.cumsum(1 / (root * np.sqrt(root)))
        left = self.num_triples - self.num_entities
        by_rank: IntArray = 1 + np.diff(left / share[-1] * share, prepend=0).astype(np.int64)
        np.minimum(by_rank, self._most_of_a_head, out=by_rank)
        while left := self.num_triples - int(by_rank.sum()):
            by_rank[np.flatnonzero(by_rank < self._most_of_a_head)[:left]] += 1
        degree: IntArray = np.empty_like(by_rank)
        degree[np.arange(self.num_entities) * self._stride % self.num_entities] = by_rank
        return degree

    def _hold_out(self, degree: IntArray, rng: np.random.Generator) -> list[IntArray]:
        """The places of the valid and of the test triples: never the first one of a head."""
        size = min(_MAX_HELD_OUT, max(1, self.num_triples // 1000))
        others = np.cumsum(degree - 1)
        chosen = rng.choice(self.num_triples - self.num_entities, 2 * size, replace=False)
        places = chosen + np.searchsorted(others, chosen, "right") + 1
        return [places[:size], places[size:]]

    def _draw(
        self, first: int, degree: IntArray, shifts: IntArray, rng: np.random.Generator
    ) -> IntArray:
        """That many distinct triples of each of the heads from ``first`` on, sorted."""
        of_head = self.num_relations * self.num_entities
        heads = np.arange(first, first + len(degree))
        cluster = self.cluster(heads)
        keys = np.empty(0, dtype=np.int64)
        missing, draws = degree, 0
        while missing.any():
            head = np.repeat(np.arange(len(heads)), missing)
            u, v = rng.random((2, len(head)))
            if draws < _SKEWED_DRAWS:
                u, v = u * u, v * v * v
            relation = (u * self.num_relations).astype(np.int64)
            to = (cluster[head] + shifts[relation]) % self.clusters
            size = (self.num_entities - 1 - to) // self.clusters + 1
            rank = (v * size).astype(np.int64) * self.clusters + to
            tail = rank * self._stride % self.num_entities
            drawn = head * of_head + relation * self.num_entities + tail
            keys = distinct(np.concatenate([keys, drawn]))
            missing = degree - np.bincount(keys // of_head, minlength=len(heads))
            draws += 1
        head, rest = np.divmod(keys, of_head)
        return np.stack([head + first, *np.divmod(rest, self.num_entities)], axis=1)
