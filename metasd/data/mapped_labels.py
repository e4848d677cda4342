"""Labels that stay in a file: mapped bytes, found by bisection; no Python string is kept."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from metasd.errors import InputError, nearest

from .shortlist import shortlist
from .sorting import PART, IntArray

_COMPARED = 200  # names that are compared one by one: a few milliseconds


class SortedLabels(Sequence[str]):
    """A list of labels in UTF-8 whose bytes a subclass reads, and their places by bisection.

    Args:
        order: the places of the labels to be found, in the order of their bytes.
    """

    def __init__(self, order: Sequence[int] | npt.NDArray[np.integer[Any]]) -> None:
        self.order = order

    @abstractmethod
    def _bytes(self, place: int) -> bytes:
        """The label at a place in 0 ... n - 1."""

    def _key(self, label: bytes) -> tuple[int, bytes]:
        """What labels are sorted by."""
        return 0, label

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        chosen = range(len(self))[place]
        return self._bytes(chosen).decode() if isinstance(chosen, int) else self._slice(chosen)

    def _slice(self, chosen: range) -> list[str]:
        return [self._bytes(place).decode() for place in chosen]

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and bool(self.places(text))

    def places(self, text: str) -> list[int]:
        """Where this label is, in increasing order."""
        wanted = text.encode(errors="surrogatepass")
        found = []
        first = bisect_left(self.order, self._key(wanted), key=lambda i: self._key(self._bytes(i)))
        while first < len(self.order) and self._bytes(self.order[first]) == wanted:
            found.append(int(self.order[first]))
            first += 1
        return found


class MappedLabels(SortedLabels):
    """Labels in one array of bytes, with an array of where each begins.

    Args:
        text: uint8, the labels one after the other.
        offsets: int64 ``(n + 1,)``: where each begins, and where the last one ends.
        order: the places of the labels to be found, by their labels; None if all are, and sorted.
        numbers: whether they are sorted as decimal numbers: the shorter ones first.
    """

    def __init__(
        self,
        text: npt.NDArray[np.uint8],
        offsets: IntArray,
        order: IntArray | None = None,
        *,
        numbers: bool = False,
    ) -> None:
        self._text, self._offsets, self._numbers = text, offsets, numbers
        super().__init__(range(len(self)) if order is None else order)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def _key(self, label: bytes) -> tuple[int, bytes]:
        return len(label) if self._numbers else 0, label

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), PART // 16):
            yield from self[start : start + PART // 16]

    def _slice(self, chosen: range) -> list[str]:
        if chosen.step != 1 or not chosen:
            return super()._slice(chosen)
        offsets = self._offsets[chosen.start : chosen.stop + 1].tolist()
        text = self._text[offsets[0] : offsets[-1]].tobytes()
        return [
            text[start - offsets[0] : end - offsets[0]].decode() for start, end in pairwise(offsets)
        ]

    def _bytes(self, place: int) -> bytes:
        return self._text[self._offsets[place] : self._offsets[place + 1]].tobytes()


def find_label(
    text: str,
    labels: Sequence[str],
    raw: Sequence[int],
    human: Sequence[int],
    near: Iterable[str],
    what: str = "entity",
) -> int:
    """The id that a user's text means: that of a label, or of a human label that only it has.

    Args:
        text: what the user wrote.
        labels: by id.
        raw: the ids with that label, none or one.
        human: the ids with that human label.
        near: names to suggest from; read only if there are no such ids.
        what: entity or relation.

    Raises:
        InputError: nothing is called that (the nearest names are suggested), or several are.
    """
    found = raw or human
    if len(found) == 1:
        return found[0]
    if found:
        plural = {"entity": "entities", "relation": "relations"}[what]
        shown = ", ".join(labels[i] for i in found[:5]) + ", ..." * (len(found) > 5)
        raise InputError(f'"{text}" names {len(found)} {plural} ({shown}); give the id of one')
    raise InputError(
        f'no {what} "{text}"{nearest(text, shortlist(text, near, _COMPARED, 3), limit=3)}'
    )


class MappedIds(Mapping[str, int]):
    """The place of each of some distinct labels, like a dict."""

    def __init__(self, labels: MappedLabels) -> None:
        self._labels = labels

    def __getitem__(self, text: str) -> int:
        places = self._labels.places(text)
        if not places:
            raise KeyError(text)
        return places[0]

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)


class MappedHuman(Mapping[str, str]):
    """Human label by label, like a dict.

    Args:
        labels: of all entities.
        human: by the same ids, empty for an entity that has none; those to be found are the others.
    """

    def __init__(self, labels: MappedLabels, human: MappedLabels) -> None:
        self._ids, self.by_id = MappedIds(labels), human

    def __getitem__(self, text: str) -> str:
        human = self.by_id[self._ids[text]]
        if not human:
            raise KeyError(text)
        return human

    def __len__(self) -> int:
        return len(self.by_id.order)

    def __iter__(self) -> Iterator[str]:
        return (raw for raw, human in zip(self._ids, self.by_id, strict=True) if human)
