"""A run as one HTML page and its figures: learning curves, the long tail, and every relation."""

import base64
import hashlib
import html
import io
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from .errors import InputError
from .files import write_atomically, write_text
from .run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = dict[str, Any]

_METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
_NAMES = {"mrr": "MRR", "mr": "MR", **{f"hits@{k}": f"Hits@{k}" for k in (1, 3, 10)}}
_THIRDS = {"head": "most frequent third", "middle": "middle third", "tail": "least frequent third"}
_COLORS = {"source": "#0072B2", "pruned": "#D55E00"}  # Okabe and Ito: told apart by every eye
_MARKERS = {"source": "o", "pruned": "D"}  # and without colour
_LOSSES = {  # colour: the model that a loss is of; dashes: the mutual step
    "source": (_COLORS["source"], "-"),
    "student": (_COLORS["pruned"], "-"),
    "quiz": ("#555555", ":"),
    "mutual_source": (_COLORS["source"], "--"),
    "mutual_pruned": (_COLORS["pruned"], "--"),
}
_GREY = "#666666"
_DRAWN = 40  # relations in a figure: half the most frequent ones, half the least frequent ones
_FEW = 20  # fewer ranks than this say little about a relation: its markers are hollow
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.wspace": 0.06,
    "font.size": 9.5,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a label with dollars is no formula
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


def write_report(run: Run, out: Path | None = None) -> Path:
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
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for name, draw in (("curves", _curves), ("long_tail", _long_tail), ("relations", _relations)):
            path = folder / f"{name}.png"
            if (figure := draw(run)) is None:
                path.unlink(missing_ok=True)
                continue
            figures[name] = _png(figure)
            _write_bytes(path, figures[name])
    page = folder / "report.html"
    write_text(page, _page(run, figures))
    return page


def summary_rows(metrics: Metrics) -> list[list[str]]:
    """A header and a row for every split and model: split, model, MRR, Hits@1, Hits@3, Hits@10."""
    rows = [["split", "model", *(_NAMES[metric] for metric in _METRICS)]]
    for split, models in metrics.items():
        if split != "protocol":
            rows += [
                [split, model, *(f"{found[metric]:.4f}" for metric in _METRICS)]
                for model, found in models.items()
            ]
    return rows


# ---- what there is to show ------------------------------------------------------------------------


class _Relation(NamedTuple):
    label: str
    train: int
    ranks: int
    models: dict[str, Metrics]


def _shown_split(metrics: Metrics) -> str:
    """The split of figures and relations: test, or valid where there is no test split."""
    return next((split for split in ("test", "valid") if split in metrics), "")


def _by_train_count(metrics: Metrics) -> list[_Relation]:
    """Relations with ranks, the most frequent first."""
    models = metrics.get(_shown_split(metrics), {})
    relations: dict[str, _Relation] = {}
    for model, found in models.items():
        for label, values in found["by_relation"].items():
            new = _Relation(label, values["train"], values["ranks"], {})
            relations.setdefault(label, new).models[model] = values
    return sorted(relations.values(), key=lambda relation: (-relation.train, relation.label))


def _best_epoch(run: Run) -> tuple[int, float] | None:
    """The validated epoch whose model is kept, and its score, as the trainer chooses it."""
    model, _, metric = run.config.eval.metric.partition(".")
    scores = {r["epoch"]: r[f"valid/{model}"][metric] for r in run.history if f"valid/{model}" in r}
    best = run.metrics.get("protocol", {}).get("best_epoch")
    if best is None:  # not finished: the best one among those with the final mask
        final = max((record.get("prune_fraction", 0.0) for record in run.history), default=0.0)
        if run.config.train.objective != "dense":
            final = run.config.prune.fraction
        whole = {r["epoch"] for r in run.history if r.get("prune_fraction", 0.0) >= final}
        best = max((e for e in scores if e in whole), key=lambda e: scores[e], default=None)
    return (best, float(scores[best])) if best in scores else None


def _short(label: str, length: int = 42) -> str:
    """A label that fits beside an axis: its middle left out, since the ends tell most."""
    label = _clean(label)
    tail = 2 * length // 3
    return label if len(label) <= length else f"{label[: length - tail - 1]}…{label[-tail:]}"


def _clean(text: str) -> str:
    """Without control characters and lone surrogates, which neither HTML nor a font can hold."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


# ---- figures ----------------------------------------------------------------------------------------


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _subplots(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, ...]:
    """A figure of so many pixels at 1x and its axes; drawn at 2x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=200)
    return figure, *figure.subplots(1, columns, squeeze=False, **options)[0]


