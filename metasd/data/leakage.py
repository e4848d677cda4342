"""Relations that say the same twice, and how many held-out triples they give away.

Many triples of FB15k and WN18 have their answer in train through an inverse or a near-duplicate
relation (Toutanova & Chen 2015, Dettmers et al. 2018). Two relations are such a pair where both
have at least 80 % of their entity pairs in common (Akrami et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .sorting import IntArray, sorted_unique

BYTES = 150
"""Memory that the search takes per triple."""

COMPARISONS = 200_000_000
"""Pairs of triples between the same two entities, above which the search would take too long."""

_SHARE = (4, 5)  # of the entity pairs of both relations


class Leakage(NamedTuple):
    """What is found in a graph.

    Attributes:
        inverse: pairs of relations ``(r, s)``, r < s, where (h, r, t) mostly comes with (t, s, h).
        duplicate: pairs where (h, r, t) mostly comes with (h, s, t).
        symmetric: relations where (h, r, t) mostly comes with (t, r, h), for h other than t.
        through_inverse, through_duplicate, through_symmetric: by split, how many triples of valid
            and test follow from a triple of train by them.
    """

    inverse: list[tuple[int, int]]
    duplicate: list[tuple[int, int]]
    symmetric: list[int]
    through_inverse: dict[str, int]
    through_duplicate: dict[str, int]
    through_symmetric: dict[str, int]


def find_leakage(
    splits: dict[str, IntArray], num_entities: int, num_relations: int
) -> Leakage | None:
    """Pairs of inverse and duplicate relations, by the entity pairs of all splits.

    Args:
        splits: train, valid and test, each int64 ``(n, 3)``, sorted and without duplicates.

    Returns:
        None where more than ``COMPARISONS`` would be needed.
    """
    triples = np.concatenate(list(splits.values()))
    triples = sorted_unique(triples, num_entities, num_relations)
    sizes = np.bincount(triples[:, 1], minlength=num_relations)
    loops = triples[triples[:, 0] == triples[:, 2], 1]
    no_loops = sizes - np.bincount(loops, minlength=num_relations)
    shared = _shared_pairs(triples, num_entities, num_relations)
    if shared is None:
        return None
    same, opposite = shared
    enough, whole = _SHARE
    duplicate: list[tuple[int, int]] = []
    inverse: list[tuple[int, int]] = []
    symmetric: list[int] = []
    for found, counts in ((duplicate, same), (inverse, opposite)):
        for (r, s), count in counts.items():
            if r < s and whole * count >= enough * max(sizes[r], sizes[s]):
                found.append((r, s))
    for (r, s), count in opposite.items():
        if r == s and whole * 2 * count >= enough * no_loops[r]:
            symmetric.append(r)
    train = _Members(splits["train"], num_entities, num_relations)
    both_ways = [*inverse, *((s, r) for r, s in inverse)]
    twice = [*duplicate, *((s, r) for r, s in duplicate)]
    mirrored = [(r, r) for r in symmetric]
    held_out = {name: rows for name, rows in splits.items() if name != "train"}
    return Leakage(
        sorted(inverse),
        sorted(duplicate),
        sorted(symmetric),
        {name: _given_away(rows, both_ways, train, True) for name, rows in held_out.items()},
        {name: _given_away(rows, twice, train, False) for name, rows in held_out.items()},
        {name: _given_away(rows, mirrored, train, True) for name, rows in held_out.items()},
    )


_Counts = dict[tuple[int, int], int]


def _shared_pairs(
    triples: IntArray, num_entities: int, num_relations: int
) -> tuple[_Counts, _Counts] | None:
    """By two relations (r <= s): entity pairs that both have, and that they have in reverse.

    Triples are sorted by their two entities, the smaller one first. Those of the same two entities
    are then neighbors, and are compared with the next one, the one after that, and so on. Two loops
    (h, r, h) and (h, s, h) are the same in both directions.
    """
    head, relation, tail = triples.T
    pair = np.minimum(head, tail) * num_entities + np.maximum(head, tail)
    order = np.argsort(pair, kind="stable")
    pair, relation = pair[order], relation[order]
    turned, loop = (head > tail)[order], (head == tail)[order]
    group = np.diff(np.flatnonzero(np.diff(pair, prepend=-1, append=-1)))
    if (group * (group - 1) // 2).sum() > COMPARISONS:
        return None
    same: _Counts = {}
    opposite: _Counts = {}
    first, distance = np.arange(len(pair)), 0
    while len(first):
        distance += 1
        first = first[: np.searchsorted(first, len(pair) - distance)]
        first = first[pair[first] == pair[first + distance]]
        second = first + distance
        alike = turned[first] == turned[second]
        for counts, chosen in ((same, alike), (opposite, ~alike | loop[first])):
            low, high = (
                which(relation[first[chosen]], relation[second[chosen]])
                for which in (np.minimum, np.maximum)
            )
            for key, amount in _count(low * num_relations + high, num_relations**2):
                two = divmod(key, num_relations)
                counts[two] = counts.get(two, 0) + amount
    return same, opposite


def _count(keys: IntArray, limit: int) -> Iterator[tuple[int, int]]:
    """Each distinct key in 0 ... limit - 1 and how often it is there."""
    if limit <= 4 * len(keys) + 1000:
        amounts = np.bincount(keys)
        distinct = np.flatnonzero(amounts)
        amounts = amounts[distinct]
    else:
        distinct, amounts = np.unique(keys, return_counts=True)
    return zip(distinct.tolist(), amounts.tolist(), strict=True)


class _Members:
    """Triples that are asked for by relation."""

    def __init__(self, triples: IntArray, num_entities: int, num_relations: int) -> None:
        self._num_entities = num_entities
        head, relation, tail = triples.T
        order = np.argsort(relation, kind="stable")
        self._pairs = (head * num_entities + tail)[order]  # sorted within each relation
        self._starts = np.searchsorted(relation[order], np.arange(num_relations + 1))

    def contain(self, head: IntArray, relation: int, tail: IntArray) -> npt.NDArray[np.bool_]:
        pairs = self._pairs[self._starts[relation] : self._starts[relation + 1]]
        wanted = head * self._num_entities + tail
        places = np.searchsorted(pairs, wanted)
        found = places < len(pairs)
        found[found] = pairs[places[found]] == wanted[found]
        return found


def _given_away(
    triples: IntArray, pairs: list[tuple[int, int]], train: _Members, reverse: bool
) -> int:
    """How many triples (h, r, t) have (t, s, h) or else (h, s, t) in train, for a pair (r, s)."""
    found = np.zeros(len(triples), dtype=bool)
    for r, places in _by_relation(triples, {r for r, _ in pairs}):
        head, tail = triples[places, 0], triples[places, 2]
        for s in (s for q, s in pairs if q == r):
            there = train.contain(tail, s, head) if reverse else train.contain(head, s, tail)
            found[places] |= there & ((head != tail) | (r != s))
    return int(found.sum())


def _by_relation(triples: IntArray, relations: set[int]) -> Iterator[tuple[int, IntArray]]:
    for relation in relations:
        yield relation, np.flatnonzero(triples[:, 1] == relation)
