import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels


def case(dtype: torch.dtype, count: int = 23, columns: int = 37) -> tuple[Tensor, ...]:
    """(rows, table, sums, index, grad)."""
    table, sums = kc.table(101, columns, 1, dtype=dtype), kc.table(101, columns, 2, dtype=dtype)
    index = torch.randperm(101, generator=torch.Generator().manual_seed(3))[:count]
    return table[index], table, sums.square(), index, kc.table(count, columns, 4, dtype=dtype)


@pytest.mark.parametrize("isa", kc.ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (23, 37), (101, 64)], ids=str)
def test_rows_move_as_those_of_a_whole_table_do(
    shape: tuple[int, int], dtype: torch.dtype, isa: str
) -> None:
    rows, table, sums, index, grad = case(dtype, *shape)
    whole = torch.nn.Parameter(table.clone())
    optimizer = torch.optim.Adagrad([whole], lr=0.1)
    optimizer.state[whole]["sum"].copy_(sums)
    whole.grad = torch.zeros_like(table).index_copy_(0, index, grad)
    optimizer.step()
    with kc.isa(isa):
        kernels.adagrad_rows(rows, table, sums, index, grad, 0.1)
    kc.assert_close([table, sums], [whole.detach(), optimizer.state[whole]["sum"]], 1e-6)
    assert torch.equal(rows, table[index])


def test_other_rows_are_not_written() -> None:
    rows, table, sums, index, grad = case(torch.float32)
    before = table.clone(), sums.clone()
    others = torch.ones(101, dtype=torch.bool).index_fill_(0, index, False)
    kernels.adagrad_rows(rows, table, sums, index, grad, 0.1)
    for x, y in zip((table, sums), before, strict=True):
        assert torch.equal(x[others], y[others])
        assert not torch.equal(x, y)


def test_a_row_out_of_range_is_refused() -> None:
    rows, table, sums, index, grad = case(torch.float32)
    index[3] = 101
    with pytest.raises(ValueError, match=r"index must lie in 0 \.\. 100; got 101"):
        kernels.adagrad_rows(rows, table, sums, index, grad, 0.1)


def test_opcheck() -> None:
    arguments = case(torch.float32)
    torch.library.opcheck(torch.ops.metasd.adagrad_rows.default, (*arguments, 0.1))
