"""Mistakes of a user as one-line errors, the name that was meant, and signals, each in one line."""

from __future__ import annotations

import contextlib
import difflib
import heapq
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType

_received = signal.SIGINT
_writing = 0  # things that are half-written


class InputError(ValueError):
    """A user's mistake in one line; the command line prints it and exits with code 2."""


class Diverged(InputError):
    """A training whose loss is no longer a number: its settings do not work on this graph."""


def nearest(name: str, names: Iterable[str], limit: int = 1) -> str:
    """A suffix for an error message that suggests the names closest to the given one.

    Args:
        name: what the user wrote.
        names: what would have been accepted: some hundreds; of more, a `data.shortlist.shortlist`.
        limit: how many to suggest at most.

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
        found = difflib.get_close_matches(wanted, list(folded), n=limit)
        if len(wanted) >= 3:  # part of a long name, such as the last word of a relation
            around = (other for other in folded if wanted in other and other not in found)
            found += heapq.nsmallest(limit - len(found), around, key=len)
    if not found:
        return ""
    return "; did you mean " + " or ".join(f'"{folded[match]}"' for match in found) + "?"


def one_of(names: Sequence[str]) -> str:
    """Names as "a", "a or b" or "a, b or c"."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


@contextlib.contextmanager
def error_context(what: object) -> Iterator[None]:
    """Puts `what` (a file, a run, a form) before the message of an InputError raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def handle_signals() -> None:
    """From now on SIGINT and SIGTERM end the process in order; training and serving set their own.

    They raise KeyboardInterrupt, so that what is half-written is removed; within an import, which
    may hide an exception, they end the process, unless something is half-written.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def exit_code() -> int:
    """Of a process that a signal interrupted."""
    return 128 + _received


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """While something is half-written."""
    global _writing
    _writing += 1
    try:
        yield
    finally:
        _writing -= 1


def note_signal(number: int) -> None:
    """Remembers which signal it was."""
    global _received
    _received = signal.Signals(number)


def _stop(number: int, frame: FrameType | None) -> None:
    note_signal(number)
    if _is_importing(frame) and not _writing:
        os.write(2, b"metasd: interrupted\n")
        os._exit(exit_code())
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
