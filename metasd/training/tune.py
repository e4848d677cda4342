"""Settings that are chosen for the graph: rules from its size, then a search on valid.

Rank, epochs, batch size and learning rate follow from the size of the graph (`by_rules`). The
weights of the regularizer and of relation prediction do not: a rule gives the first guess, and
trials search from there. A trial trains the source alone, at a lower rank and for fewer epochs.

1. Short trials: from the best weights so far to their neighbours on a grid, one weight at a time,
   until no neighbour is better.
2. Long trials of the best two, and of the best with a larger regularizer: what more epochs overfit.

Trials are compared by MRR on valid; test is never read. Each is a line of `tuning.jsonl` in the run
folder, so that a search that was stopped continues where it was.
"""

import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from metasd.config import Config
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.evaluation import evaluate
from metasd.files import read_json_lines, write_lines
from metasd.models.base import Scoring

from .learner import Learner
from .stop_signal import Interrupted, Signals

REGULARIZER, RELATION_PREDICTION = "regularizer.weight", "relation_prediction.weight"

_RANKS = ((20_000, 200), (200_000, 128), (2_000_000, 64))
"""Up to so many entities, this rank; above, 32."""

_STEPS, _EPOCHS = 5000, (20, 150)
"""Steps that a graph gets at least, within these bounds of its epochs."""

