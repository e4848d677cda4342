"""A study's results as a table and a plot of accuracy against bytes."""

import hashlib
import json
import statistics
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metasd.errors import InputError
from metasd.files import read_file, write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .plotting import Curve

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#8C6D1F", "#333333")
"""Of a study's runs; distinct to every eye."""
_LINES = ("-", "--", ":")
"""Of runs that have the same colour; markers of the second and third kind are hollow."""
_FRONTIER, _GREY = "#0072B2", "#b5b5b5"
_MARKERS = {"source": "o", "compact": "D", "one-shot": "v"}


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
    """Text of a table: a header and one row per point, `*` where it is on the frontier."""
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
    graph, found, digest = _read(folder)
    out = out or folder
    out.mkdir(parents=True, exist_ok=True)
    _draw(graph, found, digest, out / "pareto.png")
    write_text(out / "study.md", _page(graph, found))
    return table(found)


def outdated_study_report(folder: Path) -> list[str]:
    """Which of a folder's `study.md` and `pareto.png` are missing or not of its results."""
    graph, found, digest = _read(folder)
    page, plot = folder / "study.md", folder / "pareto.png"
    wrong = []
    if not page.exists() or page.read_text(encoding="utf-8") != _page(graph, found):
        wrong.append(page.name)
    if not plot.exists() or digest.encode() not in plot.read_bytes():
        wrong.append(plot.name)
    return wrong


def _read(folder: Path) -> tuple[str, list[Point], str]:
    """A study's graph, its models, and the digest of its results."""
    path = folder / "results.json"
    try:
        content = read_file(path)
        results = json.loads(content)
        graph, found = str(results["graph"]), points(results)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: damaged, or not of a study") from None
    if not found:
        raise InputError(
            f"{path}: no run is finished yet; `metasd sweep STUDY --out {folder}` trains them"
        )
    return graph, found, hashlib.sha256(content).hexdigest()


def _page(graph: str, found: list[Point]) -> str:
    header, *rows = table(found)
    lines = [" | ".join(row) for row in [header, ["---"] * len(header), *rows]]
    text = "\n".join(f"| {line} |" for line in lines)
    legend = "`*`: nothing as small is better; rare: of the rarest third of the relations"
    return (
        f"# {graph}\n\nBytes of both tables; {legend}.\n\n{text}\n\n"
        "![accuracy against bytes](pareto.png)\n"
    )


def _draw(graph: str, found: list[Point], digest: str, path: Path) -> None:
    try:
        from matplotlib import style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('a report needs matplotlib: pip install "metasd[plots]"') from None
    from .plotting import STYLE, clean, label_curves

    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = Figure(figsize=(8.3, 5), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set_title(clean(f"{graph}: accuracy against bytes"))
        unit = 1e6 if found[-1].bytes >= 1e6 else 1e3  # the largest
        _scales(axes, found, unit)
        runs = list(dict.fromkeys(point.run for point in found))
        if len(runs) <= len(_COLORS):
            label_curves(figure, axes, _few_runs(axes, found, runs, unit))
        elif len(runs) <= len(_COLORS) * len(_LINES):
            _few_runs(axes, found, runs, unit)
            figure.legend(loc="outside right upper", fontsize=8, handlelength=3)
        else:
            label_curves(figure, axes, _many_runs(axes, found, unit))
        metadata = {"Software": None, "Description": f"results.json, sha256 {digest}"}
        write_atomically(
            path, lambda temporary: figure.savefig(temporary, format="png", metadata=metadata)
        )


def _scales(axes: "Axes", found: list[Point], unit: float) -> None:
    """Limits, ticks and names of the axes."""
    from .plotting import log_ticks

    sizes = [point.bytes / unit for point in found]
    left, right = min(sizes) / 1.25, max(sizes) * 1.25
    low, high = min(min(p.valid) for p in found), max(max(p.valid) for p in found)
    margin = 0.08 * (high - low) or 0.05
    axes.set(xscale="log", xlim=(left, right), ylim=(low - margin, high + margin))
    ticks = log_ticks(left, right)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    models = {point.form.split(" ")[0] for point in found}
    shapes = {"source": "circles", "compact": "diamonds", "one-shot": "triangles"}
    marked = [f"{shape}: {model}" for model, shape in shapes.items() if model in models]
    name = "; ".join([f"{'kB' if unit == 1e3 else 'MB'} of both tables, logarithmic", *marked])
    axes.set(xlabel=name, ylabel="valid MRR")


def _few_runs(axes: "Axes", found: list[Point], runs: list[str], unit: float) -> "list[Curve]":
    """Draws a line per run, each in its own colour or kind of line."""
    from .plotting import Curve, clean

    curves = []
    for i, run in enumerate(runs):
        line, color = _LINES[i // len(_COLORS)], _COLORS[i % len(_COLORS)]
        face = "white" if i >= len(_COLORS) else color
        own = [point for point in found if point.run == run]
        _mark(axes, own, color, unit, face)
        for model in _MARKERS:  # no line leads from one model to another
            part = [point for point in own if point.form.startswith(model)]
            sizes, mrr = [point.bytes / unit for point in part], [point.mrr for point in part]
            axes.plot(sizes, mrr, line, color=color, linewidth=1.2, alpha=0.6)
            curves.append(Curve("", color, sizes, mrr))
        axes.plot([], [], f"o{line}", color=color, markerfacecolor=face, label=clean(run))
        sizes, mrr = [point.bytes / unit for point in own], [point.mrr for point in own]
        curves.append(Curve(clean(run), color, sizes, mrr, line=False))
    return curves


def _many_runs(axes: "Axes", found: list[Point], unit: float) -> "list[Curve]":
    """Draws the frontier in one colour, with the names of its runs, and all else in grey."""
    from .plotting import Curve, clean

    def curve(label: str, color: str, own: list[Point], line: bool = False) -> Curve:
        sizes, mrr = [point.bytes / unit for point in own], [point.mrr for point in own]
        return Curve(clean(label), color, sizes, mrr, line)

    best = [point for point in found if point.frontier]
    rest = [point for point in found if not point.frontier]
    _mark(axes, rest, _GREY, unit)
    _mark(axes, best, _FRONTIER, unit)
    frontier = curve("", _FRONTIER, best, line=True)
    axes.plot(frontier.x, frontier.y, color=_FRONTIER, linewidth=1.2, alpha=0.6)
    curves = [frontier, curve("", _GREY, rest)]
    for run in dict.fromkeys(point.run for point in best):
        curves.append(curve(run, "#222222", [point for point in best if point.run == run]))
    return curves


def _mark(axes: "Axes", own: list[Point], color: str, unit: float, face: str | None = None) -> None:
    """Means over seeds, with lines from the lowest to the highest."""
    for point in own:
        x, low, high = point.bytes / unit, min(point.valid), max(point.valid)
        axes.plot([x, x], [low, high], color=color, linewidth=1)
        marker = _MARKERS.get(point.form.split(" ")[0], "s")
        face = face or color
        axes.plot([x], [point.mrr], marker, color=color, markersize=4.5, markerfacecolor=face)
