"""Adagrad on some rows of a table: no other row is read or written."""

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_index, check_range, check_table
from ._operations import fp32_kernel, operation

EPSILON = 1e-10
"""That of `torch.optim.Adagrad`."""


def adagrad_rows(
    rows: Tensor, table: Tensor, sums: Tensor, index: Tensor, grad: Tensor, lr: float
) -> None:
    """One step of Adagrad on the rows `index` of a table, whose values are in `rows`.

    `table[index]`, `rows` and `sums[index]` are written in place.

    Args:
        rows: fp32 or fp64 (B, columns), the same as `table[index]`.
        table: (table rows, columns) in the same dtype.
        sums: of squared gradients so far, like `table`.
        index: int64 (B,) in 0 .. table rows - 1, none of them twice.
        grad: like `rows`.
        lr: the learning rate.

    Raises:
        ValueError: an index is out of range.

    Equivalent to: `torch.optim.Adagrad` on the whole table, with a gradient that is zero elsewhere.
    """
    check_table("table", table)
    check_table("sums", sums, table.shape[0], like=table)
    check_index("index", index, like=table)
    check_table("rows", rows, index.shape[0], like=table)
    check_table("grad", grad, index.shape[0], like=table)
    _adagrad_rows(rows, table, sums, index, grad, lr)


def _reference(
    rows: Tensor, table: Tensor, sums: Tensor, index: Tensor, grad: Tensor, lr: float
) -> None:
    check_range("index", index, table.shape[0])
    total = sums[index].addcmul_(grad, grad)
    rows.addcdiv_(grad, total.sqrt().add_(EPSILON), value=-lr)
    sums[index] = total
    table[index] = rows


_adagrad_rows = operation("adagrad_rows", _reference, mutates_args=("rows", "table", "sums"))


@fp32_kernel("adagrad_rows", "cpu")
def _cpu(rows: Tensor, table: Tensor, sums: Tensor, index: Tensor, grad: Tensor, lr: float) -> None:
    check_range("index", index, table.shape[0])
    _C.adagrad_rows(
        rows.data_ptr(),
        table.data_ptr(),
        sums.data_ptr(),
        index.data_ptr(),
        grad.data_ptr(),
        rows.shape[0],
        rows.shape[1],
        lr,
        EPSILON,
        torch.get_num_threads(),
    )


@_adagrad_rows.register_fake
def _fake(
    rows: Tensor, table: Tensor, sums: Tensor, index: Tensor, grad: Tensor, lr: float
) -> None:
    pass
