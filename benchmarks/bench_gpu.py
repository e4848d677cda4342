"""`pytest benchmarks -m gpu`: gpu.py on a CUDA device; with --quick, on tiny shapes of any."""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="benchmarks/gpu.py needs Triton, which is not installed")

import gpu


@pytest.mark.gpu
def test_gpu(quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not quick:
        pytest.skip("no CUDA device here; --quick tries the program itself on the processor")
    options = ["--quick", "--out", str(tmp_path)] if quick else []
    monkeypatch.setattr("sys.argv", ["gpu.py", "--device", device, *options])
    gpu.main()
    if quick:
        (written,) = tmp_path.glob("*.json")
        assert json.loads(written.read_text())["errors"]