def _curves(run: Run) -> "Figure | None":
    """Losses by epoch, and beside them what validation found."""
    if not run.history:
        return None
    validated = any(name.startswith("valid/") for record in run.history for name in record)
    figure, left, *right = _subplots(*((960, 380, 2) if validated else (560, 380)))
    marker = {"marker": "o", "markersize": 3.5} if len(run.history) <= 12 else {}
    names = dict.fromkeys(name for record in run.history for name in record if "loss/" in name)
    for name in names:
        color, dashes = _LOSSES.get(name.removeprefix("loss/"), (_GREY, "-."))
        label = name.removeprefix("loss/").replace("_", " ")
        left.plot(*_series(run, name), color=color, linestyle=dashes, label=label, **marker)
    left.set_title("Loss")
    for axes in right:
        _plot_valid(axes, run)
    for axes in (left, *right):
        _epoch_axis(axes, [record["epoch"] for record in run.history])
    if names:
        left.legend()
    return figure  # type: ignore[no-any-return]


def _plot_valid(axes: "Axes", run: Run) -> None:
    fractions = _series(run, "prune_fraction")
    if len(set(fractions[1])) > 1:
        share = axes.twinx()
        share.step(*fractions, where="mid", color="#b0b0b0", linewidth=1.2)
        share.set(ylim=(0, 1.04), ylabel="pruned share of the weights (grey)")
        share.yaxis.label.set_color(_GREY)
        share.yaxis.set_major_formatter("{x:.0%}")
        share.grid(False)
        axes.set_zorder(share.get_zorder() + 1)
        axes.patch.set_visible(False)
    for model, color in _COLORS.items():
        points = [(r["epoch"], r[f"valid/{model}"]["mrr"]) for r in run.history if f"valid/{model}" in r]
        if points:
            style = {"marker": _MARKERS[model], "markersize": 4, "color": color, "label": model}
            axes.plot(*zip(*points, strict=True), **style)
    title = "Valid MRR"
    if best := _best_epoch(run):
        model, _, metric = run.config.eval.metric.partition(".")
        axes.axvline(best[0], color="#333333", linewidth=0.9, linestyle=(0, (2, 3)), zorder=0.5)
        title += f"; best epoch: {best[0]} ({model} {_NAMES[metric]} {best[1]:.3f})"
    axes.set_title(title)
    axes.legend(loc="lower right")


def _series(run: Run, name: str) -> tuple[list[int], list[float]]:
    records = [record for record in run.history if name in record]
    return [record["epoch"] for record in records], [record[name] for record in records]


