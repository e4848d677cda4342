"""New entities in a compressed model: rows fitted to their triples, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from metasd.compressed.labels import Labels
from metasd.compressed.model import CompressedModel
from metasd.compressed.table import Integers, Table
from metasd.data.filter_index import KnownAnswers
from metasd.data.tables import as_rows
from metasd.errors import InputError
from metasd.models import Scoring
from metasd.models.new_rows import fit_rows

from .encode import insert_rows


def add_entities(model: CompressedModel, triples: Any, seed: int = 0) -> CompressedModel:
    """A model that also answers about the new entities of some triples.

    The row of a new entity is the one under which its triples are most likely while all other rows
    are fixed (`models/new_rows.py`), in the codec of the table. The triples become known answers,
    if the model has such. New labels take their places in sorted order if the labels are sorted;
    otherwise they come last.

    Args:
        model: the model, which stays as it is.
        triples: labels in any form that `Graph.from_triples` takes; triples of known entities alone
            may be among them.
        seed: of the samples that stand for many triples or entities.

    Raises:
        InputError: no compressed model, no triples, a relation that the model does not have, new
            entities that no triple connects with those of the model, or a label with a tab or line
            break.
    """
    if not isinstance(model, CompressedModel):
        raise InputError(
            f"entities are added to a CompressedModel; got {type(model).__name__} "
            "(`metasd.compress` makes one; a run is continued by `train(..., continue_from=run)`)"
        )
    rows = as_rows(triples)
    if not rows:
        raise InputError("there are no triples to add")
    labels = list(model.entity_labels)
    ids, added = _numbered(model, rows)
    labels += added
    count, old_count = len(labels), model.num_entities
    _check_connected(ids, old_count, labels)

    order = np.arange(count)
    if all(a < b for a, b in pairwise(labels[:old_count])):
        order = np.array(sorted(range(count), key=labels.__getitem__), dtype=np.int64)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)

    ids[:, [0, 2]] = place[ids[:, [0, 2]]]
    known = None
    if model.known is not None:
        before = model.known.triples
        before[:, [0, 2]] = place[before[:, [0, 2]]]
        ids = np.concatenate([before, ids])
        known = KnownAnswers.of_triples(ids, count, model.num_relations)
        ids = known.triples
    about = {key: value for key, value in model.about.items() if key != "graph"}
    so_far = about.get("added", {"to": model.about.get("graph", {}), "entities": 0})
    about["added"] = {**so_far, "entities": so_far["entities"] + len(added)}
    human = {labels[i]: model.entity_labels.human(i) for i in range(old_count)}
    human = {label: name for label, name in human.items() if name != label}
    return replace(
        model,
        entities=_grown_table(model, ids, order, seed) if added else model.entities,
        entity_labels=Labels.of([labels[i] for i in order], human, "entity"),
        known=known,
        about=about,
    )


def _numbered(
    model: CompressedModel, triples: Sequence[tuple[str, str, str]]
) -> tuple[Integers, list[str]]:
    """Triples as ids, int64 (n, 3), and the labels of new entities, whose ids come last."""
    relations = {label: model.relation_labels.find(label) for label in {r for _, r, _ in triples}}
    entities: dict[str, int] = {}
    added: list[str] = []
    for head, _, tail in triples:
        for label in (head, tail):
            if label not in entities:
                found = model.entity_labels.get(label)
                if found is None:
                    found = model.num_entities + len(added)
                    added.append(label)
                entities[label] = found
    ids = [
        (entities[head], relations[relation], entities[tail]) for head, relation, tail in triples
    ]
    return np.array(ids, dtype=np.int64), added


def _check_connected(triples: Integers, known: int, labels: Sequence[str]) -> None:
    """InputError if no path of triples leads from a new entity to one of the `known` first."""
    reached = np.arange(len(labels)) < known
    while True:
        head, tail = reached[triples[:, 0]], reached[triples[:, 2]]
        if (head == tail).all():
            break
        reached[triples[tail, 0]] = reached[triples[head, 2]] = True
    if not reached.all():
        left = np.flatnonzero(~reached)
        raise InputError(
            f"{len(left)} new entities, such as {labels[left[0]]!r}, have no triple that connects "
            "them with an entity of the model, not even through each other"
        )


def _grown_table(model: CompressedModel, triples: Integers, order: Integers, seed: int) -> Table:
    """The entity table with fitted rows in the places that `order` gives to new entities.

    Args:
        triples: int64 (n, 3), new ids.
        order: int64 (N,): the old id of each entity, or a number behind them of a new one.
    """
    scoring = Scoring.named(model.scoring)(model.rank)
    entities, relations = model.dense()
    old = entities.reshape(scoring.entity_roles, model.num_entities, -1)
    is_new = order >= model.num_entities
    table = np.zeros((len(old), len(order), old.shape[2]), np.float32)
    table[:, ~is_new] = old[:, order[~is_new]]
    flat = table.reshape(-1, old.shape[2])
    fit_rows(scoring, flat, relations, is_new, np.zeros(model.num_relations, bool), triples, seed)
    fitted, count = table[:, is_new].reshape(-1, old.shape[2]), int(is_new.sum())
    rows = []
    for role in range(len(old)):
        own, behind = role * model.num_entities, model.entities.rows + role * count
        row = own + order
        row[is_new] = behind + np.arange(count)
        rows.append(row)
    return insert_rows(model.entities, fitted, np.concatenate(rows))
