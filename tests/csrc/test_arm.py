"""The compiled losses on Arm, which is not at hand: cross-compiled, and run in an emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(COMPILER) is None or shutil.which(EMULATOR) is None,
    reason=f"no {COMPILER} or no {EMULATOR} here",
)
def test_losses_are_sums_in_double_precision(tmp_path: Path) -> None:
    sources = [ROOT / "tests" / "csrc" / "arm_losses.cpp", ROOT / "csrc" / "isa.cpp"]
    sources.append(ROOT / "csrc" / "amx_losses.cpp")
    flags = ["-std=c++17", "-O1", "-fopenmp", "-Wno-psabi", "-static", f"-I{ROOT / 'csrc'}"]
    program = tmp_path / "arm_losses"
    subprocess.run([COMPILER, *flags, *map(str, sources), "-o", str(program)], check=True)
    done = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("portable "), done.stdout
