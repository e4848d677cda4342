"""Scores, ranks and the k best on a GPU; without one under Triton's interpreter."""

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
import ranking_cases as tr
from metasd import kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
PRECISIONS = ["fp32", "tf32", "bf16"]
SHAPES = [(1, 1, 1), (3, 40, 5), (5, 300, 40), (130, 140, 9)]


def moved(p: tr.Problem, device: str) -> tuple[Tensor, Tensor, Tensor, tr.Known, Tensor | None]:
    indptr, indices = (x.to(device) for x in tr.csr(p.left_out))
    mask = None if p.mask is None else p.mask.to(device)
    tables = p.queries.to(device), p.entities.to(device), p.targets.to(device)
    return *tables, (indptr, indices), mask


@pytest.mark.parametrize(
    ("shape", "kind", "precision"),
    [
        ((3, 40, 5), "random", "fp32"),
        *(
            pytest.param(shape, "random", "fp32", marks=pytest.mark.slow)
            for shape in SHAPES
            if shape != (3, 40, 5)
        ),
        *(
            pytest.param((3, 140, 40), kind, precision, marks=pytest.mark.slow)
            for kind in ["none", "zeros"]
            for precision in PRECISIONS
        ),
    ],
    ids=str,
)
def test_ties_and_known_answers(
    shape: tuple[int, int, int], kind: str, precision: str, gpu: str
) -> None:
    rows, entities, width = shape
    p = tr.problem(rows, entities, width=width, kind=kind)
    q, e, targets, known, mask = moved(p, gpu)
    for memory in (1, 1 << 28):
        greater, equal = kernels.rank_targets(
            q, e, targets, known, mask, precision=precision, score_memory=memory
        )
        assert (greater.tolist(), equal.tolist()) == p.counts()
        for k in {1, min(entities, 7), entities}:
            scores, indices = kernels.topk_entities(
                q, e, k, known, mask, precision=precision, score_memory=memory
            )
            found = [
                list(zip(*row, strict=True))
                for row in zip(scores.tolist(), indices.tolist(), strict=True)
            ]
            assert found == p.best(k)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_target_ties_with_its_copies(precision: str, gpu: str) -> None:
    """Copies in other tiles and other places of a tile, compared bit by bit with the target.

    Whole numbers, whose products are exact in any order: what a sum rounds to is not ours to
    promise under the interpreter, whose product is numpy's.
    """
    q, e = kc.whole_numbers(5, 33, 1), kc.whole_numbers(300, 33, 2)
    e[[7, 130, 299]] = e[64].clone()
    p = tr.Problem(q, e, torch.full((5,), 64), [[]] * 5)
    greater, equal = kernels.rank_targets(
        q.to(gpu), e.to(gpu), p.targets.to(gpu), precision=precision
    )
    assert (greater.tolist(), equal.tolist()) == p.counts()
    assert min(equal.tolist()) >= 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="rounding is that of tensor cores")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_copies_round_alike_wherever_they_lie(precision: str) -> None:
    """A score's sum over the width is taken in the same order in every place of every tile."""
    q, e = kc.table(5, 33, 1), kc.table(300, 33, 2)
    e[[7, 130, 299]] = e[64].clone()
    targets = torch.full((5,), 64).cuda()
    _, equal = kernels.rank_targets(q.cuda(), e.cuda(), targets, precision=precision)
    assert equal.tolist() == [3] * 5


def test_ranks_in_fp32_are_those_in_fp64(gpu: str) -> None:
    q, e, targets = kc.table(5, 33, 1), kc.table(300, 33, 2), torch.full((5,), 64)
    greater, _ = kernels.rank_targets(q.to(gpu), e.to(gpu), targets.to(gpu), precision="fp32")
    assert greater.tolist() == kernels.rank_targets(q.double(), e.double(), targets)[0].tolist()


