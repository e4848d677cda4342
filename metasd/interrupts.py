"""Signals that end the command `metasd`: one line, 130 for SIGINT and 143 for SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

_received = signal.SIGINT
_writing = 0


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


def note(number: int) -> None:
    """Remembers which signal it was."""
    global _received
    _received = signal.Signals(number)


def _stop(number: int, frame: FrameType | None) -> None:
    note(number)
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
