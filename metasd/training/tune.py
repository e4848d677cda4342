"""Settings that are chosen for the graph: rules from its size, then a search on valid.

Rank, epochs, batch size and learning rate follow from the size of the graph (`by_rules`). The
weights of the regularizer and of relation prediction do not: a rule gives the first guess, and
trials search from there. A trial trains the source alone, at a lower rank and for fewer epochs.

1. Short trials: for each weight of relation prediction the best regularizer weight, step by step.
   Which relation weight is best they cannot tell: a large one makes a short training better, and
   often a long one worse.
2. Long trials of what was best with each relation weight; then of the winner with a larger
   regularizer weight, as long as that is better (more epochs overfit more), and at twice the
   learning rate. A smaller weight and a higher rate have to be clearly better. Where there are few
   triples per entity the weight is raised once more.

Trials are compared by MRR on valid; test is never read. Each is a line of `tuning.jsonl` in the run
folder, so that a search that was stopped continues where it was.
"""

import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metasd.config import SIZED, TUNABLE, Config
from metasd.data.graph import Graph
from metasd.environment import training_device
from metasd.errors import InputError
from metasd.evaluation import evaluate
from metasd.files import read_json_lines, write_lines
from metasd.models.base import Scoring

from . import candidates, sampling
from .learner import Learner
from .sizing import sized
from .stop_signal import Interrupted, Signals

REGULARIZER, RELATION_PREDICTION = "regularizer.weight", "relation_prediction.weight"
LEARNING_RATE = "train.lr"

_RANKS = ((20_000, 200), (200_000, 128), (2_000_000, 64))
"""Up to so many entities, this rank; above, 32."""

_STEPS, _EPOCHS = 1500, (20, 40)
"""Steps that a source gets at least, within these bounds of its epochs."""

_REGULARIZER = tuple(round(10 ** (i / 4 - 3), 5) for i in range(11))
"""What may be tried for `regularizer.weight`, times 1 + the weight of relation prediction: where
losses weigh more, the penalty has to. Short trials take every second one."""

_RELATION_PREDICTION = (0.0, 0.25, 2.0)

_LEARNING_RATES = (0.1, 0.2)

_CLEARLY = 1.03
"""How many times better a trial has to be with a smaller regularizer weight or the higher rate:
both make short trainings better, and longer ones overfit.
"""

_SPARSE, _RAISE, _HIGHEST = 8, 1, 8
"""A graph of fewer triples per entity overfits long after the trials: the place that they find in
`_REGULARIZER` is raised by so much, at most to the one where models vanish."""

_SHORT, _LONG, _LONGER = 10, 5, 4
"""The short and the long trials that the work is planned for, and how many times longer these are.
"""

_MOST_EPOCHS = 10
"""Of a short trial: more do not make it a better judge."""

_SHARE = 0.85
"""The trials' work, as a share of the source's training, unless `tune.budget` says their time."""

_PRODUCTS, _PRODUCTS_LEFT = 3, 1
"""Of a step, each a multiplication per score and column; what shortcuts leave of them, about."""

_STEP_WORK, _SCORE_WORK = 2e8, 80
"""What a step and a score cost beside the products, in their multiplications."""

_VALID = 4000
"""Valid triples that a trial is judged by, at most."""


class Point(NamedTuple):
    """A place in `_REGULARIZER`, a weight of relation prediction, and a learning rate."""

    place: int
    relation: float
    lr: float = _LEARNING_RATES[0]


def _settings(point: Point, config: Config) -> dict[str, float]:
    """The settings of a point; those that are given are not among them."""
    place, relation, lr = point
    weight = float(f"{_REGULARIZER[place] * (1 + relation):.2g}")
    found = {REGULARIZER: weight, RELATION_PREDICTION: relation, LEARNING_RATE: lr}
    return {key: value for key, value in found.items() if key in _searched(config)}


