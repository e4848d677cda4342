"""Searches: Optuna proposes settings, the valid metric of a run says how good they are.

A search is a YAML file:

    graph: WN18RR
    preset: metasd                                   # what trials start from; default: default
    settings: {model.rank: 64, train.epochs: 10}     # of every trial
    search:
      train.lr: {low: 0.02, high: 0.5, log: true}    # a number between; whole if both ends are
      distill.temperature: [1, 3, 10]                # a choice

What is neither set nor searched is chosen for the graph once, before the first trial. Trials are
compared by `eval.metric` on valid; test is never read. A trial whose settings contradict each
other, or whose losses diverge, counts as a trial without a value.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metasd.config import SIZED, Config, preset
from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.errors import Diverged, InputError, error_context
from metasd.files import lock, read_description, write_text
from metasd.settings import dotted
from metasd.training.tune import by_rules, settled

from .sweep import finished_run, time_left

if TYPE_CHECKING:
    import optuna

_KEYS = ("graph", "preset", "settings", "search")


@dataclass(frozen=True)
class Search:
    """What a search's file says, checked."""

    graph: str
    preset: str
    settings: dict[str, Any]
    space: dict[str, list[Any] | dict[str, Any]]

    @staticmethod
    def load(path: str | Path) -> "Search":
        """Reads a search; InputError says what in it is wrong."""
        content = read_description(path, "a search", "search", _KEYS)
        with error_context(path):
            return Search.of(content)

    @staticmethod
    def of(content: Mapping[str, Any]) -> "Search":
        """Checks the keys and values of a search's file."""
        settings, space = content.get("settings") or {}, content["search"]
        if not isinstance(settings, dict) or not isinstance(space, dict):
            raise InputError("settings and search must be keys and values")
        search = Search(
            str(content["graph"]), str(content.get("preset", "default")), dotted(settings), space
        )
        for key, values in space.items():
            _check(str(key), values)
            for value in values if isinstance(values, list) else (values["low"], values["high"]):
                search.config({key: value})
        return search

    def config(self, chosen: Mapping[str, Any]) -> Config:
        """The settings of a trial."""
        return preset(self.preset).override({**self.settings, **chosen})

    def settled(self, graph: Graph, record: Path) -> "Search":
        """The search with what it leaves to be chosen for the graph among its settings.

        What follows from `compact.size` may be another thing in each trial.
        """
        config = preset(self.preset).override(self.settings)
        chosen = [key for key in config.tune.settings if key not in self.space]
        config = by_rules(graph, config.override({"tune.settings": chosen}))
        found = settled(graph, config, record).flat()
        kept = {key: found[key] for key in chosen if key not in SIZED}
        return replace(self, settings={**self.settings, **kept})


def _check(key: str, values: Any) -> None:
    if key == "eval.metric":
        raise InputError("search: eval.metric compares the trials; it belongs among the settings")
    if isinstance(values, list) and values:
        return
    ends = isinstance(values, dict) and {"low", "high"} <= values.keys() <= {"low", "high", "log"}
    if not ends or not all(type(values[end]) in (int, float) for end in ("low", "high")):
        raise InputError(
            f"search: {key} must be a list, or low, high and perhaps log; got {values!r}"
        )
    if not values["low"] < values["high"] or (values.get("log") and values["low"] <= 0):
        raise InputError(f"search: {key}: low must be below high, and above 0 with log")


def run_search(
    search: Search, out: str | Path, trials: int, data_dir: str | Path | None = None
) -> dict[str, Any]:
    """Trains until there are so many trials in all, those of earlier calls included.

    Args:
        out: the folder: a run folder per trial, `trial-001` and so on, `trials.jsonl`, Optuna's
            journal, and `best.yaml`, every setting of the best trial so far.

    Returns:
        The best trial: its `trial` (the name of its folder), `value`, and `settings`: those of
        every trial, and those that the search chose.

    Raises:
        InputError: Optuna is not installed, `out` is damaged or of another search, or no trial
            came to a value.
        Interrupted: as `train`.
    """
    try:
        import optuna
    except ImportError:
        raise InputError('a search needs Optuna: pip install "metasd[search]"') from None
    graph = load_graph(search.graph, data_dir)
    if not len(graph.valid):
        raise InputError(f"{graph.name} has no valid triples to compare trials by")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with lock(out):
        search = search.settled(graph, out / "tuning.jsonl")
        return _run_search(search, out, trials, graph)


