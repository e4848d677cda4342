"""Which entries of a gradient in the scores are kept, and at what value.

Most entries of such a gradient are nearly zero. With a threshold t an entry g stays as it is where
|g| >= t; any other becomes t with its sign, with probability |g| / t, or else zero. That is right on
average, and the products with it cost what few entries cost. Chance is a function of a key, the
query and the entity: it does not depend on blocks, threads or processes.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


class Sampling(NamedTuple):
    """How a loss's gradient in the scores is sampled.

    `threshold` counts in units of `1 / B`, the most that a row of a mean can have (of the meta
    gradient: in what a row spans); 0 keeps every entry. `key` is of the step; `first_query` and
    `first_entity` are the numbers of the first row of the queries and of the table, where other
    processes have those before.
    """

    threshold: float = 0.0
    key: int = 0
    first_query: int = 0
    first_entity: int = 0

    @property
    def draw(self) -> list[int]:
        return [self.key, self.first_query, self.first_entity]


EXACT = Sampling()


def check_sampling(sampling: Sampling) -> None:
    if not (math.isfinite(sampling.threshold) and 0 <= sampling.threshold <= 1):
        raise ValueError(f"threshold must lie in 0 .. 1; got {sampling.threshold}")


def sampled(
    g: Tensor, limit: Tensor | float, threshold: float, draw: list[int], score: int = 0
) -> Tensor:
    """The kept entries of g (B, N), zero elsewhere; g itself where the threshold is 0.

    Args:
        limit: the threshold in units of g, one or (B, 1).
        score: which of a loss's score matrices this is.
    """
    if threshold == 0:
        return g
    key, first_query, first_entity = draw
    queries = torch.arange(first_query, first_query + g.shape[0], device=g.device)
    entities = torch.arange(first_entity, first_entity + g.shape[1], device=g.device)
    query_keys = _mixed(~torch.tensor(key, device=g.device) + (queries << 2) + score)
    x = query_keys[:, None] ^ _mixed((entities << 1) + key)
    x = x * 0x7FEB352D & _WORD
    x = (x ^ (x >> 15)) * 0x846CA68B & _WORD
    chance = ((x ^ (x >> 16)) >> 8) * 2.0**-24
    kept = g.abs() > chance.to(g.dtype) * limit
    return torch.where(kept, g.sign() * g.abs().clamp(min=limit), 0.0)


def _mixed(x: Tensor) -> Tensor:
    """32 bits of SplitMix64 (Steele, Lea, Flood 2014) of int64 numbers, which wrap around."""
    x = x + (0x9E3779B97F4A7C15 - (1 << 64))
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return _shifted(x ^ _shifted(x, 31), 32)


def _shifted(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)
