"""Rows of a table by index, masked on the way, on a GPU."""

from torch import Tensor

from ._copy_rows import copy_rows
from ._launch import check_index_range


def masked_rows(table: Tensor, mask: Tensor | None, index: Tensor) -> Tensor:
    """`metasd::masked_rows` for fp32."""
    check_index_range("index", index, table.shape[0])
    return copy_rows(table, mask, table.new_empty(index.shape[0], table.shape[1]), index)
