"""Labels in a mapped text, found by bisection: tens of bytes a label instead of hundreds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
import numpy.typing as npt

from metasd import _C
from metasd.errors import InputError, nearest

from .name_index import Names

_RAW, _HUMAN = 1, 2


class Labels:
    """The labels of the ids 0 ... n - 1, and human labels beside some of them.

    Args:
        text: lines `id<TAB>label` or `id<TAB>label<TAB>human label`, as in entities.tsv.
        count: n.
        what: how an error calls one of them.

    Raises:
        InputError: a line is not as described, the text is not UTF-8, or a label is there twice.
    """

    def __init__(self, text: bytes | memoryview, count: int, what: str) -> None:
        self.text = np.frombuffer(text, np.uint8)
        self._count, self._what = count, what
        if not 4 * count <= self.text.size < 2**32:
            raise InputError(f"{count} labels do not fit in {self.text.size} bytes")
        self._starts = np.empty(count + 1, np.uint32)
        line = _C.label_lines(
            self.text.ctypes.data, self.text.size, count, self._starts.ctypes.data
        )
        if line >= 0:
            wanted = f"{line}<TAB>label" if line < count else f"the end after {count} lines"
            raise InputError(f"line {line + 1}: wanted {wanted}")
        try:
            str(self.text.data, "utf-8")
        except UnicodeDecodeError:
            raise InputError("not UTF-8 text") from None
        self._order = self._sorted(_RAW)
        again = _C.repeated_label(
            self.text.ctypes.data, self._starts.ctypes.data, self._order.ctypes.data, count, _RAW
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
        return self._count

    def __getitem__(self, place: int) -> str:
        return self._field(place, _RAW)

    def human(self, place: int) -> str:
        """The human label where there is one, else the label."""
        return self._field(place, _HUMAN) or self[place]

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(self._count))

    def find(self, text: str) -> int:
        """The id of a label, or of a human label that only it has.

        Raises:
            InputError: nothing is called that (the nearest names are offered), or several are.
        """
        if (found := self._range(text, self._order, _RAW))[0] < found[1]:
            return int(self._order[found[0]])
        first, last = self._range(text, self._human_order, _HUMAN)
        places = self._human_order[first:last].tolist()
        if len(places) == 1:
            return int(places[0])
        if places:
            shown = ", ".join(self[i] for i in places[:5]) + ", ..." * (len(places) > 5)
            raise InputError(f'"{text}" names {len(places)} of them ({shown}); give the id of one')
        raise InputError(f'no {self._what} "{text}"{nearest(text, self._near(text), limit=3)}')

    @cached_property
    def names(self) -> Names:
        """All human labels, then all labels, to be searched: place i is of the id i % n."""
        return Names([*(self._field(place, _HUMAN) for place in range(len(self))), *self])

    @cached_property
    def _human_order(self) -> npt.NDArray[np.uint32]:
        return self._sorted(_HUMAN)

    def _sorted(self, field: int) -> npt.NDArray[np.uint32]:
        order = np.empty(self._count, np.uint32)
        found = _C.sort_labels(
            self.text.ctypes.data, self._starts.ctypes.data, self._count, field, order.ctypes.data
        )
        return order[:found]

    def _near(self, text: str) -> Iterator[str]:
        """The names that look most like this one."""
        for place in self.names.near(text):
            yield self.human(place) if place < len(self) else self[place - len(self)]

    def _range(self, text: str, order: npt.NDArray[np.uint32], field: int) -> tuple[int, int]:
        wanted = text.encode(errors="surrogatepass")
        first = last = self._bisect(wanted, order, field)
        while last < len(order) and self._bytes(int(order[last]), field) == wanted:
            last += 1
        return first, last

    def _bisect(self, wanted: bytes, order: npt.NDArray[np.uint32], field: int) -> int:
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(int(order[middle]), field) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def _bytes(self, place: int, field: int) -> bytes:
        line = self.text[self._starts[place] : self._starts[place + 1] - 1].tobytes()
        fields = line.split(b"\t")
        return fields[field] if field < len(fields) else b""

    def _field(self, place: int, field: int) -> str:
        return self._bytes(range(self._count)[place], field).decode()
