"""The benchmarks where an optional package is missing."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_without_triton_all_but_one_are_there() -> None:
    pytest.importorskip("pytest_benchmark")
    helpers = str(ROOT / "tests" / "helpers")
    path = os.pathsep.join(filter(None, [helpers, os.environ.get("PYTHONPATH")]))
    pytest_itself = Path(sysconfig.get_path("scripts"), "pytest")  # `python -m` imports from here
    command = [pytest_itself, "benchmarks", "--quick", "--collect-only", "-qrs"]
    done = subprocess.run(
        [*command, "-p", "without_triton", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for file in (ROOT / "benchmarks").glob("bench_*.py"):
        collected = f"{file.name}::" in done.stdout
        assert collected == (file.name != "bench_gpu.py"), done.stdout
    assert "benchmarks/gpu.py needs Triton, which is not installed" in done.stdout
