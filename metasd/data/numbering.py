"""From columns of labels to ids: sorted labels, and sorted triples without duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .notes import duplicate_notes, label_notes, split_notes
from .sorting import IntArray, sorted_unique
from .splits import SPLITS, draw_splits
from .triple_files import Column, Triples

_NUMBER = r"^(0|[1-9][0-9]*)$"


class GraphFields(TypedDict):
    """Arguments of ``Graph``."""

    entities: list[str]
    relations: list[str]
    entity_labels: dict[str, str]
    relation_labels: dict[str, str]
    train: IntArray
    valid: IntArray
    test: IntArray
    notes: tuple[str, ...]


def number_triples(
    where: object,
    found: Mapping[str, Triples],
    split_ratios: tuple[float, float, float],
    seed: int,
    *,
    entity_labels: Mapping[str, str] | None = None,
    relation_labels: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> GraphFields:
    """Number the labels in sorted order; draw the splits that are missing from train.

    Args:
        where: what the triples are of, for errors.
        found: the triples of train, and of the other splits that there are.
        split_ratios: the shares of train, valid and test.
        seed: of the draw.
        entity_labels, relation_labels: human labels by label; those of no id are left out.
        notes: what was noted while reading.
    """
    entities = sorted_labels([c for part in found.values() for c in (part.head, part.tail)])
    relations = sorted_labels([part.relation for part in found.values()])
    sizes = len(entities), len(relations)
    splits, dropped = {}, {}
    for name, part in found.items():
        ids = [_ids(part.head, entities), _ids(part.relation, relations), _ids(part.tail, entities)]
        splits[name] = sorted_unique(np.stack(ids, axis=1), *sizes)
        dropped[name] = part.rows - len(splits[name])
    lines = [*notes, *duplicate_notes(dropped), *label_notes(entities, relations)]
    if missing := [name for name in SPLITS if name not in splits]:
        whole = splits["train"]
        number, note = draw_splits(where, whole, sizes, missing, split_ratios, seed)
        splits["train"] = whole[number == 0]
        splits |= {name: whole[number == SPLITS.index(name)] for name in missing}
        lines.append(note)
    splits = {name: splits[name] for name in SPLITS}
    names = relations.to_pylist()
    return GraphFields(
        entities=entities.to_pylist(),
        relations=names,
        entity_labels=_used(entity_labels, entities),
        relation_labels=_used(relation_labels, relations),
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"],
        notes=(*lines, *split_notes(splits, names, len(entities))),
    )


def are_numbers(labels: pa.Array) -> bool:
    """Whether all labels are decimal numbers without a sign or leading zeros."""
    return bool(len(labels)) and pc.all(pc.match_substring_regex(labels, _NUMBER)).as_py()


def label_order(labels: pa.Array) -> pa.Array:
    """The places of distinct labels in sorted order.

    That is code point order (UTF-8 sorts by bytes as by code points); if all labels are numbers, it
    is the order of the numbers: so ids given as labels stay what they are.
    """
    if not are_numbers(labels):
        return pc.array_sort_indices(labels)
    keys = pa.table({"length": pc.binary_length(labels), "label": labels})
    return pc.sort_indices(keys, [("length", "ascending"), ("label", "ascending")])


def sorted_labels(columns: Sequence[Column]) -> pa.Array:
    """The distinct labels of some columns in sorted order."""
    labels = pa.chunked_array([column.labels for column in columns]).unique()
    return labels.take(label_order(labels))


def _ids(column: Column, labels: pa.Array) -> IntArray:
    places = pc.index_in(column.labels, value_set=labels).to_numpy(zero_copy_only=False)
    ids: IntArray = places.astype(np.int64)[column.codes]
    return ids


def _used(human: Mapping[str, str] | None, labels: pa.Array) -> dict[str, str]:
    if not human:
        return {}
    used = set(labels.to_pylist())
    return {raw: text for raw, text in human.items() if raw in used}
