"""The README's numbers are those of the committed results."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("program", [["benchmarks/report.py"], ["-m", "benchmarks.report"]])
def test_the_tables_say_what_the_results_say(program: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *program, "--check"], check=False, cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0, done.stderr
