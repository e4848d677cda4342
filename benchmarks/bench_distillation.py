"""The three distillation losses with their gradients, against eager PyTorch.

`inner`, `meta` and `mutual` are the losses of steps 1, 2 and 3. Eager PyTorch computes them by the
same closed forms (the operations' own definitions), or the usual way: autograd through softmax and
KL, and for the meta gradient a second backward pass.
"""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dense import DenseMetaSD, Settings
from measure import TURNS, Call, Contender, Options, compare, products_alone, random_tables
from metasd import kernels
from metasd.kernels.distillation import _reference as distillation_definition
from metasd.kernels.meta_gradient import _reference as meta_definition

WEIGHTS = (3.0, 3.0, 1.0)  # temperature, forward, backward
INNER_LR = 0.1


class Inputs:
    """Tables, mask and batches of queries in the order that the operations take them."""

    def __init__(self, options: Options) -> None:
        self.entities, self.dentities = (random_tables(options)[0] for _ in range(2))
        self.mask = kernels.topk_mask([self.entities], 0.9)[0]
        self.batches = itertools.cycle(
            [
                (
                    *torch.randn(3, options.batch, 2 * options.rank),
                    torch.randint(options.entities, (options.batch,)),
                )
                for _ in range(TURNS)
            ]
        )


def _seen(gradient: Tensor) -> dict[str, float]:
    """A cheap sign that contenders computed the same gradient of entities."""
    return {"gradient": float(gradient[:100].float().norm())}


def metasd_operation(options: Options) -> Call:
    inputs = Inputs(options)
    e, de, mask = inputs.entities, inputs.dentities, inputs.mask

    def call() -> dict[str, float]:
        q_s, q_p, dq, y = next(inputs.batches)
        if options.loss == "meta":
            found = kernels.meta_gradient(
                q_s, q_p, dq, e, de, mask, *WEIGHTS, INNER_LR, precision=options.precision
            )
            return _seen(found[-1])
        loss = getattr(kernels, f"{options.loss}_distillation")
        return _seen(loss(q_s, q_p, e, mask, y, *WEIGHTS, precision=options.precision)[-1])

    return call


def closed_form(options: Options) -> Call:
    """The operations' definitions, which exist in fp32 and fp64 only."""
    inputs = Inputs(options)
    e, de, mask = inputs.entities, inputs.dentities, inputs.mask

    def call() -> dict[str, float]:
        q_s, q_p, dq, y = next(inputs.batches)
        if options.loss == "meta":
            return _seen(
                meta_definition(q_s, q_p, dq, e, de, mask, None, *WEIGHTS, INNER_LR, "fp32", 0)[-1]
            )
        return _seen(
            distillation_definition(
                q_s, q_p, e, mask, None, y, None, *WEIGHTS, options.loss == "mutual", "fp32", 0
            )[-1]
        )

    return call


def autograd(options: Options) -> Call:
    """From the dense baseline's own losses; its tables and products are fp32 or cast to bf16."""
    inputs = Inputs(options)
    e, mask = inputs.entities, kernels.unpack_mask(inputs.mask, 2 * options.rank)
    v = inputs.dentities.where(mask, 0.0)
    dtype = torch.bfloat16 if options.precision == "bf16" else None
    settings = Settings(options.rank, product_dtype=dtype)
    dense = DenseMetaSD(e, e[:1], settings, mask, mask[:1])
    entities = dense.source.entities

    def cross_entropy_and_teacher(queries: Tensor, table: Tensor, y: Tensor) -> Any:
        scores = dense._product(queries, table)
        return dense._cross_entropy(scores, y, None), dense._soft_log_probs(scores)

    def inner(q_s: Tensor, q_p: Tensor, dq: Tensor, y: Tensor) -> Tensor:
        pruned = dense._pruned_leaves().entities
        with torch.no_grad():
            teacher = dense._soft_log_probs(dense._product(q_s, entities))
        loss, compact = cross_entropy_and_teacher(q_p, pruned, y)
        loss = loss + dense._distillation(teacher, compact)
        gradient = torch.autograd.grad(loss, [q_p, pruned])[1]
        return gradient.where(mask, 0.0)

    def meta(q_s: Tensor, q_p: Tensor, dq: Tensor, y: Tensor) -> Tensor:
        pruned = dense._pruned_leaves().entities
        teacher = dense._soft_log_probs(dense._product(q_s, entities))
        compact = dense._soft_log_probs(dense._product(q_p, pruned))
        loss = dense._distillation(teacher, compact)
        g_q, g_e = torch.autograd.grad(loss, [q_p, pruned], create_graph=True)
        along = (g_q * dq).sum() + (g_e * v).sum()
        return torch.autograd.grad(-INNER_LR * along, [q_s, entities])[1]

    def mutual(q_s: Tensor, q_p: Tensor, dq: Tensor, y: Tensor) -> Tensor:
        loss_s, source = cross_entropy_and_teacher(q_s, entities, y)
        loss_p, pruned = cross_entropy_and_teacher(q_p, dense._prune(dense.source).entities, y)
        loss = loss_s + dense._distillation(source, pruned.detach())
        loss = loss + loss_p + dense._distillation(pruned, source.detach())
        return torch.autograd.grad(loss, [q_s, q_p, entities])[2]

    losses = {"inner": inner, "meta": meta, "mutual": mutual}

    def call() -> dict[str, float]:
        q_s, q_p, dq, y = next(inputs.batches)
        return _seen(losses[options.loss](q_s.requires_grad_(), q_p.requires_grad_(), dq, y))

    return call


AUTO, FP32, BF16 = ({"precision": precision} for precision in ("auto", "fp32", "bf16"))

CONTENDERS = {
    "metasd": Contender(metasd_operation, AUTO),
    "metasd, fp32": Contender(metasd_operation, FP32),
    "eager closed form, fp32": Contender(closed_form, FP32),
    "eager autograd, fp32": Contender(autograd, FP32),
    "eager autograd, bf16 products": Contender(autograd, BF16),
    "products alone": Contender(products_alone, AUTO),
    "products alone, fp32": Contender(products_alone, FP32),
}
PRODUCTS = {"inner": [2, 1], "meta": [4, 1], "mutual": [2, 2]}
SHAPE = {"entities": 14541, "relations": 1, "rank": 128, "batch": 1000}
QUICK = {"entities": 2000, "relations": 1, "rank": 16, "batch": 200}


@pytest.mark.parametrize("loss", PRODUCTS)
def test_distillation(benchmark: Any, record: Any, quick: bool, loss: str) -> None:
    shape = {**(QUICK if quick else SHAPE), "loss": loss, "products": {"batch": PRODUCTS[loss]}}
    figures = compare(CONTENDERS, shape, quick)
    seen = {
        name: found["returned"]["gradient"]
        for name, found in figures["contenders"].items()
        if "returned" in found
    }
    assert seen == pytest.approx(dict.fromkeys(seen, seen["eager autograd, fp32"]), rel=0.01)
    record(f"distillation-{loss}", figures)
    call = metasd_operation(Options(**shape, **AUTO))
    benchmark.pedantic(call, rounds=3, warmup_rounds=1)
