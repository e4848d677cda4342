"""Rows rounded to few levels: the pass against its definition, and what the definition promises."""

import numpy as np
import pytest
import torch

from metasd import _C, kernels
from metasd.kernels.quantize_rows import _reference

LEVELS = {name: levels for name, (_, levels, _) in _C.WEIGHT_FORMATS.items()}
ISAS = [isa for isa in ("portable", "avx2", "avx512", "avx512bf16", "amx") if _C.isa_supported(isa)]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def table_of(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(rows, columns, generator=generator)
    if rows > 2:
        table[1] = 0
        table[2, ::3] = 0
    return table


@pytest.mark.parametrize("weight_format", LEVELS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (5, 16), (9, 100), (40, 513)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_pass_is_the_definition_in_float64(
    weight_format: str, rows: int, columns: int, masked: bool
) -> None:
    table = table_of(rows, columns)
    kept = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) < 0.6
    mask = kernels.pack_mask(kept) if masked else None
    found = kernels.quantize_rows(table, mask, weight_format)
    wanted = _reference((table * kept if masked else table).double(), None, weight_format)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    assert torch.equal(kernels.quantize_rows(table.double(), mask, weight_format), wanted)


@pytest.mark.parametrize("weight_format", LEVELS)
def test_every_instruction_set_rounds_alike(weight_format: str, isa: str) -> None:
    table, before = table_of(33, 130), _C.isa()
    wanted = kernels.quantize_rows(table, None, weight_format)
    try:
        _C.select_isa(isa)
        found = kernels.quantize_rows(table, None, weight_format)
    finally:
        _C.select_isa(before)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weight_format", LEVELS)
def test_a_row_has_no_more_levels_than_its_format_and_zeros_stay(weight_format: str) -> None:
    table = table_of(50, 400)
    found = kernels.quantize_rows(table, None, weight_format)
    most = {"int3": 9, "int2": 5}.get(weight_format, 2 * LEVELS[weight_format] + 1)
    assert max(len(row.unique()) for row in found) <= most
    assert not found[table == 0].any()
    if not _C.WEIGHT_FORMATS[weight_format][0]:
        assert found[table != 0].all()
    assert torch.equal(found.sign() * found, found.abs())
    assert (found * table >= 0).all()


def test_int2_loses_as_little_of_normal_weights_as_any_four_levels_of_equal_steps() -> None:
    """0.1188 of the variance (Max, Quantizing for Minimum Distortion, 1960); ternary 0.190."""
    table = torch.randn(20, 50_000, generator=torch.Generator().manual_seed(0))

    def lost(weight_format: str) -> float:
        error = kernels.quantize_rows(table, None, weight_format) - table
        return float(error.square().mean() / table.square().mean())

    assert 0.1188 < lost("int2") < 0.1192
    assert 0.185 < lost("ternary") < 0.195


@pytest.mark.parametrize("weight_format", LEVELS)
def test_rows_that_are_on_the_levels_are_kept(weight_format: str) -> None:
    random = np.random.default_rng(0)
    whole = random.integers(-LEVELS[weight_format], LEVELS[weight_format] + 1, (30, 200))
    whole[:, 0] = LEVELS[weight_format]
    if not _C.WEIGHT_FORMATS[weight_format][0]:
        whole |= 1
    rows = torch.from_numpy(whole * 2.0**-7).float()
    torch.testing.assert_close(
        kernels.quantize_rows(rows, None, weight_format), rows, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("weight_format", ["int8", "int4", "int3", "int2"])
def test_a_row_loses_no_more_than_with_the_best_of_many_steps(weight_format: str) -> None:
    """Of normal and of heavy-tailed weights, within 12 % of an exhaustive search for the step."""
    random = np.random.default_rng(0)
    zero, levels, _ = _C.WEIGHT_FORMATS[weight_format]
    for row in (random.standard_normal(512), random.standard_t(5, 512)):
        found = kernels.quantize_rows(torch.from_numpy(row[None]), None, weight_format)[0].numpy()
        least = np.inf
        for step in np.abs(row).mean() * np.linspace(0.2, 2, 400):
            if zero:
                whole = np.clip(np.rint(row / step), -levels, levels)
            else:
                odd = 2 * np.floor(np.abs(row) / (2 * step)) + 1
                whole = np.sign(row) * np.minimum(odd, levels)
            least = min(least, np.square(row - whole * step).sum())
        assert np.square(row - found).sum() < 1.12 * least


@pytest.mark.parametrize("weight_format", LEVELS)
@pytest.mark.parametrize("power", [-100, 100])
def test_the_step_does_not_depend_on_the_size_of_the_weights(
    weight_format: str, power: int
) -> None:
    table = table_of(20, 300)
    found = kernels.quantize_rows(table * 2.0**power, None, weight_format)
    assert torch.equal(found, kernels.quantize_rows(table, None, weight_format) * 2.0**power)


@pytest.mark.parametrize("weight_format", LEVELS)
def test_nan_is_not_hidden(weight_format: str) -> None:
    table = table_of(3, 40)
    table[1, 7] = float("nan")
    for dtype in (torch.float32, torch.float64):
        found = kernels.quantize_rows(table.to(dtype), None, weight_format)
        assert found[1].isnan().any()
        assert found[0].isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), None, "fp32"), "weight_format must be one of int8, int4"),
        ((torch.zeros(3), None, "int8"), "table must be"),
        ((torch.zeros(2, 40), torch.zeros(2, 1, dtype=torch.int32), "int8"), "mask must be"),
    ],
)
def test_what_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        kernels.quantize_rows(*arguments)  # type: ignore[arg-type]


def test_results_cannot_be_differentiated() -> None:
    with pytest.raises(RuntimeError, match="no autograd formula"):
        kernels.quantize_rows(table_of(3, 8).requires_grad_(), None, "int4").sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_operation_is_sound(dtype: torch.dtype, masked: bool) -> None:
    mask = kernels.pack_mask(torch.ones(3, 40, dtype=torch.bool)) if masked else None
    arguments = (table_of(3, 40).to(dtype), mask, "int3")
    torch.library.opcheck(torch.ops.metasd.quantize_rows.default, arguments)