def _epoch_axis(axes: "Axes", epochs: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    margin = max(0.5, 0.03 * (epochs[-1] - epochs[0]))
    axes.set(xlabel="epoch", xlim=(epochs[0] - margin, epochs[-1] + margin))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _long_tail(run: Run) -> "Figure | None":
    """Bars of MRR and Hits@10 by thirds of the relations."""
    split = _shown_split(run.metrics)
    if not split:
        return None
    models = {name: found["by_frequency"] for name, found in run.metrics[split].items()}
    first = next(iter(models.values()))
    width = 0.8 / max(2, len(models))
    figure, *both = _subplots(960, 360, 2, sharey=True)
    for axes, metric in zip(both, ("mrr", "hits@10"), strict=True):
        for i, (model, thirds) in enumerate(models.items()):
            heights = [thirds[third][metric] for third in _THIRDS]
            at = [x + (i - (len(models) - 1) / 2) * width for x in range(len(_THIRDS))]
            bars = axes.bar(at, heights, width * 0.94, color=_COLORS[model], label=model)
            texts = [f"{thirds[t][metric]:.3f}" if thirds[t]["ranks"] else "" for t in _THIRDS]
            axes.bar_label(bars, texts, padding=2, fontsize=9)
        for x, third in enumerate(_THIRDS):
            if not first[third]["ranks"]:
                note = f"no {split} triples"
                axes.text(x, 0.02, note, ha="center", color=_GREY, transform=axes.get_xaxis_transform())
        sizes = [f"{first[t]['relations']:,} relations\n{first[t]['ranks']:,} ranks" for t in _THIRDS]
        names = [f"{name}\n{size}" for name, size in zip(_THIRDS.values(), sizes, strict=True)]
        axes.set_xticks(range(len(_THIRDS)), names)
        axes.tick_params(axis="x", length=0)
        axes.grid(False, axis="x")
        axes.set_title(f"{split.capitalize()} {_NAMES[metric]}")
        axes.set(xlim=(-0.55, len(_THIRDS) - 0.45), ylim=(0, max(0.05, axes.get_ylim()[1] * 1.05)))
    both[0].legend(*both[0].get_legend_handles_labels(), ncols=2, loc="upper right")
    return figure  # type: ignore[no-any-return]


def _relations(run: Run) -> "Figure | None":
    """A dumbbell for every relation, the most frequent on top; at most 40."""
    relations = _by_train_count(run.metrics)
    if not relations:
        return None
    split, rows = _shown_split(run.metrics), list(enumerate(relations))
    left_out = len(relations) - _DRAWN
    if left_out > 0:  # one row stays empty between the two halves
        half = _DRAWN // 2
        rows = rows[:half] + [(half + 1 + i, r) for i, r in enumerate(relations[-half:])]
    figure, axes = _subplots(960, 130 + 20 * (rows[-1][0] + 1))
    beside = axes.get_yaxis_transform()
    for y, relation in rows:
        values = [found["mrr"] for found in relation.models.values()]
        axes.plot([min(values), max(values)], [y, y], color="#c4c4c4", linewidth=2.5, zorder=1)
        axes.text(1.02, y, f"{relation.train:,}", transform=beside, va="center", color=_GREY)
        axes.text(1.10, y, f"{relation.ranks:,}", transform=beside, va="center", color=_GREY)
    for model, color in _COLORS.items():
        points = [(r.models[model]["mrr"], y, r.ranks) for y, r in rows if model in r.models]
        faces = [color if ranks >= _FEW else "white" for *_, ranks in points]
        if points:
            x, y, _ = zip(*points, strict=True)
            axes.scatter(x, y, 30, faces, _MARKERS[model], edgecolors=color, linewidths=1.4, zorder=2)
            axes.scatter([], [], 30, color, _MARKERS[model], label=model)
    if left_out > 0:
        note = f"{left_out:,} relations between them are not drawn"
        axes.text(0.5, half, note, ha="center", va="center", style="italic", color=_GREY)
    for x, name in ((1.02, "train"), (1.10, "ranks")):
        axes.text(x, -0.9, name, transform=beside, va="bottom", color=_GREY)
    title = f"{split.capitalize()} MRR by relation, most frequent first"
    if any(relation.ranks < _FEW for _, relation in rows):
        title += f" (hollow: fewer than {_FEW} ranks)"
    axes.set_title(title, pad=26)
    axes.set_yticks([y for y, _ in rows], [_short(relation.label) for _, relation in rows])
    axes.set(xlim=(-0.02, 1.02), ylim=(rows[-1][0] + 0.6, -0.6), xlabel="MRR")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    return figure  # type: ignore[no-any-return]


# ---- the page ---------------------------------------------------------------------------------------


def _page(run: Run, figures: dict[str, bytes]) -> str:
    """The whole page; whatever comes from labels or files goes through `_e`."""
    protocol = run.metrics.get("protocol", {})
    title = " · ".join(str(part) for part in (protocol.get("graph"), Path(run.path).name) if part)
    sections = [f"<h1>{_e(title)}</h1>", *(f"<p class=lead>{line}</p>" for line in _lead(run))]
    if run.metrics:
        sections += ["<h2>Metrics</h2>", _metrics_table(run.metrics)]
    sections += [_figure(run, name, data) for name, data in figures.items()]
    if relations := _by_train_count(run.metrics):
        sections += ["<h2>Every relation</h2>", _relation_table(run, relations)]
    if protocol:
        rows = [[_e(key.replace("_", " ")), _e(_plain(value))] for key, value in protocol.items()]
        sections += ["<h2>Protocol</h2>", _table(["", ""], rows, "pairs")]
    if run.history:
        count = f"{len(run.history)} epoch{'s' * (len(run.history) != 1)}"
        history = _history_table(run)
        sections += [f"<details><summary>History, {count}</summary>{history}</details>"]
    settings = yaml.safe_dump(run.config.model_dump(), sort_keys=False)
    sections += ["<h2>Configuration</h2>", f"<pre>{html.escape(settings)}</pre>"]
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(sections)
        + f"\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


def _lead(run: Run) -> Iterable[str]:
    """What came of the run, in a sentence or two."""
    config, split = run.config, _shown_split(run.metrics)
    if not run.metrics:
        yield (
            f"This run is <strong>not finished</strong>: it has done {len(run.history)} of "
            f"{config.train.epochs} epochs, and its models have not been evaluated. "
            f"<code>metasd resume {_e(run.path)}</code> continues it."
        )
    elif split:
        source, pruned = (run.metrics[split].get(model) for model in ("source", "pruned"))
        if pruned is None:
            yield f"One dense model, {split} MRR <strong>{source['mrr']:.4f}</strong>; nothing was pruned."
        else:
            kept = f"{run.metrics.get('protocol', {}).get('density', 1 - config.prune.fraction):.1%}"
            values = "" if config.prune.values == "fp32" else f", as {config.prune.values} values"
            yield (
                f"The pruned model keeps {kept} of the weights{values}, and reaches a {split} MRR of "
                f"<strong>{pruned['mrr']:.4f}</strong>; its source has {source['mrr']:.4f} "
                f"({_change(source['mrr'], pruned['mrr'])})."
            )
    done = run.metrics.get("protocol", {}).get("epochs", len(run.history))
    if run.metrics and done < len(run.history):
        yield f"The metrics are those after {done} epochs; the run has gone on since, unfinished."
    yield (
        f"{_e(config.model.name)}, rank {config.model.rank}, objective {_e(config.train.objective)}; "
        f"{run.vocabulary.num_entities:,} entities, {run.vocabulary.num_relations:,} relations."
    )


def _metrics_table(metrics: Metrics) -> str:
    splits = [split for split in ("valid", "test") if split in metrics]
    columns = [(split, model) for split in splits for model in ("source", "pruned", "")
               if not model or model in metrics[split]]
    columns = [(s, m) for s, m in columns if m or len(metrics[s]) > 1]
    keys = [(name, (key,), ".4f" if key != "mr" else ",.1f") for key, name in _NAMES.items()]
    keys += [("pessimistic MRR", ("pessimistic", "mrr"), ".4f"), ("tie rate", ("tie_rate",), ".2%")]
    rows = []
    for name, path, form in keys:
        cells = [name + (" (lower is better)" if name == "MR" else "")]
        for split, model in columns:
            pair = {m: _dig(found, path) for m, found in metrics[split].items()}
            cells.append(format(pair[model], form) if model else _change(pair["source"], pair["pruned"]))
        rows.append(cells)
    heads = [f"{split} {_swatch(model)}" if model else "difference" for split, model in columns]
    return _table(["", *heads], rows)


def _relation_table(run: Run, relations: Sequence[_Relation]) -> str:
    split = _shown_split(run.metrics)
    models = [model for model in _COLORS if model in run.metrics[split]]
    heads = ["relation", "train triples", f"{split} ranks"]
    heads += [f"{_swatch(model)} {_NAMES[m]}" for model in models for m in ("mrr", "hits@10")]
    heads += ["MRR difference"] if len(models) == 2 else []
    rows = []
    for relation in relations:
        cells = [f"<bdi>{_e(relation.label)}</bdi>", f"{relation.train:,}", f"{relation.ranks:,}"]
        numbers = [relation.models[model][m] for model in models for m in ("mrr", "hits@10")]
        cells += [f"{number:.4f}" for number in numbers]
        cells += [f"{numbers[2] - numbers[0]:+.4f}"] if len(models) == 2 else []
        rows.append(cells)
    return _table(heads, rows, "sortable")


def _history_table(run: Run) -> str:
    heads = list(dict.fromkeys(name for record in run.history for name in record))
    rows = [[_number(name, record.get(name)) for name in heads] for record in run.history]
    names = {"peak_memory_bytes": "peak memory MiB", "valid/source": "valid source MRR",
             "valid/pruned": "valid pruned MRR"}
    return _table([_e(names.get(n, n.replace("_", " ").replace("loss/", "loss "))) for n in heads], rows)


def _number(name: str, value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("mrr")
    if name == "peak_memory_bytes" and value is not None:
        return f"{value / 2**20:,.0f}"
    if name == "prune_fraction" and value is not None:
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"
    return "–" if value is None else _e(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table of cells that are HTML already, in a region that scrolls by itself."""
    if kind == "sortable":
        heads = [f"<button type=button>{head}</button>" for head in heads]
    first = [" aria-sort=descending" if kind == "sortable" and i == 1 else "" for i in range(len(heads))]
    top = "".join(f"<th scope=col{a}>{head}</th>" for a, head in zip(first, heads, strict=True))
    body = "\n".join(
        f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    thead = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    table = f'<table class="{kind}">{thead}<tbody>\n{body}\n</tbody></table>'
    return f'<div class=scroll role=region aria-label="table" tabindex=0>{table}</div>'


def _figure(run: Run, name: str, data: bytes) -> str:
    split, count = _shown_split(run.metrics), len(_by_train_count(run.metrics))
    if name == "curves":
        heading, about = "Learning curves", f"Losses over {len(run.history)} epochs"
        if best := _best_epoch(run):
            about += f", and the valid MRR; the best epoch is {best[0]}"
    elif name == "long_tail":
        heading, parts = "The long tail", []
        for model, found in run.metrics[split].items():
            thirds = [f"{n} {found['by_frequency'][t]['mrr']:.3f}" for t, n in _THIRDS.items()]
            parts.append(f"{model}: {', '.join(thirds)}")
        about = f"{split.capitalize()} MRR by thirds of the relations; {'; '.join(parts)}"
    else:
        heading, about = "Relations", f"{split.capitalize()} MRR of {count} relations"
        if count > _DRAWN:
            half = _DRAWN // 2
            about = f"{split.capitalize()} MRR of the {half} most and the {half} least frequent of {count} relations"
    source = base64.b64encode(data).decode()
    width = int.from_bytes(data[16:20]) // 2  # the PNG's header; drawn at 2x
    return (
        f'<h2>{heading}</h2>\n<figure><img width={width} alt="{_e(about)}." '
        f'src="data:image/png;base64,{source}"><figcaption>{_e(about)}.</figcaption></figure>'
    )


def _swatch(model: str) -> str:
    return f"<span class={model}>{'●' if model == 'source' else '◆'}</span> {model}"


def _change(source: float, pruned: float) -> str:
    """The relative difference, with a real minus sign."""
    return f"{pruned / source - 1:+.1%}".replace("-", "−") if source else "–"


def _dig(found: Any, path: Iterable[str]) -> Any:
    for key in path:
        found = found[key]
    return found


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else "–" if value is None else str(value)


def _e(value: object) -> str:
    return html.escape(_clean(str(value)))


def _write_bytes(path: Path, data: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(data) and None)


_CSS = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5b6472; --line: #dfe3e8; --paper: #fff;
  --shade: #f5f6f8; --source: #0072b2; --pruned: #d55e00; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a0a8b4;
  --line: #363c45; --paper: #15181d; --shade: #1f242b; --source: #56b4e9; --pruned: #f08a3c; } }
body { margin: 2.5rem auto 5rem; padding: 0 1.25rem; max-width: 62rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .75rem; font-size: 1.7rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
.lead { max-width: 46rem; margin: .4rem 0; }
.scroll { max-height: 36rem; overflow: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 400; white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
tr > :first-child, .pairs td { text-align: left; }
.pairs td { overflow-wrap: anywhere; }
thead th { position: sticky; top: 0; background: var(--paper); }
.source { color: var(--source); } .pruned { color: var(--pruned); }
button { all: unset; cursor: pointer; } button:focus-visible { outline: 2px solid var(--source); }
button::after { content: "↕"; padding-left: .3em; color: var(--soft); font-weight: 400; }
[aria-sort=ascending] button::after { content: "↑"; }
[aria-sort=descending] button::after { content: "↓"; }
figure { margin: 0; } figcaption { margin-top: .4rem; color: var(--soft); font-size: .85rem; }
img { display: block; max-width: 100%; height: auto; box-sizing: border-box; background: #fff;
  border-radius: 6px; }
details { margin: 2.5rem 0 .75rem; } summary { cursor: pointer; font-size: 1.15rem; font-weight: 600; }
pre { padding: 1rem; overflow-x: auto; background: var(--shade); border-radius: 6px; font-size: .85rem; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } .scroll { max-height: none; }
  button::after { content: none; } tr, figure { break-inside: avoid; } h2 { break-after: avoid; }
  thead th { position: static; } pre { white-space: pre-wrap; } }
"""

_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => {
    const text = row.cells[column].textContent;
    return column ? Number(text.replaceAll(",", "")) : text;
  };
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const before = head.getAttribute("aria-sort");
    const down = before ? before === "ascending" : column > 0;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const order = (a, b) => column ? a - b : a.localeCompare(b);
    const rows = [...body.rows].sort((a, b) => order(value(a, column), value(b, column)));
    body.append(...(down ? rows.reverse() : rows));
  }));
}
"""
