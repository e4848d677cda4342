"""The tables of studies, as Markdown, from studies/*/results.json: the best model of each kind."""

import json
from typing import Any, NamedTuple

from metasd.pareto import Point, points
from report_tables import ROOT, Rows, machine, table

OVER = 0.06
"""A model of a kind may be so much larger than its share: a rank is a whole number."""

BITS_32, BITS_8, BITS_3 = "dense, 16 or 32 bits", "dense, 4 or 8 bits", "dense, 2 or 3 bits"
DENSE = {
    **dict.fromkeys(("fp32", "fp16"), BITS_32),
    **dict.fromkeys(("int8", "int4"), BITS_8),
    **dict.fromkeys(("int3", "int2", "ternary"), BITS_3),
}
ONE_SHOT, PUBLISHED = "pruned in one shot", "MetaSD as published"
ALONE, TAUGHT = "compact", "compact, with a teacher"
MASKED = {  # by weights and objective
    ("shared", "compact"): "MetaSD without teachers",
    ("shared", "distill"): "MetaSD without the meta step",
    ("shared", "metasd"): PUBLISHED,
    ("separate", "compact"): ALONE,
    ("separate", "distill"): TAUGHT,
}
KINDS = (BITS_32, BITS_8, BITS_3, ONE_SHOT, *MASKED.values())


class Study(NamedTuple):
    """A committed study's runs by name (of each the last seed's record), and its models."""

    graph: str
    records: list[dict[str, Any]]
    runs: dict[str, dict[str, Any]]
    models: list[Point]

    def kind(self, model: Point) -> str:
        """Which of `KINDS` a model is; the sources of compact models are of none: ""."""
        config = self.runs[model.run]["config"]
        what, codec = model.form.split(" ", 1)
        if what == "compact":
            return MASKED[config["compact.weights"], config["train.objective"]]
        if config["train.objective"] != "dense":
            return ""
        if what == "one-shot":
            return ONE_SHOT
        return DENSE[codec]

    def best(self, kinds: tuple[str, ...], limit: float) -> Point | None:
        """The best by valid of some kinds whose bytes are at most `limit` and `OVER` of it."""
        fits = [p for p in self.models if self.kind(p) in kinds and p.bytes <= limit * (1 + OVER)]
        return max(fits, key=lambda model: model.mrr, default=None)

    def source(self, model: Point) -> Point:
        """The dense fp32 tables that a model comes from: another run's, or its own."""
        run = self.runs[model.run]["config"]["compact.source"] or model.run
        return next(p for p in self.models if (p.run, p.form) == (run, "source fp32"))

    def epochs(self, model: Point) -> int:
        """Counted with those of the run whose source the model took over."""
        run = self.runs[model.run]
        taken = run["config"]["compact.source"]
        return int(run["epochs"] + (self.runs[taken]["epochs"] if taken else 0))

    def cost(self) -> str:
        hours = sum(run["training_seconds"] for run in self.records) / 3600
        return f"{self.graph}: {len(self.records)} runs, {hours:.1f} h; {machine(*self.records)}"


def study(name: str) -> Study:
    text = (ROOT / "studies" / name / "results.json").read_text(encoding="utf-8")
    results = json.loads(text)
    records = list(results["runs"].values())
    runs = {run["run"]: run for run in records}
    return Study(results["graph"], records, runs, points(results))


def megabytes(model: Point, source: Point) -> str:
    return f"{model.bytes / 1e6:.2f} MB, 1/{source.bytes / model.bytes:.1f}"


def studies() -> str:
    """The best by valid of each kind of model at equal bytes."""
    heads = ("epochs", "valid MRR", "spread", "test MRR", "rare", "to its source")
    rows = [["", "form", "bytes", *heads]]
    notes = []
    for name in ("fb15k-237", "wn18rr"):
        found = study(name)
        first = next(iter(found.runs))
        dense = next(p for p in found.models if (p.run, p.form) == (first, "source fp32"))
        rows.append([f"**{found.graph}**, {first}", *_cells(found, dense, dense)])
        for share in (10, 20):
            rows.append([f"**at most 1/{share}**", *[""] * (len(rows[0]) - 1)])
            for kind in KINDS:
                if best := found.best((kind,), dense.bytes / share):
                    rows.append([f"{kind}: {best.run}", *_cells(found, best, dense)])
        notes.append(found.cost())
    return f"{table(rows)}\n\n{'; '.join(notes)}."