def by_rules(graph: Graph, config: Config) -> Config:
    """The config with a value by rule for everything in `tune.settings`.

    A search may improve what stays there; what follows from `compact.size` does not stay.

    A run that takes over a source (`compact.source`) has what that was trained with.
    """
    wanted = [key for key in config.tune.settings if key not in SIZED]
    if not wanted:
        return sized(graph, config)
    if config.compact.source is not None:
        before = Config.load(Path(config.compact.source) / "config.yaml").flat()
        return sized(graph, config.override({key: before[key] for key in wanted}))
    queries, entities = 2 * len(graph.train), graph.num_entities
    batch_size = config.train.batch_size
    if "train.batch_size" in wanted:
        batch_size = min(max(round(queries / 32), 100), 1000)
    steps = max(math.ceil(queries / batch_size), 1)
    epochs = min(max(math.ceil(_STEPS / steps), _EPOCHS[0]), _EPOCHS[1])
    if config.train.objective != "dense" and 0 < (share := config.compact.warmup_epochs) < 1:
        epochs = math.ceil(epochs / share)
    rules = {
        "model.rank": next((rank for most, rank in _RANKS if entities <= most), 32),
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        REGULARIZER: config.regularizer.weight,
        **_settings(_first_guess(graph, config), config),
    }
    found = {key: rules[key] for key in wanted}
    return sized(graph, config.override({**found, "tune.settings": config.tune.settings}))


def _is_sparse(graph: Graph) -> bool:
    return len(graph.train) < _SPARSE * graph.num_entities


def _first_guess(graph: Graph, config: Config) -> Point:
    """By the mean number of triples per entity: the fewer, the more there is to overfit."""
    dense = len(graph.train) > 30 * graph.num_entities
    place, relation = (6, 0.0) if _is_sparse(graph) else (2 if dense else 4, 0.25)
    if RELATION_PREDICTION not in config.tune.settings:
        relation = config.relation_prediction.weight
    return Point(place, relation)


@dataclass(frozen=True)
class Plan:
    """The rank of all trials, and the epochs of short ones (0: there are none) and of long ones."""

    rank: int
    short: int
    long: int

    @property
    def epochs(self) -> int:
        """Of all trials together, about."""
        return _SHORT * self.short + (_LONG if self.short else _LONG + 1) * self.long


def settled(graph: Graph, config: Config, record: Path) -> Config:
    """The config with nothing left to choose, after a search where one is due.

    Args:
        config: as `by_rules` left it.
        record: the file of trials; those that it has are not run again.

    Raises:
        Interrupted: SIGINT or SIGTERM; the next call with the same file continues.
    """
    if searched(graph, config):
        with Signals() as signals:
            trials = _Trials(graph, config, record, signals)
            if trials.plan is not None:
                best = _search(trials, _first_guess(graph, config), searched(graph, config))
                if _is_sparse(graph):
                    raised = max(min(best.place + _RAISE, _HIGHEST), best.place)
                    best = best._replace(place=raised)
                found = _settings(best, config)
                config = config.override(found)
                print(f"chosen on valid: {listed(config, found)}", file=sys.stderr, flush=True)
    return config.override({"tune.settings": []})


def listed(config: Config, keys: Iterable[str]) -> str:
    """Settings and their values, in one line."""
    flat = config.flat()
    return ", ".join(f"{key} {flat[key]:g}" for key in TUNABLE if key in {*keys})


def searched(graph: Graph, config: Config) -> set[str]:
    """The settings that trials choose of this config, as `by_rules` left it, if they have time."""
    due = len(graph.valid) > 0 and config.tune.budget != 0
    return _searched(config) if due else set()


def _searched(config: Config) -> set[str]:
    searched = {REGULARIZER, RELATION_PREDICTION, LEARNING_RATE} & {*config.tune.settings}
    return searched - {REGULARIZER} if config.regularizer.name == "none" else searched


def _search(trials: "_Trials", guess: Point, wanted: set[str]) -> Point:
    """The best point of the trials."""
    assert trials.plan is not None
    short, long = trials.plan.short, trials.plan.long
    relations: tuple[float, ...] = (guess.relation,)
    if RELATION_PREDICTION in wanted:
        relations = _RELATION_PREDICTION
    finalists = [guess._replace(relation=relation) for relation in relations]
    if REGULARIZER in wanted and short:
        finalists = [_climbed(trials, point, (2, -2), short) for point in finalists]
    best = max(finalists, key=lambda point: trials.valid_mrr(point, long))
    if REGULARIZER in wanted:
        best = _climbed(trials, best, (1,) if short else (2, -2), long)
    if LEARNING_RATE in wanted:
        faster = best._replace(lr=_LEARNING_RATES[1])
        if trials.valid_mrr(faster, long) > _CLEARLY * trials.valid_mrr(best, long):
            best = faster
    return best


