"""Shapes and indices of the operations on rows."""

import torch
from torch import Tensor

SHAPES = [(1, 1, 1), (7, 31, 5), (13, 33, 0), (5, 64, 40), (101, 130, 17)]
"""(rows of the table, columns, rows gathered)."""


def index_of(rows: int, count: int) -> Tensor:
    """Rows at random: repeated as soon as count nears rows."""
    return torch.randint(rows, (count,), generator=torch.Generator().manual_seed(3))
