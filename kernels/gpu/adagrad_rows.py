"""Adagrad on some rows of a table, on a GPU."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

import triton
import triton.language as tl
from torch import Tensor

from ..adagrad_rows import EPSILON
from ._copy_rows import COLUMNS
from ._launch import cdiv, check_index_range, launch


def adagrad_rows(
    rows: Tensor, table: Tensor, sums: Tensor, index: Tensor, grad: Tensor, lr: float
) -> None:
    """`metasd::adagrad_rows` for fp32: one program per row and strip of columns."""
    check_index_range("index", index, table.shape[0])
    count, columns = rows.shape
    launch(
        _adagrad_rows_kernel,
        (count, cdiv(columns, COLUMNS)),
        rows,
        table,
        sums,
        index,
        grad,
        columns,
        lr,
        EPSILON,
        COLUMNS=COLUMNS,
        warps=2,
        stages=1,
    )


@triton.jit
def _adagrad_rows_kernel(
    rows, table, sums, index, grad, columns, lr, epsilon, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < columns
    here, there = row * columns + column, tl.load(index + row) * columns + column
    g = tl.load(grad + here, inside, 0.0)
    total = tl.load(sums + there, inside, 0.0) + g * g
    v = tl.load(rows + here, inside, 0.0) - g * lr / (tl.sqrt(total) + epsilon)
    tl.store(sums + there, total, inside)
    tl.store(rows + here, v, inside)
    tl.store(table + there, v, inside)
