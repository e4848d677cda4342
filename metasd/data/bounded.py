"""Files of lines, plain or gzip, with bounds on what a small file can make of itself."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from metasd.errors import InputError
from metasd.files import open_regular

MAX_LINE = "METASD_MAX_LINE_BYTES"
MAX_INFLATION = "METASD_MAX_INFLATION"
_LINE = 1 << 20
_INFLATION = 200  # times the size of the file; text of triples has 5 to 20
_BUFFER = 1 << 16
_ALWAYS = 64 << 20  # bytes that any file may inflate to


def open_lines(path: Path) -> io.BufferedReader:
    """Opens a file of lines, and decompresses it if its name ends with .gz.

    Reading raises InputError for a line longer than METASD_MAX_LINE_BYTES (1 MiB), and where a .gz
    inflates to more than METASD_MAX_INFLATION (200) times its size and to more than 64 MiB.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    file = open_regular(path)
    size = os.fstat(file.fileno()).st_size
    if path.suffix.casefold() != ".gz":
        return io.BufferedReader(_Bounded(path, file, None), _BUFFER)
    inflated = cast(IO[bytes], gzip.GzipFile(fileobj=file))
    return io.BufferedReader(_Bounded(path, inflated, inflation_limit(size), file), _BUFFER)


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """InputError with the path for everything that can go wrong in reading bytes."""
    try:
        yield
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file ({error})") from None
    except (EOFError, zlib.error):
        raise InputError(f"{path}: the gzip file is damaged or cut off") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def inflation_limit(size: int) -> int:
    """How many bytes a compressed file of that size may become."""
    return max(_ALWAYS, _limit(MAX_INFLATION, _INFLATION) * size)


def too_inflated(path: object) -> InputError:
    times = _limit(MAX_INFLATION, _INFLATION)
    return InputError(
        f"{path}: inflates to more than {times} times its size; if that is meant, set "
        f"{MAX_INFLATION} to more"
    )


class _Bounded(io.RawIOBase):
    """What a file gives, until a line is too long, or all of it is too much."""

    def __init__(
        self,
        path: Path,
        file: IO[bytes],
        most: int | None,
        below: IO[bytes] | None = None,
    ) -> None:
        self._path, self._file, self._below, self._most = path, file, below, most
        self._longest = _limit(MAX_LINE, _LINE)
        self._read = 0
        self._line = 0  # bytes of the line that is not at its end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._read += len(data)
        if self._most is not None and self._read > self._most:
            raise too_inflated(self._path)
        self._check_lines(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            if self._below is not None:
                self._below.close()
        super().close()

    def _check_lines(self, data: bytes) -> None:
        """From the end of one line to the last end that is within the longest line's reach."""
        start, room = 0, self._longest - self._line
        while len(data) - start > room:
            end = data.rfind(b"\n", start, start + room + 1)
            if end < 0:
                raise InputError(
                    f"{self._path}: a line is longer than {self._longest} bytes; if that is meant, "
                    f"set {MAX_LINE} to more"
                )
            start, self._line, room = end + 1, 0, self._longest
        end = data.rfind(b"\n", start)
        self._line = len(data) - end - 1 if end >= 0 else self._line + len(data) - start


def _limit(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text)):
        raise InputError(f"{name} takes a whole number above 0; got {text!r}")
    return int(text)
