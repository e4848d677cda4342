"""The tables of studies, as Markdown, from studies/*/results.json: the best model of each kind."""

import json
from typing import Any, NamedTuple

from report_tables import ROOT, Rows, machine, table

from metasd.experiments.study_report import Point, points

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
    heads = ("source: valid MRR", "spread", "small model", "valid MRR", "spread", "bytes")
    rows = [["run", *heads]]
    for run in found.runs:
        forms = {model.form: model for model in found.models if model.run == run}
        small = forms.get("compact auto") or forms["source int3"]
        size = f"{small.bytes / 1e3:.1f} kB"
        rows.append([run, *_mrr(forms.get("source fp32")), small.form, *_mrr(small), size])
    legend = (
        "The source is measured in fp32. The small model is the compact one as it is stored "
        "(`compact auto`); a dense run has none, and its source is rounded to 3 bits instead "
        "(`source int3`). Spread: the range over seeds."
    )
    return f"{table(rows)}\n\n{legend}\n\n{found.cost()}."


def _mrr(model: Point | None) -> list[str]:
    if model is None:
        return ["", ""]
    return [f"{model.mrr:.3f}", model.spread(3)]


def summary() -> str:
    """Five models: of each kind the best by valid with at most a tenth of the dense bytes.

    The first is the source of the last.
    """
    columns = [_headline(study(name)) for name in ("fb15k-237", "wn18rr")]
    (found, models), (other, others) = columns
    names = [
        "dense, fp32: the source of the last row",
        "dense, rounded to 8 or 4 bits",
        "dense, pruned in one shot",
        PUBLISHED,
        "compact, separate weights of 3 bits, without a teacher",
    ]
    head = ("model", "bytes", "epochs", f"{found.graph} valid MRR", "test MRR")
    rows: Rows = [[*head, "bytes", "epochs", f"{other.graph} valid MRR", "test MRR"]]
    for name, *pair in zip(names, models, others, strict=True):
        row = [name]
        for (of, dense), model in zip(((found, models), (other, others)), pair, strict=True):
            size = megabytes(model, dense[0])
            row += [size, str(of.epochs(model)), f"{model.mrr:.4f}", model.tested]
        rows.append(row)
    taught = " ".join(_taught(*column) for column in columns)
    return f"{table(rows)}\n\nA dense model is a source trained alone. {taught}"


def _headline(found: Study) -> tuple[Study, list[Point]]:
    largest = max((p for p in found.models if p.form == "source fp32"), key=lambda p: p.bytes)
    default = found.best((ALONE,), largest.bytes / 10)
    assert default is not None
    assert found.runs[default.run]["config"]["compact.weight_format"] == "int3"
    source = found.source(default)
    models = [source]
    for kind in (BITS_8, ONE_SHOT, PUBLISHED):
        best = found.best((kind,), source.bytes / 10)
        assert best is not None
        models.append(best)
    return found, [*models, default]


def _taught(found: Study, models: list[Point]) -> str:
    """What a teacher adds."""
    best = found.best((TAUGHT,), models[0].bytes / 10)
    assert best is not None
    test = f", test {best.tested}" if best.tested else ""
    return (
        f"{found.graph}: with its source as a teacher and {found.epochs(best)} epochs the compact "
        f"model reaches valid {best.mrr:.4f}{test}."
    )


STEPS = ("alone", "fresh state", "teacher", "its weight", "temperature 1.5")
"""Runs of `STEPPED`, each with one idea more than the one before; other runs add to the last."""
STEPPED = ("codex-s", "kinships")


def steps() -> str:
    """What each idea adds to a compact model, and what dense models of its bytes reach."""
    heads = ("bytes", "epochs", "valid MRR", "spread", "gain, by seed", "test MRR", "rare")
    rows, notes = [["run", *heads]], []
    for name in STEPPED:
        found = study(name)
        forms = {(model.run, model.form): model for model in found.models}
        dense = forms["dense", "source fp32"]
        rows.append([f"**{found.graph}**, source", *_step(found, dense, dense, None)])
        for run in found.runs:
            small = forms.get((run, "compact auto"))
            if small is None:
                rounded = [forms[run, f"source {bits}"] for bits in ("int4", "int3")]
                rows += [
                    [f"{run}, {model.form}", *_step(found, model, dense, None)]
                    for model in rounded
                    if run != "dense"
                ]
                continue
            before = "compact.size=" not in run and run != STEPS[0]
            at = STEPS.index(run) if run in STEPS else len(STEPS)
            base = forms[STEPS[at - 1], "compact auto"] if before else None
            rows.append([run, *_step(found, small, dense, base)])
        notes.append(found.cost())
    return f"{table(rows)}\n\n{'; '.join(notes)}."


def _step(found: Study, model: Point, dense: Point, base: Point | None) -> list[str]:
    gains = [new - old for new, old in zip(model.valid, base.valid, strict=False)] if base else []
    return [
        f"{model.bytes / 1e3:.1f} kB, 1/{dense.bytes / model.bytes:.1f}",
        str(found.epochs(model)),
        f"{model.mrr:.4f}",
        model.spread(),
        ", ".join(f"{gain:+.4f}" for gain in gains),
        model.tested,
        f"{model.rare:.4f}",
    ]


TABLES = {
    "steps": steps,
    "summary": summary,
    "studies": studies,
    "ablations": ablations,
}
