"""Compressed tables: weights in one of seven codecs, decoded and scored without a dense copy."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from metasd import _C
from metasd.errors import InputError, one_of

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

CODECS = ("sparse", "column", "int8", "int4", "int3", "int2", "ternary")
NUMBERS = {"fp32": "float32", "fp16": "float16", "bf16": "uint16", "int8": "int8"}
"""Weight formats of `sparse`, and of `column` except for int8: the numpy type of a weight."""
CODES = {"int8": 8, "int4": 4, "int3": 3, "int2": 2, "ternary": 2}
"""Weight formats of codes with one scale per row, and the bits of a code: codecs of their own, and
weight formats of `column`."""

OFFSETS = {"int8": 128, "int4": 8, "int3": 4, "int2": 2, "ternary": 1}
ZEROS = {**OFFSETS, "int3": 3.5, "int2": 1.5}
"""The code of zero, were there one of it."""
_COLUMNS = ("all", "delta8", "index16", "bits")
_KINDS = ("fp32", "fp16", "bf16", "int8", *(f"codes {name}" for name in CODES))
CHUNK = 4096  # rows encoded or decoded at a time
_WIDEST_CODES = 65535  # 255 * 128 * 65535 is the largest sum that 32 bits hold


@dataclass(frozen=True, eq=False)
class Table:
    """A compressed (rows, width) table.

    Attributes:
        codec: one of `CODECS`.
        weight_format: fp32, fp16, bf16, int8, int4, int3, int2 or ternary.
        columns: of sparse tables, how columns are stored: `delta8` (one byte, the gap to the column
            before), `index16` or `bits` (one bit per column); else `all`.
        arrays: what is stored, by name; see `shapes`.
    """

    codec: str
    weight_format: str
    columns: str
    rows: int
    width: int
    arrays: dict[str, Array]

    @property
    def description(self) -> dict[str, Any]:
        """All attributes but the arrays (JSON)."""
        return {
            "codec": self.codec,
            "weight_format": self.weight_format,
            "columns": self.columns,
            "rows": self.rows,
            "width": self.width,
        }

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    @cached_property
    def nonzero(self) -> int:
        """The number of weights that are not zero."""
        return sum(int(np.count_nonzero(part)) for part in self.chunks())

    @property
    def _stored_width(self) -> int:
        return len(self.arrays["columns"]) if self.codec == "column" else self.width

    @cached_property
    def _coded(self) -> tuple[int, int, int, int, int, int, int, int, int, int]:
        """The table as the engine takes it: see CodedTable in csrc/compressed_table.h."""
        sparse = self.codec == "sparse"
        kind = (
            f"codes {self.weight_format}"
            if self.weight_format in CODES and not sparse
            else self.weight_format
        )
        columns = self.arrays["columns"] if sparse else np.empty(0, np.uint8)
        values = self.arrays["values"]
        return (
            _COLUMNS.index(self.columns),
            _KINDS.index(kind),
            self.rows,
            self._stored_width,
            address(self.arrays["indptr"]) if sparse else 0,
            address(columns),
            columns.nbytes,
            address(values),
            values.nbytes,
            address(self.arrays["scale"]) if "scale" in self.arrays else 0,
        )

    def decode(self, index: npt.ArrayLike) -> Floats:
        """Rows as the weights were, up to rounding.

        Args:
            index: integers (n,) in 0 ... rows - 1.

        Returns:
            fp32 (n, width).

        Raises:
            ValueError: an index is out of range.
        """
        index = np.ascontiguousarray(index, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= self.rows):
            raise ValueError(
                f"index must be in 0 ... {self.rows - 1}; got {index.min()} ... {index.max()}"
            )
        out = np.empty((index.size, self._stored_width), np.float32)
        _C.decode_rows(self._coded, address(index), index.size, address(out))
        if self.codec != "column":
            return out
        whole = np.zeros((index.size, self.width), np.float32)
        whole[:, self.arrays["columns"]] = out
        return whole

    def chunks(self) -> Iterator[Floats]:
        """All rows, decoded a few thousand at a time."""
        for start in range(0, self.rows, CHUNK):
            yield self.decode(np.arange(start, min(start + CHUNK, self.rows)))

    def dense(self) -> Floats:
        """The whole table, fp32 (rows, width)."""
        return np.concatenate([*self.chunks(), np.empty((0, self.width), np.float32)])

    def scores(
        self, queries: Floats, first: int = 0, count: int | None = None, *, threads: int = 0
    ) -> Floats:
        """Products of all queries with the rows first ... first + count - 1.

        Args:
            queries: fp32 (B, width).
            first, count: the rows; all that follow `first` if `count` is None.
            threads: of the engine; 0: see `default_threads`.

        Returns:
            fp32 (B, count).

        Raises:
            ValueError: shape or type of the queries are others, or a row is out of range.
            InputError: a score overflows.
        """
        queries, count, _ = self._ask(queries, first, count, None)
        out = np.empty((len(queries), count), np.float32)
        self._score(queries, first, count, None, 0, None, 1.0, out, None, None, threads)
        if not np.isfinite(out).all():
            raise InputError("the scores overflow: the weights are too large for fp32")
        return out

    def best(
        self,
        queries: Floats,
        k: int,
        first: int = 0,
        count: int | None = None,
        *,
        rows: Integers | None = None,
        known: tuple[Integers, Integers] | None = None,
        temperature: float = 1.0,
        threads: int = 0,
    ) -> tuple[Floats, Integers, Floats]:
        """The k best of the rows first ... first + count - 1 per query, in one pass.

        Args:
            queries: fp32 (B, width).
            k: how many; where fewer rows are left, places are -1 and scores -inf.
            first, count: the rows; all that follow `first` if `count` is None.
            rows: int64, to score only first + rows; `count` is their number then.
            known: places in 0 ... count - 1 to leave out, CSR: indptr (B + 1,), indices, sorted.
            temperature: of the softmax.
            threads: of the engine; 0: see `default_threads`.

        Returns:
            scores fp32 (B, k), the best first and of equal ones the lower place; places int64
            (B, k) in 0 ... count - 1; and fp32 (B,) log sum exp(score / temperature) over every row
            that was scored, known ones among them.

        Raises:
            ValueError: shape or type of the queries are others, or a row is out of range.
            InputError: a score overflows.
        """
        queries, count, rows = self._ask(queries, first, count, rows)
        k = max(0, min(k, count))
        scores = np.full((len(queries), k), -np.inf, np.float32)
        places = np.full((len(queries), k), -1, np.int64)
        total = np.empty(len(queries), np.float32)
        if k and len(queries):
            nan = self._score(
                queries, first, count, rows, k, known, temperature, scores, places, total, threads
            )
            if nan or not np.isfinite(total).all():
                raise InputError("the scores overflow: the weights are too large for fp32")
        return scores, places, total

    def _ask(
        self, queries: Floats, first: int, count: int | None, rows: Integers | None
    ) -> tuple[Floats, int, Integers | None]:
        if queries.ndim != 2 or queries.shape[1] != self.width or queries.dtype != np.float32:
            raise ValueError(
                f"queries must be float32 (B, {self.width}); got {queries.dtype} {queries.shape}"
            )
        if self.codec == "column":
            queries = queries[:, self.arrays["columns"]]
        if not np.isfinite(queries).all():
            raise InputError("a query overflows: the weights are too large for fp32")
        self.check_width()
        if rows is not None:
            rows = np.ascontiguousarray(rows, dtype=np.int64)
            count = len(rows)
        elif count is None:
            count = self.rows - first
        last = count if rows is None else int(rows.max(initial=-1)) + 1
        if (
            first < 0
            or count < 0
            or first + last > self.rows
            or (rows is not None and (rows < 0).any())
        ):
            raise ValueError(
                f"rows must be in 0 ... {self.rows - 1}; got {first} + 0 ... {last - 1}"
            )
        return np.ascontiguousarray(queries), count, rows

    def _score(
        self,
        queries: Floats,
        first: int,
        count: int,
        rows: Integers | None,
        k: int,
        known: tuple[Integers, Integers] | None,
        temperature: float,
        scores: Floats,
        places: Integers | None,
        total: Floats | None,
        threads: int,
    ) -> int:
        indptr, indices = known if known is not None else (None, None)
        if indptr is not None:
            indptr = np.ascontiguousarray(indptr, np.int64)
            indices = np.ascontiguousarray(indices, np.int64)
        if not count or not len(queries):
            return 0
        return _C.score_table(
            self._coded,
            address(queries),
            len(queries),
            first,
            count,
            address(rows),
            k,
            address(indptr),
            address(indices),
            1 / temperature,
            address(scores),
            address(places),
            address(total),
            threads or default_threads(),
        )

    def check_width(self) -> None:
        """Refuses rows of codes that are too wide to be scored."""
        if (
            self.weight_format in CODES
            and self.codec != "sparse"
            and self._stored_width > _WIDEST_CODES
        ):
            raise InputError(
                f"rows of {self.weight_format} may be {_WIDEST_CODES} wide; "
                f"got {self._stored_width}"
            )

    def check(self) -> None:
        """Checks everything that the engine trusts; InputError with the row that is wrong."""
        row = _C.check_table(self._coded, default_threads())
        if row >= 0:
            raise InputError(
                f"row {row} is damaged: pointers that fall, columns out of order or of range, or "
                "values that are no numbers"
            )


def shapes(description: dict[str, Any]) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """The arrays of a table by name: dtype and shape, None where the arrays themselves decide.

    Raises:
        InputError: the description is not that of a table.
    """
    try:
        codec, weights = str(description["codec"]), str(description["weight_format"])
        columns = str(description["columns"])
        rows, width = description["rows"], description["width"]
    except (KeyError, TypeError):
        raise InputError("a table needs codec, weight_format, columns, rows and width") from None
    if codec not in CODECS:
        raise InputError(f"unknown codec {codec!r}; there are {', '.join(CODECS)}")
    for name, size in (("rows", rows), ("width", width)):
        if type(size) is not int or not 0 < size < 2**40:
            raise InputError(f"{name} must be a whole number above 0; got {size!r}")
    if width >= 2**28 or rows * width >= 2**60:
        raise InputError(f"a table of {rows} rows of {width} is too large")
    wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {}
    if codec == "sparse":
        _check_one_of(NUMBERS, weights, "a sparse table stores weights as")
        _check_one_of(_COLUMNS[1:], columns, "a sparse table stores the columns of weights as")
        wanted["indptr"] = ("uint32", (rows + 1,))
        wanted["columns"] = ("uint16" if columns == "index16" else "uint8", (None,))
        if columns == "bits":
            wanted["columns"] = ("uint8", (rows, -(-width // 8)))
        wanted["values"] = (NUMBERS[weights], (None,))
    else:
        formats = {**NUMBERS, **CODES} if codec == "column" else [codec]
        _check_one_of(formats, weights, f"a table of the codec {codec} stores weights as")
        _check_one_of(
            _COLUMNS[:1], columns, f"a table of the codec {codec} stores, of the columns,"
        )
        stored: int | None = width
        if codec == "column":
            wanted["columns"] = ("uint32", (None,))
            stored = None
        elif weights in CODES:
            stored = code_bytes(width, weights)
        wanted["values"] = ("uint8" if weights in CODES else NUMBERS[weights], (rows, stored))
    if weights in CODES:
        wanted["scale"] = ("float32", (rows,))
    return wanted


def _check_one_of(names: Collection[str], name: str, what: str) -> None:
    if name not in names:
        raise InputError(f"{what} {one_of([*names])}; got {name!r}")


def dense_table(weights: Floats) -> Table:
    """A table of all its fp32 weights, as they are."""
    rows, width = weights.shape
    arrays = {"values": np.ascontiguousarray(weights), "columns": np.arange(width, dtype=np.uint32)}
    return Table("column", "fp32", "all", rows, width, arrays)


def from_arrays(description: dict[str, Any], arrays: dict[str, Array]) -> Table:
    """A table from what `Table.description` and `Table.arrays` gave, checked for the engine.

    Raises:
        InputError: what is wrong, and with which array or row.
    """
    for name, (dtype, shape) in (wanted := shapes(description)).items():
        array = arrays.get(name)
        if array is None:
            raise InputError(f"{name} is missing")
        if (
            array.dtype != np.dtype(dtype)
            or not array.flags.c_contiguous
            or array.ndim != len(shape)
            or any(w not in (None, got) for w, got in zip(shape, array.shape, strict=True))
        ):
            sizes = ", ".join("?" if size is None else str(size) for size in shape)
            raise InputError(f"{name} must be {dtype} ({sizes}); got {array.dtype} {array.shape}")
    fields = ("codec", "weight_format", "columns", "rows", "width")
    table = Table(
        **{name: description[name] for name in fields},
        arrays={name: arrays[name] for name in wanted},
    )
    if table.codec == "sparse":
        stored = len(arrays["values"])
        if arrays["indptr"][-1] != stored:
            raise InputError(f"indptr ends at {arrays['indptr'][-1]}; there are {stored} values")
        if table.columns != "bits" and len(arrays["columns"]) != stored:
            raise InputError(f"{len(arrays['columns'])} columns for {stored} values")
    if table.codec == "column":
        columns = arrays["columns"].astype(np.int64)
        if (np.diff(columns, prepend=-1) <= 0).any() or columns.max(initial=-1) >= table.width:
            raise InputError(f"columns must rise and be below {table.width}")
        coded = table.weight_format in CODES
        kept = code_bytes(len(columns), table.weight_format) if coded else len(columns)
        if not len(columns) or arrays["values"].shape[1] != kept:
            raise InputError(f"{len(columns)} columns for values {arrays['values'].shape}")
    table.check()
    return table


def code_bytes(width: int, weight_format: str) -> int:
    """Bytes per row of codes."""
    if weight_format == "int3":
        return 3 * -(-width // 8)
    return -(-width * CODES[weight_format] // 8)


def default_threads() -> int:
    """OMP_NUM_THREADS, or as many as the process may use cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    cores: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(cores(0)) if cores else os.cpu_count() or 1


def address(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data
