"""Scores and entity numbers as one 64-bit key, ordered like the scores."""

import torch
from torch import Tensor


def decoded_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """(fp32 scores, int64 numbers) of the keys that the kernel makes; -1 where a score is -inf."""
    order = (keys >> 32).to(torch.int32)
    scores = (order ^ ((order >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores, (0xFFFFFFFF - (keys & 0xFFFFFFFF)).masked_fill(scores == -torch.inf, -1)
