import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from torch import Tensor

import kernel_cases as kc
from mask_cases import FILLS, assert_padding_is_zero, tables_of
from metasd import _C, kernels
from metasd.kernels.gpu.topk_mask import topk_mask as on_cuda

FRACTIONS = [0.0, 0.1, 0.5, 0.9, 0.999, 1.0]
SHAPES = [
    [(1, 1)],
    [(1, 77)],
    [(77, 1)],
    [(5, 32), (3, 33)],
    [(0, 8), (4, 31), (0, 70), (2, 64), (1, 1)],
    [(13, 95), (7, 129), (29, 17)],
    [(300, 257), (11, 1024)],
]


def largest(magnitudes: NDArray[np.floating], fraction: float) -> NDArray[np.bool_]:
    """The oracle: a stable descending sort of all magnitudes."""
    keep = magnitudes.size - math.ceil(fraction * magnitudes.size)
    chosen = np.zeros(magnitudes.size, dtype=bool)
    chosen[np.argsort(-magnitudes, kind="stable")[:keep]] = True
    return chosen


def expected(tables: Sequence[Tensor], fraction: float) -> list[NDArray[np.bool_]]:
    joined = np.concatenate([np.abs(t.numpy()).ravel() for t in tables])
    parts = np.split(largest(joined, fraction), np.cumsum([t.numel() for t in tables])[:-1])
    return [part.reshape(t.shape) for part, t in zip(parts, tables, strict=True)]


def masks_on(
    device: str, tables: Sequence[Tensor], fraction: float, granularity: str = "weight"
) -> list[Tensor]:
    masks = kernels.topk_mask([table.to(device) for table in tables], fraction, granularity)
    assert all(mask.device.type == device for mask in masks)
    return [mask.cpu() for mask in masks]


