import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import _C, kernels
from metasd.kernels import _stream

OTHERS = kc.ISAS[kc.ISAS.index(kc.STREAMING) + 1 :]
"""Compared with the widest whose scores pass through memory; AMX has tests of its own."""


def test_portable_is_always_there() -> None:
    assert _C.isa_supported("portable")
    assert _C.isa() in kc.ISAS


@pytest.mark.parametrize("name", kc.ISAS)
def test_selection_is_what_is_in_use(name: str) -> None:
    with kc.isa(name):
        assert _C.isa() == name


@pytest.mark.parametrize("name", ["", "avx9", "AVX2"])
def test_an_unknown_name_changes_nothing(name: str) -> None:
    before = _C.isa()
    assert not _C.isa_supported(name)
    assert not _C.select_isa(name)
    assert _C.isa() == before


@pytest.mark.parametrize(("wanted", "used"), [("portable", "portable"), ("avx9", kc.ISAS[0])])
def test_environment_chooses_and_unknown_names_are_passed_over(
    wanted: str, used: str, tmp_path: Path
) -> None:
    program = "import metasd._C as c; print(c.isa())"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"METASD_ISA": wanted},
        cwd=tmp_path,  # not beside the sources, which hold no built module
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == [used]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
@pytest.mark.parametrize(
    "shape", kc.few([(1, 1, 3), (3, 15, 3), (7, 1049, 33), (70, 2503, 19)], (7, 1049, 33)), ids=str
)
@pytest.mark.parametrize("score_memory", [1, 1 << 30])
def test_losses_agree(
    other: str, name: str, precision: str, shape: tuple[int, int, int], score_memory: int
) -> None:
    c = kc.case(*shape, weighted=True, scale=3.0)
    results = []
    for isa in (kc.STREAMING, other):
        with kc.isa(isa):
            results.append(kc.LOSSES[name][0](c, precision=precision, score_memory=score_memory))
    kc.assert_close(results[1], results[0], {"fp32": 2e-6, "bf16": 3e-3}[precision], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("isa", kc.ISAS)
@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_is_as_good_as_eager(isa: str, name: str, precision: str) -> None:
    with kc.isa(isa):
        kc.assert_as_good_as_eager(name, (9, 1049, 33), precision, scale=5.0, temperature=1.5)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("columns", [1, 15, 16, 33, 95])
def test_exact_passes_give_the_same_bits(other: str, precision: str, columns: int) -> None:
    q, e = kc.whole_numbers(19, 8, 1), kc.whole_numbers(columns, 8, 2)
    x, mask = kc.table(40, columns, 3), kc.packed("random", 40, columns)
    index = torch.tensor([3, 39, 3, 0])
    targets, known = (
        torch.arange(19) % columns,
        (torch.arange(20), torch.zeros(19, dtype=torch.int64)),
    )

    def everything() -> list[Tensor]:
        return [
            *kernels.rank_targets(q, e, targets, known, precision=precision),
            *kernels.topk_entities(q, e, min(7, columns), known, precision=precision),
            kernels.score_entities(q, e, kc.packed("random", columns, 8), precision=precision),
            kernels.apply_mask(x, mask),
            kernels.masked_rows(x, mask, index),
            kernels.scatter_rows(kc.table(4, columns), mask, index, x.clone()),
        ]

    results = []
    for isa in (kc.STREAMING, other):
        with kc.isa(isa):
            results.append(everything())
    assert kc.same_bits(*results)


@pytest.mark.parametrize("isa", kc.ISAS)
@pytest.mark.parametrize("columns", [1, 16, 33, 4096])
def test_rounding_to_bf16_is_that_of_torch(isa: str, columns: int) -> None:
    random = np.random.default_rng(columns).integers(0, 2**32, (9, columns), dtype=np.uint32)
    x = torch.from_numpy(random.view(np.float32))  # NaN and infinite ones among them
    x[0] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -torch.inf]).repeat(columns)[:columns]
    x[1] = 0.0
    with kc.isa(isa):
        got = _stream.cast_rows(x, None, torch.empty_like(x, dtype=torch.bfloat16))
    wanted = x.bfloat16()
    assert torch.equal(got.isnan(), wanted.isnan())
    smallest = torch.finfo(torch.float32).smallest_normal
    subnormal = x.abs().gt(0) & x.abs().le(smallest)  # a processor may take these for zero
    assert got[subnormal].float().abs().le(smallest).all()
    compared = ~(subnormal | x.isnan())
    assert torch.equal(got[compared].view(torch.int16), wanted[compared].view(torch.int16))


@pytest.mark.parametrize("isa", kc.ISAS)
def test_exponentials_are_within_their_bound(isa: str) -> None:
    """With one query of 1 entity j has the gradient exp(x_j) / sum, and entity 0 has 1 / sum."""
    x = torch.linspace(0, -79, 30_001)
    e = torch.cat([x, torch.tensor([-80.01, -81, -1e4, -3e38])])[:, None]
    target = torch.tensor([len(e) - 1])
    with kc.isa(isa):
        _, _, g = kernels.entity_cross_entropy_gradients(
            torch.ones(1, 1), e, target, precision="fp32"
        )
    assert not g[-4:-1].any(), "exactly zero below -80"
    assert g[-1].item() == -1
    ratio = g[:30_001, 0].double() / g[0, 0].double()
    relative = (ratio / x.double().exp() - 1).abs()
    assert (
        relative.max().item() < 2.5e-7 + 2 * 2**-24
    )  # the bound, and the rounding of the products
