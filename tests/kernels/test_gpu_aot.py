"""Compiling GPU kernels without a GPU."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metasd.kernels import aot
from metasd.kernels.gpu import _launch

pytest.importorskip("triton")


def compiled(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-P", "-m", "metasd.kernels.aot", "--json", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    return run.returncode, json.loads(run.stdout)


@pytest.mark.slow
def test_products_run_on_tensor_cores_without_spills() -> None:
    status, found = compiled(
        *("--arch=80", "--arch=90", "--rank=100", "--precision=bf16", "--kernel=entropy_stat")
    )
    assert status == 0
    assert [(x["arch"], x["instructions"]) for x in found] == [(80, ["mma"]), (90, ["wgmma"])]
    assert all(x["spills"] == 0 and 0 < x["registers"] <= 255 for x in found)
    assert all(x["shared_memory"] <= aot.SHARED_MEMORY[x["arch"]] for x in found)


@pytest.mark.slow
def test_every_kernel_compiles_without_spills() -> None:
    """One rank in one precision for one architecture; `.ci/run` and the command line do more."""
    status, found = compiled(
        *("--arch=80", "--rank=100", "--precision=bf16", f"--jobs={min(os.cpu_count() or 1, 2)}")
    )
    assert status == 0, [x for x in found if x["failures"]]
    sources = Path(aot.__file__).with_name("gpu").glob("*.py")
    written = {
        name
        for path in sources
        for name in re.findall(
            r"^@(?:triton\.jit|tile_kernel).*\ndef _?(\w+_kernel)\(", path.read_text("utf-8"), re.M
        )
    }
    assert {x["kernel"] for x in found} >= written
    assert len(written) > 20


REPORT = aot.Report("x", 90, "bf16", [32], {}, 8, 3, 128, 0, 1024, ["wgmma"], [])


@pytest.mark.parametrize(("failures", "status"), [([], 0), (["3 spill instructions"], 1)])
def test_a_failure_is_the_exit_status(
    failures: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aot, "reports", lambda *_: [REPORT, replace(REPORT, failures=failures)])
    assert aot.main(["--arch", "90"]) == status


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("precision", aot.PRECISIONS)
@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("width", [1, 32, 64, 4000])
def test_tiles_are_what_the_kernels_take(
    arch: int, precision: str, models: int, width: int
) -> None:
    with _launch.recording(lambda *_: None, arch):
        tile = _launch.tile(models, precision, width, torch.device("meta"))
    assert tile.n >= tile.b, "the diagonal of a tile holds all its rows' targets"
    assert tile.n % 32 == tile.k % 32 == 0, "masks are read by whole words"
    assert all(x & (x - 1) == 0 for x in tile[:4])
    accumulators = models * tile.n * tile.b / (32 * tile.warps)
    assert accumulators <= 192
