"""The figures of a run: learning curves, the long tail, and every relation."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metasd.errors import InputError
from metasd.files import write_atomically
from metasd.training import schedule

from .plotting import STYLE, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metasd.training.run import Run

Metrics = dict[str, Any]

METRIC_NAMES = {"mrr": "MRR", "hits@1": "Hits@1", "hits@3": "Hits@3", "hits@10": "Hits@10"}
THIRDS = {
    "frequent": "most frequent third",
    "medium": "middle third",
    "rare": "least frequent third",
}
COLORS = {"source": "#0072B2", "compact": "#D55E00"}  # Okabe and Ito: distinct to every eye
_MARKERS = {"source": "o", "compact": "D"}  # and without colour
_LOSSES = {  # colour: the model that a loss is of; dashes: the mutual step
    "source": (COLORS["source"], "-"),
    "inner": (COLORS["compact"], "-"),
    "quiz": ("#555555", ":"),
    "compact": (COLORS["compact"], "-"),
    "mutual_source": (COLORS["source"], "--"),
    "mutual_compact": (COLORS["compact"], "--"),
}
_GREY = "#666666"
HALF = 20  # relations drawn of the most frequent ones, and of the least frequent ones
_FEW = 20  # fewer ranks than this say little about a relation: its markers are hollow


def draw_figures(run: "Run", folder: Path) -> dict[str, bytes]:
    """Draws what there is to show into PNG files of a folder; returns their contents by name.

    A figure of an earlier report that there is nothing to show in any more is removed.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib import style
    except ImportError:
        raise InputError('a report needs matplotlib: pip install "metasd[plots]"') from None

    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, bytes] = {}
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for name, draw in (
            ("curves", draw_curves),
            ("long_tail", draw_long_tail),
            ("relations", draw_relations),
        ):
            path = folder / f"{name}.png"
            if (figure := draw(run)) is None:
                path.unlink(missing_ok=True)
            else:
                figures[name] = _save(figure, path)
    return figures


class Relation(NamedTuple):
    label: str
    train: int
    ranks: int
    models: dict[str, Metrics]


def shown_split(metrics: Metrics) -> str:
    """The split of figures and relations: test, or valid where there is no test split."""
    return next((split for split in ("test", "valid") if split in metrics), "")


def relations_by_frequency(metrics: Metrics) -> list[Relation]:
    """Relations that have ranks, the most frequent first."""
    models = metrics.get(shown_split(metrics), {})
    found = {model: values["by_relation"] for model, values in models.items()}
    relations = [
        Relation(label, first["train"], first["ranks"], {m: found[m][label] for m in found})
        for label, first in next(iter(found.values()), {}).items()
    ]
    return sorted(relations, key=lambda relation: (-relation.train, relation.label))


def best_epoch(run: "Run") -> tuple[int, float] | None:
    """The validated epoch whose model is kept, and its score, as the trainer chooses it."""
    model, _, metric = run.config.eval.metric.partition(".")
    scored = [record for record in run.history if f"valid/{model}" in record]
    scores = {record["epoch"]: float(record[f"valid/{model}"][metric]) for record in scored}
    best = run.metrics.get("protocol", {}).get("best_epoch")
    if best is None:  # not finished: the best so far of those that may be
        first = schedule.unfinished_epochs(run.config) + 1
        best = max((e for e in scores if e >= first), key=lambda e: scores[e], default=None)
    return (best, scores[best]) if best in scores else None


