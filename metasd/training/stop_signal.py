"""Stopping between two steps: SIGINT and SIGTERM as a flag."""

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

from metasd import errors


class Interrupted(Exception):
    """Training was asked to stop; the disk has everything up to the last whole step."""


class Signals:
    """Turns the first SIGINT or SIGTERM into a flag; a second one interrupts at once."""

    received = False

    def __enter__(self) -> Self:
        self._old: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._handle)
            except ValueError:  # only the main thread may; elsewhere nothing changes
                return self
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        errors.note_signal(number)
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        with contextlib.suppress(OSError):  # print may not be called from here
            os.write(2, b"\nmetasd: stopping after this step; once more to stop at once\n")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
