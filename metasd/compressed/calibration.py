"""The temperature of the softmax behind probabilities, fitted to held-out answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .table import Floats, Table

_BATCH = 256  # queries scored at a time
_COLDEST, _HOTTEST = 0.05, 20.0


def fit_temperature(entities: Table, first: int, queries: Floats, right: Floats) -> float:
    """The temperature under which the right answers are most likely, to four decimals.

    Args:
        entities: the rows that are scored, from `first` on.
        queries: fp32 (n, width).
        right: fp32 (n,), the scores of the right answers.
    """

    def loss(logarithm: float) -> float:
        temperature, total = float(np.exp(logarithm)), 0.0
        for start in range(0, len(queries), _BATCH):
            part = slice(start, start + _BATCH)
            _, _, mass = entities.best(queries[part], 1, first, temperature=temperature)
            total += float((mass - right[part] / np.exp(logarithm)).sum())
        return total

    logarithm = _minimum(loss, float(np.log(_COLDEST)), float(np.log(_HOTTEST)))
    return round(float(np.exp(logarithm)), 4)


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one minimum has it, by 12 steps of golden-section search."""
    golden = (5**0.5 - 1) / 2
    left, middle = high - golden * (high - low), low + golden * (high - low)
    at_left, at_middle = function(left), function(middle)
    for _ in range(12):
        if at_left < at_middle:
            high, middle, at_middle = middle, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, middle, at_middle
            middle = low + golden * (high - low)
            at_middle = function(middle)
    return (low + high) / 2
