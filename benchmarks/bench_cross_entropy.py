"""Plain 1-N cross entropy, forward and backward, against PyTorch's ways to compute it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from measure import (
    TURNS,
    Call,
    Contender,
    Options,
    compare,
    load_operators,
    products_alone,
    random_queries,
    random_tables,
)
from metasd import kernels

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _with_gradients(options: Options, loss: Loss) -> Call:
    """Everyone gets fp32 queries and entities, and gives fp32 gradients of both."""
    load_operators()
    entities = random_tables(options)[0].requires_grad_()
    turns = random_queries(options)

    def call() -> dict[str, float]:
        queries, targets = next(turns)
        queries.requires_grad_()
        value = loss(queries, entities, targets)
        torch.autograd.grad(value, [queries, entities])
        return {"loss": value.item()}

    return call


def metasd_loss(options: Options) -> Call:
    return _with_gradients(
        options,
        lambda q, e, y: kernels.entity_cross_entropy(q, e, y, precision=options.precision),
    )


def _eager(dtype: torch.dtype) -> Loss:
    return lambda q, e, y: functional.cross_entropy(q.to(dtype) @ e.to(dtype).T, y)


def eager(options: Options) -> Call:
    return _with_gradients(options, _eager(getattr(torch, options.dtype)))


def compiled(options: Options) -> Call:
    loss: Loss = torch.compile(_eager(getattr(torch, options.dtype)))
    call = _with_gradients(options, loss)
    for _ in range(TURNS):
        call()  # compiles; a whole turn, so that all see the same queries last
    return call


def linear_cross_entropy(options: Options) -> Call:
    dtype = getattr(torch, options.dtype)
    chunks = torch.nn.LinearCrossEntropyOptions() if options.chunked else None
    return _with_gradients(
        options,
        lambda q, e, y: functional.linear_cross_entropy(
            q.to(dtype), e.to(dtype), y, options=chunks
        ),
    )


FP32 = {"precision": "fp32", "dtype": "float32"}
BF16 = {"precision": "bf16", "dtype": "bfloat16"}
PRODUCTS = {"products": {"batch": [1, 1]}}

CONTENDERS = {
    "metasd": Contender(metasd_loss, {"precision": "auto"}),
    "metasd, fp32": Contender(metasd_loss, FP32),
    "eager, fp32": Contender(eager, FP32),
    "eager, bf16": Contender(eager, BF16),
    "`linear_cross_entropy`, fp32": Contender(linear_cross_entropy, {**FP32, "chunked": False}),
    "`linear_cross_entropy`, bf16": Contender(linear_cross_entropy, {**BF16, "chunked": False}),
    "the same in chunks, bf16": Contender(linear_cross_entropy, {**BF16, "chunked": True}),
    "`torch.compile`, fp32": Contender(compiled, FP32),
    "`torch.compile`, bf16": Contender(compiled, BF16),
    "products alone": Contender(products_alone, {"precision": "auto", **PRODUCTS}),
    "products alone, fp32": Contender(products_alone, {"precision": "fp32", **PRODUCTS}),
}
SHAPE = {"entities": 14541, "relations": 1, "rank": 128, "batch": 1000}
QUICK = {"entities": 2000, "relations": 1, "rank": 16, "batch": 200}


def test_cross_entropy(benchmark: Any, record: Any, quick: bool) -> None:
    shape = QUICK if quick else SHAPE
    figures = compare(CONTENDERS, shape, quick, rounds=2)
    losses = {n: f["returned"]["loss"] for n, f in figures["contenders"].items() if "returned" in f}
    assert losses == pytest.approx(dict.fromkeys(losses, losses["metasd"]), rel=0.02)
    record("cross_entropy", figures)
    call = metasd_loss(Options(**shape, precision="auto"))
    benchmark.pedantic(call, rounds=3, warmup_rounds=1)