def test_nothing_is_left_out_without_known_answers(gpu: str) -> None:
    p = tr.problem(4, 150)
    p.left_out = [[]] * 4
    q, e, targets, _, _ = moved(p, gpu)
    greater, equal = kernels.rank_targets(q, e, targets)
    assert (greater.tolist(), equal.tolist()) == p.counts()
    assert kernels.topk_entities(q, e, 3)[1].tolist() == [[i for _, i in x] for x in p.best(3)]


def test_zeros_of_either_sign_tie(gpu: str) -> None:
    e = torch.tensor([[-0.0], [0.0], [1.0], [-0.0]])
    _, best = kernels.topk_entities(torch.ones(1, 1).to(gpu), e.to(gpu), 4)
    assert best.tolist() == [[2, 0, 1, 3]]


@pytest.mark.parametrize("column", [0, 149])
def test_a_nan_is_refused(column: int, gpu: str) -> None:
    q, e = kc.table(2, 5).to(gpu), kc.table(150, 5).to(gpu)
    e[column, 2] = torch.nan
    with pytest.raises(ValueError, match="scores hold NaN"):
        kernels.rank_targets(q, e, torch.tensor([3, 4]).to(gpu))
    with pytest.raises(ValueError, match="scores hold NaN"):
        kernels.topk_entities(q, e, 2)


@pytest.mark.parametrize("rows", [0, 3])
def test_an_empty_batch_has_no_ranks(rows: int, gpu: str) -> None:
    q, e = kc.table(rows, 5).to(gpu), kc.table(9, 5).to(gpu)
    greater, _ = kernels.rank_targets(q, e, torch.zeros(rows, dtype=torch.int64).to(gpu))
    assert greater.shape == (rows,)
    assert kernels.topk_entities(q, e, 2)[0].shape == (rows, 2)


def test_indices_out_of_range_are_refused(gpu: str) -> None:
    q, e = kc.table(1, 5).to(gpu), kc.table(9, 5).to(gpu)
    with pytest.raises(ValueError, match=r"targets must lie in 0 .. 8; got 9"):
        kernels.rank_targets(q, e, torch.tensor([9]).to(gpu))
    known = torch.tensor([0, 1]).to(gpu), torch.tensor([9]).to(gpu)
    with pytest.raises(ValueError, match=r"known indices must lie in 0 .. 8; got 9"):
        kernels.topk_entities(q, e, 2, known)


@pytest.mark.parametrize(
    "shape", kc.few([*SHAPES, (0, 5, 3), (4, 0, 3), (3, 20, 260)], SHAPES[2], (4, 0, 3)), ids=str
)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "random"))
def test_scores_are_products_with_the_masked_table(
    shape: tuple[int, int, int], kind: str, gpu: str
) -> None:
    rows, entities, width = shape
    q, e, mask = kc.table(rows, width, 1), kc.table(entities, width, 2), None
    exact = q.double() @ kc.masked(e, kc.packed(kind, entities, width)).double().T
    if kind != "none":
        packed = kc.packed(kind, entities, width)
        assert packed is not None
        mask = packed.to(gpu)
    for precision, relative in (("fp32", 5e-7), ("tf32", 1e-3), ("bf16", 1e-2)):
        with kc.new_memory_is_nan():
            z = kernels.score_entities(q.to(gpu), e.to(gpu), mask, precision=precision)
        kc.assert_close([z.cpu()], [exact], relative)


def test_scores_are_differentiable(gpu: str) -> None:
    q, e, mask = kc.table(7, 33, 1), kc.table(20, 33, 2), kc.packed("random", 20, 33)
    assert mask is not None
    upstream = kc.table(7, 20, 3)
    a, b = kc.leaf(q.to(gpu)), kc.leaf(e.to(gpu))
    scores = kernels.score_entities(a, b, mask.to(gpu), precision="fp32")
    got = [x.cpu() for x in torch.autograd.grad(scores, (a, b), upstream.to(gpu))]
    a, b = kc.leaf(q.double()), kc.leaf(e.double())
    wanted = torch.autograd.grad(a @ kc.masked(b, mask).T, (a, b), upstream.double())
    kc.assert_close(got, wanted, 1e-6)
