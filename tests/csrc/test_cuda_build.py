"""The CUDA sources where there is no GPU: compiled, run on the processor, and left out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metasd import _C

ROOT = Path(__file__).parents[2]
CXX = os.environ.get("CXX", "c++")
NVCC = shutil.which("nvcc", path=f"{os.environ.get('PATH')}:/usr/local/cuda/bin")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(CXX) is None, reason="no C++ compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for CUDA needs an ELF linker")
def test_mask_kernels_run_on_the_processor(tmp_path: Path) -> None:
    program = tmp_path / "topk_mask"
    flags = ["-std=c++17", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
    folder = Path("tests", "csrc", "cuda_on_host")
    built = run(
        CXX, *flags, "-Icsrc", f"-I{folder}", folder / "topk_mask.cpp", "-o", program, LC_ALL="C"
    )
    assert built.returncode == 0, built.stderr
    result = run(program)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(" 0 failures\n")


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("arch", ["80", "90"])
def test_mask_kernels_fit_into_registers(arch: str, tmp_path: Path) -> None:
    result = run(
        str(NVCC),
        *("-std=c++17", "-O3", "-Xptxas=-v", "-cubin", f"-arch=sm_{arch}"),
        f'-DMETASD_CUDA_ARCHS="{arch}"',
        *("csrc/topk_mask.cu", "-o", tmp_path / "topk_mask.cubin"),
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if "spill" in line]
    assert len(lines) == 7, "kernels"
    assert all("0 bytes stack frame, 0 bytes spill stores" in line for line in lines), lines


def build(tmp_path: Path, **environment: str) -> str:
    """What setup.py says and fails with."""
    pytest.importorskip("pybind11", reason="pybind11 is there while the package is built")
    folders = ["--build-temp", tmp_path / "temp", "--build-lib", tmp_path / "lib"]
    result = run(sys.executable, "setup.py", "build_ext", *folders, **environment)
    assert result.returncode == 1
    return result.stderr


def test_a_build_names_what_is_wrong_with_cuda(tmp_path: Path) -> None:
    assert "METASD_CUDA must be auto, 0 or 1; got 'yes'" in build(tmp_path, METASD_CUDA="yes")
    nvcc, runtime = tmp_path / "bin" / "nvcc", tmp_path / "lib64" / "libcudart_static.a"
    for file in (nvcc, runtime):
        file.parent.mkdir()
        file.touch()
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    said = build(tmp_path, METASD_CUDA="1", CUDA_HOME=str(tmp_path))
    assert f"METASD_CUDA=1, but {nvcc} failed on csrc{os.sep}topk_mask.cu" in said


@pytest.mark.skipif(not _C.CUDA_ARCHS, reason="built without CUDA")
def test_bad_addresses_are_refused_before_a_launch() -> None:
    with pytest.raises(ValueError, match="must start at a multiple of 4 bytes"):
        _C.topk_mask_cuda([(17, 16, 1, 1, 1)], 1, 16, 0, 0)
    with pytest.raises(ValueError, match="less than 2\\^32 columns"):
        _C.topk_mask_rows_cuda((16, 16, 1, 1 << 32, 1 << 32), 1, 16, 0, 0)
