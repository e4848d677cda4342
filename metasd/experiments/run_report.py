"""A run as one HTML page and its figures: learning curves, the long tail, and every relation."""

import base64
import hashlib
import html
import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from metasd.errors import InputError
from metasd.files import write_atomically, write_text

from .plotting import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metasd.training.run import Run

Metrics = dict[str, Any]

_NAMES = {"mrr": "MRR", "hits@1": "Hits@1", "hits@3": "Hits@3", "hits@10": "Hits@10"}
_THIRDS = {
    "frequent": "most frequent third",
    "medium": "middle third",
    "rare": "least frequent third",
}
_COLORS = {"source": "#0072B2", "compact": "#D55E00"}  # Okabe and Ito: distinct to every eye
_MARKERS = {"source": "o", "compact": "D"}  # and without colour
_LOSSES = {  # colour: the model that a loss is of; dashes: the mutual step
    "source": (_COLORS["source"], "-"),
    "inner": (_COLORS["compact"], "-"),
    "quiz": ("#555555", ":"),
    "compact": (_COLORS["compact"], "-"),
    "mutual_source": (_COLORS["source"], "--"),
    "mutual_compact": (_COLORS["compact"], "--"),
}
_GREY = "#666666"
_HALF = 20  # relations drawn of the most frequent ones, and of the least frequent ones
_FEW = 20  # fewer ranks than this say little about a relation: its markers are hollow


def write_report(run: "Run", out: Path | None = None) -> Path:
    """Draws a run, finished or interrupted, and writes `report.html` with its figures inside.

    Args:
        out: the folder, by default `<run>/report`; the figures lie there as PNG, too.

    Returns:
        The path of report.html.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib import style
    except ImportError:
        raise InputError('a report needs matplotlib: pip install "metasd[plots]"') from None

    folder = Path(run.path) / "report" if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, bytes] = {}
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for draw in (_curves, _long_tail, _relations):
            path = folder / f"{draw.__name__[1:]}.png"
            if (figure := draw(run)) is None:
                path.unlink(missing_ok=True)
            else:
                figures[path.stem] = _save(figure, path)
    write_text(folder / "report.html", _page(run, figures))
    return folder / "report.html"


def summary_rows(metrics: Metrics) -> list[list[str]]:
    """A header and a row for every split and model: split, model, MRR, Hits@1, Hits@3, Hits@10."""
    rows = [["split", "model", *_NAMES.values()]]
    for split in (name for name in metrics if name != "protocol"):
        for model, found in metrics[split].items():
            rows.append([split, model, *(f"{found[metric]:.4f}" for metric in _NAMES)])
    return rows


# ---- what there is to show -----------------------------------------------------------------------


class _Relation(NamedTuple):
    label: str
    train: int
    ranks: int
    models: dict[str, Metrics]


def _shown_split(metrics: Metrics) -> str:
    """The split of figures and relations: test, or valid where there is no test split."""
    return next((split for split in ("test", "valid") if split in metrics), "")


def _by_train_count(metrics: Metrics) -> list[_Relation]:
    """Relations that have ranks, the most frequent first."""
    models = metrics.get(_shown_split(metrics), {})
    found = {model: values["by_relation"] for model, values in models.items()}
    relations = [
        _Relation(label, first["train"], first["ranks"], {m: found[m][label] for m in found})
        for label, first in next(iter(found.values()), {}).items()
    ]
    return sorted(relations, key=lambda relation: (-relation.train, relation.label))


def _best_epoch(run: "Run") -> tuple[int, float] | None:
    """The validated epoch whose model is kept, and its score, as the trainer chooses it."""
    model, _, metric = run.config.eval.metric.partition(".")
    scored = [record for record in run.history if f"valid/{model}" in record]
    scores = {record["epoch"]: float(record[f"valid/{model}"][metric]) for record in scored}
    best = run.metrics.get("protocol", {}).get("best_epoch")
    if best is None:  # not finished: the best so far among those with the final mask
        final = 0.0 if run.config.train.objective == "dense" else run.config.prune.fraction
        whole = [r["epoch"] for r in scored if r.get("prune_fraction", final) >= final]
        best = max(whole, key=lambda epoch: scores[epoch], default=None)
    return (best, scores[best]) if best in scores else None


def _clean(text: str) -> str:
    """Without control characters and lone surrogates, which neither HTML nor a font can hold."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


# ---- figures -------------------------------------------------------------------------------------


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


