"""Scoring functions: queries, regularisers, and a fifth model in one short class."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from metasd.config import Config
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.models import CP, RESCAL, ComplEx, DistMult, Scoring
from metasd.models.regularizers import PENALTIES, dura, ivr, n3
from metasd.training.trainer import train

MODELS = [ComplEx, DistMult, CP, RESCAL]


class QuatE(Scoring):
    """Quaternion embeddings (Zhang et al., NeurIPS 2019) without their normalisation."""

    name = "quate"
    parts = 4

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        (a, b, c, d), (p, q, r, s) = head.chunk(4, 1), relation.chunk(4, 1)
        parts = [
            a * p - b * q - c * r - d * s,
            a * q + b * p + c * s - d * r,
            a * r - b * s + c * p + d * q,
            a * s + b * r - c * q + d * p,
        ]
        return torch.cat(parts, 1)

    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        (a, b, c, d), (p, q, r, s) = head.chunk(4, 1), tail.chunk(4, 1)
        parts = [
            a * p + b * q + c * r + d * s,
            a * q - b * p - c * s + d * r,
            a * r + b * s - c * p - d * q,
            a * s - b * r + c * q - d * p,
        ]
        return torch.cat(parts, 1)


def rows(model: Scoring, count: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    widths = (model.entity_width, model.relation_width, model.entity_width)
    head, relation, tail = (
        torch.randn(count, w, generator=generator, dtype=torch.float64) for w in widths
    )
    return head, relation, tail


@pytest.mark.parametrize("kind", [*MODELS, QuatE])
def test_both_queries_give_the_same_score(kind: type[Scoring]) -> None:
    model = kind(3)
    head, relation, tail = rows(model)
    by_tail = (model.query(head, relation) * tail).sum(1)
    by_relation = (model.relation_query(head, tail) * relation).sum(1)
    torch.testing.assert_close(by_tail, by_relation)


@pytest.mark.parametrize("kind", MODELS)
def test_the_query_for_heads_gives_that_score_too(kind: type[Scoring]) -> None:
    model = kind(3)
    head, relation, tail = (x.numpy() for x in rows(model))
    by_tail = (model.query(head, relation) * tail).sum(1)
    for head_query in (model.head_query, partial(Scoring.head_query, model)):
        found = (head_query(relation, tail) * head).sum(1)
        np.testing.assert_allclose(found, by_tail, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [*MODELS, QuatE])
def test_the_query_is_bilinear(kind: type[Scoring]) -> None:
    model = kind(3)
    head, relation, _ = rows(model)
    torch.testing.assert_close(model.query(2 * head, 3 * relation), 6 * model.query(head, relation))
    torch.testing.assert_close(
        model.query(head + head.flip(0), relation),
        model.query(head, relation) + model.query(head.flip(0), relation),
    )


def test_complex_is_the_real_part_of_the_trilinear_product() -> None:
    model = ComplEx(4)
    head, relation, tail = rows(model)
    h, r, t = (torch.complex(*x.chunk(2, dim=1)) for x in (head, relation, tail))
    wanted = (h * r * t.conj()).real.sum(1)
    torch.testing.assert_close((model.query(head, relation) * tail).sum(1), wanted)


def test_rescal_is_a_bilinear_form() -> None:
    model = RESCAL(3)
    head, relation, tail = rows(model)
    wanted = torch.einsum("bi,bij,bj->b", head, relation.view(-1, 3, 3), tail)
    torch.testing.assert_close((model.query(head, relation) * tail).sum(1), wanted)


@pytest.mark.parametrize("kind", [*MODELS, QuatE])
def test_dura_penalises_both_sides_of_the_product(kind: type[Scoring]) -> None:
    model = kind(3)
    head, relation, tail = rows(model)
    if kind is RESCAL:
        backward = torch.einsum("bij,bj->bi", relation.view(-1, 3, 3), tail)
    else:  # the modulus of a product is the product of the moduli, whichever end it is taken at
        backward = model.query(tail, relation)
    products = model.query(head, relation).square().sum() + backward.square().sum()
    ends = head.square().sum() + tail.square().sum()
    torch.testing.assert_close(dura(model, head, relation, tail)[0], 0.5 * ends + 1.5 * products)


@pytest.mark.parametrize("kind", [*MODELS, QuatE])
@pytest.mark.parametrize(
    "penalty",
    [
        ("dura", 0.7),
        ("n3", 0.7),
        ("ivr", 0.7, 0.4, 3.0),
        ("ivr", 0.7, 0.4, 2.25),
        ("ivr", 0.0, 0.4),
    ],
    ids=str,
)
def test_penalties_have_the_gradients_that_they_give(
    kind: type[Scoring], penalty: tuple[str, ...]
) -> None:
    if kind is RESCAL and penalty[0] == "ivr":
        return  # refused by the configuration
    model = kind(3)
    parts = [x.requires_grad_() for x in rows(model)]
    value, gradients = PENALTIES[penalty[0]](model, *parts, *penalty[1:])
    for found, wanted in zip(gradients, torch.autograd.grad(value, parts), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", [*MODELS, QuatE])
def test_n3_has_a_gradient_at_zero(kind: type[Scoring]) -> None:
    model = kind(3)
    head, relation, tail = (x * (torch.arange(5)[:, None] > 2) for x in rows(model))
    _, gradients = n3(model, head, relation, tail)
    assert all(g.isfinite().all() for g in gradients)
    assert gradients[0][:3].abs().sum() == 0 < gradients[0][3:].abs().sum()


@pytest.mark.parametrize("kind", [ComplEx, DistMult])
def test_ivr_penalises_moduli_and_their_products(kind: type[Scoring]) -> None:
    model = kind(3)
    head, relation, tail = rows(model)

    def norm(x: Tensor) -> Tensor:
        return x.view(len(x), -1, 3).square().sum(1).pow(2.5 / 2).sum()

    product = (
        model.query
    )  # of a coordinate's number by another: its modulus is the moduli's product
    ends = norm(head) + norm(relation) + norm(tail)
    products = norm(product(head, relation)) + norm(product(tail, relation))
    products = products + norm(product(head, tail))
    found = ivr(model, head, relation, tail, 0.3, 0.8, 2.5)[0]
    torch.testing.assert_close(found, 0.3 * ends + 0.8 * products)


def test_a_fifth_model_trains_without_touching_the_trainer(
    small_graph: Graph, quick: Config, tmp_path: object
) -> None:
    run = train(small_graph, quick.override({"model.name": "quate"}), f"{tmp_path}/run")
    assert run.model.entities.shape == (small_graph.num_entities, 32)
    assert run.metrics["test"]["source"]["mrr"] > 0.02


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(InputError, match='did you mean "distmult"'):
        Scoring.named("dismult")
