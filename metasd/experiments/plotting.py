"""Style of the plots, and labels that stand at their curves in place of a legend."""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 11,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.09,
    "figure.constrained_layout.wspace": 0.06,
    "font.size": 9.5,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a label with dollars is no formula
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}

_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1), (1, 1), (-1, -1)]
_GAPS = (6.0, 9.0, 13.0, 20.0, 28.0, 40.0)  # between a curve and its label, in points
_MARGIN = 4.0  # around a label
_LEADER = 9.5  # a label further away than this gets a thin line to its curve
# Costs, in points of distance between a label and its curve.
_COVERS_LABEL, _COVERS_CURVE, _LEADER_CROSSES, _NEARER_TO_ANOTHER = 1e4, 200.0, 150.0, 60.0
_ROUNDS = 4


class Curve(NamedTuple):
    """Points of an axes in data coordinates, and the text that names them ("": none)."""

    label: str
    color: str
    x: Sequence[float]
    y: Sequence[float]
    line: bool = True
    """The points are joined."""


class _Candidates(NamedTuple):
    boxes: Array  # (n, 4): left, bottom, right, top, in pixels, with a margin
    leaders: Array  # (n, 9, 2): points of the line to the curve, NaN where there is none
    costs: Array  # (n,): of what they cover, whatever the other labels do


