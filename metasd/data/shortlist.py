"""Shortlists of the names most like a misspelt one, by bit masks of their letter pairs.

A mask has one bit per pair of neighbouring bytes, hashed to 64 bits. Masks of any number of names
are compared in a few passes of numpy, at a fixed 8 bytes per name; exact comparison
(`metasd.errors.nearest`) is left for the few names of a shortlist.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

_PART = 1 << 16  # names looked at together

Masks = npt.NDArray[np.uint64]


def pair_masks(lines: str) -> Masks:
    """The masks of names, uint64 (n,).

    Args:
        lines: the names in lower case, each followed by a line break.
    """
    letters = np.frombuffer(lines.encode(errors="replace"), np.uint8)
    if not len(letters):
        return np.zeros(0, np.uint64)
    newlines = letters == ord("\n")
    codes = (letters[:-1].astype(np.uint64) * 37 + letters[1:]) % 64
    bits = np.where(newlines[:-1], 0, np.uint64(1) << codes).astype(np.uint64)
    starts = np.append(0, np.flatnonzero(newlines)[:-1] + 1)
    return np.bitwise_or.reduceat(np.append(bits, np.uint64(0)), starts)


def inverse_counts(masks: Masks) -> npt.NDArray[np.float32]:
    """One over the number of bits per mask, fp32 (n,)."""
    return np.reciprocal(np.maximum(_count(masks), 1), dtype=np.float32)


def most_alike(
    name: str, masks: Masks, inverse: npt.NDArray[np.float32], count: int
) -> npt.NDArray[np.int64]:
    """The places of the names that share most pairs with one, the best first, `count` at most.

    Shared pairs are divided by the pairs of either name and added up: of two names with as many
    shared pairs the shorter one is better. Among equal ones the lower place is better.

    Args:
        name: in lower case, without a line break.
        masks: uint64 (n,) of the names to choose from.
        inverse: their `inverse_counts`.
    """
    wanted = pair_masks(name + "\n")
    shared = _count(masks & wanted)
    likeness = shared * (inverse_counts(wanted) + inverse)
    best = np.argpartition(-likeness, min(count, len(likeness)) - 1)[:count]
    best = best[np.lexsort((best, -likeness[best]))]
    return best[shared[best] > 0]


def shortlist(name: str, names: Iterable[str], count: int, containing: int) -> Iterator[str]:
    """The names that share most letter pairs with `name`, and the shortest that contain it.

    Args:
        name: in any case.
        names: in any case; they are read in parts of 65,536, so that any number of them may come.
        count: how many to take of each part at most.
        containing: how many that contain `name` to take of each part beside them.
    """
    names, name = iter(names), _line(name)
    while part := list(islice(names, _PART)):
        folded = [_line(other) for other in part]
        masks = pair_masks("\n".join([*folded, ""]))
        places = set(most_alike(name, masks, inverse_counts(masks), count).tolist())
        around = (place for place, other in enumerate(folded) if name in other)
        places.update(heapq.nsmallest(containing, around, key=lambda place: len(folded[place])))
        for place in sorted(places):
            yield part[place]


def _line(name: str) -> str:
    return name.casefold().replace("\n", " ")


def _count(masks: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """How many bits of each mask are set (numpy has a function for it since 2.0)."""
    masks = masks - (masks >> 1 & 0x5555555555555555)
    masks = (masks & 0x3333333333333333) + (masks >> 2 & 0x3333333333333333)
    masks = (masks + (masks >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (masks * 0x0101010101010101 >> 56).astype(np.float32)
