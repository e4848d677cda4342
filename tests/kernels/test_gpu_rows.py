"""Row passes on a GPU; without one under Triton's interpreter."""

import numpy as np
import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import _C, kernels
from metasd.kernels._checks import in_range
from metasd.kernels.quantize_rows import _reference as rounded
from metasd.models import ComplEx

SHAPES = [(1, 1, 1), (7, 31, 5), (13, 33, 0), (5, 300, 40), (101, 130, 17)]
"""(rows of the table, columns, rows gathered)."""


def index_of(rows: int, count: int, seed: int = 3) -> Tensor:
    return torch.randint(rows, (count,), generator=torch.Generator().manual_seed(seed))


def on(device: str, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.to(device) for x in tensors]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", kc.MASKS)
def test_rows_are_gathered_and_masked(shape: tuple[int, int, int], kind: str, gpu: str) -> None:
    rows, columns, count = shape
    x, mask, index = kc.table(rows, columns), kc.packed(kind, rows, columns), index_of(rows, count)
    with kc.new_memory_is_nan():
        got = kernels.masked_rows(*on(gpu, x, mask, index))  # type: ignore[arg-type]
    assert torch.equal(got.cpu(), kc.masked(x, mask)[index])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", kc.MASKS)
def test_tables_are_masked_in_place(shape: tuple[int, int, int], kind: str, gpu: str) -> None:
    rows, columns, _ = shape
    x, mask = kc.table(rows, columns), kc.packed(kind, rows, columns)
    if mask is None:
        return
    table = x.to(gpu)
    assert kernels.apply_mask(table, mask.to(gpu), table) is table
    assert torch.equal(table.cpu(), kc.masked(x, mask))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_scattered_with_the_bits_of_a_sequential_loop(
    shape: tuple[int, int, int], gpu: str
) -> None:
    rows, columns, count = shape
    index, new, out = index_of(rows, count), kc.table(count, columns, 1), kc.table(rows, columns, 2)
    wanted = out.clone()
    for i, row in zip(index.tolist(), new, strict=True):
        wanted[i] += row
    given = out.to(gpu)
    assert kernels.scatter_rows(new.to(gpu), None, index.to(gpu), given) is given
    assert torch.equal(given.cpu(), wanted)


@pytest.mark.parametrize("weight_format", _C.WEIGHT_FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 33), (3, 300)], ids=str)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "random"))
def test_rows_are_rounded_as_the_reference_does(
    shape: tuple[int, int], kind: str, weight_format: str, gpu: str
) -> None:
    x, mask = kc.table(*shape), kc.packed(kind, *shape)
    with kc.new_memory_is_nan():
        got = kernels.quantize_rows(*on(gpu, x, mask), weight_format)  # type: ignore[arg-type]
    wanted = rounded(x.double(), mask, weight_format)
    torch.testing.assert_close(got.cpu().double(), wanted, rtol=1e-6, atol=0)


def test_gradient_is_that_of_indexing(gpu: str) -> None:
    x, mask, index = kc.table(9, 40), kc.packed("random", 9, 40), index_of(9, 30)
    assert mask is not None
    upstream = kc.table(30, 40, 5)
    leaf = kc.leaf(x.to(gpu))
    rows = kernels.masked_rows(leaf, mask.to(gpu), index.to(gpu))
    (got,) = torch.autograd.grad(rows, leaf, upstream.to(gpu))
    wanted = kc.masked(torch.zeros(9, 40).index_add(0, index, upstream), mask)
    kc.assert_close([got.cpu()], [wanted], 1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (13, 67), (9, 600)], ids=str)
def test_triples_score_their_own_tail(shape: tuple[int, int], gpu: str) -> None:
    q, t = kc.table(*shape, 1), kc.table(*shape, 2)
    z = kernels.score_triples(q.to(gpu), t.to(gpu)).cpu()
    kc.assert_close([z], [(q.double() * t.double()).sum(1)], 1e-6)


