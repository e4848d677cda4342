"""A study: a named grid of runs over seeds, and what their models are worth by the byte.

A study is a YAML file:

    graph: WN18RR
    seeds: [0, 1]
    settings: {model.rank: 256, train.epochs: 20}     # of every run
    runs:
      dense: {train.objective: dense}
      small: {train.objective: dense, model.rank: 25}
      metasd: {prune.fraction: [0.8, 0.9, 0.95]}      # a list: a run for each
      again: {train.epochs: 40, seeds: [0]}           # of these seeds alone
      student: {source: dense, train.epochs: 3}       # takes over the source of the same seed
    store: [source fp16, source int8, pruned sparse fp16, one-shot sparse fp16]

`store` names the forms in which finished models are kept and judged: a model (`source`; `pruned`,
of runs that prune; `one-shot`, the source pruned at the end by `prune.fraction`, of runs that do
not) and how it is stored (`fp32`, `fp16`, `int8`, `int4`, `int3`, `int2`, `ternary`,
`sparse` or `column` with values, or `auto`: what fits the model).

Everything is done one after the other and once: `run_study` called again goes on where it stopped.
Runs are compared by valid; test metrics are looked up only of the runs that `test` names.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metasd.compressed import CompressedModel
from metasd.compressed.table import shapes
from metasd.config import Config, dotted
from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.environment import measured_on
from metasd.errors import InputError, error_context, nearest
from metasd.evaluation import evaluate
from metasd.export.compress import compress
from metasd.files import lock, read_description, write_text
from metasd.models.masks import draw_masks
from metasd.training.run import Run, RunFolder
from metasd.training.trainer import resume, train

MODELS = ("source", "compact", "one-shot")
FORMS = {
    "fp32": ("column", "fp32"),
    "fp16": ("column", "fp16"),
    "int8": ("int8", "int8"),
    "int4": ("int4", "int4"),
    "int3": ("int3", "int3"),
    "int2": ("int2", "int2"),
    "ternary": ("ternary", "ternary"),
    "auto": ("auto", "auto"),
}
METRICS = ("mrr", "hits@1", "hits@3", "hits@10", "by_frequency")
_TABLE = ("codec", "values", "columns", "rows", "width")
_KEYS = ("graph", "seeds", "settings", "runs", "store")


@dataclass(frozen=True)
class Form:
    """A model of a run, and how it is stored."""

    model: str
    codec: str
    values: str

    @staticmethod
    def of(text: str) -> "Form":
        model, *stored = str(text).split()
        if model not in MODELS:
            raise InputError(f"store: {text!r} must begin with one of {', '.join(MODELS)}")
        if len(stored) == 1 and stored[0] in FORMS:
            return Form(model, *FORMS[stored[0]])
        if len(stored) == 2 and stored[0] in ("sparse", "column"):
            columns = "delta8" if stored[0] == "sparse" else "all"
            with error_context(f"store: {text!r}"):
                shapes(dict(zip(_TABLE, (*stored, columns, 1, 1), strict=True)))
            return Form(model, *stored)
        known = f"{', '.join(FORMS)}, or sparse or column with values"
        raise InputError(f"store: {text!r} must say how the model is stored: {known}")

    def fits(self, config: Config) -> bool:
        """Whether a run has the model, and one that is mostly zeros where only those are stored.

        A source that was taken over is judged where it was trained.
        """
        prune, pruned = config.prune, config.train.objective != "dense"
        if self.model == "source" and compact.source:
            return False
        if self.model == "compact" and self.codec == "sparse":
            return pruned and prune.granularity != "column" and prune.fraction >= 0.5
        return self.model == "source" or pruned == (self.model == "compact")


@dataclass(frozen=True)
class Planned:
    """A run of a study: its settings, its seeds, and the run whose source it takes over."""

    config: Config
    seeds: tuple[int, ...]
    source: str | None

    def seeded(self, seed: int) -> Config:
        return self.config.override({"train.seed": seed})


@dataclass(frozen=True)
class Study:
    """What a study's file says, checked, with its grids written out."""

    graph: str
    runs: dict[str, Planned]
    store: dict[str, Form]

    @staticmethod
    def load(path: str | Path) -> "Study":
        """Reads a study; InputError says what in it is wrong."""
        content = read_description(path, "a study", "runs", _KEYS)
        with error_context(path):
            return Study._of(content)

    @staticmethod
    def _of(content: dict[str, Any]) -> "Study":
        if not isinstance(content["runs"], dict):
            raise InputError("runs must be names with settings")
        seeds = _seeds(content.get("seeds", [0]))
        common = _settings(content.get("settings"), "settings")
        if "train.seed" in common:
            raise InputError("settings: seeds, not train.seed, says which")
        runs: dict[str, Planned] = {}
        for name, given in content["runs"].items():
            own = _settings(given, f"run {name}")
            chosen = _seeds(own.pop("seeds")) if "seeds" in own else seeds
            source = own.pop("source", None)
            if not str(name) or "train.seed" in own:
                raise InputError(f"run {name!r} needs a name, and seeds in place of train.seed")
            for label, settings in _grid(str(name), own):
                with error_context(f"run {label}"):
                    runs[label] = _planned({**common, **settings}, chosen, source, runs)
        given = content.get("store", ["source fp32"])
        if not isinstance(given, list) or not given:
            raise InputError(f"store must be a list of forms; got {given!r}")
        store = {str(text): Form.of(text) for text in given}
        for label, run in runs.items():
            if not any(form.fits(run.config) for form in store.values()):
                raise InputError(f"run {label}: no form of store is of a model that it has")
        folders = [_folder(_key(label, seed)) for label in runs for seed in runs[label].seeds]
        if twice := [folder for folder in folders if folders.count(folder) > 1]:
            raise InputError(f"two runs have the folder {twice[0]}: rename one")
        return Study(str(content["graph"]), runs, store)


