"""What saves a step time: sampled gradients, with a key for every loss, and shared queries."""

import hashlib
from typing import TYPE_CHECKING

import torch

from metasd import kernels

if TYPE_CHECKING:
    from metasd.config import Config  # benchmarks/gpu.py runs where there is no pydantic

AUTO = 0.01
"""The threshold of `train.gradient_sampling = auto`."""

TOGETHER = 8
"""Triples of a query that `train.triples_per_query = auto` keeps together."""

_FEWEST = 10_000
"""Entities from which both save much time: up to 1 / threshold of a row's entries are kept. Of
2,000 they are so many that little is saved, and on `families` either costs .01 of MRR.
"""

_TRIPLES = 8
"""Train triples per entity from which accuracy is unchanged. WN18RR has two, and sampling costs it
.011 of MRR after five epochs of rank 64.
"""


def _pays(entities: int, triples: int | None) -> bool:
    return entities >= _FEWEST and (triples is None or triples >= _TRIPLES * entities)


def threshold(
    config: "Config", entities: int, device: torch.device, triples: int | None = None
) -> float:
    """`train.gradient_sampling` as `kernels.Sampling` takes it; 0 keeps every entry.

    `auto` samples where that is faster and accuracy stays the same: on a processor without tile
    registers, from some entities and some train triples per entity on. On a GPU gradients are
    always exact.

    Args:
        triples: train triples; None: many.
    """
    wanted = config.train.gradient_sampling
    if device.type != "cpu" or wanted == "off":
        return 0.0
    if wanted != "auto":
        return float(wanted)
    tiles = kernels.uses_amx(config.train.precision)
    return AUTO if _pays(entities, triples) and not tiles else 0.0


def triples_per_query(
    config: "Config", entities: int, device: torch.device, triples: int | None = None
) -> int:
    """`train.triples_per_query` as a number; 1 where every triple is scored by itself.

    `auto` keeps some together where that is faster and accuracy stays the same: from some entities
    and some train triples per entity on. GPUs score every triple by itself, candidates are few
    enough for that, and the published method's batches stay random.
    """
    wanted = config.train.triples_per_query
    if device.type != "cpu" or config.train.objective == "metasd":
        return 1
    if wanted != "auto":
        return int(wanted)
    all_scored = triples is not None
    return TOGETHER if all_scored and _pays(entities, triples) else 1


def key(*parts: int | str) -> int:
    """63 well mixed bits of seed, epoch, step, and what else tells two draws apart."""
    text = ",".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
