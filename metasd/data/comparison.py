"""Whether a graph is the one that a model was trained on, and in words what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import eq
from typing import Any

from metasd.errors import InputError

from .graph import SPLITS, Graph
from .restriction import restricted
from .vocabulary import Vocabulary


def check_same(
    graph: Graph, description: Mapping[str, Any], vocabulary: Vocabulary, owner: object
) -> None:
    """InputError that says what differs, unless a graph is that of a description.

    Args:
        description: a `Graph.description`.
        vocabulary: the labels of that graph.
        owner: what was trained on it, for the error.
    """
    if graph.digest != description.get("digest"):
        found = [*_other_labels(graph, vocabulary), *_other_counts(graph, description)]
        raise _another(graph, owner, found or ["some triples differ"])


def with_labels_of(graph: Graph, vocabulary: Vocabulary, owner: object) -> Graph:
    """The graph with the ids of a vocabulary.

    Raises:
        InputError: it has other labels, and which.
    """
    if found := list(_other_labels(graph, vocabulary)):
        raise _another(graph, owner, found)
    same = all(map(eq, graph.entities, vocabulary.entities))
    same &= graph.relations == vocabulary.relations
    return graph if same else restricted(graph, vocabulary)[0]


def other_triples(graph: Graph, description: Mapping[str, Any]) -> str:
    """In words, how the triples of a graph differ from those of a description; "" if not at all."""
    if graph.digest == description.get("digest", graph.digest):
        return ""
    return ", ".join(_other_counts(graph, description)) or "some triples differ"


def _another(graph: Graph, owner: object, found: list[str]) -> InputError:
    return InputError(f"{owner} was trained on another graph than {graph.name}: {', '.join(found)}")


def _other_labels(graph: Graph, vocabulary: Vocabulary) -> Iterator[str]:
    for what in ("entities", "relations"):
        ours, theirs = getattr(graph, what), getattr(vocabulary, what)
        if len(ours) == len(theirs) and all(map(eq, ours, theirs)):
            continue
        here, there = set(ours), set(theirs)
        for whose, only in (("graph", here - there), ("model", there - here)):
            if only:
                count = f"{len(ours):,} instead of {len(theirs):,}; " * (len(ours) != len(theirs))
                yield f'{what} differ ({count}first that only the {whose} has: "{min(only)}")'
                break


def _other_counts(graph: Graph, description: Mapping[str, Any]) -> Iterator[str]:
    counts = description.get("triples") or {}
    for name in SPLITS:
        count = len(graph.split(name))
        if counts.get(name, count) != count:
            yield f"{name} triples differ ({count:,} instead of {counts[name]:,})"
