"""Every example runs as it stands, in seconds, and is short enough to be read at a glance."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

CASES = {  # arguments that keep it short, and the start of a line that it must print
    "train_your_own.py": (["--epochs", "4"], "compact: test MRR"),
    "custom_scoring.py": (["--epochs", "4"], "compact: test MRR"),
    "kernels_alone.py": (["--steps", "20"], "10% of the weights find"),
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", CASES)
def test_examples_run(name: str, tmp_path: Path) -> None:
    arguments, expected = CASES[name]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert any(line.startswith(expected) for line in done.stdout.splitlines()), done.stdout
    assert not list(tmp_path.iterdir()), "an example leaves nothing behind"