def _curves(run: "Run") -> "Figure | None":
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
    for model, color in _COLORS.items():
        epochs, found = _series(run, f"valid/{model}")
        if found:
            mrr, marker = [metrics["mrr"] for metrics in found], _MARKERS[model]
            axes.plot(epochs, mrr, color=color, marker=marker, markersize=4, label=model)
    title = "Valid MRR"
    if best := _best_epoch(run):
        model, _, metric = run.config.eval.metric.partition(".")
        axes.axvline(best[0], color="#333333", linewidth=0.9, linestyle=(0, (2, 3)), zorder=0.5)
        title += f"; best epoch: {best[0]} ({model} {_NAMES[metric]} {best[1]:.3f})"
    axes.set_title(title)


def _series(run: "Run", key: str) -> tuple[list[int], list[Any]]:
    records = [record for record in run.history if key in record]
    return [record["epoch"] for record in records], [record[key] for record in records]


def _long_tail(run: "Run") -> "Figure | None":
    """Bars of MRR and Hits@10 by thirds of the relations."""
    split = _shown_split(run.metrics)
    if not split:
        return None
    models = {name: found["by_frequency"] for name, found in run.metrics[split].items()}
    ticks = []
    for third, name in _THIRDS.items():
        size = next(iter(models.values()))[third]
        ranks = f"{size['ranks']:,} ranks" if size["ranks"] else f"no {split} triples"
        plural = "relation" if size["relations"] == 1 else "relations"
        ticks.append(f"{name}\n{size['relations']:,} {plural}\n{ranks}")
    figure, *both = _subplots(960, 360, 2, sharey=True)
    for axes, metric in zip(both, ("mrr", "hits@10"), strict=True):
        for i, (model, thirds) in enumerate(models.items()):
            at = [x + 0.4 * (i - (len(models) - 1) / 2) for x in range(len(_THIRDS))]
            heights = [thirds[third][metric] for third in _THIRDS]
            bars = axes.bar(at, heights, 0.37, color=_COLORS[model], label=model)
            texts = [f"{thirds[t][metric]:.3f}" if thirds[t]["ranks"] else "" for t in _THIRDS]
            axes.bar_label(bars, texts, padding=2)
        axes.set_title(f"{split.capitalize()} {_NAMES[metric]}")
        axes.set_xticks(range(len(_THIRDS)), ticks)
        axes.set_xlim(-0.55, len(_THIRDS) - 0.45)
        axes.tick_params(length=0)
        axes.grid(False)  # every bar says its height
    both[0].set_ylim(0, 1.06 * both[0].get_ylim()[1])
    both[0].legend(ncols=2, loc="upper right")
    return figure  # type: ignore[no-any-return]


