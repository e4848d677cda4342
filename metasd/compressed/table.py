"""Compressed tables: weights in one of few codecs, decoded and scored without a dense copy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from metasd import _C
from metasd.errors import InputError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

CODECS = ("sparse", "column", "int8", "int4", "int3", "int2", "ternary")
NUMBERS = {"fp32": "float32", "fp16": "float16", "bf16": "uint16", "int8": "int8"}
"""How the values of `sparse` are stored, and of `column` except for int8."""
CODES = {"int8": 8, "int4": 4, "int3": 3, "int2": 2, "ternary": 2}
"""Values of so many bits, with a scale a row: codecs, and values of `column`."""

_OFFSETS = {"int8": 128, "int4": 8, "int3": 4, "int2": 2, "ternary": 1}
ZEROS = {**_OFFSETS, "int3": 3.5, "int2": 1.5}
"""The code of zero, were there one of it."""
_ZEROS = 0.01
"""Share of zeros in tables of int3 and int2, which have none: they become half a step."""
_COLUMNS = ("all", "delta8", "index16", "bits")
_KINDS = ("fp32", "fp16", "bf16", "int8", *(f"codes {values}" for values in CODES))
_CHUNK = 4096  # rows encoded at a time
_WIDEST_CODES = 65535  # 255 * 128 * 65535 is the largest sum that 32 bits hold


@dataclass(frozen=True, eq=False)
class Table:
    """A compressed (rows, width) table.

    Attributes:
        codec: one of `CODECS`.
        values: fp32, fp16, bf16, int8, int4, int3, int2 or ternary.
        columns: sparse: how columns are stored, `delta8` (a byte for the gap to the column before),
            `index16` or `bits` (one a column); else `all`.
        arrays: what is stored, by name; see `shapes`.
    """

    codec: str
    values: str
    columns: str
    rows: int
    width: int
    arrays: dict[str, Array]

    @property
    def description(self) -> dict[str, Any]:
        """What says, beside the arrays, which table this is (JSON)."""
        return {
            "codec": self.codec,
            "values": self.values,
            "columns": self.columns,
            "rows": self.rows,
            "width": self.width,
        }

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    @cached_property
    def nonzero(self) -> int:
        """How many weights are not zero."""
        return sum(int(np.count_nonzero(part)) for part in self.chunks())

    @property
    def _stored_width(self) -> int:
        return len(self.arrays["columns"]) if self.codec == "column" else self.width

    @cached_property
    def _coded(self) -> tuple[int, int, int, int, int, int, int, int, int, int]:
        """What the engine takes: see CodedTable in csrc/engine.h."""
        sparse = self.codec == "sparse"
        kind = f"codes {self.values}" if self.values in CODES and not sparse else self.values
        columns = self.arrays["columns"] if sparse else np.empty(0, np.uint8)
        values = self.arrays["values"]
        return (
            _COLUMNS.index(self.columns),
            _KINDS.index(kind),
            self.rows,
            self._stored_width,
            _address(self.arrays["indptr"]) if sparse else 0,
            _address(columns),
            columns.nbytes,
            _address(values),
            values.nbytes,
            _address(self.arrays["scale"]) if "scale" in self.arrays else 0,
        )

    def decode(self, index: npt.ArrayLike) -> Floats:
        """Rows as they were but for rounding: fp32 (n, width) of integers (n,)."""
        index = np.ascontiguousarray(index, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= self.rows):
            raise ValueError(
                f"index must be in 0 ... {self.rows - 1}; got {index.min()} ... {index.max()}"
            )
        out = np.empty((index.size, self._stored_width), np.float32)
        _C.decode_rows(self._coded, _address(index), index.size, _address(out))
        if self.codec != "column":
            return out
        whole = np.zeros((index.size, self.width), np.float32)
        whole[:, self.arrays["columns"]] = out
        return whole

    def chunks(self) -> Iterator[Floats]:
        """All rows, decoded a few thousand at a time."""
        for start in range(0, self.rows, _CHUNK):
            yield self.decode(np.arange(start, min(start + _CHUNK, self.rows)))

    def dense(self) -> Floats:
        """The whole table, fp32 (rows, width)."""
        return np.concatenate([*self.chunks(), np.empty((0, self.width), np.float32)])

    def scores(
        self, queries: Floats, first: int = 0, count: int | None = None, *, threads: int = 0
    ) -> Floats:
        """Products of all queries with the rows first ... first + count - 1: fp32 (B, count)."""
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
        """The k best of the rows first ... first + count - 1 for every query, in one pass.

        Args:
            queries: fp32 (B, width).
            k: how many; the places that are not filled have index -1 and score -inf.
            rows: int64, to score only first + rows; `count` is their number then.
            known: places in 0 ... count - 1 to leave out, CSR: indptr (B + 1,), indices, sorted.
            temperature: of the softmax.

        Returns:
            scores fp32 (B, k), the best first and of equal ones the lower place; places int64
            (B, k) in 0 ... count - 1; and fp32 (B,) log sum exp(score / temperature) over every row
            that was scored, known ones among them.
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
            _address(queries),
            len(queries),
            first,
            count,
            _address(rows),
            k,
            _address(indptr),
            _address(indices),
            1 / temperature,
            _address(scores),
            _address(places),
            _address(total),
            threads or default_threads(),
        )

    def check_width(self) -> None:
        """Refuses rows of codes that are too wide to be scored."""
        if self.values in CODES and self.codec != "sparse" and self._stored_width > _WIDEST_CODES:
            raise InputError(
                f"rows of {self.values} may be {_WIDEST_CODES} wide; got {self._stored_width}"
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
        codec, values = str(description["codec"]), str(description["values"])
        columns = str(description["columns"])
        rows, width = description["rows"], description["width"]
    except (KeyError, TypeError):
        raise InputError("a table needs codec, values, columns, rows and width") from None
    if codec not in CODECS:
        raise InputError(f"unknown codec {codec!r}; there are {', '.join(CODECS)}")
    for name, size in (("rows", rows), ("width", width)):
        if type(size) is not int or not 0 < size < 2**40:
            raise InputError(f"{name} must be a whole number above 0; got {size!r}")
    if width >= 2**28 or rows * width >= 2**60:
        raise InputError(f"a table of {rows} rows of {width} is too large")
    wanted: dict[str, tuple[str, tuple[int | None, ...]]] = {}
    if codec == "sparse":
        if values not in NUMBERS or columns not in _COLUMNS[1:]:
            raise InputError(f"sparse tables have no values {values!r} or columns {columns!r}")
        wanted["indptr"] = ("uint32", (rows + 1,))
        wanted["columns"] = ("uint16" if columns == "index16" else "uint8", (None,))
        if columns == "bits":
            wanted["columns"] = ("uint8", (rows, -(-width // 8)))
        wanted["values"] = (NUMBERS[values], (None,))
    else:
        if (
            values not in {**NUMBERS, **CODES}
            or columns != "all"
            or codec not in ("column", values)
        ):
            raise InputError(f"{codec} tables have no values {values!r} or columns {columns!r}")
        stored: int | None = width
        if codec == "column":
            wanted["columns"] = ("uint32", (None,))
            stored = None
        elif values in CODES:
            stored = _code_bytes(width, values)
        wanted["values"] = ("uint8" if values in CODES else NUMBERS[values], (rows, stored))
    if values in CODES:
        wanted["scale"] = ("float32", (rows,))
    return wanted


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
    fields = ("codec", "values", "columns", "rows", "width")
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
        coded = table.values in CODES
        kept = _code_bytes(len(columns), table.values) if coded else len(columns)
        if not len(columns) or arrays["values"].shape[1] != kept:
            raise InputError(f"{len(columns)} columns for values {arrays['values'].shape}")
    table.check()
    return table


def encode(weights: Array, codec: str, values: str = "", grid: str = "") -> Table:
    """Compresses a table.

    Args:
        weights: fp32 (rows, width), at least one of each.
        codec: `sparse` keeps nonzero weights, `column` the columns that are not all zero; `int8`,
            `int4`, `int3`, `int2` and `ternary` keep all, rounded, with a scale a row.
        values: of `sparse` fp32, fp16, bf16 or int8; of `column` int4, int3, int2, ternary too.
        grid: what the weights are rounded to (see `kernels.quantize_rows`), if not to all that
            `values` can hold: ternary values, say, within sparse int8.

    Raises:
        InputError: a codec or values that do not exist, or weights that they cannot hold.
    """
    if weights.ndim != 2 or weights.dtype != np.float32 or 0 in weights.shape:
        raise ValueError(
            f"weights must be float32 (rows, width); got {weights.dtype} {weights.shape}"
        )
    if codec in CODES:
        values = values or codec
    rows, width = weights.shape
    description = {
        "codec": codec,
        "values": values or "fp16",
        "columns": "delta8" if codec == "sparse" else "all",
        "rows": rows,
        "width": width,
    }
    shapes(description)  # refuses what does not exist
    if not np.isfinite(weights).all():
        raise InputError("the weights hold NaN or infinite numbers")
    table = Table(**description, arrays={})
    if codec == "sparse":
        return _encode_sparse(table, weights, grid)
    arrays: dict[str, Array] = {}
    if codec == "column":
        columns = np.flatnonzero(weights.any(axis=0))
        arrays["columns"] = (columns if len(columns) else np.zeros(1, np.int64)).astype(np.uint32)
        weights = np.ascontiguousarray(weights[:, arrays["columns"]])
    if values in ("int3", "int2"):
        zeros = np.mean((weights == 0) & weights.any(axis=1, keepdims=True))
        if zeros > _ZEROS:
            raise InputError(
                f"{values} has no zero, which {zeros:.0%} of the weights are; take int4"
            )
    parts = [_round(part, table.values, grid) for part in _split(weights)]
    if table.values in CODES:
        arrays["scale"] = np.concatenate([scale for _, scale in parts if scale is not None])
        packed = [_pack(codes, table.values) for codes, _ in parts]
        arrays["values"] = np.concatenate(packed)
    else:
        arrays["values"] = np.concatenate([numbers for numbers, _ in parts])
    return replace(table, arrays=arrays)


def _split(weights: Array) -> Iterator[Floats]:
    for start in range(0, len(weights), _CHUNK):
        yield weights[start : start + _CHUNK]


def _round(weights: Floats, values: str, grid: str) -> tuple[Array, Floats | None]:
    """Numbers as they are stored, or whole numbers and the scale of every row."""
    if values == "fp32":
        return weights, None
    if values == "fp16":
        if np.abs(weights).max(initial=0) > np.finfo(np.float16).max:
            raise InputError("the weights are too large for fp16; take bf16 or fp32")
        return weights.astype(np.float16), None
    if values == "bf16":
        bits = np.ascontiguousarray(weights).view(np.uint32)
        half = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        half[(half & 0x7FFF) == 0] = 0  # a zero without sign is not kept
        if ((half & 0x7F80) == 0x7F80).any():
            raise InputError("the weights are too large for bf16; take fp32")
        return half, None
    weights = np.ascontiguousarray(weights)
    rounded, scale = np.empty_like(weights), np.empty(len(weights), np.float32)
    _C.quantize_rows(
        _address(weights),
        0,
        _address(rounded),
        _address(scale),
        weights.shape[0],
        weights.shape[1],
        grid or values,
        default_threads(),
    )
    whole = np.rint(rounded / np.where(scale > 0, scale, 1)[:, None])
    if values in ("int3", "int2"):  # odd numbers of half a step
        whole, scale = (whole - 1) / 2, 2 * scale
    return whole.astype(np.int8), scale


def _pack(codes: Array, values: str) -> Array:
    """Whole numbers (rows, width) to bytes: see CodedTable in csrc/engine.h."""
    bits, planes = CODES[values], 8 if values == "int3" else 8 // CODES[values]
    width = -(-codes.shape[1] // planes)
    whole = np.zeros((len(codes), planes * width), np.uint8)
    whole[:, : codes.shape[1]] = (codes.astype(np.int16) + _OFFSETS[values]).astype(np.uint8)
    packed = np.zeros((len(codes), _code_bytes(codes.shape[1], values)), np.uint8)
    for plane in range(planes):
        part = whole[:, plane * width : (plane + 1) * width]
        if values != "int3":
            packed |= part << (bits * plane)
            continue
        half = plane % 2 * width
        packed[:, half : half + width] |= (part & 3) << (plane // 2 * 2)
        packed[:, 2 * width :] |= (part >> 2) << plane
    return packed


def _code_bytes(width: int, values: str) -> int:
    """Bytes of a row of codes."""
    return 3 * -(-width // 8) if values == "int3" else -(-width * CODES[values] // 8)


def _encode_sparse(table: Table, weights: Array, grid: str) -> Table:
    parts, kept, scales, counts = [], [], [], []
    for part in _split(weights):
        rounded, scale = _round(part, table.values, grid)
        row, column = np.nonzero(rounded)
        counts.append(np.bincount(row, minlength=len(part)))
        kept.append(rounded[row, column])
        parts.append(column.astype(np.int32))
        if scale is not None:
            scales.append(scale)
    count, column, values = np.concatenate(counts), np.concatenate(parts), np.concatenate(kept)
    start = np.concatenate([[0], np.cumsum(count)])
    gap = np.diff(column, prepend=np.int32(-1))
    first = start[:-1][count > 0]
    gap[first] = column[first] + 1
    gap -= 1
    bridges = gap // 256  # zeros that a gap wider than a byte is crossed by
    size = values.itemsize
    sizes = {
        "delta8": (len(values) + int(bridges.sum())) * (1 + size),
        "index16": len(values) * (2 + size) if table.width <= 2**16 else 2**62,
        "bits": table.rows * -(-table.width // 8) + len(values) * size,
    }
    code = min(sizes, key=lambda name: sizes[name])
    arrays: dict[str, Array] = {}
    if code == "delta8":
        place = np.arange(len(values)) + np.cumsum(bridges)
        total = len(values) + int(bridges.sum())
        arrays["columns"] = np.full(total, 255, np.uint8)
        arrays["columns"][place] = gap % 256
        arrays["values"] = np.zeros(total, values.dtype)
        arrays["values"][place] = values
        crossed = np.concatenate([[0], np.cumsum(bridges)])
        start = start + crossed[start]
    else:
        arrays["values"] = values
        if code == "index16":
            arrays["columns"] = column.astype(np.uint16)
        else:
            bits = np.zeros((table.rows, table.width), bool)
            bits[np.repeat(np.arange(table.rows), count), column] = True
            arrays["columns"] = np.packbits(bits, axis=1, bitorder="little")
    if start[-1] >= 2**32:
        raise InputError(f"a sparse table may keep 2^32 weights; got {start[-1]}")
    arrays["indptr"] = start.astype(np.uint32)
    if scales:
        arrays["scale"] = np.concatenate(scales)
    return replace(table, columns=code, arrays=arrays)


def default_threads() -> int:
    """OMP_NUM_THREADS, or as many as the process may use cores."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted):
        return int(wanted)
    cores: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(cores(0)) if cores else os.cpu_count() or 1


def _address(array: Array | None) -> int:
    return 0 if array is None else array.ctypes.data
