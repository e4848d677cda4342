import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels


def sparse(
    rows: int, width: int, columns: torch.dtype, values: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(indptr, columns or their gaps, values, the dense table): a third of it is kept."""
    keep = kc.kept("random", rows, width)
    assert keep is not None
    dense = torch.where(keep, (kc.table(rows, width, 4) * 8).round(), 0.0)
    places = keep.nonzero()
    indptr = torch.cat([torch.zeros(1), keep.sum(1).cumsum(0)]).long()
    column = places[:, 1]
    if columns == torch.uint8:
        first = torch.ones(len(column), dtype=torch.bool)
        first[1:] = places[1:, 0] != places[:-1, 0]
        column = torch.where(first, column, column - column.roll(1) - 1)
    return indptr, column.to(columns), dense[keep].to(values), dense.double()


def check(columns: torch.dtype, values: torch.dtype, scaled: bool, device: str) -> None:
    rows, width = 19, 90
    indptr, column, value, dense = sparse(rows, width, columns, values)
    scale = torch.rand(rows) + 0.5 if scaled else None
    if scale is not None:
        dense = dense * scale[:, None].double()
    q, chosen = kc.table(3, width, 1), torch.tensor([rows - 1, 0])
    for at, first in ((None, 0), (None, 6), (chosen, 0)):
        picked = dense[first:] if at is None else dense[at]
        out = torch.full((3, len(picked)), torch.nan, device=device)
        arrays = [None if x is None else x.to(device) for x in (indptr, column, value, scale)]
        arguments = (*arrays, q.to(device), None if at is None else at.to(device), first, out)
        kernels.sparse_scores(*arguments)  # type: ignore[arg-type]
        exact = q.double() @ picked.T
        bound = 2e-6 * (q.double().abs() @ picked.abs().T) + 1e-30
        assert ((out.cpu().double() - exact).abs() <= bound).all()


CASES = [
    (torch.int32, torch.float32, False),
    (torch.uint8, torch.float16, False),
    (torch.uint8, torch.bfloat16, False),
    (torch.uint8, torch.int8, True),
]


@pytest.mark.parametrize(("columns", "values", "scaled"), CASES, ids=str)
def test_scores_are_those_of_the_dense_rows(
    columns: torch.dtype, values: torch.dtype, scaled: bool
) -> None:
    check(columns, values, scaled, "cpu")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("columns", "values", "scaled"), CASES, ids=str)
def test_a_gpu_scores_sparse_rows(
    columns: torch.dtype, values: torch.dtype, scaled: bool, gpu: str
) -> None:
    check(columns, values, scaled, gpu)


def test_operation_is_sound() -> None:
    indptr, column, value, _ = sparse(5, 40, torch.int32, torch.float32)
    arguments = (indptr, column, value, None, kc.table(2, 40), None, 1, torch.zeros(2, 4))
    torch.library.opcheck(torch.ops.metasd.sparse_scores.default, arguments)
