"""A command line in an empty folder, and a small graph of the user's own."""

from pathlib import Path

import pytest

from command_line import Command
from metasd import cli


@pytest.fixture
def metasd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Runs a command in an empty folder; returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("METASD_DATA", raising=False)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["metasd", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small graph of the user's own."""
    path = tmp_path / "mine"
    path.mkdir()
    people = ["ada", "bo", "cy", "di", "ed", "flo"]
    rows = [f"{a}\tknows\t{b}" for a in people for b in people if a < b]
    rows += [f"{a}\tlikes\ttea" for a in people[:4]] + ["ed\tlikes\tcake", "flo\tlikes\tcake"]
    (path / "train.txt").write_text("\n".join(rows[:16]) + "\n")
    (path / "valid.txt").write_text("\n".join(rows[16:18]) + "\n")
    (path / "test.txt").write_text("\n".join(rows[18:]) + "\n")
    return path