def _climbed(trials: "_Trials", point: Point, directions: tuple[int, ...], epochs: int) -> Point:
    """The point after moves of the regularizer weight as long as each is better."""
    for by in directions:
        start = point
        while 0 <= point.place + by < len(_REGULARIZER) and not trials.used_up:
            there = point._replace(place=point.place + by)
            needed = trials.valid_mrr(point, epochs) * (_CLEARLY if by < 0 else 1)
            if trials.valid_mrr(there, epochs) <= needed:
                break
            point = there
        if point != start:
            break
    return point


class _Trials:
    """Trials of one search, run or read from its record."""

    def __init__(self, graph: Graph, config: Config, record: Path, signals: Signals) -> None:
        self.config, self._record, self._signals = config, record, signals
        self._graph, self._known = graph, graph.known()
        self._asked: dict[tuple[Any, ...], int] = {}  # with their epochs
        lines = read_json_lines(record)
        try:
            self.plan = Plan(**lines[0]) if lines else plan(graph, config)
            self._done = {_key(line["settings"], line["epochs"]): line for line in lines[1:]}
        except (TypeError, KeyError):
            raise InputError(f"{record}: damaged; remove it to search anew") from None

    @property
    def used_up(self) -> bool:
        """Whether the trials have had a fifth more epochs than was planned."""
        assert self.plan is not None
        return sum(self._asked.values()) > 1.2 * self.plan.epochs

    def valid_mrr(self, point: Point, epochs: int) -> float:
        settings = _settings(point, self.config)
        key = _key(settings, epochs)
        self._asked[key] = epochs
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
        trial = _trial(self.config, self.plan.rank, epochs, settings)
        learner = Learner(self._graph, trial, rough=True)
        for epoch in range(epochs):
            for _ in learner.steps(epoch):
                if self._signals.received:
                    raise Interrupted(f"stopped in trial {len(self._done) + 1} of the search")
        if not bool(learner.model.entities.isfinite().all()):
            return 0.0
        model, seed = learner.model.source, self.config.train.seed
        found = evaluate(model, self._graph, "valid", known=self._known, sample=_VALID, seed=seed)
        return float(found["mrr"])


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
    """Trials of `_SHARE` of the source's work, or of `tune.budget`; None if none are worth it."""
    rank = min(config.model.rank, max(32, config.model.rank // 4))
    train, most = config.train, config.warmup_epochs or config.train.epochs
    if config.tune.budget is None:
        steps = math.ceil(2 * len(graph.train) / train.batch_size)
        epochs = min(most, (train.max_steps or math.inf) / steps)
        exact, later, trial = _work(graph, config, rank)
        budget = _SHARE * (later * epochs + (exact - later) * min(epochs, 1)) / trial
    else:
        budget = 60 * config.tune.budget / _seconds(graph, config, rank)
    short = int(min(budget / (_SHORT + _LONG * _LONGER), _MOST_EPOCHS, most))
    if short >= 2:
        return Plan(rank, short, min(_LONGER * short, most))
    long = int(min(budget / (_LONG + 1), most))
    return Plan(rank, 0, long) if long else None


def search_seconds(graph: Graph, config: Config) -> float:
    """How long the search will take, by timed steps of a trial; 0 where none is due."""
    found = plan(graph, config) if searched(graph, config) else None
    return found.epochs * _seconds(graph, config, found.rank) if found else 0.0


def _work(graph: Graph, config: Config, rank: int) -> tuple[float, float, float]:
    """Of a step of the source in its exact first epoch and in later ones, and of a trial's: about
    their multiplications.
    """
    scores = config.train.batch_size * candidates.scored(config, graph.num_entities)
    where = config, graph.num_entities, training_device(config.train.device)
    shorter = sampling.threshold(*where) > 0 or sampling.triples_per_query(*where) > 1
    left = _PRODUCTS_LEFT if shorter else _PRODUCTS

    def work(rank: int, products: int) -> float:
        width = Scoring.named(config.model.name)(rank).entity_width
        return _STEP_WORK + scores * (_SCORE_WORK + products * width)

    own = config.model.rank
    return work(own, _PRODUCTS), work(own, left), work(rank, left)


def _seconds(graph: Graph, config: Config, rank: int) -> float:
    """Of an epoch of a trial, measured."""
    return Learner(graph, _trial(config, rank, 1, {}), rough=True).seconds(0, 1)
