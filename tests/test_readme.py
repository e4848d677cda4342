"""The README's numbers are those of the committed results."""

import subprocess
import sys
from pathlib import Path


def test_the_tables_say_what_the_results_say(tmp_path: Path) -> None:
    report = Path(__file__).parent.parent / "benchmarks" / "report.py"
    done = subprocess.run(
        [sys.executable, str(report), "--check"], check=False, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
