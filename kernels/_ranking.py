"""What the ranking operations share."""

import torch
from torch import Tensor

from ._stream import workspace

NAN = "scores hold NaN: no rank can be given; look at the tables' values"


def known_matrix(
    indptr: Tensor | None, indices: Tensor | None, shape: tuple[int, int], device: torch.device
) -> Tensor:
    """Known answers in CSR as bool (rows, entities)."""
    matrix = torch.zeros(shape, dtype=torch.bool, device=device)
    if indptr is not None and indices is not None:
        rows = torch.repeat_interleave(torch.arange(shape[0], device=device), indptr.diff())
        matrix[rows, indices] = True
    return matrix


def score_block(left: Tensor, right: Tensor) -> Tensor:
    """A block of scores `left @ right.T` in scratch memory."""
    z = workspace("scores0", (left.shape[0], right.shape[0]), left.dtype)
    return torch.mm(left, right.T, out=z)
