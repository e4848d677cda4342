"""Losses on tile registers: what depends on how they cut entities, queries, widths and threads."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import kernel_cases as kc
from metasd import _C

pytestmark = pytest.mark.skipif(
    not _C.isa_supported("amx"), reason="this processor has no bf16 tiles (AMX)"
)

SHAPES = [
    (31, 31, 31),
    (32, 32, 32),
    (33, 33, 33),
    (257, 300, 70),  # two blocks of queries, the second of one pair of tiles
    (600, 1031, 20),
    (40, 700, 600),  # a block of fewer entities, since its rows are wide
    (5, 200, 2500),
]
"""(queries, entities, width) around the tiles of 16 and 32 and the blocks of up to 256."""


@pytest.fixture(autouse=True)
def _tiles() -> Iterator[None]:
    with kc.isa("amx"):
        yield


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("temperature", [3.0, 1.5])
def test_as_good_as_eager(name: str, shape: tuple[int, int, int], temperature: float) -> None:
    kc.assert_as_good_as_eager(name, shape, "bf16", scale=2.0, temperature=temperature)


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("mask", kc.MASKS)
@pytest.mark.parametrize("quantised", [False, True])
def test_agrees_with_the_stream(name: str, mask: str, quantised: bool) -> None:
    c = kc.case(70, 500, 40, mask=mask, weighted=True, quantised=quantised, scale=3.0)
    got = kc.LOSSES[name][0](c, precision="bf16")
    with kc.isa(kc.STREAMING):
        kc.assert_close(got, kc.LOSSES[name][0](c, precision="bf16"), 1e-2, 1e-6)


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("count", [2, 3, 7, 64])
def test_any_number_of_threads(name: str, count: int) -> None:
    """More threads than blocks of entities, too: some of them see none."""
    c = kc.case(70, 300, 40, weighted=True)
    with kc.threads(1):
        alone = kc.LOSSES[name][0](c, precision="bf16")
    with kc.threads(count):
        together = kc.LOSSES[name][0](c, precision="bf16")
        again = kc.LOSSES[name][0](c, precision="bf16")
    kc.assert_close(together, alone, 1e-4, 1e-6)  # sums in another order, G rounded to bf16
    assert kc.same_bits(together, again)


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("rising", [False, True])
def test_maxima_may_come_anywhere_in_a_row(name: str, rising: bool) -> None:
    c = kc.case(40, 3001, 3, mask="none", temperature=1.0)
    slope = torch.linspace(-60, 60, 3001).bfloat16().float() * (1 if rising else -1)
    c.entities[:, 0], c.q_source[:, 0], c.q_pruned[:, 0] = slope, 1.0, 0.9
    got = kc.LOSSES[name][0](c, precision="bf16")
    kc.assert_close(got, kc.LOSSES[name][1](c.to(torch.float64)), 3e-2, 1e-6)


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_shows(name: str, value: float) -> None:
    c = kc.case(40, 300, 20, mask="ones")
    c.q_source[3, 1] = c.q_pruned[3, 1] = c.dq_pruned[3, 1] = value
    assert not all(x.isfinite().all() for x in kc.LOSSES[name][0](c, precision="bf16"))


@pytest.mark.parametrize("name", kc.LOSSES)
def test_every_result_is_written(name: str) -> None:
    c = kc.case(70, 500, 19)
    wanted = kc.LOSSES[name][0](c, precision="bf16")
    with kc.new_memory_is_nan():
        assert kc.same_bits(kc.LOSSES[name][0](c, precision="bf16"), wanted)


def peak_above(action: Callable[[], object]) -> int:
    """Bytes of memory in use at most while `action` runs, above those before it (Linux)."""
    status = Path("/proc/self/status")

    def field(name: str) -> int:
        line = next(x for x in status.read_text().splitlines() if x.startswith(name))
        return int(line.split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before = field("VmRSS")
    action()
    return field("VmHWM") - before


@pytest.mark.parametrize("name", kc.LOSSES)
def test_memory_does_not_follow_queries_times_entities(name: str) -> None:
    """The results take 3 MB a table; all scores in bf16 would take 160 MB a score matrix."""
    c = kc.case(4000, 20_000, 32)
    with kc.threads(2):
        assert peak_above(lambda: kc.LOSSES[name][0](c, precision="bf16")) < 40 << 20
