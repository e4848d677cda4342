"""What saves a step time: sampled gradients, with a key for every loss, and shared queries."""

import hashlib
from typing import TYPE_CHECKING

import torch

from metasd import kernels

if TYPE_CHECKING:
    from metasd.config import Config  # benchmarks/gpu.py runs where there is no pydantic

AUTO = 0.03
"""The threshold of `train.gradient_sampling = auto`."""

TOGETHER = 8
"""Triples of a query that `train.triples_per_query = auto` keeps together."""

MOST_SORTED = 4_000_000
"""Triples, inverses counted, up to which `auto` sorts them by query in every epoch."""

_FEWEST = 1_500
"""Entities from which `auto` takes the shortcuts: of fewer, little time is saved."""


def threshold(config: "Config", entities: int, device: torch.device) -> float:
    """`train.gradient_sampling` as `kernels.Sampling` takes it; 0 keeps every entry.

    `auto` samples where that is faster: on a processor without tile registers, from some entities
    on. On a GPU gradients are always exact.
    """
    wanted = config.train.gradient_sampling
    if device.type != "cpu" or wanted == "off":
        return 0.0
    if wanted != "auto":
        return float(wanted)
    tiles = kernels.uses_amx(config.train.precision)
    return 0.0 if entities < _FEWEST or tiles else AUTO


def triples_per_query(config: "Config", entities: int, device: torch.device) -> int:
    """`train.triples_per_query` as a number; 1 where every triple is scored by itself.

    `auto` keeps some together where that is faster: from some entities on. GPUs score every triple
    by itself, and the published method's batches stay random.
    """
    wanted = config.train.triples_per_query
    if device.type != "cpu" or config.train.objective == "metasd":
        return 1
    if wanted != "auto":
        return int(wanted)
    return 1 if entities < _FEWEST else TOGETHER


def key(*parts: int | str) -> int:
    """63 well mixed bits of seed, epoch, step, and what else tells two draws apart."""
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
