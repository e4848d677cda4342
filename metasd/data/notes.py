"""What is noted about a graph: one line with a number for everything a user should look at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .leakage import BYTES, COMPARISONS, Leakage, find_leakage
from .sorting import IntArray, count_shared, parts
from .splits import SPLITS

SEARCHED = 20_000_000
"""Triples of a graph above which inverse relations are not looked for."""

_SAMPLE = 1000  # labels whose prefixes are compared
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.*[/#:]")  # of a URI, up to its last part


def duplicate_notes(dropped: dict[str, int]) -> list[str]:
    """A line for each split from which triples were dropped."""
    return [
        f"{name}: {count:,} duplicate triples dropped" for name, count in dropped.items() if count
    ]


def label_notes(entities: pa.Array, relations: pa.Array) -> list[str]:
    """A line where most entities or relations begin with the same part of a URI."""
    notes = []
    for what, labels in (("entity", entities), ("relation", relations)):
        places = np.unique(np.linspace(0, len(labels) - 1, _SAMPLE).astype(np.int64))
        sample = labels.take(pa.array(places)).to_pylist() if len(labels) else []
        found = Counter(match[0] for label in sample if (match := _PREFIX.match(label)))
        if not found:
            continue
        prefix, _ = found.most_common(1)[0]
        count = pc.sum(pc.starts_with(labels, prefix)).as_py()
        if 2 * count > len(labels) > 1:
            notes.append(
                f"{count:,} of {len(labels):,} {what} labels begin with {prefix} ; "
                f"{what}_labels.tsv can give them shorter names"
            )
    return notes


def split_notes(
    splits: dict[str, IntArray], relations: Sequence[str], num_entities: int, limit: int = SEARCHED
) -> list[str]:
    """Lines for held-out triples that are in train, have something new, or follow from train.

    Args:
        splits: train, valid and test, each int64 ``(n, 3)``, sorted and without duplicates.
        relations: their labels.
        limit: the number of triples up to which inverse relations are looked for.
    """
    sizes = num_entities, len(relations)
    held_out = SPLITS[1:]
    shared = {name: count_shared(splits["train"], splits[name], *sizes) for name in held_out}
    notes = []
    if any(shared.values()):
        notes.append(f"{_each(shared, splits)} triples are in train, too; they count")
    notes += _unseen_notes(splits, *sizes)
    total = sum(len(rows) for rows in splits.values())
    if not any(len(splits[name]) for name in held_out):
        return notes
    if total > limit:
        return [*notes, f"inverse relations are looked for up to {limit:,} triples; not in these"]
    found = find_leakage(splits, *sizes)
    if found is None:
        return [*notes, f"inverse relations are not looked for: over {COMPARISONS:,} comparisons"]
    return notes + _leakage_notes(found, splits, relations)


def limit_of(memory: int) -> int:
    """The number of triples up to which inverse relations are looked for in so many bytes."""
    return min(SEARCHED, memory // BYTES)


def count_unseen(
    splits: dict[str, IntArray],
    new_entity: npt.NDArray[np.bool_],
    new_relation: npt.NDArray[np.bool_],
) -> dict[str, int]:
    """How many triples of valid and test have an entity or relation that is not in train."""
    counts = {}
    for name in SPLITS[1:]:
        counts[name] = 0
        for head, relation, tail in (part.T for part in parts(splits[name])):
            new = new_entity[head] | new_relation[relation] | new_entity[tail]
            counts[name] += int(new.sum())
    return counts


def _unseen_notes(splits: dict[str, IntArray], num_entities: int, num_relations: int) -> list[str]:
    new_entity = np.ones(num_entities, dtype=bool)
    new_relation = np.ones(num_relations, dtype=bool)
    for part in parts(splits["train"]):
        new_entity[part[:, 0]] = new_entity[part[:, 2]] = False
        new_relation[part[:, 1]] = False
    counts = count_unseen(splits, new_entity, new_relation)
    if not any(counts.values()):
        return []
    lacking = ((int(new_entity.sum()), "entity"), (int(new_relation.sum()), "relation"))
    what = " and ".join(f"{count:,} {_plural(word, count)}" for count, word in lacking if count)
    return [f"{_each(counts, splits)} triples have one of {what} that train lacks; they count"]


def _leakage_notes(
    found: Leakage, splits: dict[str, IntArray], relations: Sequence[str]
) -> list[str]:
    pairs_of = (
        ("inverse", found.inverse, found.through_inverse, " in the other direction"),
        ("near-duplicate", found.duplicate, found.through_duplicate, " under the other relation"),
    )
    notes = []
    for kind, pairs, counts, how in pairs_of:
        if pairs:
            names = ", ".join(f"{relations[r]} / {relations[s]}" for r, s in pairs[:3])
            notes.append(
                f"{len(pairs):,} {_plural('pair', len(pairs))} of {kind} relations "
                f"({names}{', ...' * (len(pairs) > 3)}): "
                f"{_each(counts, splits, zeros=True)} triples are in train{how}"
            )
    if found.symmetric:
        names = ", ".join(relations[r] for r in found.symmetric[:3])
        notes.append(
            f"{len(found.symmetric):,} symmetric {_plural('relation', len(found.symmetric))} "
            f"({names}{', ...' * (len(found.symmetric) > 3)}): "
            f"{_each(found.through_symmetric, splits, zeros=True)} triples are in train in the "
            "other direction"
        )
    return notes


def _each(counts: dict[str, int], splits: dict[str, IntArray], *, zeros: bool = False) -> str:
    """Such as ``3 of 100 valid and 2 of 100 test``."""
    shown = [name for name in counts if len(splits[name]) and (zeros or counts[name])]
    return " and ".join(f"{counts[name]:,} of {len(splits[name]):,} {name}" for name in shown)


def _plural(word: str, count: int) -> str:
    if count == 1:
        return word
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
