"""The splits of a graph, and how those that are missing are drawn from train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from metasd.errors import InputError

from .sorting import IntArray, parts

SPLITS = ("train", "valid", "test")

DEFAULT_RATIOS = (0.9, 0.05, 0.05)
"""Shares of train, valid and test of triples that come without valid or test."""


def check_ratios(split_ratios: tuple[float, float, float]) -> None:
    """InputError unless these are what ``load_graph`` takes."""
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
    where: object,
    triples: IntArray,
    sizes: tuple[int, int],
    missing: Sequence[str],
    split_ratios: tuple[float, float, float],
    seed: int,
) -> tuple[npt.NDArray[np.int8], str]:
    """For each sorted triple of train the number of its split, and a note of that.

    Every entity and relation keeps the first triple that it has in a random order; valid and test
    are the last ones of that order among the others.

    Args:
        where: what the triples are of, for errors.
        triples: int64 ``(n, 3)``, in memory or mapped.
        sizes: the numbers of entities and relations.
        missing: the splits that are drawn: valid, test or both.
    """
    total = len(triples)
    wanted = {
        name: max(1, round(share * total)) if share and name in missing else 0
        for name, share in zip(SPLITS[1:], split_ratios[1:], strict=True)
    }
    if sum(wanted.values()) >= total:
        raise InputError(f"{where}: {total} triples are too few to split")
    rank = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    kept = _covering(triples, rank, sizes)
    free = total - int(kept.sum())
    counts = wanted
    if sum(wanted.values()) > free:
        valid = free * wanted["valid"] // sum(wanted.values())
        counts = {"valid": valid, "test": free - valid}
    drawn = sum(counts.values())
    last = np.flatnonzero(rank >= free - drawn)  # the others are more than the kept ones can fill
    last = last[~kept[last]]
    last = last[np.argsort(rank[last])][len(last) - drawn :]
    number = np.zeros(total, dtype=np.int8)
    number[last[: counts["valid"]]] = SPLITS.index("valid")
    number[last[counts["valid"] :]] = SPLITS.index("test")
    return number, _note(total, counts, wanted, missing, seed)


def _covering(triples: IntArray, rank: IntArray, sizes: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which triples are the first one, by rank, of their head, relation or tail."""
    entities, relations = (np.full(size, len(rank)) for size in sizes)
    for (head, relation, tail), ranks in _columns(triples, rank):
        np.minimum.at(entities, head, ranks)
        np.minimum.at(entities, tail, ranks)
        np.minimum.at(relations, relation, ranks)
    kept = [
        (ranks == entities[head]) | (ranks == relations[relation]) | (ranks == entities[tail])
        for (head, relation, tail), ranks in _columns(triples, rank)
    ]
    return np.concatenate(kept)


def _columns(triples: IntArray, rank: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    for rows, ranks in zip(parts(triples), parts(rank), strict=True):
        yield rows.T, ranks


def _note(
    total: int,
    counts: dict[str, int],
    wanted: dict[str, int],
    missing: Sequence[str],
    seed: int,
) -> str:
    shares = " and ".join(f"{counts[name]:,} {name} triples" for name in missing if wanted[name])
    if not shares:
        return f"no {' and no '.join(missing)} triples: all {total:,} stay in train"
    note = f"{shares} were drawn from {total:,} with seed {seed}"
    if counts != wanted:
        asked = sum(wanted.values())
        return f"{note}, not {asked:,}: train would lack entities or relations without the others"
    return f"{note}; train keeps every entity and relation"
