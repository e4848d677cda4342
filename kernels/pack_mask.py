"""Packed masks: 32 booleans in an int32 word."""

import torch
from torch import Tensor

from ._checks import shape_of


def pack_mask(kept: Tensor) -> Tensor:
    """Packs a boolean tensor (rows, columns) into int32 words (rows, ceil(columns / 32)).

    Bit j of word w is column 32 w + j, least significant first; padding bits are zero.
    """
    if kept.dtype != torch.bool or kept.dim() != 2:
        raise TypeError(f"kept must be bool (rows, columns); got {kept.dtype} {shape_of(kept)}")
    rows, columns = kept.shape
    words = (columns + 31) // 32
    padded = torch.nn.functional.pad(kept, (0, words * 32 - columns)).view(rows, words * 4, 8)
    bits = padded.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=kept.device)
    octets = bits.sum(dim=2, dtype=torch.uint8)  # a word is four of them, lowest first
    return octets.view(-1).view(torch.int32).view(rows, words)


def unpack_mask(bits: Tensor, columns: int) -> Tensor:
    """The boolean tensor (rows, columns) that `pack_mask` packed."""
    if bits.dtype != torch.int32 or bits.dim() != 2:
        raise TypeError(f"bits must be int32 (rows, words); got {bits.dtype} {shape_of(bits)}")
    if bits.shape[1] != (columns + 31) // 32:
        raise ValueError(
            f"{columns} columns need {(columns + 31) // 32} words; got {shape_of(bits)}"
        )
    octets = bits.reshape(-1).view(torch.uint8)[:, None]
    lanes = (octets >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    return lanes.view(bits.shape[0], bits.shape[1] * 32)[:, :columns].bool()
