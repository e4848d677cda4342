"""Ranking problems with exact scores and many ties, and their answers one candidate at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import kernel_cases as kc
from metasd import kernels

Known = tuple[Tensor, Tensor]
DTYPES = [torch.float32, torch.float64]


def csr(rows: Sequence[Sequence[int]]) -> Known:
    starts = np.cumsum([0, *map(len, rows)])
    return torch.tensor(starts), torch.tensor([i for row in rows for i in row], dtype=torch.int64)


@dataclass
class Problem:
    """Queries, entities, and what to leave out; scores are exact, with many ties."""

    queries: Tensor
    entities: Tensor
    targets: Tensor
    left_out: list[list[int]]
    mask: Tensor | None = None

    @property
    def scores(self) -> NDArray[np.float64]:
        z: NDArray[np.float64] = (
            (self.queries.double() @ kc.masked(self.entities, self.mask).double().T)
            .detach()
            .numpy()
        )
        return z

    def counts(self) -> tuple[list[int], list[int]]:
        """(greater, equal) per row, one candidate after the other."""
        greater, equal = [], []
        for z, target, out in zip(self.scores, self.targets.tolist(), self.left_out, strict=True):
            others = [z[i] for i in range(len(z)) if i != target and i not in set(out)]
            greater.append(sum(bool(score > z[target]) for score in others))
            equal.append(sum(bool(score == z[target]) for score in others))
        return greater, equal

    def best(self, k: int) -> list[list[tuple[float, int]]]:
        """The k best (score, index) per row, of equal scores the lower index; (-inf, -1) beyond."""
        rows = []
        for z, out in zip(self.scores, self.left_out, strict=True):
            candidates = [i for i in range(len(z)) if i not in set(out) and z[i] > -np.inf]
            order = sorted(candidates, key=lambda i: (-z[i], i))[:k]
            found = [(float(z[i]), i) for i in order]
            rows.append(found + [(-np.inf, -1)] * (k - len(order)))
        return rows

    def ranked(self, **options: Any) -> tuple[list[int], list[int]]:
        greater, equal = kernels.rank_targets(
            self.queries, self.entities, self.targets, csr(self.left_out), self.mask, **options
        )
        assert greater.dtype == equal.dtype == torch.int64
        return greater.tolist(), equal.tolist()

    def found(self, k: int, **options: Any) -> list[list[tuple[float, int]]]:
        scores, indices = kernels.topk_entities(
            self.queries, self.entities, k, csr(self.left_out), self.mask, **options
        )
        assert scores.dtype == self.queries.dtype
        return [
            list(zip(z, i, strict=True))
            for z, i in zip(scores.tolist(), indices.tolist(), strict=True)
        ]


def problem(
    rows: int,
    entities: int,
    *,
    width: int = 8,
    kind: str = "none",
    known: int = 5,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Known answers of a row: none at all, a few, or a few with the target among them."""
    random = np.random.default_rng(rows * entities)
    left_out = [
        random.choice(entities, min(int(random.integers(0, known + 1)), entities), replace=False)
        for _ in range(rows)
    ]
    targets = [
        int(out[0]) if len(out) and i % 2 else int(random.integers(entities))
        for i, out in enumerate(left_out)
    ]
    return Problem(
        kc.whole_numbers(rows, width, 1).to(dtype),
        kc.whole_numbers(entities, width, 2).to(dtype),
        torch.tensor(targets, dtype=torch.int64),
        [out.tolist() for out in left_out],
        kc.packed(kind, entities, width),
    )
