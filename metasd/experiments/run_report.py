"""The report of a run: one HTML page with its metrics, figures, relations and settings."""

import base64
import hashlib
import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from metasd.files import write_text

from .plotting import clean
from .run_figures import (
    HALF,
    METRIC_NAMES,
    THIRDS,
    Metrics,
    Relation,
    best_epoch,
    draw_figures,
    relations_by_frequency,
    shown_split,
)

if TYPE_CHECKING:
    from metasd.training.run import Run


def write_report(run: "Run", out: Path | None = None) -> Path:
    """Draws a run, finished or interrupted, and writes `report.html` with its figures inside.

    Args:
        out: the folder, by default `<run>/report`; the figures are there as PNG files, too.

    Returns:
        The path of report.html.

    Raises:
        InputError: matplotlib is not installed.
    """
    folder = Path(run.path) / "report" if out is None else Path(out)
    figures = draw_figures(run, folder)
    write_text(folder / "report.html", _page(run, figures))
    return folder / "report.html"


def summary_rows(metrics: Metrics) -> list[list[str]]:
    """A header and a row for every split and model: split, model, MRR, Hits@1, Hits@3, Hits@10."""
    rows = [["split", "model", *METRIC_NAMES.values()]]
    for split in (name for name in metrics if name != "protocol"):
        for model, found in metrics[split].items():
            rows.append([split, model, *(f"{found[metric]:.4f}" for metric in METRIC_NAMES)])
    return rows


def _page(run: "Run", figures: dict[str, bytes]) -> str:
    """The whole page; whatever comes from labels or files goes through `_e`."""
    protocol, relations = run.metrics.get("protocol", {}), relations_by_frequency(run.metrics)
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
    config, split, epochs = run.config, shown_split(run.metrics), len(run.history)
    done = run.metrics.get("protocol", {}).get("epochs", epochs)
    if not run.metrics:
        yield (
            f"This run is <strong>not finished</strong>: it has done {epochs} of "
            f"{config.train.epochs} epochs, and its models have not been evaluated. "
            f"<code>metasd resume {_e(run.path)}</code> continues it."
        )
    elif split and "compact" in run.metrics[split]:
        source, compact = (run.metrics[split][model]["mrr"] for model in ("source", "compact"))
        yield (
            f"The compact model {_kept(run)} and reaches a {split} MRR of "
            f"<strong>{compact:.4f}</strong>; its source has {source:.4f} "
            f"({_change(source, compact)})."
        )
    elif split:
        mrr = run.metrics[split]["source"]["mrr"]
        yield f"A dense model with a {split} MRR of <strong>{mrr:.4f}</strong>, and no compact one."
    if done < epochs:
        yield f"The metrics are those after {done} epochs; the run has continued since, unfinished."
    yield (
        f"{config.model.name}, rank {config.model.rank}, objective {config.train.objective}; "
        f"{run.vocabulary.num_entities:,} entities, {run.vocabulary.num_relations:,} relations."
    )


def _kept(run: "Run") -> str:
    """What the compact model has of its weights, as the rest of a sentence."""
    weight_format, fraction = run.config.compact.weight_format, run.config.prune.fraction
    if not fraction:
        return f"stores its weights as {weight_format}"
    density = run.metrics.get("protocol", {}).get("density", 1 - fraction)
    rounded = f", as {weight_format}," if weight_format != "fp32" else ""
    return f"keeps {density:.1%} of the weights{rounded}"


def _metrics_table(metrics: Metrics) -> str:
    names = (*METRIC_NAMES.values(), "pessimistic MRR", "MR (low is good)", "tie rate")
    rows = [[name] for name in names]
    heads = [""]
    for split in (name for name in ("valid", "test") if name in metrics):
        columns = []
        for model, found in metrics[split].items():
            heads.append(f"{split} {_mark(model)}")
            numbers = [found[key] for key in METRIC_NAMES] + [found["pessimistic"]["mrr"]]
            columns.append([*numbers, found["mr"], found["tie_rate"]])
            for row, number in zip(rows, columns[-1], strict=True):
                row.append(f"{number:,.1f}" if row[0].startswith("MR (") else f"{number:.4f}")
        if len(columns) == 2:
            heads.append("difference")
            for row, source, compact in zip(rows, *columns, strict=True):
                row.append(_change(source, compact))
    return _table("Metrics", heads, rows)


def _relation_table(run: "Run", relations: Sequence[Relation]) -> str:
    split = shown_split(run.metrics)
    shown = [(model, metric) for model in run.metrics[split] for metric in ("mrr", "hits@10")]
    heads = ["relation", "train triples", f"{split} ranks"]
    heads += [f"{_mark(model)} {METRIC_NAMES[metric]}" for model, metric in shown]
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
    split, count = shown_split(run.metrics), len(relations_by_frequency(run.metrics))
    if name == "curves":
        heading, about = "Learning curves", f"Losses over {len(run.history)} epochs"
        if best := best_epoch(run):
            about += f", and the valid MRR. The best epoch is {best[0]}"
    elif name == "long_tail":
        heading, about = "The long tail", f"{split.capitalize()} MRR by thirds of the relations"
        for model, found in run.metrics[split].items():
            thirds = [f"{n} {found['by_frequency'][t]['mrr']:.3f}" for t, n in THIRDS.items()]
            about += f"; {model}: {', '.join(thirds)}"
    else:
        heading, about = "Relations", f"{split.capitalize()} MRR by relation"
        if count > 2 * HALF:
            about += f": the {HALF} most and the {HALF} least frequent of {count}"
    width = int.from_bytes(data[16:20]) // 2  # in the PNG's header; drawn at 2x
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<h2>{heading}</h2>\n<img width={width} alt="{about}." src="{source}">'


def _mark(model: str) -> str:
    return f"<span class={model}>{'●' if model == 'source' else '◆'}</span>&nbsp;{model}"


def _change(source: float, compact: float) -> str:
    """The relative difference, with a real minus sign."""
    return f"{compact / source - 1:+.1%}".replace("-", "−") if source else "–"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _e(value: object) -> str:
    return html.escape(clean(str(value)))


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
