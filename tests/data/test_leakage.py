"""Inverse, duplicate and symmetric relations, against a count over Python sets."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metasd.data.graph import Graph
from metasd.data.leakage import find_leakage
from metasd.data.sorting import sorted_unique

ENTITIES, RELATIONS = 5, 4
ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=40
)


def brute_force(splits: dict[str, np.ndarray]) -> tuple[object, ...]:
    """The definition, one relation and one triple at a time."""
    rows = {name: {tuple(row) for row in part.tolist()} for name, part in splits.items()}
    pairs = {
        r: {(h, t) for h, q, t in set.union(*rows.values()) if q == r} for r in range(RELATIONS)
    }
    turned = {r: {(t, h) for h, t in found} for r, found in pairs.items()}

    def alike(one: set[tuple[int, int]], other: set[tuple[int, int]]) -> bool:
        shared = len(one & other)
        return shared > 0 and shared >= 0.8 * len(one) and shared >= 0.8 * len(other)

    both = [(r, s) for r in range(RELATIONS) for s in range(r + 1, RELATIONS)]
    inverse = [(r, s) for r, s in both if alike(pairs[r], turned[s])]
    duplicate = [(r, s) for r, s in both if alike(pairs[r], pairs[s])]
    loops = {(e, e) for e in range(ENTITIES)}
    symmetric = [r for r in range(RELATIONS) if alike(pairs[r] - loops, turned[r] - loops)]

    def count(name: str, partners: list[tuple[int, int]], reverse: bool) -> int:
        found = 0
        for h, r, t in rows[name]:
            others = [s for q, s in (*partners, *(pair[::-1] for pair in partners)) if q == r]
            wanted = ((t, s, h) if reverse else (h, s, t) for s in others if s != r or h != t)
            found += any(triple in rows["train"] for triple in wanted)
        return found

    mirrored = [(r, r) for r in symmetric]
    counts = [
        {name: count(name, partners, reverse) for name in ("valid", "test")}
        for partners, reverse in ((inverse, True), (duplicate, False), (mirrored, True))
    ]
    return (inverse, duplicate, symmetric, *counts)


@settings(max_examples=200, deadline=None)
@given(train=ROWS, valid=ROWS, test=ROWS, turned=st.booleans())
def test_the_same_as_by_brute_force(
    train: list[tuple[int, ...]],
    valid: list[tuple[int, ...]],
    test: list[tuple[int, ...]],
    turned: bool,
) -> None:
    if turned:  # relation 1 is the inverse of relation 0 in train
        train = [row for row in train if row[1] != 1]
        train += [(t, 1, h) for h, r, t in train if r == 0] or [(0, 1, 0)]
    splits = {
        name: sorted_unique(np.array(rows, dtype=np.int64), ENTITIES, RELATIONS)
        for name, rows in (("train", train), ("valid", valid), ("test", test))
    }
    found = find_leakage(splits, ENTITIES, RELATIONS)
    assert found is not None
    assert tuple(found) == brute_force(splits)


def rows_of(graph: Graph, split: str) -> list[tuple[str, str, str]]:
    return [
        (graph.entities[h], graph.relations[r], graph.entities[t])
        for h, r, t in graph.split(split).tolist()
    ]


def test_injected_inverses_and_duplicates_are_counted_exactly(small_graph: Graph) -> None:
    """All triples of one relation are in train again, turned, and all of another one as they are.

    Then exactly the held-out triples of these two relations have their answer in train.
    """
    plain = dataclasses.replace(small_graph)
    parts = {name: rows_of(plain, name) for name in ("train", "valid", "test")}
    sizes = {r: sum(row[1] == r for row in parts["test"]) for r in plain.relations}
    first, second = sorted(sizes, key=lambda r: -sizes[r])[:2]
    every = [row for rows in parts.values() for row in rows]
    parts["train"] += [(t, "turned", h) for h, r, t in every if r == first]
    parts["train"] += [(h, "again", t) for h, r, t in every if r == second]
    notes = Graph.from_triples(*parts.values()).notes
    held_out = {
        r: [sum(row[1] == r for row in parts[name]) for name in ("valid", "test")]
        for r in (first, second)
    }
    valid, test = len(parts["valid"]), len(parts["test"])
    for kind, r, partner, how in (
        ("inverse", first, "turned", "in the other direction"),
        ("near-duplicate", second, "again", "under the other relation"),
    ):
        pair = " / ".join(sorted([r, partner]))
        wanted = (
            f"1 pair of {kind} relations ({pair}): {held_out[r][0]} of {valid} valid and "
            f"{held_out[r][1]} of {test} test triples are in train {how}"
        )
        assert wanted in notes
        assert held_out[r][1] > 0


def test_a_symmetric_relation_is_named() -> None:
    train = [("a", "near", "b"), ("b", "near", "a"), ("c", "near", "d"), ("e", "near", "f")]
    graph = Graph.from_triples(train, [], [("d", "near", "c"), ("f", "near", "e")])
    assert graph.notes == (
        "1 symmetric relation (near): 2 of 2 test triples are in train in the other direction",
    )


def test_graphs_that_are_too_large_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasd.data.numbering.split_notes.__defaults__", (3,))
    graph = Graph.from_triples(
        [("a", "r", "b"), ("b", "r", "a"), ("a", "r", "a")], [], [("b", "r", "b")]
    )
    assert graph.notes == ("inverse relations are looked for up to 3 triples; not in these",)
    monkeypatch.undo()
    monkeypatch.setattr("metasd.data.leakage.COMPARISONS", 0)
    train = [("a", "r", "b"), ("b", "r", "a")]
    graph = Graph.from_triples(train, [], [("b", "r", "b")])
    assert graph.notes == ("inverse relations are not looked for: over 200,000,000 comparisons",)
