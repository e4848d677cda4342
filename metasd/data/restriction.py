"""A graph restricted to the entities and relations of another vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .graph import SPLITS, Graph
from .sorting import IntArray, sorted_unique
from .vocabulary import Vocabulary


def restricted(graph: Graph, vocabulary: Vocabulary) -> tuple[Graph, int]:
    """The triples whose entities and relations a vocabulary has, with its ids.

    Returns:
        the graph, which has that vocabulary, and how many triples are left out.
    """
    entities = places(graph.entities, vocabulary.entity_to_id)
    relations = places(graph.relations, vocabulary.relation_to_id)
    sizes = vocabulary.num_entities, vocabulary.num_relations
    splits: dict[str, Any] = {}
    left_out = 0
    for name in SPLITS:
        head, relation, tail = graph.split(name).T
        triples = np.stack([entities[head], relations[relation], entities[tail]], axis=1)
        there = (triples >= 0).all(axis=1)
        splits[name] = sorted_unique(triples[there], *sizes)
        left_out += int((~there).sum())
    found = Graph(
        entities=vocabulary.entities,
        relations=vocabulary.relations,
        entity_labels=vocabulary.entity_labels or graph.entity_labels,
        name=graph.name,
        notes=graph.notes,
        **splits,
    )
    return found, left_out


def places(labels: Sequence[str], place: Mapping[str, int]) -> IntArray:
    """Of each label its place, int64, -1 where it has none."""
    return np.fromiter((place.get(label, -1) for label in labels), np.int64, len(labels))
