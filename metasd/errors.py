"""What a user did wrong, in one line, and the name they may have meant."""

from __future__ import annotations

import contextlib
import difflib
import heapq
from collections.abc import Iterable, Iterator

_SHORTLIST = 200


class InputError(ValueError):
    """A user's mistake, told in one line; the command line prints it and exits with code 2."""


class Diverged(InputError):
    """A training whose loss is no number any more: its settings are not of use on this graph."""


def nearest(name: str, names: Iterable[str], limit: int = 1) -> str:
    """A suffix for an error message that offers the names closest to the one given.

    Args:
        name: what the user wrote.
        names: what would have been accepted; a hundred thousand are fine.
        limit: how many to offer at most.

    Returns:
        For example ``; did you mean "wn18rr"?``, or an empty string when nothing is close.
    """
    wanted = name.casefold()
    folded: dict[str, str] = {}
    for candidate in names:
        folded.setdefault(candidate.casefold(), candidate)
    if wanted in folded:
        found = [wanted]
    else:
        found = difflib.get_close_matches(wanted, _shortlist(wanted, list(folded)), n=limit)
        if len(wanted) >= 3:  # part of a long name, such as the last word of a relation
            around = (other for other in folded if wanted in other and other not in found)
            found += heapq.nsmallest(limit - len(found), around, key=len)
    if not found:
        return ""
    return "; did you mean " + " or ".join(f'"{folded[match]}"' for match in found) + "?"


@contextlib.contextmanager
def error_context(what: object) -> Iterator[None]:
    """Puts what an InputError is about before its message: a file, a run, a form."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def _shortlist(wanted: str, names: list[str]) -> list[str]:
    """The names that share most pairs of letters with ``wanted``: difflib is slow on long lists."""
    if len(names) <= _SHORTLIST:
        return names
    pairs = {wanted[i : i + 2] for i in range(max(1, len(wanted) - 1))}
    longest = 3 * len(wanted)  # difflib's default cutoff, 0.6, rejects anything longer
    close = [candidate for candidate in names if len(candidate) <= longest]

    def shared(candidate: str) -> tuple[int, int]:
        return sum(pair in candidate for pair in pairs), -abs(len(candidate) - len(wanted))

    return heapq.nlargest(_SHORTLIST, close, key=shared)
