"""Tables under their masks, on a GPU."""

import torch
from torch import Tensor

from ._copy_rows import copy_rows


def apply_mask(table: Tensor, mask: Tensor) -> Tensor:
    """`metasd::apply_mask` for fp32 (rows, columns)."""
    return copy_rows(table, mask, torch.empty_like(table))


def apply_mask_out(table: Tensor, mask: Tensor, out: Tensor) -> None:
    """`metasd::apply_mask_out` for fp32; `out` may be the table."""
    copy_rows(table, mask, out)
