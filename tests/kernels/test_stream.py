import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kernel_cases as kc
from metasd import _C, kernels
from metasd.kernels import _stream

LARGE = (150, 2503, 19)
"""Three row blocks and three entity blocks at the least memory."""


@pytest.fixture(autouse=True)
def _no_tiles() -> Iterator[None]:
    with kc.isa(kc.STREAMING):
        yield


sizes = st.integers(0, 5000) | st.integers(0, 10**7)
memories = st.integers(1, 1 << 33) | st.sampled_from([1, 1 << 10, 1 << 20])


@given(
    rows=sizes,
    columns=sizes,
    matrices=st.integers(1, 3),
    itemsize=st.sampled_from([2, 4]),
    memory=memories,
)
@settings(max_examples=500, deadline=None)
def test_blocks_fit_in_memory_or_are_one_tile(
    rows: int, columns: int, matrices: int, itemsize: int, memory: int
) -> None:
    height, width = kernels.block_shape(rows, columns, matrices, itemsize, memory)
    assert min(rows, 1) <= height <= rows
    assert min(columns, 1) <= width <= columns
    tile = min(rows, 64), min(columns, 1024)
    needed, least = height * width, tile[0] * tile[1]
    assert needed * matrices * itemsize <= max(memory, least * matrices * itemsize)
    assert needed * 2 >= least, "evening out halves a tile at most"
    assert width == columns or height == tile[0], "columns are split for the least rows only"
    if rows * columns * matrices * itemsize <= memory and columns:
        assert (height, width) == (rows, columns)


