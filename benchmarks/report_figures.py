"""The figures of README and docs, from committed results: docs/images/*.svg.

Every file carries the digest of the numbers it was drawn from, by which `--check` knows whether it
is up to date: drawings differ between versions of matplotlib, digests do not.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report_studies import ALONE, BITS_3, BITS_8, BITS_32, ONE_SHOT, PUBLISHED, TAUGHT, Study, study
from report_tables import DRAWN, ROOT, load

from metasd.experiments.plotting import STYLE, Curve, label_curves, log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES = ROOT / "docs" / "images"
COLORS = {  # dense models in blues, from many bits to few; compact ones in red
    BITS_32: ("#0b2e59", "o"),
    BITS_8: ("#1f6fb4", "o"),
    BITS_3: ("#13868f", "o"),
    ONE_SHOT: ("#757575", "v"),
    PUBLISHED: ("#8a4fa3", "s"),
    ALONE: ("#d9730d", "D"),
    TAUGHT: ("#b3152b", "D"),
}
LOWEST = 0.74  # of the best MRR: where the vertical axis begins
SVG_STYLE = {**STYLE, "svg.hashsalt": "metasd", "svg.fonttype": "path"}

Data = dict[str, Any]


def accuracy_by_bytes() -> Data:
    """For each graph and kind of model the upper hull of its models: (MB, valid MRR)."""
    found = [study(name) for name in ("fb15k-237", "wn18rr")]
    return {one.graph: {kind: hull(one, kind) for kind in COLORS} for one in found}


def hull(found: Study, kind: str) -> list[tuple[float, float]]:
    """The models of a kind that no others and no line between two others lie above.

    A rank between two that were trained has an accuracy between theirs; without the models below
    such a line, as fp32 of half the rank of an fp16 one, the lines have no steps.
    """
    kept: list[tuple[float, float]] = []
    models = [model for model in found.models if found.kind(model) == kind]  # the smallest first
    for model in models:
        point = model.bytes / 1e6, model.mrr
        if kept and point[1] <= max(mrr for _, mrr in kept):
            continue
        while len(kept) > 1 and not _bends_down(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _bends_down(*points: tuple[float, float]) -> bool:
    """Whether the line through three models, over the logarithm of their bytes, turns downwards."""
    (a, b, c), (first, middle, last) = ((math.log(x) for x, _ in points), (y for _, y in points))
    return (middle - first) * (c - b) > (last - middle) * (b - a)


def draw_accuracy_by_bytes(figure: "Figure", data: Data) -> None:
    figure.set_size_inches(8.8, 4.6)
    panels = figure.subplots(1, 2)
    panels[0].set_ylabel("valid MRR")
    for axes, (graph, kinds) in zip(panels, data.items(), strict=True):
        curves = []
        for kind, points in kinds.items():
            color, marker = COLORS[kind]
            curve = Curve(kind.replace(", with", ",\nwith"), color, *zip(*points, strict=True))
            width = 2.4 if kind in (ALONE, TAUGHT) else 1.6
            axes.plot(curve.x, curve.y, marker=marker, color=color, lw=width, ms=4.5)
            curves.append(curve)
        best = max(y for curve in curves for y in curve.y)
        low = LOWEST * best
        below = [curve for curve in curves if max(curve.y) < low]
        sizes = [x for c in curves for x, y in zip(c.x, c.y, strict=True) if y >= low]
        axes.set(xscale="log", xlim=(min(sizes) / 1.8, max(sizes) * 1.25), ylim=(low, 1.03 * best))
        _plain_ticks(axes, "x")
        axes.set(title=graph, xlabel="MB of both tables")
        for curve in below:
            text = f"not shown: {curve.label}, ≤ {max(curve.y):.3f}"
            axes.set_title(text, loc="right", color=curve.color, fontsize=9)
        label_curves(figure, axes, [curve for curve in curves if curve not in below])


def _plain_ticks(axes: "Axes", which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    ticks = log_ticks(*axis.get_view_interval())
    axis.set_ticks(ticks, [f"{tick:,g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def scaling() -> Data:
    keys = ("entities", "seconds_per_score", "peak_bytes", "table_bytes")
    found = load("scaling", DRAWN)["contenders"].values()
    return {key: [contender[key] for contender in found] for key in keys}


def draw_scaling(figure: "Figure", data: Data) -> None:
    figure.set_size_inches(8.8, 3.2)
    left, right = figure.subplots(1, 2)
    entities = data["entities"]
    time = [1e9 * seconds for seconds in data["seconds_per_score"]]
    left.plot(entities, time, marker="o", color="#1f6fb4")
    left.set(title="Nanoseconds per triple and entity", ylim=(0, 1.15 * max(time)))
    step = Curve("a step", "#1f6fb4", entities, [size / 1e6 for size in data["peak_bytes"]])
    tables = Curve("the tables", "#757575", entities, [x / 1e6 for x in data["table_bytes"]])
    for curve in (step, tables):
        right.plot(curve.x, curve.y, marker="o", color=curve.color)
    right.set(title="Peak memory in MB", yscale="log")
    _plain_ticks(right, "y")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="entities")
        axes.set_xticks(entities, [_short(number) for number in entities])
        axes.set_xticks([], minor=True)
    label_curves(figure, right, [step, tables])


def _short(number: int) -> str:
    return f"{number / 1e6:g} million" if number >= 1e6 else f"{number:,}"


FIGURES = {
    "accuracy-by-bytes.svg": (accuracy_by_bytes, draw_accuracy_by_bytes),
    "scaling.svg": (scaling, draw_scaling),
}


def digest(data: Data) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def draw(name: str, path: Path) -> None:
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    make, draw_data = FIGURES[name]
    data = make()
    with style.context(["default", SVG_STYLE]):
        figure = Figure()
        FigureCanvasAgg(figure)
        draw_data(figure, data)
        metadata = {"Date": None, "Creator": None, "Description": f"data sha256 {digest(data)}"}
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata=metadata)


def outdated() -> list[str]:
    """Figures that are not there, or drawn from other numbers than the results have now."""
    wrong = []
    for name, (make, _) in FIGURES.items():
        path = IMAGES / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if f"data sha256 {digest(make())}" not in text:
            wrong.append(name)
    return wrong
