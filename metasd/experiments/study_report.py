"""A study's results as a table and a plot of accuracy against bytes."""

import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from metasd.errors import InputError
from metasd.files import write_atomically, write_text


class Point(NamedTuple):
    """A run in a form: bytes of its tables, MRR over seeds."""

    run: str
    form: str
    bytes: float
    valid: list[float]
    test: list[float]
    rare: float
    """Mean valid MRR of triples whose relation is among the rarest third in train."""
    frontier: bool = False
    """No other point has as few bytes and as high a mean valid MRR."""

    @property
    def mrr(self) -> float:
        return statistics.mean(self.valid)

    def spread(self, digits: int = 4) -> str:
        """Of valid MRR between seeds, as text; empty for a single one."""
        return f"{max(self.valid) - min(self.valid):.{digits}f}" if len(self.valid) > 1 else ""

    @property
    def tested(self) -> str:
        """Mean test MRR as text; empty unless it was looked up for all seeds."""
        complete = len(self.test) == len(self.valid)
        return f"{statistics.mean(self.test):.4f}" if complete else ""


def points(results: dict[str, Any]) -> list[Point]:
    """The rows of a study over their seeds, the smallest first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results["rows"]:
        if "refused" in row:
            continue
        groups.setdefault((row["run"], row["form"]), []).append(row)
    found = [
        Point(
            *key,
            statistics.mean(row["bytes"] for row in rows),
            [row["valid"]["mrr"] for row in rows],
            [row["test"]["mrr"] for row in rows if "test" in row],
            statistics.mean(row["valid"]["by_frequency"]["rare"]["mrr"] for row in rows),
        )
        for key, rows in groups.items()
    ]
    found.sort(key=lambda point: (point.bytes, -point.mrr))
    best, marked = 0.0, []
    for point in found:
        marked.append(point._replace(frontier=point.mrr > best))
        best = max(best, point.mrr)
    return marked


def table(found: list[Point]) -> list[list[str]]:
    """Text of a table: a header and a row a point, `*` where it is on the frontier."""
    rows = [["", "run", "form", "MB", "valid MRR", "rare", "seeds", "spread", "test MRR"]]
    for point in found:
        rows.append(
            [
                "*" if point.frontier else "",
                point.run,
                point.form,
                f"{point.bytes / 1e6:.3g}",
                f"{point.mrr:.4f}",
                f"{point.rare:.4f}",
                str(len(point.valid)),
                point.spread(),
                point.tested,
            ]
        )
    return rows


def write_study_report(folder: Path, out: Path | None = None) -> list[list[str]]:
    """Writes `study.md` and `pareto.png` to `out` (beside the results, if None); returns the table.

    Raises:
        InputError: the results are damaged, or matplotlib is not installed.
    """
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found = points(results)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: damaged, or not of a study") from None
    if not found:
        raise InputError(f"{path}: no run is finished yet")
    header, *rows = table(found)
    lines = [" | ".join(row) for row in [header, ["---"] * len(header), *rows]]
    text = "\n".join(f"| {line} |" for line in lines)
    legend = "`*`: nothing as small is better; rare: of the rarest third of the relations"
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    _draw(results["graph"], found, out / "pareto.png")
    write_text(
        out / "study.md",
        f"# {results['graph']}\n\nBytes of both tables; {legend}.\n\n{text}\n\n"
        "![accuracy against bytes](pareto.png)\n",
    )
    return [header, *rows]


def _draw(title: str, found: list[Point], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('a report needs matplotlib: pip install "metasd[plots]"') from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    frontier = [point for point in found if point.frontier]
    axes.step(
        [point.bytes / 1e6 for point in frontier],
        [point.mrr for point in frontier],
        where="post",
        color="#bbbbbb",
        zorder=0,
    )
    for number, run in enumerate(dict.fromkeys(point.run for point in found)):
        own = [point for point in found if point.run == run]
        low = [point.mrr - min(point.valid) for point in own]
        high = [max(point.valid) - point.mrr for point in own]
        axes.errorbar(
            [point.bytes / 1e6 for point in own],
            [point.mrr for point in own],
            yerr=[low, high],
            fmt="os^Dvp"[number // 10 % 6],  # there are ten colours
            capsize=2,
            label=run,
        )
    axes.set(xscale="log", xlabel="MB of both tables", title=title)
    best = max(point.mrr for point in found)
    axes.set(ylabel="valid MRR, from half of the best on", ylim=(best / 2, 1.03 * best))
    axes.legend(fontsize="small")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