@given(rows=sizes, columns=sizes, memory=memories)
@settings(max_examples=300, deadline=None)
def test_evening_out_does_not_add_a_block(rows: int, columns: int, memory: int) -> None:
    height, width = kernels.block_shape(rows, columns, 1, 4, memory)
    if width == columns and columns and height < rows:
        largest = max(memory // 4 // columns, min(rows, 64))
        assert -(-rows // height) == -(-rows // largest)


def test_blocks_are_evened_out() -> None:
    assert kernels.block_shape(130, 2000, 1, 4, 128 * 2000 * 4) == (80, 2000)  # not 128 and 2
    assert kernels.block_shape(64, 2100, 1, 4, 64 * 2048 * 4) == (64, 1056)  # not 2048 and 52


@given(size=st.integers(0, 300), step=st.integers(1, 400))
def test_blocks_cover_everything_once_in_order(size: int, step: int) -> None:
    covered = [i for part in _stream.blocks(size, step) for i in range(part.start, part.stop)]
    assert covered == list(range(size))


@pytest.fixture
def _fresh_choice() -> Iterator[None]:
    _stream._bf16_is_fast.cache_clear()
    yield
    _stream._bf16_is_fast.cache_clear()


@pytest.mark.usefixtures("_fresh_choice")
@pytest.mark.parametrize(
    ("override", "auto"), [("0", torch.float32), ("1", torch.bfloat16), (None, None)]
)
def test_precision_names_the_dtype_of_products(
    override: str | None, auto: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if override is None:
        monkeypatch.delenv("METASD_BF16", raising=False)
        auto = torch.bfloat16 if _C.bf16_products() else torch.float32
    else:
        monkeypatch.setenv("METASD_BF16", override)
    assert kernels.product_dtype("auto") == auto
    assert kernels.product_dtype("bf16") == torch.bfloat16
    assert kernels.product_dtype("fp32") == torch.float32
    assert kernels.product_dtype("tf32") == torch.float32


def test_scratch_memory_is_reused_grows_and_is_given_back() -> None:
    _stream.release_workspaces()
    first = _stream.workspace("scratch", (4, 8), torch.float32)
    assert first.shape == (4, 8)
    assert first.dtype == torch.float32
    smaller = _stream.workspace("scratch", (3, 5), torch.bfloat16)
    assert smaller.data_ptr() == first.data_ptr()
    other = _stream.workspace("other", (3, 5), torch.bfloat16)
    assert other.data_ptr() != first.data_ptr()
    assert _stream.workspace("scratch", (100, 100), torch.float32).shape == (100, 100)
    assert _stream.workspace("scratch", (0, 7), torch.float32).shape == (0, 7)
    assert set(vars(_stream._buffers)) == {"scratch", "other"}
    _stream.release_workspaces()
    assert not vars(_stream._buffers)


def test_scratch_memory_belongs_to_one_thread() -> None:
    mine = _stream.workspace("scratch", (8,), torch.float32)
    theirs: list[int] = []
    thread = threading.Thread(
        target=lambda: theirs.append(_stream.workspace("scratch", (8,), torch.float32).data_ptr())
    )
    thread.start()
    thread.join()
    assert theirs != [mine.data_ptr()]


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
@pytest.mark.parametrize("memory", kc.few([1, 100 * 2503 * 4], 1))
@pytest.mark.parametrize("kind", kc.few(["none", "random"], "random"))
def test_many_blocks_agree_with_one(name: str, precision: str, memory: int, kind: str) -> None:
    c = kc.case(*LARGE, mask=kind, weighted=True, scale=3.0)
    whole = kc.LOSSES[name][0](c, precision=precision, score_memory=1 << 30)
    parts = kc.LOSSES[name][0](c, precision=precision, score_memory=memory)
    kc.assert_close(parts, whole, {"fp32": 2e-6, "bf16": 1e-2}[precision])


@pytest.mark.slow
@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_many_blocks_are_as_good_as_eager(name: str, precision: str) -> None:
    kc.assert_as_good_as_eager(name, LARGE, precision, score_memory=1, scale=3.0, temperature=1.5)


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("rising", kc.few([False, True], True))
@pytest.mark.parametrize("memory", kc.few([1, 1 << 30], 1))
def test_maxima_may_come_anywhere_in_a_row(name: str, rising: bool, memory: int) -> None:
    """Every later block holds far larger scores, or far smaller ones, than those before."""
    c = kc.case(70, 9001, 3, mask="none", temperature=1.0)
    slope = torch.linspace(-60, 60, 9001) * (1 if rising else -1)
    c.entities[:, 0], c.q_source[:, 0], c.q_pruned[:, 0] = slope, 1.0, 0.9
    got = kc.LOSSES[name][0](c, precision="fp32", score_memory=memory)
    kc.assert_close(got, kc.LOSSES[name][1](c.to(torch.float64)), 1e-3)


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
@pytest.mark.parametrize("memory", kc.few([1, 1 << 30], 1))
@pytest.mark.parametrize("dtype", kc.few([torch.float32, torch.float64], torch.float32), ids=str)
def test_every_result_is_written(
    name: str, precision: str, memory: int, dtype: torch.dtype
) -> None:
    c = kc.case(*LARGE).to(dtype)
    options: dict[str, Any] = {"precision": precision, "score_memory": memory}
    wanted = kc.LOSSES[name][0](c, **options)
    with kc.new_memory_is_nan():
        assert kc.same_bits(kc.LOSSES[name][0](c, **options), wanted)


@pytest.mark.parametrize("name", kc.few(kc.LOSSES, "mutual"))
def test_inputs_are_left_as_they_were(name: str) -> None:
    c = kc.case(*LARGE, weighted=True, quantised=True)
    before = {k: v.clone() for k, v in vars(c).items() if isinstance(v, torch.Tensor)}
    kc.LOSSES[name][0](c, precision="fp32")
    kc.LOSSES[name][0](c, precision="bf16", score_memory=1)
    assert all(torch.equal(getattr(c, k), v) for k, v in before.items())


@pytest.mark.parametrize("name", kc.LOSSES)
@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
def test_score_blocks_stay_within_their_memory(name: str, precision: str) -> None:
    c = kc.case(700, 2503, 19)
    _stream.release_workspaces()
    kc.LOSSES[name][0](c, precision=precision, score_memory=3 << 20)
    scores = [b.numel() for k, b in vars(_stream._buffers).items() if k.startswith("scores")]
    assert 0 < sum(scores) <= 3 << 20


@pytest.mark.slow
def test_threads_may_stream_at_the_same_time() -> None:
    cases = [kc.case(70, 1500, 19, seed=seed) for seed in range(4)]
    wanted = [kc.mutual_of(c, precision="fp32", score_memory=1) for c in cases]
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda c: kc.mutual_of(c, precision="fp32", score_memory=1), cases * 3))
    for result, c in zip(got, wanted * 3, strict=True):
        kc.assert_close(result, c, 1e-6)


@pytest.mark.parametrize("name", kc.LOSSES)
def test_inference_mode_leaves_nothing_behind(name: str) -> None:
    c = kc.case(9, 50, 19)
    _stream.release_workspaces()
    with torch.inference_mode():
        first = kc.LOSSES[name][0](c, precision="bf16")
    assert kc.same_bits(kc.LOSSES[name][0](c, precision="bf16"), first)
    _stream.release_workspaces()