def _planned(
    settings: dict[str, Any], seeds: tuple[int, ...], source: Any, before: Mapping[str, Planned]
) -> Planned:
    """A run with its settings checked, and its source among the runs before it."""
    if source is None:
        return Planned(Config().override(settings), seeds, None)
    if not isinstance(source, str) or source not in before:
        raise InputError(f"source: no run above it is called {source!r}")
    if missing := sorted(set(seeds) - set(before[source].seeds)):
        raise InputError(f"its source {source!r} has no seed {missing[0]}")
    config = Config().override(
        {**settings, "compact.weights": "separate", "compact.source": source}
    )
    if config.model != before[source].config.model:
        raise InputError(f"its source {source!r} is another model")
    return Planned(config, seeds, source)


def _seeds(given: Any) -> tuple[int, ...]:
    whole = isinstance(given, list) and all(type(seed) is int for seed in given)
    if not whole or not given or len(set(given)) < len(given):
        raise InputError(f"seeds must be a list of different whole numbers; got {given!r}")
    for seed in given:
        Config().override({"train.seed": seed})
    return tuple(given)


def _settings(given: Any, where: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{where} must be keys and values; got {given!r}")
    return dotted(given)


def _grid(name: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, settings) for every choice among the lists."""
    lists = {key: value for key, value in settings.items() if isinstance(value, list)}
    if empty := [key for key, values in lists.items() if not values]:
        raise InputError(f"run {name}: {empty[0]} has no values")
    for chosen in itertools.product(*lists.values()):
        choice = dict(zip(lists, chosen, strict=True))
        label = " ".join([name, *(f"{key}={value}" for key, value in choice.items())])
        yield label, {**settings, **choice}


def run_study(
    study: Study,
    out: str | Path,
    data_dir: str | Path | None = None,
    test: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains, stores and judges whatever of a study is not done yet.

    Args:
        out: the folder: a run folder for each run and seed, and `results.json`.
        test: names of runs whose test metrics are wanted too.

    Returns:
        What `results.json` holds: `graph`, `runs` (each with configuration, seed, seconds, machine,
        commit) and `rows` (run, seed, form, bytes, metrics by split).

    Raises:
        InputError: the graph, or a name in `test`, is unknown; `out` is of another study.
        Interrupted: as `train`; called again it goes on.
    """
    if unknown := [name for name in test if name not in study.runs]:
        raise InputError(f"no run is called {unknown[0]!r}{nearest(unknown[0], list(study.runs))}")
    graph = load_graph(study.graph, data_dir)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with lock(out):
        return _run_study(study, out, graph, test)


def _run_study(study: Study, out: Path, graph: Graph, test: Sequence[str]) -> dict[str, Any]:
    results = _results(out, graph)
    todo = [(name, seed) for name, run in study.runs.items() for seed in run.seeds]
    known = {_key(name, seed) for name, seed in todo}
    if others := [key for key in results["runs"] if key not in known]:
        _say(f"{out / 'results.json'} keeps what the study no longer has: {', '.join(others)}")
    start, trained = time.monotonic(), 0
    for number, (name, seed) in enumerate(todo, 1):
        config = study.runs[name].seeded(seed)
        key = _key(name, seed)
        fresh = key not in results["runs"]
        if not fresh:
            with error_context(out / "results.json"):
                if not _same(Config(**results["runs"][key]["config"]), config):
                    raise InputError(f"{key} was trained with other settings: rename the run")
        splits = ["valid", *(["test"] if name in test else [])]
        forms = [text for text, form in study.store.items() if form.fits(config)]
        rows = [_row(results, name, seed, text) for text in forms]
        if not fresh and all("refused" in row or row.keys() >= set(splits) for row in rows):
            continue  # the run folder may be gone
        if not fresh and not (folder := out / _folder(key)).exists():
            raise InputError(
                f"{folder} is gone, and with it the model that more is asked of; "
                "train it again in another folder"
            )
        run = _trained(study, name, seed, graph, out, results)
        if fresh:
            results["runs"][key] = _record(run, name, seed, config)
            trained += 1
        for text, row in zip(forms, rows, strict=True):
            try:
                _judge(row, run, study.store[text], graph, splits)
            except InputError as error:
                row["refused"] = str(error)
                _say(f"{key}, {text}: {error}")
            if row not in results["rows"]:
                results["rows"].append(row)
            write_text(out / "results.json", json.dumps(results, indent=1) + "\n")
        if fresh:
            left = (time.monotonic() - start) / trained * (len(todo) - number)
            _say(f"[{number}/{len(todo)}] {key}: {_valid(run)}; about {left / 60:.0f} min left")
    return results


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _results(out: Path, graph: Graph) -> dict[str, Any]:
    path = out / "results.json"
    if not path.exists():
        return {"graph": graph.name, "graph_sha256": graph.digest, "runs": {}, "rows": []}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name, digest = found["graph"], found["graph_sha256"]
        for record in found["runs"].values():
            dict(record["config"])
        for row in found["rows"]:
            _ = row["run"], row["seed"], row["form"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: damaged, or not of a study") from None
    if digest != graph.digest:
        raise InputError(f"{path} is of another graph: {name}")
    return found


def _trained(
    study: Study, name: str, seed: int, graph: Graph, out: Path, results: dict[str, Any]
) -> Run:
    """The finished run, after the one whose source it takes over."""
    key = _key(name, seed)
    config, path = study.runs[name].seeded(seed), out / _folder(key)
    if source := study.runs[name].source:
        before = _trained(study, source, seed, graph, out, results)
        config = config.override({"compact.source": str(before.path)})
    if key in results["runs"] and not path.exists():
        _say(f"{key}: its results are there, its folder is gone; training it again for its student")
    return finished(graph, config, path)


def finished(graph: Graph, config: Config, path: Path) -> Run:
    """The run in `path`, trained to its end if it is not."""
    folder = RunFolder(path)
    if not folder.config.exists():
        return train(graph, config, path)
    stored = Config.load(folder.config)
    if not _same(stored, config):
        raise InputError(f"{path} was trained with other settings: remove it, or rename the run")
    if stored.compact.source != config.compact.source:  # the folder of both was moved
        config.save(folder.config)
    return Run.load(path) if folder.metrics.exists() else resume(path, graph=graph)


def _same(one: Config, other: Config) -> bool:
    """Whether both make the same weights: when to write is free, and where a source lies."""

    def made(config: Config) -> dict[str, Any]:
        flat = {k: v for k, v in config.flat().items() if not k.startswith("checkpoint.")}
        source = flat["compact.source"]
        return {**flat, "compact.source": source and Path(source).name}

    return made(one) == made(other)


def _key(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def _folder(key: str) -> str:
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in key)


def _record(run: Run, name: str, seed: int, config: Config) -> dict[str, Any]:
    return {
        "run": name,
        "seed": seed,
        "config": config.flat(),
        "epochs": len(run.history),
        "best_epoch": run.metrics["protocol"]["best_epoch"],
        "training_seconds": sum(record["seconds"] for record in run.history),
        **measured_on(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this is imported from, `+` if its code has changes."""
    git = ["git", "-C", os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    code = ("metasd", "kernels", "csrc", "setup.py")
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run(
            [*git, "status", "--short", "-uno", "--", *code], capture_output=True
        )
    except OSError:
        return None
    return head.stdout.strip() + "+" * bool(changes.stdout) if head.returncode == 0 else None


def _row(results: dict[str, Any], name: str, seed: int, form: str) -> dict[str, Any]:
    """The row of that run, seed and form; a new one, not among the others yet, if there is none."""
    key: dict[str, Any] = {"run": name, "seed": seed, "form": form}
    return next((row for row in results["rows"] if key == {part: row[part] for part in key}), key)


def _judge(row: dict[str, Any], run: Run, form: Form, graph: Graph, splits: list[str]) -> None:
    """Adds what the row does not have yet: bytes, and metrics of those splits."""
    missing = [split for split in splits if split not in row]
    if not missing and "bytes" in row:
        return
    small = stored(run, form)
    row["bytes"] = small.nbytes
    for split in missing:
        found = evaluate(small, graph, split)
        row[split] = {key: found[key] for key in METRICS}


def stored(run: Run, form: Form) -> CompressedModel:
    """The tables of a run's model in a form, without known triples."""
    if form.model != "one-shot":
        source = form.model == "source"
        return compress(run, form.codec, form.values, source=source, known=False)
    prune = run.config.prune
    masks = draw_masks(run.model, prune.fraction, prune.granularity)
    model = replace(run.model, masks=masks)
    return compress(replace(run, model=model), form.codec, form.values, known=False)


def _valid(run: Run) -> str:
    found = run.metrics.get("valid", {})
    return "valid MRR " + ", ".join(f"{name} {m['mrr']:.4f}" for name, m in found.items())
