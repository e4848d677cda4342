"""Labels that stay in a file: mapped bytes, found by bisection; no Python string is kept."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
import numpy.typing as npt

from .sorting import PART, IntArray

_NEAR = 200  # of each part, the labels that look most like a misspelt one


class MappedLabels(Sequence[str]):
    """A list of labels in UTF-8.

    Args:
        text: uint8, the labels one after the other.
        offsets: int64 ``(n + 1,)``: where each begins, and where the last one ends.
        order: the places of the labels to be found, by their labels; None if all are, and sorted.
    """

    def __init__(
        self, text: npt.NDArray[np.uint8], offsets: IntArray, order: IntArray | None = None
    ) -> None:
        self._text, self._offsets = text, offsets
        self.order: Sequence[int] | IntArray = range(len(self)) if order is None else order

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        chosen = range(len(self))[place]
        if isinstance(chosen, int):
            return self._bytes(chosen).decode()
        if chosen.step != 1 or not chosen:
            return [self[i] for i in chosen]
        offsets = self._offsets[chosen.start : chosen.stop + 1].tolist()
        text = self._text[offsets[0] : offsets[-1]].tobytes()
        return [
            text[start - offsets[0] : end - offsets[0]].decode() for start, end in pairwise(offsets)
        ]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), PART // 16):
            yield from self[start : start + PART // 16]

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and bool(self.places(text))

    def places(self, text: str) -> list[int]:
        """Where this label is, in increasing order."""
        wanted = text.encode(errors="surrogatepass")
        found = []
        first = bisect_left(self.order, wanted, key=self._bytes)
        while first < len(self.order) and self._bytes(self.order[first]) == wanted:
            found.append(int(self.order[first]))
            first += 1
        return found

    def near(self, text: str) -> list[str]:
        """Some that share most pairs of letters with a text, for ``nearest`` to choose from."""
        import pyarrow as pa  # compressed models do without
        import pyarrow.compute as pc

        wanted = text.lower().encode(errors="replace").decode()
        pairs = {wanted[i : i + 2] for i in range(max(1, len(wanted) - 1))}
        found = []
        for start in range(0, len(self), PART):
            offsets = self._offsets[start : start + PART + 1]
            labels = pa.LargeStringArray.from_buffers(
                len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(self._text)
            )
            labels.validate(full=True)
            labels = pc.utf8_lower(labels)
            shared = np.zeros(len(labels), dtype=np.int64)
            for pair in pairs:
                shared += pc.match_substring(labels, pair).to_numpy(zero_copy_only=False)
            length = pc.utf8_length(labels).to_numpy(zero_copy_only=False)
            shared[length == 0] = 0
            best = np.lexsort((np.abs(length - len(wanted)), -shared))[:_NEAR]
            found += [self[start + i] for i in best[shared[best] > 0].tolist()]
        return found

    def _bytes(self, place: int) -> bytes:
        return self._text[self._offsets[place] : self._offsets[place + 1]].tobytes()


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