def _run_search(search: Search, out: Path, trials: int, graph: Graph) -> dict[str, Any]:
    import optuna

    study = _study(out / "trials.jsonl")
    description = {
        "graph": graph.digest,
        "preset": search.preset,
        "settings": search.settings,
        "search": search.space,
    }
    if study.user_attrs.setdefault("search", description) != description:
        raise InputError(f"{out} is of another search")
    study.set_user_attr("search", description)
    for stale in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # of a killed process
        study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(stale.params)
    start, before = time.monotonic(), len(_done(study))
    while len(done := _done(study)) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=len(done))
        trial = study.ask()
        chosen = {key: _suggest(trial, key, values) for key, values in search.space.items()}
        try:
            config = by_rules(graph, search.config(chosen))
        except InputError as error:
            value, found = None, str(error)
        else:
            folder = _folder(study, chosen, len(done) + 1)
            trial.set_user_attr("folder", folder)
            value, found = _evaluated(graph, config, out / folder)
            found = f"{folder}: {found}"
        if value is None:
            trial.set_user_attr("refused", found)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
            found += f", best {_best(search, study, out)['value']:.4f}"
        tried = ", ".join(f"{key}={_short(value)}" for key, value in chosen.items())
        number = len(done) + 1
        left = time_left(time.monotonic() - start, number - before, trials - before)
        print(f"[{number}/{trials}] {tried}: {found}{left}", file=sys.stderr, flush=True)
    if all(trial.value is None for trial in done):
        why = done[-1].user_attrs["refused"]
        raise InputError(f"none of {len(done)} trials came to a value; the last: {why}")
    return _best(search, study, out)


def _best(search: Search, study: "optuna.Study", out: Path) -> dict[str, Any]:
    """What `run_search` returns; its whole configuration is written to `best.yaml`."""
    best = study.best_trial
    search.config(best.params).save(out / "best.yaml")
    settings = {**search.settings, **best.params}
    return {"trial": best.user_attrs["folder"], "value": best.value, "settings": settings}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _study(journal: Path) -> "optuna.Study":
    """The trials so far; what a kill left of a line is dropped: Optuna would append to it."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        content = journal.read_text(encoding="utf-8") if journal.exists() else ""
        if content and not content.endswith("\n"):
            write_text(journal, content[: content.rfind("\n") + 1])
        return optuna.create_study(
            study_name="metasd",
            storage=JournalStorage(JournalFileBackend(str(journal))),
            direction="maximize",
            load_if_exists=True,
        )
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise InputError(f"{journal}: damaged, or not of a search") from None


def _evaluated(graph: Graph, config: Config, folder: Path) -> tuple[float | None, str]:
    """The valid metric of the run with those settings, and a line for the log."""
    try:
        run = finished_run(graph, config, folder)
    except Diverged as error:
        return None, str(error)
    model, _, metric = config.eval.metric.partition(".")
    value = run.metrics["valid"][model][metric]
    return value, f"valid {config.eval.metric} {value:.4f}"


def _done(study: "optuna.Study") -> list[Any]:
    """Trials with a value, or with the reason why they have none."""
    return [t for t in study.trials if t.value is not None or "refused" in t.user_attrs]


def _suggest(trial: "optuna.Trial", key: str, values: list[Any] | Mapping[str, Any]) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(key, values)
    low, high, log = values["low"], values["high"], bool(values.get("log"))
    if type(low) is int and type(high) is int:
        return trial.suggest_int(key, low, high, log=log)
    return trial.suggest_float(key, low, high, log=log)


def _folder(study: "optuna.Study", chosen: Mapping[str, Any], number: int) -> str:
    """The same for the same settings, so that a killed trial continues from its checkpoint."""
    same = (trial.user_attrs for trial in study.trials if trial.params == chosen)
    folders = (found["folder"] for found in same if "folder" in found)
    return next(folders, f"trial-{number:03}")
