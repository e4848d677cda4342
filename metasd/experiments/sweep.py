"""Sweeps: a study's runs trained, stored and evaluated, one after the other and once.

`run_study` called again continues where it stopped. Runs are compared by valid; test metrics are
computed only for the runs that `test` names.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metasd.compressed import CompressedModel
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.environment import measured_on
from metasd.errors import InputError, error_context
from metasd.evaluation import evaluate
from metasd.export.compress import compress
from metasd.files import lock, read_json, write_text
from metasd.models.masks import draw_masks
from metasd.training.progress import duration
from metasd.training.run import Run, RunFolder
from metasd.training.trainer import resume, train

from .study import Form, Study, folder_name, run_name

METRICS = ("mrr", "hits@1", "hits@3", "hits@10", "by_frequency")


def run_study(
    study: Study,
    out: str | Path,
    data_dir: str | Path | None = None,
    test: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains, stores and evaluates what of a study is not done yet.

    Args:
        out: the folder: a run folder per run and seed, and `results.json`.
        test: runs whose test metrics are computed too: their names, or the beginning of one.

    Returns:
        What `results.json` holds: `graph`, `runs` (each with configuration, seed, seconds, machine,
        commit) and `rows` (run, seed, form, bytes, metrics by split).

    Raises:
        InputError: the graph is unknown; a name in `test` is, or begins several; `out` is of
            another study.
        Interrupted: as `train`; the next call continues.
    """
    tested = [_named(name, list(study.runs)) for name in test]
    graph = load_graph(study.graph, data_dir)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with lock(out):
        return _run_study(study, out, graph, tested)


def _named(given: str, names: Sequence[str]) -> str:
    """The run of that name, or the one whose name begins so."""
    found = [given] if given in names else [name for name in names if name.startswith(given)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f'"{name}"' for name in found or names)
    if found:
        raise InputError(f'"{given}" begins the names of {len(found)} runs: {listed}')
    raise InputError(f'no run is called "{given}"; there are {listed}')


def _run_study(study: Study, out: Path, graph: Graph, test: Sequence[str]) -> dict[str, Any]:
    results = _results(out, graph)
    todo = [(name, seed) for name, run in study.runs.items() for seed in run.seeds]
    known = {run_name(name, seed) for name, seed in todo}
    if others := [key for key in results["runs"] if key not in known]:
        _log(f"{out / 'results.json'} keeps what the study no longer has: {', '.join(others)}")
    missing = [name for name, seed in todo if run_name(name, seed) not in results["runs"]]
    epochs, trained = sum(study.runs[name].config.train.epochs for name in missing), 0
    start = time.monotonic()
    for number, (name, seed) in enumerate(todo, 1):
        config = study.runs[name].seeded(seed)
        key = run_name(name, seed)
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
        if not fresh and not (folder := out / folder_name(name, seed)).exists():
            raise InputError(
                f"{folder} is gone, and with it the model that is to be evaluated; "
                "train it again in another folder"
            )
        run = _train(study, name, seed, graph, out, results)
        if fresh:
            results["runs"][key] = _record(run, name, seed, config)
        for text, row in zip(forms, rows, strict=True):
            try:
                _evaluate(row, run, study.store[text], graph, splits)
            except InputError as error:
                row["refused"] = str(error)
                _log(f"{key}, {text}: {error}")
            if row not in results["rows"]:
                results["rows"].append(row)
            _write(out / "results.json", results)
        if fresh:
            trained += config.train.epochs
            left = time_left(time.monotonic() - start, trained, epochs)
            _log(f"[{number}/{len(todo)}] {key}: {_valid(run)}{left}")
    return results


def _write(path: Path, results: dict[str, Any]) -> None:
    write_text(path, json.dumps(results, indent=1) + "\n")


def time_left(seconds: float, done: float, total: float) -> str:
    """What is left, as the end of a line, if `done` of `total` took so long; "" if nothing is."""
    left = seconds * (total - done) / done
    if left <= 0:
        return ""
    return f"; about {duration(left)} left"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _results(out: Path, graph: Graph) -> dict[str, Any]:
    path = out / "results.json"
    if not path.exists():
        new = {"graph": graph.name, "graph_sha256": graph.digest, "runs": {}, "rows": []}
        _write(path, new)  # from now on the folder is that of a sweep
        return new
    try:
        found: dict[str, Any] = read_json(path)
        name, digest = found["graph"], found["graph_sha256"]
        for record in found["runs"].values():
            dict(record["config"])
        for row in found["rows"]:
            _ = row["run"], row["seed"], row["form"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: damaged, or not of a study") from None
    if digest != graph.digest:
        for run in sorted(out.glob("*/graph.json")):
            RunFolder(run.parent).check_graph(graph)  # says what differs
        raise InputError(f"{path} is of another graph ({name}) than {graph.name} is now")
    return found


def _train(
    study: Study, name: str, seed: int, graph: Graph, out: Path, results: dict[str, Any]
) -> Run:
    """The finished run, after the one whose source it takes over."""
    key = run_name(name, seed)
    config, path = study.runs[name].seeded(seed), out / folder_name(name, seed)
    if source := study.runs[name].source:
        before = _train(study, source, seed, graph, out, results)
        config = config.override({"compact.source": str(before.path)})
    if key in results["runs"] and not path.exists():
        _log(f"{key}: its results are there, its folder is gone; training it again as a source")
    return finished_run(graph, config, path)


def finished_run(graph: Graph, config: Config, path: Path) -> Run:
    """The run in `path`, trained to its end."""
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
    """Whether both give the same weights: checkpoints and the folder of a source may differ.

    What one of them leaves to be chosen for the graph is the same as anything.
    """
    chosen = {*one.tune.settings, *other.tune.settings}  # by the run itself, from the graph

    def made(config: Config) -> dict[str, Any]:
        flat = {k: v for k, v in config.flat().items() if k not in chosen}
        source = flat["compact.source"]
        made = {k: v for k, v in flat.items() if not k.startswith(("checkpoint.", "tune."))}
        return {**made, "compact.source": source and Path(source).name}

    return made(one) == made(other)


def _record(run: Run, name: str, seed: int, config: Config) -> dict[str, Any]:
    found = run.config.flat()
    chosen = {key: found[key] for key in (*config.tune.settings, "tune.settings")}
    return {
        "run": name,
        "seed": seed,
        "config": {**config.flat(), **chosen},
        "epochs": len(run.history),
        "best_epoch": run.metrics["protocol"]["best_epoch"],
        "training_seconds": sum(record["seconds"] for record in run.history),
        **measured_on(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of the checkout that this is imported from, `+` if its code has changes."""
    git = ["git", "-C", str(Path(__file__).resolve().parents[2])]
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


def _evaluate(row: dict[str, Any], run: Run, form: Form, graph: Graph, splits: list[str]) -> None:
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
        return compress(run, form.codec, form.weight_format, source=source, known=False)
    prune = run.config.prune
    masks = draw_masks(run.model, prune.fraction, prune.granularity)
    model = replace(run.model, masks=masks, weight_format="fp32")  # only the form rounds
    return compress(replace(run, model=model), form.codec, form.weight_format, known=False)


def _valid(run: Run) -> str:
    found = run.metrics.get("valid", {})
    return "valid MRR " + ", ".join(f"{name} {m['mrr']:.4f}" for name, m in found.items())
