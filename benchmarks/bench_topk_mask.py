"""Magnitude masks against one read of the weights, and against sorts and selections."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from metasd import kernels


def test_topk_mask(benchmark: Any, record: Any, quick: bool) -> None:
    rows, columns = (10_000, 300) if quick else (200_000, 300)
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    keep = weights.numel() // 10
    rivals: dict[str, tuple[Callable[[], object], int]] = {
        "topk_mask": (lambda: kernels.topk_mask([weights], 0.9), 9),
        "w.abs().sum()": (lambda: weights.abs().sum(), 9),
        "numpy.partition": (lambda: np.partition(np.abs(weights.numpy()).ravel(), -keep), 3),
        "numpy.sort": (lambda: np.sort(np.abs(weights.numpy()).ravel()), 1),
        "torch.kthvalue": (lambda: weights.abs().flatten().kthvalue(weights.numel() - keep), 3),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(10):
        for name, (run, times) in rivals.items():
            if turn <= times:  # the first turn warms up
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    ours = medians["topk_mask"]
    record(
        "topk_mask",
        {
            "weights": weights.numel(),
            "seconds": medians,
            "time_ratio": {name: value / ours for name, value in medians.items()},
        },
    )
    benchmark.pedantic(rivals["topk_mask"][0], rounds=3, warmup_rounds=1)
