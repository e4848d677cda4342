"""How the triples of a single file are split, and what is noted about the splits of a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from metasd.errors import InputError

from .graph import SPLITS
from .sorting import IntArray, count_shared

DEFAULT_RATIOS = (0.9, 0.05, 0.05)
"""Shares of train, valid and test of a single file."""


def check_options(columns: str, split_ratios: tuple[float, float, float]) -> None:
    """InputError unless these are what ``load_graph`` takes."""
    if sorted(columns) != ["h", "r", "t"]:
        raise InputError(f'columns must be a permutation of "hrt", such as "htr"; got "{columns}"')
    if (
        len(split_ratios) != 3
        or min(split_ratios) < 0
        or split_ratios[0] == 0
        or not abs(sum(split_ratios) - 1) <= 1e-6
    ):
        raise InputError(
            f"split ratios must be three shares that sum to 1, the first not 0; got {split_ratios}"
        )


def draw_splits(
    path: Path, total: int, split_ratios: tuple[float, float, float], seed: int
) -> tuple[npt.NDArray[np.int8], str]:
    """For each sorted triple of a single file the number of its split, and a note of that."""
    valid, test = (max(1, round(share * total)) if share else 0 for share in split_ratios[1:])
    if valid + test >= total:
        raise InputError(f"{path}: {total} triples are too few to split")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    number = np.zeros(total, dtype=np.int8)
    number[order[total - valid - test : total - test]] = 1
    number[order[total - test :]] = 2
    shares = "/".join(f"{share:g}" for share in split_ratios)
    return number, f"one file, split {shares} with seed {seed}"


def notes_of(
    splits: dict[str, IntArray], dropped: dict[str, int], num_entities: int, num_relations: int
) -> list[str]:
    """A line for what was dropped and for what is in train, too; the splits are sorted."""
    notes = [
        f"{name}: {count} duplicate triples dropped" for name, count in dropped.items() if count
    ]
    shared = {
        name: count_shared(splits["train"], splits[name], num_entities, num_relations)
        for name in SPLITS[1:]
    }
    if any(shared.values()):
        counted = " and ".join(f"{count} {name}" for name, count in shared.items() if count)
        notes.append(f"{counted} triples are in train, too; they count")
    return notes