def _cells(found: Study, model: Point, dense: Point) -> list[str]:
    return [
        model.form,
        megabytes(model, dense),
        str(found.epochs(model)),
        f"{model.mrr:.4f}",
        model.spread(),
        model.tested,
        f"{model.rare:.4f}",
        f"{100 * (model.mrr / found.source(model).mrr - 1):+.1f} %",
    ]


def ablations() -> str:
    """What a part of the method is worth: both models of each run of the study that varies them.

    A dense run's small model is its source in three bits, as the weights of compact models are.
    """
    found = study("umls")
    heads = ("fp32 valid MRR", "spread", "small", "valid MRR", "spread", "bytes")
    rows = [["run", *heads]]
    for run in found.runs:
        forms = {model.form: model for model in found.models if model.run == run}
        small = forms.get("compact auto") or forms["source int3"]
        size = f"{small.bytes / 1e3:.1f} kB"
        rows.append([run, *_mrr(forms.get("source fp32")), small.form, *_mrr(small), size])
    return f"{table(rows)}\n\n{found.cost()}."


def _mrr(model: Point | None) -> list[str]:
    if model is None:
        return ["", ""]
    return [f"{model.mrr:.3f}", model.spread(3)]


def summary() -> str:
    """Five models: the best by valid of a kind with at most a tenth of the source's bytes.

    The first is the source of the last, and its bytes are what the tenth is of.
    """
    columns = [_headline(study(name)) for name in ("fb15k-237", "wn18rr")]
    (found, models), (other, others) = columns
    names = [
        "source: dense, fp32",
        f"dense, rounded to {models[1].form.removeprefix('source ')}",
        "pruned in one shot",
        PUBLISHED,
        "compact: separate weights of 3 bits",
    ]
    head = ("model", "bytes", f"{found.graph} valid MRR", "test MRR", f"{other.graph} test MRR")
    rows: Rows = [list(head)]
    for name, model, second in zip(names, models, others, strict=True):
        size = megabytes(model, models[0]) if model != models[0] else f"{model.bytes / 1e6:.2f} MB"
        rows.append([name, size, f"{model.mrr:.4f}", model.tested, second.tested])
    return f"{table(rows)}\n\n{' '.join(_runs(*column) for column in columns)}"


def _headline(found: Study) -> tuple[Study, list[Point]]:
    dense = max((p for p in found.models if p.form == "source fp32"), key=lambda p: p.bytes)
    compact = found.best((ALONE, TAUGHT), dense.bytes / 10)
    assert compact is not None
    assert found.runs[compact.run]["config"]["compact.weight_format"] == "int3"
    source = found.source(compact)
    models = [source]
    for kinds in ((BITS_32, BITS_8, BITS_3), (ONE_SHOT,), (PUBLISHED,)):
        best = found.best(kinds, source.bytes / 10)
        assert best is not None
        models.append(best)
    return found, [*models, compact]


def _runs(found: Study, models: list[Point]) -> str:
    def trained(model: Point) -> str:
        count = len(model.valid)
        seeds = f"{count} seed{'s' * (count > 1)}"
        return f"{model.run} ({found.epochs(model)} epochs, {seeds})"

    names = ", ".join(dict.fromkeys(trained(model) for model in models))
    compact = models[-1]
    text = f"Runs on {found.graph}: {names}; the compact model learned"
    if found.kind(compact) == ALONE:
        return f"{text} without a teacher."
    alone = found.best((ALONE,), models[0].bytes / 10)
    other = f" (without one, {alone.run}: valid MRR {alone.mrr:.4f})" if alone else ""
    return f"{text} with its source as a teacher{other}."


TABLES = {"summary": summary, "studies": studies, "ablations": ablations}
