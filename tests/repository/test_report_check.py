"""The tables and figures of README and docs are those of the committed results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import report
import report_figures
import report_studies

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("program", [["benchmarks/report.py"], ["-m", "benchmarks.report"]])
def test_tables_and_figures_are_those_of_the_results(program: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *program, "--check"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def pages(tmp_path: Path, **texts: str) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(texts.pop("README", "No table.\n"))
    for name, text in texts.items():
        (tmp_path / "docs" / f"{name}.md").write_text(text)
    return tmp_path


def block(name: str, content: str = "") -> str:
    return f"before\n<!-- begin {name} -->\n{content}<!-- end {name} -->\nafter\n"


def test_a_table_is_filled_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise FileNotFoundError

    tables = {"a": lambda: "new \\1 ![x](docs/images/x.svg)", "b": missing}
    monkeypatch.setattr(report, "TABLES", tables)
    root = pages(tmp_path, README=block("a", "old\n"), page=block("a") + block("b", "old\n"))
    texts = report.rewritten(root)
    readme, page = root / "README.md", root / "docs" / "page.md"
    assert texts[readme] == block("a", "new \\1 ![x](docs/images/x.svg)\n")
    assert texts[page] == (
        block("a", "new \\1 ![x](images/x.svg)\n") + block("b", "Not measured yet.\n")
    )
    for path, text in texts.items():
        path.write_text(text)
    assert report.rewritten(root) == texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (block("a") + block("tpyo"), "page.md: no table is called tpyo; there are a"),
        (block("a") + "<!-- begin a2 -->\n", "page.md: a2 has no begin, or no end"),
        ("<!-- end a -->\n", "page.md: a has no begin, or no end"),
        ("nothing\n", "no page has a place for a"),
    ],
)
def test_blocks_that_are_wrong_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(report, "TABLES", {"a": lambda: "table"})
    with pytest.raises(report.PageError, match=re.escape(message)):
        report.rewritten(pages(tmp_path, page=text))


@pytest.mark.slow
def test_a_figure_is_outdated_once_its_numbers_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report_figures, "IMAGES", tmp_path)
    assert report_figures.outdated() == list(report_figures.FIGURES)
    for name in report_figures.FIGURES:
        report_figures.draw(name, tmp_path / name)
    assert report_figures.outdated() == []
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in report_figures.FIGURES:
        report_figures.draw(name, tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    _, draw = report_figures.FIGURES["scaling.svg"]
    monkeypatch.setitem(report_figures.FIGURES, "scaling.svg", (lambda: {"other": 1}, draw))
    assert report_figures.outdated() == ["scaling.svg"]


def test_a_line_of_the_figure_has_no_steps() -> None:
    for name in ("fb15k-237", "wn18rr"):
        found = report_studies.study(name)
        for kind in report_figures.COLORS:
            hull = report_figures.hull(found, kind)
            models = [p for p in found.models if found.kind(p) == kind]
            assert hull[0][0] == min(p.bytes for p in models) / 1e6
            assert hull[-1][1] == max(p.mrr for p in models)
            assert hull == sorted(hull)
            assert [mrr for _, mrr in hull] == sorted(mrr for _, mrr in hull)


def test_committed_results_have_the_names_of_the_configuration() -> None:
    keys = set()
    for path in [*ROOT.glob("studies/*/results.json"), *ROOT.glob("benchmarks/results/*.json")]:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = content["runs"].values() if "runs" in content else [content]
        keys |= {frozenset(run["config"]) for run in runs if "config" in run}
    assert len(keys) == 1