@pytest.mark.parametrize("rank", kc.few([1, 16, 25, 300], 25))
@pytest.mark.parametrize("kind", ["none", "random"])
def test_complex_queries_and_scores_in_one_pass(rank: int, kind: str, gpu: str) -> None:
    entities, relations = kc.table(9, 2 * rank, 1), kc.table(4, 2 * rank, 2)
    e_mask, r_mask = kc.packed(kind, 9, 2 * rank), kc.packed(kind, 4, 2 * rank)
    h, r, t = index_of(9, 20, 1), index_of(4, 20, 2), index_of(9, 20, 3)
    x, xm, xi, y, ym, yi, ti = on(gpu, entities, e_mask, h, relations, r_mask, r, t)
    from metasd.kernels.gpu.complex_product import complex_rows  # imports Triton

    query, scores = complex_rows(x, y, False, xm, xi, ym, yi, x, xm, ti)
    e, w = kc.masked(entities, e_mask).double(), kc.masked(relations, r_mask).double()
    wanted = ComplEx(rank).query(e[h], w[r])
    kc.assert_close([query.cpu(), scores.cpu()], [wanted, (wanted * e[t]).sum(1)], 1e-6)


@pytest.mark.parametrize("conjugate", [False, True])
def test_complex_product_and_its_gradients(conjugate: bool, gpu: str) -> None:
    x, y, upstream = kc.table(5, 34, 1), kc.table(5, 34, 2), kc.table(5, 34, 3)
    a, b = kc.leaf(x.to(gpu)), kc.leaf(y.to(gpu))
    product = kernels.complex_product(a, b, conjugate)
    got = [product, *torch.autograd.grad(product, (a, b), upstream.to(gpu))]
    a, b = kc.leaf(x.double()), kc.leaf(y.double())
    product = kernels.complex_product(a, b, conjugate)
    wanted = [product, *torch.autograd.grad(product, (a, b), upstream.double())]
    kc.assert_close([z.cpu() for z in got], wanted, 1e-6)


@pytest.mark.parametrize("index", [[0, 6], [-1, 0]])
def test_indices_out_of_range_are_refused(index: list[int], gpu: str) -> None:
    table, rows = torch.zeros(6, 40).to(gpu), torch.zeros(2, 40).to(gpu)
    bad = torch.tensor(index).to(gpu)
    with pytest.raises(ValueError, match=r"index must lie in 0 .. 5"):
        kernels.masked_rows(table, None, bad)
    with pytest.raises(ValueError, match=r"index must lie in 0 .. 5"):
        kernels.scatter_rows(rows, None, bad, table)


def test_views_of_one_index_are_checked_together_and_again_after_a_change(
    gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metasd.kernels.gpu import _launch

    looked = []
    monkeypatch.setattr(
        _launch, "in_range", lambda index, size: looked.append(index) or in_range(index, size)
    )
    table, epoch = kc.table(9, 5, 1).to(gpu), torch.arange(8).to(gpu)
    for start in (0, 2, 4):
        kernels.masked_rows(table, None, epoch[start : start + 2])
    assert len(looked) == 1
    epoch[7] = 9
    with pytest.raises(ValueError, match="got 9"):
        kernels.masked_rows(table, None, epoch[6:])
    assert kernels.masked_rows(table, None, epoch[:2]).shape == (2, 5)


def test_a_misaligned_pointer_is_refused(gpu: str) -> None:
    if gpu != "cpu":
        pytest.skip("allocations on a GPU are aligned")
    memory = np.zeros(41, np.uint8)
    crooked = torch.from_numpy(np.frombuffer(memory.data, np.float32, 8, 1).reshape(2, 4))
    with pytest.raises(ValueError, match="misaligned"):
        kernels.score_triples(crooked, torch.zeros(2, 4))


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (7, 31), (13, 300)], ids=str)
def test_adagrad_moves_rows_as_the_definition_does(shape: tuple[int, int], gpu: str) -> None:
    count, columns = shape
    table, sums = kc.table(29, columns, 1), kc.table(29, columns, 2).square()
    index = torch.randperm(29, generator=torch.Generator().manual_seed(3))[:count]
    arguments = [table[index], table, sums, index, kc.table(count, columns, 4)]
    exact = [x.double() if x.is_floating_point() else x.clone() for x in arguments]
    kernels.adagrad_rows(*exact, 0.1)  # type: ignore[arg-type]
    given = [x.to(gpu, copy=True) for x in arguments]
    kernels.adagrad_rows(*given, 0.1)  # type: ignore[arg-type]
    kc.assert_close([x.cpu() for x in given[:3]], exact[:3], 1e-6)