def clean(text: str) -> str:
    """Without control characters and lone surrogates, which neither a font nor HTML can hold."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... within the limits: powers of ten alone where those are many, and values of
    two digits where they are fewer than two."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) > 9:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    if len(ticks) < 2:
        ticks = sorted({float(f"{tick:.2g}") for tick in np.geomspace(low, high, 5)[1:-1]})
    return ticks


def label_curves(figure: "Figure", axes: "Axes", curves: Sequence[Curve]) -> list[str]:
    """Writes the labels where they cover neither a curve nor each other, near their own curve.

    To be called when limits and scales of the axes are final; the layout is not changed afterwards.

    Args:
        curves: all that is drawn; those without a label are avoided, too.

    Returns:
        Labels that found no place, and are left out.
    """
    figure.draw_without_rendering()  # the layout, without which there are no pixels
    figure.set_layout_engine("none")
    paths = [_pixels(axes, curve) for curve in curves]
    labelled = [i for i, curve in enumerate(curves) if curve.label and len(paths[i])]
    found = {}
    for i in labelled:
        others = [paths[j] for j in labelled if j != i]
        found[i] = _candidates(axes, curves[i], paths[i], paths, others)
    orders = [labelled[i:] + labelled[:i] for i in range(len(labelled))]
    orders += [order[::-1] for order in orders]
    tried = [_choose(found, order) for order in orders]
    chosen = min(tried, key=lambda choice: choice[0])[1] if tried else {}
    left_out = []
    for i in labelled:
        box = found[i].boxes[chosen[i]]
        others = [found[j].boxes[chosen[j]] for j in labelled if j < i]
        outside = not np.isfinite(found[i].costs[chosen[i]])
        if outside or any(_overlap(box[None], other)[0] for other in others):
            left_out.append(curves[i].label)
            continue
        margin = _MARGIN * _scale(axes)
        _write(axes, curves[i], box + margin * np.array([1, 1, -1, -1]), paths[i])
    return left_out


def _pixels(axes: "Axes", curve: Curve) -> Array:
    """Points along a curve, a few pixels apart, those outside of the axes left out."""
    corners = np.asarray(axes.transData.transform(np.column_stack([curve.x, curve.y])))
    parts = [corners[:1] if curve.line else corners]
    for start, end in zip(corners, corners[1:] if curve.line else [], strict=False):
        steps = max(int(np.hypot(*(end - start)) / (2 * _scale(axes))), 1)
        parts.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    path = np.concatenate(parts)
    box = axes.bbox
    inside = (path >= [box.x0 - 1, box.y0 - 1]) & (path <= [box.x1 + 1, box.y1 + 1])
    return np.asarray(path[inside.all(axis=1)])


def _scale(axes: "Axes") -> float:
    """Pixels per point."""
    return float(axes.figure.dpi) / 72


def _candidates(
    axes: "Axes", curve: Curve, own: Array, drawn: Sequence[Array], others: Sequence[Array]
) -> _Candidates:
    """Places at the curve, in every direction and distance, and what each costs.

    Args:
        own: the curve's points in pixels, `drawn` those of all, `others` those of the other curves
            that have a label, to which this one must not seem to belong.
    """
    scale = _scale(axes)
    text = axes.text(0.5, 0.5, curve.label, transform=axes.transAxes)
    extent = text.get_window_extent()
    text.remove()
    half = np.array([extent.width, extent.height]) / 2
    stride = max(len(own) // 60, 1)
    anchors, directions, gaps = (
        part.reshape(-1, 2)
        for part in np.broadcast_arrays(
            own[::stride][:, None, None],
            np.array(_DIRECTIONS, dtype=float)[None, :, None],
            np.array(_GAPS)[None, None, :, None] * scale,
        )
    )
    reach = gaps / np.hypot(*directions.T)[:, None]
    centers = anchors + directions * (half + reach)
    boxes = np.concatenate([centers - half, centers + half], axis=1)
    padded = boxes + _MARGIN * scale * np.array([-1, -1, 1, 1])
    covered = sum((_inside(padded, path) for path in drawn), np.array(0.0))
    distance = _distance(boxes, own)
    elsewhere = _distance(boxes, np.concatenate([np.empty((0, 2)), *others]))
    costs = distance / scale + _COVERS_CURVE * covered
    leaders = np.full((len(boxes), 9, 2), np.nan)
    for i in np.flatnonzero(distance > _LEADER * scale):
        start, end = _leader(boxes[i], own)
        leaders[i] = start + (end - start) * np.linspace(0.2, 1, 9)[:, None]
        costs[i] += _LEADER_CROSSES * sum(_near(leaders[i], path, 3 * scale) for path in others)
    costs += _NEARER_TO_ANOTHER * (elsewhere < 1.3 * distance)
    frame = axes.bbox
    within = (padded[:, :2] >= [frame.x0, frame.y0]) & (padded[:, 2:] <= [frame.x1, frame.y1])
    costs[~within.all(axis=1)] = np.inf
    return _Candidates(padded, leaders, costs)


def _choose(found: dict[int, _Candidates], order: list[int]) -> tuple[float, dict[int, int]]:
    """A place for each label, one after the other, until none moves: costs in all, and places."""

    def costs(i: int) -> Array:
        boxes, leaders, total = found[i]
        for j, k in chosen.items():
            if j != i:
                box, leader = found[j].boxes[k], found[j].leaders[k]
                inside = (leaders > box[:2]) & (leaders < box[2:])
                covered = (_overlap(boxes, box) > 0) | inside.all(axis=2).any(axis=1)
                covered |= _inside(boxes, leader) > 0
                total = total + _COVERS_LABEL * covered
        return total

    chosen: dict[int, int] = {}
    for _ in range(_ROUNDS):
        before = dict(chosen)
        for i in order:
            chosen[i] = int(np.argmin(costs(i)))
        if chosen == before:
            break
    return float(sum(costs(i)[k] for i, k in chosen.items())), chosen


def _inside(boxes: Array, path: Array) -> Array:
    """How many points of a path each of the boxes covers."""
    x, y = path[:, 0], path[:, 1]
    left, bottom, right, top = (boxes[:, i, None] for i in range(4))
    return np.asarray(((x > left) & (x < right) & (y > bottom) & (y < top)).sum(axis=1), float)


def _distance(boxes: Array, path: Array) -> Array:
    """From each of the boxes to the nearest point of a path."""
    dx = np.maximum(boxes[:, 0, None] - path[:, 0], path[:, 0] - boxes[:, 2, None]).clip(0)
    dy = np.maximum(boxes[:, 1, None] - path[:, 1], path[:, 1] - boxes[:, 3, None]).clip(0)
    return np.asarray(np.hypot(dx, dy).min(axis=1, initial=np.inf))


def _leader(box: Array, path: Array) -> tuple[Array, Array]:
    """The shortest line from a path to a box."""
    start = path[np.hypot(*(path - path.clip(box[:2], box[2:])).T).argmin()]
    return start, start.clip(box[:2], box[2:])


def _near(line: Array, path: Array, reach: float) -> bool:
    """Whether points of a line come near to those of a path."""
    gaps = np.hypot(*(line[:, None] - path).transpose(2, 0, 1))
    return bool(gaps.min(initial=np.inf) < reach)


def _overlap(boxes: Array, box: Array) -> Array:
    width = np.minimum(boxes[:, 2], box[2]) - np.maximum(boxes[:, 0], box[0])
    height = np.minimum(boxes[:, 3], box[3]) - np.maximum(boxes[:, 1], box[1])
    return np.asarray(width.clip(0) * height.clip(0))


def _write(axes: "Axes", curve: Curve, box: Array, path: Array) -> None:
    """The text, and a line to the nearest point of its curve where that is not beside it."""
    start, end = _leader(box, path)
    if np.hypot(*(end - start)) > _LEADER * _scale(axes):
        ends = axes.transAxes.inverted().transform([start, end])
        axes.plot(*ends.T, transform=axes.transAxes, color=curve.color, linewidth=0.7)
    x, y = axes.transAxes.inverted().transform((box[:2] + box[2:]) / 2)
    axes.text(
        x, y, curve.label, transform=axes.transAxes, color=curve.color, ha="center", va="center"
    )