_REGULARIZER = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""What is tried for `regularizer.weight`, times 1 + the weight of relation prediction: where losses
weigh more, the penalty has to."""

_RELATION_PREDICTION = (0.0, 0.06, 0.25, 1.0, 4.0)

_SHORT, _LONG, _LONGER = 8, 3, 2
"""The short and the long trials that the work is planned for, and how many times longer these are.
"""

_MOST_EPOCHS = 10
"""Of a short trial: more do not make it a better judge."""

_SHARE = 0.75
"""The trials' work, as a share of the training's, where `tune.budget` does not say their time."""

_STEP_WORK = 2e8
"""What a step costs beside its products, in their multiplications."""

_VALID = 4000
"""Valid triples that a trial is judged by, at most."""


@dataclass(frozen=True)
class Point:
    """Places in `_REGULARIZER`, also half way between two, and in `_RELATION_PREDICTION`."""

    regularizer: float
    relation_prediction: int

    def settings(self, config: Config) -> dict[str, float]:
        """The weights here; one that is given stays what it is."""
        wanted, relation = config.tune.settings, config.relation_prediction.weight
        if RELATION_PREDICTION in wanted:
            relation = _RELATION_PREDICTION[self.relation_prediction]
        place = self.regularizer
        between = _REGULARIZER[math.floor(place)] * _REGULARIZER[math.ceil(place)]
        weight = float(f"{math.sqrt(between) * (1 + relation):.2g}")
        found = {REGULARIZER: weight, RELATION_PREDICTION: relation}
        return {key: value for key, value in found.items() if key in wanted}

    def moved(self, axis: str, by: float) -> "Point | None":
        """The neighbour on one axis; None beyond the end of it."""
        if axis == REGULARIZER:
            there = self.regularizer + by
            return (
                replace(self, regularizer=there) if 0 <= there < len(_REGULARIZER) - 0.9 else None
            )
        place = self.relation_prediction + int(by)
        inside = 0 <= place < len(_RELATION_PREDICTION)
        return replace(self, relation_prediction=place) if inside else None


def by_rules(graph: Graph, config: Config) -> Config:
    """The config with a value by rule for everything in `tune.settings`, which stays as it is.

    A run that takes over a source (`compact.source`) has what that was trained with.
    """
    wanted = config.tune.settings
    if not wanted:
        return config
    if config.compact.source is not None:
        before = Config.load(Path(config.compact.source) / "config.yaml").flat()
        return config.override({key: before[key] for key in wanted})
    queries, entities = 2 * len(graph.train), graph.num_entities
    batch_size = config.train.batch_size
    if "train.batch_size" in wanted:
        batch_size = min(max(round(queries / 32), 100), 1000)
    steps = max(math.ceil(queries / batch_size), 1)
    rules = {
        "model.rank": next((rank for most, rank in _RANKS if entities <= most), 32),
        "train.epochs": min(max(math.ceil(_STEPS / steps), _EPOCHS[0]), _EPOCHS[1]),
        "train.batch_size": batch_size,
        "train.lr": 0.1,
        **_first_guess(graph).settings(config),
    }
    return config.override({**{key: rules[key] for key in wanted}, "tune.settings": wanted})


def _first_guess(graph: Graph) -> Point:
    """By the mean number of triples per entity: the fewer, the more there is to overfit."""
    degree = len(graph.train) / graph.num_entities
    return Point(3 if degree < 8 else 2 if degree < 30 else 1, 1 if degree < 8 else 2)


@dataclass(frozen=True)
class Plan:
    """The rank of all trials, and the epochs of short and of long ones."""

    rank: int
    short: int
    long: int


def settled(graph: Graph, config: Config, record: Path) -> Config:
    """The config with nothing left to choose, after a search where one is due.

    Args:
        config: as `by_rules` left it.
        record: the file of trials; those that it has are not run again.

    Raises:
        Interrupted: SIGINT or SIGTERM; the next call with the same file continues.
    """
    axes = [key for key in (REGULARIZER, RELATION_PREDICTION) if key in config.tune.settings]
    if config.regularizer.name == "none" and REGULARIZER in axes:
        axes.remove(REGULARIZER)
    if axes and len(graph.valid) and config.tune.budget != 0:
        with Signals() as signals:
            trials = _Trials(graph, config, record, signals)
            if trials.plan is not None:
                config = config.override(_search(trials, _first_guess(graph), axes))
    return config.override({"tune.settings": []})


def _search(trials: "_Trials", best: Point, axes: list[str]) -> dict[str, float]:
    """The weights of the best point."""
    assert trials.plan is not None
    short, long = trials.plan.short, trials.plan.long
    found = {best: trials.valid_mrr(best, short)}
    moving = True
    while moving and len(found) < 2 * _SHORT:
        moving = False
        for axis in axes:
            for by in (1, -1):
                while (point := best.moved(axis, by)) is not None and point not in found:
                    found[point] = trials.valid_mrr(point, short)
                    if found[point] <= found[best]:
                        break
                    best, moving = point, True
    finalists = sorted(found, key=lambda point: -found[point])[:2]
    if REGULARIZER in axes and (larger := best.moved(REGULARIZER, 0.5)) is not None:
        finalists.append(larger)
    return max(finalists, key=lambda point: trials.valid_mrr(point, long)).settings(trials.config)


class _Trials:
    """Trials of one search, run or read from its record."""

    def __init__(self, graph: Graph, config: Config, record: Path, signals: Signals) -> None:
        self.config, self._record, self._signals = config, record, signals
        valid = graph.valid
        if len(valid) > _VALID:
            chosen = np.random.default_rng(config.train.seed).permutation(len(valid))[:_VALID]
            valid = valid[np.sort(chosen)]
        self._graph, self._known = replace(graph, valid=valid), graph.known()
        lines = read_json_lines(record)
        try:
            self.plan = Plan(**lines[0]) if lines else plan(graph, config)
            self._done = {_key(line["settings"], line["epochs"]): line for line in lines[1:]}
        except (TypeError, KeyError):
            raise InputError(f"{record}: damaged; remove it to search anew") from None

    def valid_mrr(self, point: Point, epochs: int) -> float:
        settings = point.settings(self.config)
        key = _key(settings, epochs)
        if key in self._done:
            return float(self._done[key]["valid_mrr"])
        start = time.perf_counter()
        mrr = self._train(settings, epochs)
        seconds = time.perf_counter() - start
        line = {"settings": settings, "epochs": epochs, "valid_mrr": mrr, "seconds": seconds}
        self._done[key] = line
        write_lines(self._record, map(json.dumps, [vars(self.plan), *self._done.values()]))
        tried = ", ".join(f"{key} {value:g}" for key, value in settings.items())
        print(
            f"trial {len(self._done)}: {tried}, {epochs} epochs: valid MRR {mrr:.4f} "
            f"({seconds:.1f} s)",
            file=sys.stderr,
            flush=True,
        )
        return mrr

    def _train(self, settings: dict[str, float], epochs: int) -> float:
        assert self.plan is not None
        learner = Learner(self._graph, _trial(self.config, self.plan.rank, epochs, settings))
        for epoch in range(epochs):
            for _ in learner.steps(epoch):
                if self._signals.received:
                    raise Interrupted(f"stopped in trial {len(self._done) + 1} of the search")
        if not bool(learner.model.entities.isfinite().all()):
            return 0.0
        return float(evaluate(learner.model.source, self._graph, "valid", known=self._known)["mrr"])


def _key(settings: dict[str, float], epochs: int) -> tuple[Any, ...]:
    return (*sorted(settings.items()), epochs)


def _trial(config: Config, rank: int, epochs: int, settings: dict[str, float]) -> Config:
    return config.override(
        {
            **settings,
            "train.objective": "dense",
            "train.epochs": epochs,
            "train.max_steps": None,
            "model.rank": rank,
            "tune.settings": [],
        }
    )


def plan(graph: Graph, config: Config) -> Plan | None:
    """Trials of `_SHARE` of the training's work, or of `tune.budget`; None if none are worth it."""
    rank = min(config.model.rank, max(32, config.model.rank // 4))
    train = config.train
    steps = math.ceil(2 * len(graph.train) / train.batch_size)
    if config.tune.budget is None:
        epochs = min(train.epochs, (train.max_steps or math.inf) / steps)
        budget = _SHARE * epochs * _work(graph, config, config.model.rank)
        budget /= _work(graph, config, rank)
    else:
        budget = 60 * config.tune.budget / (steps * _seconds(graph, _trial(config, rank, 1, {})))
    short = min(budget / (_SHORT + _LONG * _LONGER), _MOST_EPOCHS, train.epochs)
    if short < 1:
        return None
    return Plan(rank, int(short), min(int(_LONGER * short), train.epochs))


def _work(graph: Graph, config: Config, rank: int) -> float:
    """Of a step."""
    width = Scoring.named(config.model.name)(rank).entity_width
    return _STEP_WORK + 3 * config.train.batch_size * graph.num_entities * width


def _seconds(graph: Graph, config: Config) -> float:
    """Of a step, measured: the median of some."""
    return Learner(graph, config).seconds_per_step(0)
