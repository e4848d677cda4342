"""The report of a study: its frontier, and the commands that make it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from metasd.cli import app
from metasd.experiments import study_report
from study_files import written


def row(run: str, size: int, mrr: float, seed: int = 0) -> dict[str, object]:
    valid = {"mrr": mrr, "by_frequency": {"rare": {"mrr": 0.1}}}
    return {"run": run, "seed": seed, "form": "f", "bytes": size, "valid": valid}


def test_the_frontier_is_what_nothing_smaller_beats() -> None:
    rows = [row("a", 10, 0.3), row("b", 20, 0.2), row("c", 30, 0.5), row("c", 30, 0.3, seed=1)]
    found = study_report.points({"rows": rows})
    assert [(p.run, p.frontier) for p in found] == [("a", True), ("b", False), ("c", True)]
    assert found[2].mrr == pytest.approx(0.4)
    assert study_report.table(found)[3][4:8] == ["0.4000", "0.1000", "2", "0.2000"]


def test_the_command_line_sweeps_and_draws(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    path = str(written(tmp_path, seeds=[0], runs={"dense": {"train.objective": "dense"}}))
    assert CliRunner().invoke(app, ["sweep", path, "--out", out]).exit_code == 0
    result = CliRunner().invoke(app, ["report", out])
    assert result.exit_code == 0, result.output
    assert "one-shot sparse" in result.output
    assert "pareto.png" in (tmp_path / "out" / "study.md").read_text()
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
