import re
from typing import Any

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from row_cases import SHAPES, index_of


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", kc.MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_adds_rows_then_masks(shape: tuple[int, int, int], kind: str, dtype: torch.dtype) -> None:
    rows, columns, count = shape
    index, mask = index_of(rows, count), kc.packed(kind, rows, columns)
    new, out = kc.table(count, columns, 1, dtype=dtype), kc.table(rows, columns, 2, dtype=dtype)
    wanted = kc.masked(out.double().index_add(0, index, new.double()), mask)
    assert kernels.scatter_rows(new, mask, index, out) is out
    kc.assert_close([out], [wanted], 1e-6 if dtype == torch.float32 else 1e-14)


def test_adds_every_duplicate_in_order() -> None:
    out = torch.zeros(3, 17)
    rows = torch.tensor([2.0**24, 1.0, 1.0, -(2.0**24)])[:, None].repeat(1, 17)
    kernels.scatter_rows(rows, None, torch.tensor([1, 1, 1, 1]), out)
    assert (
        out[1].tolist() == [0.0] * 17
    )  # 2^24 + 1 rounds to 2^24, twice: any other order gives 1 or 2
    assert not out[[0, 2]].any()


def test_is_recorded_by_autograd() -> None:
    rows, index = kc.leaf(kc.table(3, 20)), torch.tensor([1, 1, 0])
    (grad,) = torch.autograd.grad(
        kernels.scatter_rows(rows, kc.packed("random", 4, 20), index, torch.zeros(4, 20)).sum(),
        rows,
    )
    keep = kc.kept("random", 4, 20)
    assert keep is not None
    assert torch.equal(grad.bool(), keep[index])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rows": torch.zeros(3, 40)}, ValueError, "rows must have 2 rows; got (3, 40)"),
        ({"rows": torch.zeros(2, 39)}, ValueError, "rows must be (2, 40) to match (6, 40)"),
        ({"rows": torch.zeros(2, 40).double()}, TypeError, "rows must be torch.float32"),
        ({"index": torch.tensor([0, 6])}, ValueError, "index must lie in 0 .. 5; got 6"),
        ({"index": torch.tensor([-1, 0])}, ValueError, "index must lie in 0 .. 5; got -1"),
        ({"out": torch.zeros(40, 6).T}, ValueError, "out must be contiguous"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_bad_input_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {
        "rows": torch.zeros(2, 40),
        "mask": None,
        "index": torch.tensor([0, 5]),
        "out": torch.zeros(6, 40),
    }
    with pytest.raises(error, match=re.escape(message)):
        kernels.scatter_rows(**(arguments | changes))


def test_traces_as_one_graph() -> None:
    mask, index, rows = kc.packed("random", 6, 40), torch.tensor([1, 5, 1]), kc.table(3, 40)

    def scatter(out: Tensor) -> Tensor:
        return kernels.scatter_rows(rows, mask, index, out)

    wanted = scatter(kc.table(6, 40, 1))
    kc.assert_close([kc.compiled(scatter)(kc.table(6, 40, 1))], [wanted], 1e-6)
    with pytest.raises(Exception, match=r"index|out of range|0 \.\. 1"):
        kc.compiled(scatter)(torch.zeros(2, 40))


def test_threads_do_not_change_a_bit() -> None:
    x, mask, index = kc.table(50, 75), kc.packed("random", 50, 75), index_of(50, 300)
    rows, results = kc.table(300, 75, 1), []
    for count in (1, 2, 3, 5):
        with kc.threads(count):
            results.append([kernels.scatter_rows(rows, mask, index, x.clone())])
    assert all(kc.same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["none", "random"])
def test_operation_is_sound(dtype: torch.dtype, kind: str) -> None:
    rows, out = kc.table(3, 40, 1, dtype=dtype), kc.table(6, 40, 2, dtype=dtype)
    arguments = (rows, kc.packed(kind, 6, 40), torch.tensor([1, 5, 1]), out)
    torch.library.opcheck(torch.ops.metasd.scatter_rows.default, arguments)