def assert_masks(
    masks: Sequence[Tensor], tables: Sequence[Tensor], wanted: Sequence[NDArray[np.bool_]]
) -> None:
    for mask, table, kept in zip(masks, tables, wanted, strict=True):
        assert mask.dtype == torch.int32
        assert mask.shape == (table.shape[0], (table.shape[1] + 31) // 32)
        assert_padding_is_zero(mask, table.shape[1])
        np.testing.assert_array_equal(kernels.unpack_mask(mask, table.shape[1]), kept)


def expected_of_rows(tables: Sequence[Tensor], fraction: float) -> list[NDArray[np.bool_]]:
    return [
        np.array([largest(np.abs(row.numpy()), fraction) for row in table], dtype=bool).reshape(
            table.shape
        )
        for table in tables
    ]


@pytest.mark.parametrize("shapes", kc.few(SHAPES, *SHAPES[3:6]), ids=str)
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mask_is_a_stable_sort_of_all_magnitudes(
    shapes: list[tuple[int, int]], fill: str, dtype: torch.dtype, device: str
) -> None:
    tables = tables_of(shapes, fill, dtype)
    for fraction in FRACTIONS:
        assert_masks(masks_on(device, tables, fraction), tables, expected(tables, fraction))


MISLEADING: dict[str, Callable[[Tensor], Tensor]] = FILLS | {
    "sampled places larger": lambda x: spread(x, 100.0),
    "sampled places smaller": lambda x: spread(x, 0.01),
    "sampled places equal": lambda x: spread(x, 0.0),
    "rising": lambda x: torch.arange(float(x.numel())).view_as(x),
    "one in a thousand": lambda x: torch.where(x > 3.1, x, 0.0),
}
"""For the selection on a CPU, which looks at a sample of many weights first."""


def spread(x: Tensor, factor: float) -> Tensor:
    """The weights at which 131,072 samples of some 800,000 look, times `factor`."""
    flat = x.flatten().clone()
    flat[3::6] *= factor
    return flat.view_as(x)


@pytest.mark.parametrize("fill", kc.few(MISLEADING, "normal", "sampled places equal"))
@pytest.mark.parametrize("columns", kc.few([1000, 1024], 1000))
def test_samples_of_large_tables_may_mislead(fill: str, columns: int) -> None:
    tables = [MISLEADING[fill](kc.table(800, columns)), kc.table(3, 50)]
    for fraction in [0.0, 0.001, 0.9, 1.0]:
        for isa in (kc.ISAS[0], "portable"):
            with kc.isa(isa):
                masks = kernels.topk_mask(tables, fraction)
            assert_masks(masks, tables, expected(tables, fraction))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_row_granularity_sorts_every_row_by_itself(
    fill: str, dtype: torch.dtype, device: str
) -> None:
    tables = tables_of([(9, 70), (0, 5), (6, 1), (3, 32), (2, 3001)], fill, dtype)
    for fraction in FRACTIONS:
        masks = masks_on(device, tables, fraction, "row")
        assert_masks(masks, tables, expected_of_rows(tables, fraction))


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gpu_is_served_without_kernels(
    fill: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CUDA tensor gets from a package built without nvcc; it is plain PyTorch."""
    monkeypatch.setattr(_C, "CUDA_ARCHS", "")
    tables = tables_of([(0, 8), (13, 95), (7, 129), (1, 1)], fill, dtype)
    for fraction in FRACTIONS:
        assert_masks(on_cuda(tables, fraction, False), tables, expected(tables, fraction))
        assert_masks(on_cuda(tables, fraction, True), tables, expected_of_rows(tables, fraction))
    tables[1][2, 4] = torch.nan
    for per_row in (False, True):
        with pytest.raises(ValueError, match="the tables hold NaN"):
            on_cuda(tables, 0.5, per_row)


@pytest.mark.parametrize("granularity", ["weight", "row"])
@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_tables_may_start_anywhere_in_memory(offset: int, granularity: str, device: str) -> None:
    """A vector load of 16 bytes may not."""
    memory = kc.table(1, 40 * 64 + offset)[0].to(device)
    table = memory[offset:].view(40, 64)
    got = kernels.topk_mask([table], 0.9, granularity)
    assert kc.same_bits(got, kernels.topk_mask([table.clone()], 0.9, granularity))


finite_or_infinite = st.floats(width=32, allow_nan=False)
tied = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, math.inf, 1e-45])
some_tables = st.lists(
    array_shapes(min_dims=2, max_dims=2, max_side=40).flatmap(
        lambda shape: arrays(np.float32, shape, elements=finite_or_infinite | tied)
    ),
    min_size=1,
    max_size=3,
)


@given(tables=some_tables, fraction=st.floats(0, 1), threads=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_exactly_the_promised_number_is_kept_and_none_is_smaller_than_a_dropped_one(
    tables: list[NDArray[np.float32]], fraction: float, threads: int
) -> None:
    with kc.threads(threads):
        masks = kernels.topk_mask([torch.from_numpy(t) for t in tables], fraction)
    kept = np.concatenate(
        [
            kernels.unpack_mask(m, t.shape[1]).numpy().ravel()
            for m, t in zip(masks, tables, strict=True)
        ]
    )
    magnitudes = np.concatenate([np.abs(t).ravel() for t in tables])
    keep = kept.size - math.ceil(fraction * kept.size)
    assert kept.sum() == keep
    assert (
        sum(int(word).bit_count() for m in masks for word in m.numpy().view(np.uint32).flat) == keep
    )
    if 0 < keep < kept.size:
        threshold = magnitudes[kept].min()
        assert threshold >= magnitudes[~kept].max()
        ties = np.flatnonzero(magnitudes == threshold)
        kept_ties = int(kept[ties].sum())
        assert kept[ties[:kept_ties]].all(), "of equal magnitudes the lower indices are kept"


@pytest.mark.parametrize("fill", ["normal", "few magnitudes", "constant"])
@pytest.mark.parametrize("granularity", ["weight", "row"])
def test_threads_do_not_change_a_bit(fill: str, granularity: str) -> None:
    tables = tables_of([(33, 70), (1, 9), (57, 129)], fill)
    masks = []
    for count in (1, 2, 3, 5, 64):
        with kc.threads(count):
            masks.append(kernels.topk_mask(tables, 0.7, granularity))
    assert all(kc.same_bits(mask, masks[0]) for mask in masks)


def test_more_weights_are_dropped_by_a_larger_fraction() -> None:
    tables = tables_of([(20, 45)], "few magnitudes")
    masks = [kernels.topk_mask(tables, p)[0] for p in FRACTIONS]
    for looser, tighter in pairwise(masks):
        assert not bool((tighter & ~looser).any())


def test_only_empty_tables_have_empty_masks(device: str) -> None:
    masks = masks_on(device, [torch.zeros(0, 3), torch.zeros(0, 40)], 0.5)
    assert [mask.shape for mask in masks] == [(0, 1), (0, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("granularity", ["weight", "row"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800001])
def test_nan_is_an_error(
    dtype: torch.dtype, granularity: str, fraction: float, bits: int, device: str
) -> None:
    nan = torch.from_numpy(np.array([bits], dtype=np.uint32).view(np.float32)).to(dtype)
    tables = tables_of([(4, 40), (3, 5)], "normal", dtype)
    tables[1][2, 4] = nan[0]
    with pytest.raises(ValueError, match="the tables hold NaN"):
        masks_on(device, tables, fraction, granularity)


@pytest.mark.parametrize(
    ("tables", "options", "error", "message"),
    [
        ([], {}, ValueError, "tables must hold at least one tensor; got none"),
        (torch.zeros(2, 3), {}, TypeError, "tables must be a sequence of tensors; got one tensor"),
        ([[1.0]], {}, TypeError, "tables[0] must be a torch.Tensor; got list"),
        ([torch.zeros(3)], {}, ValueError, "tables[0] must be (rows, columns)"),
        ([torch.zeros(3, 0)], {}, ValueError, "with columns > 0; got (3, 0)"),
        ([torch.zeros(3, 2).half()], {}, TypeError, "tables[0] must be float32 or float64"),
        (
            [torch.zeros(3, 2), torch.zeros(3, 2).double()],
            {},
            TypeError,
            "tables must share dtype and device; tables[1] is torch.float64",
        ),
        ([torch.zeros(3, 2).T], {}, ValueError, "tables[0] must be contiguous; got strides (1, 2)"),
        (
            [torch.zeros(1, 1).expand(9, 9)],
            {},
            ValueError,
            "must be contiguous; got strides (0, 0)",
        ),
        (
            [
                torch.zeros(4).as_strided((2, 2), (2**40, 1))
                if False
                else torch.zeros(8)[::2].view(2, 2)
            ],
            {},
            ValueError,
            "tables[0] must be contiguous",
        ),
        ([torch.zeros(3, 2)], {"prune_fraction": 1.5}, ValueError, "must lie in 0 .. 1; got 1.5"),
        ([torch.zeros(3, 2)], {"prune_fraction": -0.1}, ValueError, "must lie in 0 .. 1; got -0.1"),
        ([torch.zeros(3, 2)], {"prune_fraction": math.nan}, ValueError, "0 .. 1; got nan"),
        (
            [torch.zeros(3, 2)],
            {"granularity": "block"},
            ValueError,
            "granularity must be weight or row; got 'block'",
        ),
    ],
)
def test_bad_input_is_named(
    tables: list[Tensor], options: dict[str, float | str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        kernels.topk_mask(tables, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("per_row", [False, True])
def test_operation_is_sound(dtype: torch.dtype, per_row: bool, device: str) -> None:
    tables = [table.to(device) for table in tables_of([(4, 40), (3, 5)], "normal", dtype)]
    torch.library.opcheck(torch.ops.metasd.topk_mask.default, (tables, 0.6, per_row))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_masks_trace_as_one_graph(backend: str) -> None:
    def mask_and_apply(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bits = kernels.topk_mask([x], 0.6)[0]
        return bits, kernels.apply_mask(x, bits), kernels.pack_mask(kernels.unpack_mask(bits, 40))

    x = kc.table(6, 40)
    got = kc.compiled(mask_and_apply, backend)(x)
    assert kc.same_bits(got, mask_and_apply(x))
    assert torch.equal(got[0], got[2])
