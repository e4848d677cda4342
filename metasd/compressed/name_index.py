"""Names found by the beginning of any of their words, and names like a misspelt one."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

_BREAK = re.compile(r"[\W_]+")
_WORD = re.compile(r"(?<= )\w")
_DEPTH = 32  # letters by which the words are sorted


class Names:
    """An index of names; case, accents and the marks between words make no difference.

    Args:
        names: what is looked up by its place in this list. Empty names are never found.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._text = "".join(_fold(name) + "\n" for name in names)
        ends = np.array([match.start() for match in re.finditer("\n", self._text)], np.int32)
        self._starts = np.append(np.int32(0), ends + 1)[:-1]
        words = [match.start() for match in _WORD.finditer(self._text)]
        self._sorted = [self._sort(self._starts[self._starts < ends]), self._sort(words)]
        self._pairs = _pairs(self._text)
        self._inverse_counts = 1 / np.maximum(_count(self._pairs), 1)

    def starting_with(self, prefix: str) -> Iterator[int]:
        """The places of the names that begin so, in order, then of those with a word that does.

        A name is given again for each of its words that begins so.
        """
        prefix = _fold(prefix)
        depth = prefix[:_DEPTH]
        for starts in self._sorted:
            first = bisect_left(starts, depth, key=lambda at: self._text[at : at + len(depth)])
            for at in starts[first:]:
                if not self._text.startswith(depth, at):
                    break
                if self._text.startswith(prefix, at):
                    yield int(np.searchsorted(self._starts, at, "right")) - 1

    def near(self, name: str, count: int = 50) -> list[int]:
        """The places of the names that share most pairs of letters with this one."""
        pairs = _pairs(_fold(name) + "\n")
        shared = _count(self._pairs & pairs)
        likeness = shared * (1 / np.maximum(_count(pairs), 1) + self._inverse_counts)
        best = np.argpartition(-likeness, min(count, len(likeness)) - 1)[:count]
        best = best[np.lexsort((best, -likeness[best]))]
        return [int(place) for place in best if shared[place]]

    def _sort(self, starts: Iterable[int]) -> npt.NDArray[np.int32]:
        return np.array(sorted(starts, key=lambda at: self._text[at : at + _DEPTH]), dtype=np.int32)


def _fold(text: str) -> str:
    """The words of a text in small letters without accents; a text without words stays itself."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    text = text.casefold()
    return _BREAK.sub(" ", text).strip() or text.replace("\n", " ")


def _pairs(lines: str) -> npt.NDArray[np.uint64]:
    """One word of 64 bits a line; a pair of neighbouring bytes sets one of them."""
    letters = np.frombuffer(lines.encode(errors="replace"), np.uint8)
    if not len(letters):
        return np.zeros(0, np.uint64)
    newlines = letters == ord("\n")
    codes = (letters[:-1].astype(np.uint64) * 37 + letters[1:]) % 64
    bits = np.where(newlines[:-1], 0, np.uint64(1) << codes).astype(np.uint64)
    starts = np.append(0, np.flatnonzero(newlines)[:-1] + 1)
    return np.bitwise_or.reduceat(np.append(bits, np.uint64(0)), starts)


def _count(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """How many bits of each word are set (numpy has a function for it since 2.0)."""
    bits = bits - (bits >> 1 & 0x5555555555555555)
    bits = (bits & 0x3333333333333333) + (bits >> 2 & 0x3333333333333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (bits * 0x0101010101010101 >> 56).astype(np.float32)