def _subplots(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, ...]:
    """A figure of so many pixels at 1x and its axes; drawn at 2x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=200)
    return figure, *figure.subplots(1, columns, squeeze=False, **options)[0]


def _save(figure: "Figure", path: Path) -> bytes:
    def write(temporary: Path) -> None:
        temporary.write_bytes(buffer.getvalue())

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, write)
    return buffer.getvalue()


def draw_curves(run: "Run") -> "Figure | None":
    """Losses by epoch, and beside them what validation found."""
    if not run.history:
        return None
    keys = dict.fromkeys(key for record in run.history for key in record)
    validated = any(key.startswith("valid/") for key in keys)
    figure, *both = _subplots(960 if validated else 560, 380, 1 + validated)
    for key in (key for key in keys if key.startswith("loss/")):
        name, marker = key.removeprefix("loss/"), "o" if len(run.history) <= 12 else ""
        color, dashes = _LOSSES.get(name, (_GREY, "-."))
        style = {"color": color, "linestyle": dashes, "marker": marker, "markersize": 3.5}
        both[0].plot(*_series(run, key), label=name.replace("_", " "), **style)
    both[0].set_title("Loss")
    if validated:
        _plot_valid(both[1], run)
    first, last = run.history[0]["epoch"], run.history[-1]["epoch"]
    margin = max(0.5, 0.03 * (last - first))
    for axes in both:
        axes.set(xlabel="epoch", xlim=(first - margin, last + margin))
        axes.locator_params(axis="x", nbins=8, integer=True, min_n_ticks=1)
        axes.legend()
    return figure  # type: ignore[no-any-return]


def _plot_valid(axes: "Axes", run: "Run") -> None:
    epochs, fractions = _series(run, "prune_fraction")
    if len(set(fractions)) > 1:
        share = axes.twinx()
        share.step(epochs, fractions, where="mid", color="#b0b0b0", linewidth=1.2)
        share.set_ylim(0, 1.04)
        share.set_ylabel("pruned share of the weights (grey)", color=_GREY)
        share.yaxis.set_major_formatter("{x:.0%}")
        share.grid(False)
        axes.set_zorder(share.get_zorder() + 1)
        axes.patch.set_visible(False)
    for model, color in COLORS.items():
        epochs, found = _series(run, f"valid/{model}")
        if found:
            mrr, marker = [metrics["mrr"] for metrics in found], _MARKERS[model]
            axes.plot(epochs, mrr, color=color, marker=marker, markersize=4, label=model)
    title = "Valid MRR"
    if best := best_epoch(run):
        model, _, metric = run.config.eval.metric.partition(".")
        axes.axvline(best[0], color="#333333", linewidth=0.9, linestyle=(0, (2, 3)), zorder=0.5)
        title += f"; best epoch: {best[0]} ({model} {METRIC_NAMES[metric]} {best[1]:.3f})"
    axes.set_title(title)


def _series(run: "Run", key: str) -> tuple[list[int], list[Any]]:
    records = [record for record in run.history if key in record]
    return [record["epoch"] for record in records], [record[key] for record in records]


def draw_long_tail(run: "Run") -> "Figure | None":
    """Bars of MRR and Hits@10 by thirds of the relations."""
    split = shown_split(run.metrics)
    if not split:
        return None
    models = {name: found["by_frequency"] for name, found in run.metrics[split].items()}
    ticks = []
    for third, name in THIRDS.items():
        size = next(iter(models.values()))[third]
        ranks = f"{size['ranks']:,} ranks" if size["ranks"] else f"no {split} triples"
        plural = "relation" if size["relations"] == 1 else "relations"
        ticks.append(f"{name}\n{size['relations']:,} {plural}\n{ranks}")
    figure, *both = _subplots(960, 360, 2, sharey=True)
    for axes, metric in zip(both, ("mrr", "hits@10"), strict=True):
        for i, (model, thirds) in enumerate(models.items()):
            at = [x + 0.4 * (i - (len(models) - 1) / 2) for x in range(len(THIRDS))]
            heights = [thirds[third][metric] for third in THIRDS]
            bars = axes.bar(at, heights, 0.37, color=COLORS[model], label=model)
            texts = [f"{thirds[t][metric]:.3f}" if thirds[t]["ranks"] else "" for t in THIRDS]
            axes.bar_label(bars, texts, padding=2)
        axes.set_title(f"{split.capitalize()} {METRIC_NAMES[metric]}")
        axes.set_xticks(range(len(THIRDS)), ticks)
        axes.set_xlim(-0.55, len(THIRDS) - 0.45)
        axes.tick_params(length=0)
        axes.grid(False)  # every bar says its height
    both[0].set_ylim(0, 1.06 * both[0].get_ylim()[1])
    both[0].legend(ncols=2, loc="upper right")
    return figure  # type: ignore[no-any-return]


def draw_relations(run: "Run") -> "Figure | None":
    """A dumbbell for every relation, the most frequent on top; at most 40."""
    relations, split = relations_by_frequency(run.metrics), shown_split(run.metrics)
    if not relations:
        return None
    rows, left_out = list(enumerate(relations)), len(relations) - 2 * HALF
    if left_out > 0:  # one row between the two halves says so
        rows = [*rows[:HALF], *enumerate(relations[-HALF:], HALF + 1)]
    bottom = rows[-1][0] + 0.6
    figure, axes = _subplots(960, 138 + 20 * bottom)
    grey: dict[str, Any] = {"color": _GREY, "textcoords": "offset points"}
    beside = {"xycoords": axes.get_yaxis_transform(), "ha": "right", "va": "center", **grey}
    for y, relation in rows:
        values = [found["mrr"] for found in relation.models.values()]
        axes.plot([min(values), max(values)], [y, y], color="#c4c4c4", linewidth=2.5, zorder=1)
        axes.annotate(f"{relation.train:,}", (1, y), (50, 0), **beside)
        axes.annotate(f"{relation.ranks:,}", (1, y), (94, 0), **beside)
    for x, name in ((50, "train"), (94, "ranks")):
        axes.annotate(name, (1, 1), (x, 6), xycoords="axes fraction", ha="right", **grey)
    if left_out > 0:
        note = f"{left_out:,} relations between these are not drawn"
        axes.text(0.5, HALF, note, ha="center", va="center", style="italic", color=_GREY)
    for model in run.metrics[split]:
        color, style = COLORS[model], {"s": 30, "marker": _MARKERS[model], "linewidths": 1.4}
        at = [relation.models[model]["mrr"] for _, relation in rows], [y for y, _ in rows]
        faces = [color if relation.ranks >= _FEW else "white" for _, relation in rows]
        axes.scatter(*at, c=faces, edgecolors=color, zorder=2, **style)
        axes.scatter([], [], c=color, label=model, **style)
    hollow = any(relation.ranks < _FEW for _, relation in rows)
    note = f" (hollow: fewer than {_FEW} ranks)" if hollow else ""
    axes.set_title(f"{split.capitalize()} MRR by relation, most frequent first{note}", pad=26)
    axes.set_yticks([y for y, _ in rows], [_short(relation.label) for _, relation in rows])
    axes.set(xlim=(-0.02, 1.02), ylim=(bottom, -0.6), xlabel="MRR")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    return figure  # type: ignore[no-any-return]


def _short(label: str, length: int = 42) -> str:
    """A label that fits beside an axis: its middle left out, since the ends tell most."""
    label = clean(label)
    if len(label) <= length:
        return label
    tail = label[-2 * length // 3 :]
    cut = next((i for i, c in enumerate(tail[: length // 2]) if c in "/ "), 0)  # at a whole word
    return f"{label[: length // 3 - 1]}…{tail[cut:]}"
