"""Turns committed results into the tables and figures of README and docs: none is typed by hand.

python benchmarks/report.py                    # rewrite the tables, draw the figures again
python benchmarks/report.py --check            # exit 1 if they are not what the results say
python benchmarks/report.py --add-run RUN      # keep the summary of a training run first

A table stands wherever README.md or a page of docs/ has the lines `<!-- begin NAME -->` and
`<!-- end NAME -->`. From the root of a checkout `python -m benchmarks.report` is the same.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# `-m` puts the checkout, which may not be compiled, before the metasd that is installed, and does
# not look in this folder.
elsewhere = [path for path in sys.path if Path(path).resolve() != ROOT]
sys.path[:] = [*elsewhere, str(ROOT / "benchmarks"), str(ROOT)]

import report_attacks  # noqa: E402
import report_candidates  # noqa: E402
import report_figures  # noqa: E402
import report_studies  # noqa: E402
import report_tables  # noqa: E402
import report_training  # noqa: E402

from metasd import InputError  # noqa: E402
from metasd.experiments.study_report import outdated_study_report, write_study_report  # noqa: E402

TABLES = {
    **report_attacks.TABLES,
    **report_candidates.TABLES,
    **report_studies.TABLES,
    **report_tables.TABLES,
    **report_training.TABLES,
}
BLOCK = re.compile(r"(<!-- begin (\w+) -->\n)(.*?)(<!-- end \2 -->)", re.S)
KEPT = ("mrr", "mr", "hits@1", "hits@3", "hits@10", "tie_rate", "pessimistic", "by_frequency")


class PageError(Exception):
    """A page has a block that is unknown or does not end, or no page has one."""


def pages(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def filled(page: Path, root: Path) -> tuple[str, set[str]]:
    """The text of a page with its tables as the results have them, and their names."""
    found = set()

    def fill(block: re.Match[str]) -> str:
        begin, name, _, end = block.groups()
        if name not in TABLES:
            known = ", ".join(sorted(TABLES))
            raise PageError(f"{page}: no table is called {name}; there are {known}")
        found.add(name)
        try:
            content = TABLES[name]()
        except FileNotFoundError:
            content = "Not measured yet."
        images = os.path.relpath(root / "docs" / "images", page.parent)
        return f"{begin}{content.replace('(docs/images/', f'({images}/')}\n{end}"

    text = BLOCK.sub(fill, page.read_text(encoding="utf-8"))
    marks = re.findall(r"<!-- (begin|end) (\w+) -->", text)
    if damaged := {name for _, name in marks} - found:
        raise PageError(f"{page}: {', '.join(sorted(damaged))} has no begin, or no end")
    return text, found


def rewritten(root: Path = ROOT) -> dict[Path, str]:
    """The text that each page should have; PageError if a table stands on none of them."""
    texts, shown = {}, set()
    for page in pages(root):
        texts[page], found = filled(page, root)
        shown |= found
    if nowhere := set(TABLES) - shown:
        raise PageError(f"no page has a place for {', '.join(sorted(nowhere))}")
    return texts


def study_folders() -> list[Path]:
    return sorted(path.parent for path in (ROOT / "studies").glob("*/results.json"))


def outdated() -> Iterator[str]:
    """Pages and figures, committed or missing, that are not what the results say."""
    for page, text in rewritten().items():
        if text != page.read_text(encoding="utf-8"):
            yield str(page.relative_to(ROOT))
    for name in report_figures.outdated():
        yield f"docs/images/{name}"
    for folder in study_folders():
        for name in outdated_study_report(folder):
            yield f"studies/{folder.name}/{name}"


def write() -> None:
    for page, text in rewritten().items():
        page.write_text(text, encoding="utf-8")
    for name in report_figures.FIGURES:
        report_figures.draw(name, report_figures.IMAGES / name)
    for folder in study_folders():
        write_study_report(folder)


def add_run(folder: Path) -> None:
    """Keeps, by the name of a finished run's folder, what the table shows and how it came about."""
    from metasd import Run  # here, as a check needs no torch
    from metasd.environment import measured_on

    run = Run.load(folder)
    source = run.config.compact.source
    alone = {} if source is None else {"source_epochs": len(Run.load(source).history)}
    seconds = sum(record["seconds"] for record in run.history)
    triples = sum(record["seconds"] * record["triples_per_second"] for record in run.history)
    result = {
        "graph": run.metrics["protocol"]["graph"],
        **measured_on(),
        "config": run.config.flat() | ({"compact.source": "the source"} if source else {}),
        "protocol": run.metrics["protocol"],
        "epochs": len(run.history),
        **alone,
        "training_seconds": seconds,
        "triples_per_second": triples / seconds,
        "peak_memory_bytes": max(record["peak_memory_bytes"] for record in run.history),
        **{
            split: {
                model: {key: metrics[key] for key in KEPT}
                for model, metrics in run.metrics[split].items()
            }
            for split in ("valid", "test")
        },
    }
    path = report_tables.RESULTS / f"train-{folder.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--check", action="store_true", help="exit 1 if anything is outdated")
    arguments.add_argument("--add-run", type=Path, metavar="RUN", help="keep a run's summary first")
    chosen = arguments.parse_args()
    try:
        if chosen.add_run:
            add_run(chosen.add_run)
        if not chosen.check:
            write()
        elif wrong := list(outdated()):
            sys.exit(f"not what the results say: {', '.join(wrong)}; run {sys.argv[0]}")
    except (PageError, InputError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
