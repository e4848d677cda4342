"""Labels of a compressed model: mapped lines of text, tens of bytes per label, not hundreds."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt

from metasd import _C
from metasd.data.mapped_labels import SortedLabels, find_label
from metasd.errors import InputError

from .name_index import NameIndex

_RAW, _HUMAN = 1, 2  # fields of a line
_PART = 1 << 20  # bytes that are decoded at a time


class Labels(Sequence[str]):
    """The labels of the ids 0 ... n - 1, and human labels beside some of them.

    Args:
        text: lines `id<TAB>label` or `id<TAB>label<TAB>human label`, as in entities.tsv.
        count: n.
        what: entity or relation, for errors.

    Raises:
        InputError: a line is not as described, the text is not UTF-8, or a label is there twice.
    """

    def __init__(self, text: bytes | memoryview, count: int, what: str) -> None:
        self.text = np.frombuffer(text, np.uint8)
        self._what = what
        if not 4 * count <= self.text.size < 2**32:
            raise InputError(f"{count} labels do not fit in {self.text.size} bytes")
        self._starts = np.empty(count + 1, np.uint32)
        line = _C.label_lines(
            self.text.ctypes.data, self.text.size, count, self._starts.ctypes.data
        )
        if line >= 0:
            wanted = f"{line}<TAB>label" if line < count else f"the end after {count} lines"
            raise InputError(f"line {line + 1}: wanted {wanted}")
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:  # a part at a time: decoded, it may take four times as much
            for start in range(0, self.text.size, _PART):
                decoder.decode(self.text[start : start + _PART].data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            raise InputError("not UTF-8 text") from None
        order = self._sorted(_RAW)
        self._raw = _Field(self.text, self._starts, order, _RAW)
        again = _C.repeated_label(
            self.text.ctypes.data, self._starts.ctypes.data, order.ctypes.data, count, _RAW
        )
        if again >= 0:
            raise InputError(f'line {again + 1}: the label "{self[again]}" is there twice')

    @staticmethod
    def of(labels: Sequence[str], human: Mapping[str, str], what: str) -> Labels:
        """From a vocabulary's labels, and human labels by label."""
        for label in chain(labels, human.values()):
            if not label or any(mark in label for mark in "\t\n\r\0"):
                raise InputError(f"{what} {label!r} is empty or holds a tab, a line break or NUL")
        lines = (
            f"{i}\t{label}\t{human[label]}\n" if label in human else f"{i}\t{label}\n"
            for i, label in enumerate(labels)
        )
        return Labels("".join(lines).encode(), len(labels), what)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        return self._raw[place]

    def human(self, place: int) -> str:
        """The human label where there is one, else the label."""
        return self._human[place] or self[place]

    def find(self, text: str) -> int:
        """The id of a label, or of a human label that only it has.

        Raises:
            InputError: nothing is called that (the nearest names are suggested), or several are;
                or the label is no text, but an id, say.
        """
        if not isinstance(text, str):
            raise InputError(
                f"{self._what} must be a label; got {text!r:.80} ({type(text).__name__})"
            )
        raw = self._raw.places(text)
        human = [] if raw else self._human.places(text)
        return find_label(text, self, raw, human, self._near(text), self._what)

    def get(self, text: str) -> int | None:
        """What `find` gives, or None where nothing is called that."""
        found = self._raw.places(text) or self._human.places(text)
        return self.find(text) if found else None

    @cached_property
    def names(self) -> NameIndex:
        """All human labels, then all labels, to be searched: place i is of the id i % n."""
        return NameIndex(chain(self._human, self._raw))

    def _near(self, text: str) -> Iterator[str]:
        for place in self.names.near(text):
            yield self.human(place) if place < len(self) else self[place - len(self)]

    @cached_property
    def _human(self) -> _Field:
        return _Field(self.text, self._starts, self._sorted(_HUMAN), _HUMAN)

    def _sorted(self, field: int) -> npt.NDArray[np.uint32]:
        order = np.empty(len(self), np.uint32)
        found = _C.sort_labels(
            self.text.ctypes.data, self._starts.ctypes.data, len(self), field, order.ctypes.data
        )
        return order[:found]


class _Field(SortedLabels):
    """One field of all lines: labels, or human labels, which are empty where there are none.

    Args:
        text: uint8, the lines.
        starts: uint32 (n + 1,): where each line begins, and where the last one ends.
        order: uint32, the lines with such a field, sorted by it.
        field: which one.
    """

    def __init__(
        self,
        text: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.uint32],
        order: npt.NDArray[np.uint32],
        field: int,
    ) -> None:
        super().__init__(order)
        self._text, self._starts, self._index = text, starts, field

    def __len__(self) -> int:
        return len(self._starts) - 1

    def _bytes(self, place: int) -> bytes:
        line = self._text[self._starts[place] : self._starts[place + 1] - 1].tobytes()
        fields = line.split(b"\t")
        return fields[self._index] if self._index < len(fields) else b""