def _relations(run: "Run") -> "Figure | None":
    """A dumbbell for every relation, the most frequent on top; at most 40."""
    relations, split = _by_train_count(run.metrics), _shown_split(run.metrics)
    if not relations:
        return None
    rows, left_out = list(enumerate(relations)), len(relations) - 2 * _HALF
    if left_out > 0:  # one row between the two halves says so
        rows = [*rows[:_HALF], *enumerate(relations[-_HALF:], _HALF + 1)]
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
        axes.text(0.5, _HALF, note, ha="center", va="center", style="italic", color=_GREY)
    for model in run.metrics[split]:
        color, style = _COLORS[model], {"s": 30, "marker": _MARKERS[model], "linewidths": 1.4}
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
    label = _clean(label)
    if len(label) <= length:
        return label
    tail = label[-2 * length // 3 :]
    cut = next((i for i, c in enumerate(tail[: length // 2]) if c in "/ "), 0)  # at a whole word
    return f"{label[: length // 3 - 1]}…{tail[cut:]}"


# ---- the page ------------------------------------------------------------------------------------


def _page(run: "Run", figures: dict[str, bytes]) -> str:
    """The whole page; whatever comes from labels or files goes through `_e`."""
    protocol, relations = run.metrics.get("protocol", {}), _by_train_count(run.metrics)
    title = _e(" · ".join([*([protocol["graph"]] if protocol else []), Path(run.path).name]))
    parts = [f"<h1>{title}</h1>", *(f"<p class=lead>{line}</p>" for line in _lead(run))]
    if run.metrics:
        parts.append(f"<h2>Metrics</h2>{_metrics_table(run.metrics)}")
    parts += [_image(run, name, data) for name, data in figures.items()]
    if relations:
        parts.append(f"<h2>Every relation</h2>{_relation_table(run, relations)}")
    if protocol:
        rows = [[_e(key.replace("_", " ")), _e(_plain(value))] for key, value in protocol.items()]
        parts.append(f"<h2>Protocol</h2>{_table('Protocol', [], rows, 'pairs')}")
    if run.history:
        parts.append(f"<details><summary>History</summary>{_history_table(run)}</details>")
    settings = yaml.safe_dump(run.config.model_dump(), sort_keys=False)
    parts.append(f"<h2>Configuration</h2><pre>{html.escape(settings)}</pre>")
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def _lead(run: "Run") -> Iterator[str]:
    """What came of the run, in a few sentences."""
    config, split, epochs = run.config, _shown_split(run.metrics), len(run.history)
    done = run.metrics.get("protocol", {}).get("epochs", epochs)
    if not run.metrics:
        yield (
            f"This run is <strong>not finished</strong>: it has done {epochs} of "
            f"{config.train.epochs} epochs, and its models have not been evaluated. "
            f"<code>metasd resume {_e(run.path)}</code> continues it."
        )
    elif split and "compact" in run.metrics[split]:
        source, pruned = (run.metrics[split][model]["mrr"] for model in _COLORS)
        kept = run.metrics.get("protocol", {}).get("density", 1 - config.prune.fraction)
        values = (
            ""
            if config.compact.weight_format == "fp32"
            else f", as {config.compact.weight_format} values"
        )
        yield (
            f"The pruned model keeps {kept:.1%} of the weights{values}, and reaches a {split} MRR "
            f"of <strong>{pruned:.4f}</strong>; its source has {source:.4f} "
            f"({_change(source, pruned)})."
        )
    elif split:
        mrr = run.metrics[split]["source"]["mrr"]
        yield f"A dense model with a {split} MRR of <strong>{mrr:.4f}</strong>; nothing is pruned."
    if done < epochs:
        yield f"The metrics are those after {done} epochs; the run has gone on since, unfinished."
    yield (
        f"{config.model.name}, rank {config.model.rank}, objective {config.train.objective}; "
        f"{run.vocabulary.num_entities:,} entities, {run.vocabulary.num_relations:,} relations."
    )


def _metrics_table(metrics: Metrics) -> str:
    names = (*_NAMES.values(), "pessimistic MRR", "MR (low is good)", "tie rate")
    rows = [[name] for name in names]
    heads = [""]
    for split in (name for name in ("valid", "test") if name in metrics):
        columns = []
        for model, found in metrics[split].items():
            heads.append(f"{split} {_mark(model)}")
            numbers = [found[key] for key in _NAMES] + [found["pessimistic"]["mrr"]]
            columns.append([*numbers, found["mr"], found["tie_rate"]])
            for row, number in zip(rows, columns[-1], strict=True):
                row.append(f"{number:,.1f}" if row[0].startswith("MR (") else f"{number:.4f}")
        if len(columns) == 2:
            heads.append("difference")
            for row, source, pruned in zip(rows, *columns, strict=True):
                row.append(_change(source, pruned))
    return _table("Metrics", heads, rows)


def _relation_table(run: "Run", relations: Sequence[_Relation]) -> str:
    split = _shown_split(run.metrics)
    shown = [(model, metric) for model in run.metrics[split] for metric in ("mrr", "hits@10")]
    heads = ["relation", "train triples", f"{split} ranks"]
    heads += [f"{_mark(model)} {_NAMES[metric]}" for model, metric in shown]
    rows = []
    for label, train, ranks, models in relations:
        numbers = [models[model][metric] for model, metric in shown]
        rows.append([f"<bdi>{_e(label)}</bdi>", f"{train:,}", f"{ranks:,}"])
        rows[-1] += [f"{number:.4f}" for number in numbers]
        if len(shown) == 4:
            rows[-1].append(f"{numbers[2] - numbers[0]:+.4f}")
    heads += ["MRR difference"] if len(shown) == 4 else []
    return _table("Every relation", heads, rows, "sortable")


def _history_table(run: "Run") -> str:
    keys = list(dict.fromkeys(key for record in run.history for key in record))
    heads = [_e(key.replace("_bytes", " MiB").replace("_", " ").replace("/", " ")) for key in keys]
    heads = [f"{head} MRR" if head.startswith("valid ") else head for head in heads]

    def cell(key: str, value: Any) -> str:
        number = value["mrr"] if isinstance(value, dict) else value
        if not isinstance(number, int | float):
            return "–"
        number = round(number / 2**20) if key.endswith("_bytes") else number
        return f"{number:,.0f}" if isinstance(number, int) or number >= 100 else f"{number:.4f}"

    rows = [[cell(key, record.get(key)) for key in keys] for record in run.history]
    return _table("History", heads, rows)


def _table(name: str, heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already, in a region that scrolls by itself."""
    cells = [f"<th scope=col>{head}</th>" for head in heads]
    if kind == "sortable":
        cells = [f"<th scope=col><button type=button>{head}</button></th>" for head in heads]
        cells[1] = cells[1].replace("<th", "<th aria-sort=descending")
    lines = [f"<tr>{''.join(cells)}</tr>"] if heads else []
    lines = ["<thead>", *lines, "</thead><tbody>"]
    for first, *others in rows:
        cells = [f"<th scope=row>{first}</th>", *(f"<td>{cell}</td>" for cell in others)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    table = "\n".join([f'<table class="{kind}">', *lines, "</tbody></table>"])
    return f'<div class=scroll role=region aria-label="{name}" tabindex=0>{table}</div>'


def _image(run: "Run", name: str, data: bytes) -> str:
    split, count = _shown_split(run.metrics), len(_by_train_count(run.metrics))
    if name == "curves":
        heading, about = "Learning curves", f"Losses over {len(run.history)} epochs"
        if best := _best_epoch(run):
            about += f", and the valid MRR. The best epoch is {best[0]}"
    elif name == "long_tail":
        heading, about = "The long tail", f"{split.capitalize()} MRR by thirds of the relations"
        for model, found in run.metrics[split].items():
            thirds = [f"{n} {found['by_frequency'][t]['mrr']:.3f}" for t, n in _THIRDS.items()]
            about += f"; {model}: {', '.join(thirds)}"
    else:
        heading, about = "Relations", f"{split.capitalize()} MRR by relation"
        if count > 2 * _HALF:
            about += f": the {_HALF} most and the {_HALF} least frequent of {count}"
    width = int.from_bytes(data[16:20]) // 2  # in the PNG's header; drawn at 2x
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<h2>{heading}</h2>\n<img width={width} alt="{about}." src="{source}">'


def _mark(model: str) -> str:
    return f"<span class={model}>{'●' if model == 'source' else '◆'}</span>&nbsp;{model}"


def _change(source: float, pruned: float) -> str:
    """The relative difference, with a real minus sign."""
    return f"{pruned / source - 1:+.1%}".replace("-", "−") if source else "–"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _e(value: object) -> str:
    return html.escape(_clean(str(value)))


_CSS = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5b6472; --line: #dfe3e8;
  --paper: #fff; --shade: #f5f6f8; --source: #0072b2; --compact: #d55e00; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a0a8b4;
  --line: #363c45; --paper: #15181d; --shade: #1f242b; --source: #56b4e9; --compact: #f08a3c; } }
body { margin: 2.5rem auto 5rem; padding: 0 1.25rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .75rem; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2, details { margin: 2.5rem 0 .75rem; } h2, summary { font-size: 1.15rem; font-weight: 600; }
.lead { max-width: 46rem; margin: .4rem 0; }
.scroll { max-height: 36rem; overflow: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
thead th { position: sticky; top: 0; background: var(--paper); }
tbody th { font-weight: 400; overflow-wrap: anywhere; }
.sortable tbody th { min-width: 9rem; }
tr > :first-child, .pairs td { text-align: left; } .pairs td { overflow-wrap: anywhere; }
.source { color: var(--source); } .compact { color: var(--compact); }
button { display: inline; padding: 0; border: 0; background: none; color: inherit; font: inherit;
  text-align: inherit; white-space: normal; cursor: pointer; }
button:focus-visible { outline: 2px solid var(--source); }
button::after { content: "↕"; padding-left: .3em; color: var(--soft); font-weight: 400; }
[aria-sort=ascending] button::after { content: "↑"; }
[aria-sort=descending] button::after { content: "↓"; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
summary { cursor: pointer; } pre, code { background: var(--shade); font-size: .85rem; }
pre { padding: 1rem; overflow-x: auto; border-radius: 6px; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; }
  .scroll { max-height: none; overflow: visible; } pre { white-space: pre-wrap; }
  table, pre { font-size: 7.5pt; } th, td { padding: .2rem .35rem; } thead th { position: static; }
  button::after { content: none; } tr, img { break-inside: avoid; } h2 { break-after: avoid; } }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const text = (row, column) => row.cells[column].textContent;
  const number = (row, column) => Number(text(row, column).replaceAll(",", ""));
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    const sign = (before ? before === "ascending" : column > 0) ? -1 : 1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    const order = column ? (a, b) => number(a, column) - number(b, column)
      : (a, b) => text(a, column).localeCompare(text(b, column));
    body.append(...[...body.rows].sort((a, b) => sign * order(a, b)));
  }));
}
"""
