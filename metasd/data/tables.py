"""Triples in memory as columns of labels: arrays, data frames, rows, PyKEEN's factories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from metasd.errors import InputError

from .columns import FIELDS, check_columns, choose_columns
from .triple_files import Triples, label_batch, whole

_EXAMPLE = '[("ada", "knows", "bo"), ...] or a data frame'
_ARROW = ("__arrow_c_stream__", "__arrow_c_array__", "to_arrow", "iloc")


def as_splits(train: Any, valid: Any, test: Any, columns: str) -> dict[str, Triples]:
    """The splits that are given, each as columns of labels.

    Args:
        train, valid, test: see ``Graph.from_triples``; None for a split that is not given.

    Raises:
        InputError: it is none of these things, or a label is missing, empty, or holds a tab, a line
            break or NUL: which split and which row.
    """
    check_columns(columns)
    if hasattr(train, "training") and hasattr(train, "testing"):  # a data set of PyKEEN
        if valid is not None or test is not None:
            raise InputError("a PyKEEN data set has its own splits: valid and test go without it")
        train, valid, test = train.training, train.validation, train.testing
    if train is None:
        raise InputError(f"train: triples wanted, such as {_EXAMPLE}; got None")
    given = {"train": train, "valid": valid, "test": test}
    batches = {
        name: _batch(value, columns, name) for name, value in given.items() if value is not None
    }
    return {name: Triples(**whole([batch]), rows=len(batch)) for name, batch in batches.items()}


def as_rows(triples: Any) -> list[tuple[str, str, str]]:
    """Labels of head, relation and tail of anything that ``as_splits`` takes; errors likewise."""
    batch = _batch(triples, "hrt", "triples")
    return list(zip(*(column.to_pylist() for column in batch.columns), strict=True))


def _batch(value: Any, columns: str, name: str) -> pa.RecordBatch:
    """Columns head, relation and tail of anything that holds triples."""
    if isinstance(value, str | bytes | os.PathLike):
        raise InputError(f"{name}: triples wanted, got {value!r}; load_graph reads files")
    if hasattr(value, "mapped_triples"):  # a factory of PyKEEN
        value = value.triples if hasattr(value, "triples") else value.mapped_triples
        columns = "hrt"
    try:
        if isinstance(value, Mapping):
            table = pa.table(dict(value))
        elif any(hasattr(value, mark) for mark in _ARROW):
            table = _of_frame(value)
        else:
            table = _of_rows(value, name)
        places = choose_columns([str(column) for column in table.column_names], columns, name)
        if name == "train" and not len(table):
            raise InputError("train: there are no triples")
        return label_batch(table.select(places).rename_columns(list(FIELDS.values())), name)
    except InputError:
        raise
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or ["no table"])[0]
        raise InputError(f"{name}: not triples of labels or numbers ({reason})") from None


def _of_frame(value: Any) -> pa.Table:
    """A table of pyarrow, polars, pandas, or what else offers Arrow data."""
    if hasattr(value, "to_arrow"):
        return value.to_arrow()
    if not hasattr(value, "iloc"):
        return pa.table(value)
    names = [str(name) for name in value.columns]
    return pa.table([_of_series(value.iloc[:, i]) for i in range(len(names))], names)


def _of_series(series: Any) -> pa.Array:
    """A column of pandas, of which numbers and strings may be mixed."""
    try:
        return pa.array(series, from_pandas=True)
    except pa.ArrowException:
        return pa.array([None if missing else str(value) for value, missing in _each(series)])


def _each(series: Any) -> Iterable[tuple[Any, bool]]:
    return zip(series, series.isna(), strict=True)


def _of_rows(value: Any, name: str) -> pa.Table:
    """An array or tensor (n, 3), or rows one after the other."""
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu().numpy()
    if not isinstance(value, np.ndarray):
        return _of_tuples(value, name)
    if value.ndim != 2 or value.shape[1] != 3:
        raise InputError(f"{name}: an array must be (n, 3); got {value.shape}")
    if value.dtype.kind == "O":
        return _of_tuples(value.tolist(), name)
    if value.dtype.kind == "S":
        value = value.astype(str)
    if value.dtype.kind not in "iuU":
        raise InputError(f"{name}: an array must be of integers or strings; got {value.dtype}")
    return pa.table([pa.array(np.ascontiguousarray(column)) for column in value.T], list("012"))


def _of_tuples(rows: Iterable[Any], name: str) -> pa.Table:
    labels: list[list[str | None]] = [[], [], []]
    for number, row in enumerate(rows, start=1):
        fields = [row] if isinstance(row, str) else list(row)
        if len(fields) != 3:
            raise InputError(f"{name}: row {number}: {len(fields)} fields, wanted 3")
        for column, field in zip(labels, fields, strict=True):
            column.append(_label(field))
    return pa.table([pa.array(column, pa.large_string()) for column in labels], list("012"))


def _label(field: Any) -> str | None:
    """A field as a label; None where it is missing."""
    if field is None or (isinstance(field, float) and field != field):
        return None
    return field if isinstance(field, str) else str(field)
