"""An index of names: by the beginning of any of their words, and by likeness to a misspelt one."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from metasd.data.shortlist import inverse_counts, most_alike, pair_masks

_BREAK = re.compile(r"[\W_]+")
_WORD = re.compile(r"(?<= )\w")
_DEPTH = 32  # letters by which the words are sorted


class NameIndex:
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
        self._masks = pair_masks(self._text)
        self._inverse_counts = inverse_counts(self._masks)

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
        best: list[int] = most_alike(_fold(name), self._masks, self._inverse_counts, count).tolist()
        return best

    def _sort(self, starts: Iterable[int]) -> npt.NDArray[np.int32]:
        return np.array(sorted(starts, key=lambda at: self._text[at : at + _DEPTH]), dtype=np.int32)


def _fold(text: str) -> str:
    """The words of a text in lower case without accents; a text without words stays itself."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    text = text.casefold()
    return _BREAK.sub(" ", text).strip() or text.replace("\n", " ")
