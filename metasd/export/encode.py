"""Encoders of compressed tables: rounding to levels, packing of codes, sparse columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from metasd import _C
from metasd.compressed.table import (
    CHUNK,
    CODES,
    NUMBERS,
    OFFSETS,
    Array,
    Floats,
    Integers,
    Table,
    address,
    code_bytes,
    default_threads,
    shapes,
)
from metasd.errors import InputError, nearest, one_of

DENSE = ("fp32", "fp16", "bf16", *CODES)
"""Codecs that store all weights: a codec and its weight format are the same."""
FORMATS = {
    "sparse": tuple(NUMBERS),
    "column": DENSE,
    **{name: (name,) for name in DENSE},
}
"""The codecs, and the weight formats that go with each."""
_ZEROS = 0.01
"""Share of zeros in tables of int3 and int2, which have none: they become half a step."""


def encode(weights: Array, codec: str, weight_format: str = "", levels: str = "") -> Table:
    """Compresses a table.

    Args:
        weights: fp32 (rows, width), at least one of each.
        codec: `sparse` keeps nonzero weights, `column` the columns that are not all zero; `fp32`,
            `fp16` and `bf16` keep all (as a `column` table of all columns); `int8`, `int4`, `int3`,
            `int2` and `ternary` keep all, rounded, with one scale per row.
        weight_format: one of `FORMATS[codec]`; of `sparse` and `column` fp16 by default.
        levels: the weight format whose levels the weights are rounded to (see
            `kernels.quantize_rows`), if not all that `weight_format` can hold: ternary levels, say,
            within sparse int8.

    Raises:
        ValueError: another shape or type.
        InputError: a codec or weight format that does not exist, or weights that it cannot hold.
    """
    if weights.ndim != 2 or weights.dtype != np.float32 or 0 in weights.shape:
        raise ValueError(
            f"weights must be float32 (rows, width); got {weights.dtype} {weights.shape}"
        )
    check_formats(codec, weight_format or "auto")
    weight_format = weight_format or (codec if codec in DENSE else "fp16")
    rows, width = weights.shape
    description = {
        "codec": codec if codec in CODES or codec == "sparse" else "column",
        "weight_format": weight_format,
        "columns": "delta8" if codec == "sparse" else "all",
        "rows": rows,
        "width": width,
    }
    shapes(description)  # refuses what is too large
    if not np.isfinite(weights).all():
        raise InputError("the weights hold NaN or infinite numbers")
    table = Table(**description, arrays={})
    if codec == "sparse":
        return _encode_sparse(table, weights, levels)
    columns = None
    if table.codec == "column":
        columns = np.flatnonzero(weights.any(axis=0)) if codec == "column" else np.arange(width)
    return _encode_rows(table, weights, levels, columns)


def insert_rows(table: Table, weights: Floats, order: Integers) -> Table:
    """A table with rows added, in the codec and weight format that it has.

    Of a sparse table, an added row keeps its largest weights, as many as the others have on
    average; of a column table, the columns that are there.

    Args:
        weights: fp32 (n, width), at least one row.
        order: int64 (rows + n,): row i of the result is row order[i] of the table and, behind it,
            the weights.
    """
    description = replace(table, rows=len(weights), arrays={})
    if table.codec == "sparse":
        kept = max(round(table.nonzero / table.rows), 1)
        least = np.sort(np.abs(weights), axis=1)[:, -kept, None]
        largest = np.where(np.abs(weights) >= least, weights, np.float32(0))
        added = _encode_sparse(description, largest, "", table.columns)
        return _joined_sparse(table, added, order)
    columns = table.arrays.get("columns")
    added = _encode_rows(description, weights, "", columns)
    arrays = {
        name: array if name == "columns" else np.concatenate([array, added.arrays[name]])[order]
        for name, array in table.arrays.items()
    }
    return replace(table, rows=len(order), arrays=arrays)


def _joined_sparse(table: Table, added: Table, order: Integers) -> Table:
    """Rows of two sparse tables whose columns are stored alike, in an order of their own."""
    both = {
        name: np.concatenate([array, added.arrays[name]])
        for name, array in table.arrays.items()
        if name != "indptr"
    }
    starts = [part.arrays["indptr"].astype(np.int64) for part in (table, added)]
    first = np.concatenate([starts[0][:-1], starts[0][-1] + starts[1][:-1]])[order]
    count = np.concatenate([np.diff(start) for start in starts])[order]
    indptr = np.concatenate([[0], np.cumsum(count)])
    place = np.repeat(first - indptr[:-1], count) + np.arange(indptr[-1])
    by_row = ("scale", "columns") if table.columns == "bits" else ("scale",)
    arrays = {name: both[name][order if name in by_row else place] for name in both}
    arrays["indptr"] = _offsets32(indptr)
    return replace(table, rows=len(order), arrays=arrays)


def _encode_rows(table: Table, weights: Array, levels: str, columns: Array | None) -> Table:
    """Every weight of the table, or of some of its columns."""
    arrays: dict[str, Array] = {}
    if columns is not None:
        arrays["columns"] = (columns if len(columns) else np.zeros(1, np.int64)).astype(np.uint32)
        weights = np.ascontiguousarray(weights[:, arrays["columns"]])
    if table.weight_format in ("int3", "int2"):
        zeros = np.mean((weights == 0) & weights.any(axis=1, keepdims=True))
        if zeros > _ZEROS:
            raise InputError(
                f"{table.weight_format} has no zero, which {zeros:.0%} of the weights are; "
                "take int4"
            )
    parts = [_round(part, table.weight_format, levels) for part in _split(weights)]
    if table.weight_format in CODES:
        arrays["scale"] = np.concatenate([scale for _, scale in parts if scale is not None])
        packed = [_pack(codes, table.weight_format) for codes, _ in parts]
        arrays["values"] = np.concatenate(packed)
    else:
        arrays["values"] = np.concatenate([numbers for numbers, _ in parts])
    return replace(table, arrays=arrays)


def check_formats(codec: str, weight_format: str = "auto") -> None:
    """Raises InputError where a codec or weight format does not exist, or one is not of the other.

    Both may be `auto`.
    """
    for what, name, names in (
        ("codec", codec, [*FORMATS]),
        ("weight format", weight_format, DENSE),
    ):
        if name not in ("auto", *names):
            raise InputError(
                f"unknown {what} {name!r}{nearest(name, names)}; there are auto, {', '.join(names)}"
            )
    if "auto" not in (codec, weight_format) and weight_format not in FORMATS[codec]:
        raise InputError(
            f"codec {codec} stores weights as {one_of(FORMATS[codec])}; "
            f"got weight format {weight_format}"
        )


def _split(weights: Array) -> Iterator[Floats]:
    for start in range(0, len(weights), CHUNK):
        yield weights[start : start + CHUNK]


def _round(weights: Floats, weight_format: str, levels: str) -> tuple[Array, Floats | None]:
    """Numbers as they are stored, or whole numbers and the scale of each row."""
    if weight_format == "fp32":
        return weights, None
    if weight_format == "fp16":
        if np.abs(weights).max(initial=0) > np.finfo(np.float16).max:
            raise InputError("the weights are too large for fp16; take bf16 or fp32")
        return weights.astype(np.float16), None
    if weight_format == "bf16":
        bits = np.ascontiguousarray(weights).view(np.uint32)
        half = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        half[(half & 0x7FFF) == 0] = 0  # a zero without sign is not kept
        if ((half & 0x7F80) == 0x7F80).any():
            raise InputError("the weights are too large for bf16; take fp32")
        return half, None
    weights = np.ascontiguousarray(weights)
    rounded, scale = np.empty_like(weights), np.empty(len(weights), np.float32)
    _C.quantize_rows(
        address(weights),
        0,
        address(rounded),
        address(scale),
        weights.shape[0],
        weights.shape[1],
        levels or weight_format,
        default_threads(),
    )
    whole = np.rint(rounded / np.where(scale > 0, scale, 1)[:, None])
    if weight_format in ("int3", "int2"):  # odd numbers of half a step
        whole, scale = (whole - 1) / 2, 2 * scale
    return whole.astype(np.int8), scale


def _pack(codes: Array, weight_format: str) -> Array:
    """Bytes of whole numbers (rows, width): see CodedTable in csrc/compressed_table.h."""
    bits, planes = CODES[weight_format], 8 if weight_format == "int3" else 8 // CODES[weight_format]
    width = -(-codes.shape[1] // planes)
    whole = np.zeros((len(codes), planes * width), np.uint8)
    whole[:, : codes.shape[1]] = (codes.astype(np.int16) + OFFSETS[weight_format]).astype(np.uint8)
    packed = np.zeros((len(codes), code_bytes(codes.shape[1], weight_format)), np.uint8)
    for plane in range(planes):
        part = whole[:, plane * width : (plane + 1) * width]
        if weight_format != "int3":
            packed |= part << (bits * plane)
            continue
        half = plane % 2 * width
        packed[:, half : half + width] |= (part & 3) << (plane // 2 * 2)
        packed[:, 2 * width :] |= (part >> 2) << plane
    return packed


def _encode_sparse(table: Table, weights: Array, levels: str, code: str = "") -> Table:
    """Columns are stored as `code` says, or in the way that takes fewest bytes."""
    parts, kept, scales, counts = [], [], [], []
    for part in _split(weights):
        rounded, scale = _round(part, table.weight_format, levels)
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
    bridges = gap // 256  # zeros that a gap wider than one byte is crossed by
    size = values.itemsize
    sizes = {
        "delta8": (len(values) + int(bridges.sum())) * (1 + size),
        "index16": len(values) * (2 + size) if table.width <= 2**16 else 2**62,
        "bits": table.rows * -(-table.width // 8) + len(values) * size,
    }
    code = code or min(sizes, key=lambda name: sizes[name])
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
    arrays["indptr"] = _offsets32(start)
    if scales:
        arrays["scale"] = np.concatenate(scales)
    return replace(table, columns=code, arrays=arrays)


def _offsets32(offsets: Integers) -> Array:
    if offsets[-1] >= 2**32:
        raise InputError(f"a sparse table may keep 2^32 weights; got {offsets[-1]}")
    return offsets.astype(np.uint32)
