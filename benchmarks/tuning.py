"""How good are the settings that `metasd train` chooses? Against a search of 60 trials.

python benchmarks/tuning.py GRAPH... [--set key=value] [--trials 60] [--keep-best]

For every graph, at the same rank and epochs and for the source alone: what the rules say, what
the search on valid finds, and the best of the trials, which draw regularizer weight, relation
prediction weight and learning rate at random. After a fifth of the epochs the better third of the
trials goes on, after half of them the better third of these. With all three a source is trained as
a run does it, which keeps the best of its validations. Times are of the processor, so that other
work does not count. Results go to benchmarks/results/tuning.json, by graph; with `--keep-best`
the settings of the best trial are those that stand there.
"""

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import metasd
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.environment import measured_on
from metasd.evaluation import evaluate
from metasd.files import write_text
from metasd.training.learner import Learner
from metasd.training.tune import by_rules, settled

RESULTS = Path(__file__).with_name("results") / "tuning.json"
RUNGS = (0.2, 0.5, 1.0)


@dataclass
class Trial:
    """A learner that goes on where it stopped."""

    learner: Learner
    epochs: int = 0
    seconds: float = 0.0

    def train(self, epochs: int) -> "Trial":
        start = time.process_time()
        for epoch in range(self.epochs, epochs):
            for _ in self.learner.steps(epoch):
                pass
        self.epochs, self.seconds = epochs, self.seconds + time.process_time() - start
        return self

    def mrr(self, graph: Graph, split: str) -> float:
        if not bool(self.learner.model.entities.isfinite().all()):
            return 0.0
        return float(evaluate(self.learner.model.source, graph, split)["mrr"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("graphs", nargs="+")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--columns", default="hrt")
    parser.add_argument("--keep-best", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.graphs:
        graph = metasd.load_graph(name, columns=arguments.columns)
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        before = results[graph.name] if arguments.keep_best else None
        found = measured(graph, arguments.set, arguments.trials, before)
        results[graph.name] = found
        write_text(RESULTS, json.dumps(dict(sorted(results.items())), indent=1) + "\n")
        print(json.dumps({graph.name: found}), flush=True)


def measured(
    graph: Graph, settings: list[str], trials: int, before: dict[str, Any] | None
) -> dict[str, Any]:
    asked = Config().override({"train.objective": "dense"}).override(settings)
    rules = by_rules(graph, asked)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        chosen = settled(graph, rules, Path(folder) / "tuning.jsonl")
    seconds = time.process_time() - start
    fixed = rules.override({"tune.settings": []})
    if before and (before["rank"], before["epochs"]) != (fixed.model.rank, fixed.train.epochs):
        raise SystemExit(f"{graph.name}: the best that is there has another rank or other epochs")
    trials = before["trials"] if before else trials
    best = before["best"]["settings"] if before else best_of(graph, fixed, trials)
    found = {
        name: trained(graph, config)
        for name, config in (
            ("rules", fixed),
            ("search", chosen),
            ("best", fixed.override(best)),
        )
    }
    return {
        "entities": graph.num_entities,
        "relations": graph.num_relations,
        "train": len(graph.train),
        "rank": fixed.model.rank,
        "epochs": fixed.train.epochs,
        "search_seconds": seconds,
        "training_seconds": found["search"]["seconds"],
        **found,
        "trials": trials,
        **measured_on(),
    }


def trained(graph: Graph, config: Config) -> dict[str, Any]:
    """A training as a run makes it: the model is the best of its validations."""
    trial, last, every = Trial(Learner(graph, config)), config.train.epochs, config.eval.every
    best: dict[str, Any] = {"valid": -1.0}
    for epochs in [*range(every, last, every), last]:
        valid = trial.train(epochs).mrr(graph, "valid")
        if valid > best["valid"]:
            best = {"valid": valid, "test": trial.mrr(graph, "test"), "epoch": epochs}
    keys = ("regularizer.weight", "relation_prediction.weight", "train.lr")
    settings = {key: config.flat()[key] for key in keys}
    return {"settings": settings, **best, "seconds": trial.seconds}


def best_of(graph: Graph, config: Config, count: int) -> dict[str, float]:
    """The settings that are best on valid, of trials drawn at random."""
    random = np.random.default_rng(0)

    def draw(low: float, high: float) -> float:
        return math.exp(random.uniform(math.log(low), math.log(high)))

    trials = []
    for _ in range(count):
        relation = draw(0.02, 6)
        settings = {
            "regularizer.weight": draw(0.001, 0.3),
            "relation_prediction.weight": 0.0 if relation < 0.05 else relation,
            "train.lr": draw(0.03, 0.3),
        }
        trials.append((settings, Trial(Learner(graph, config.override(settings)))))
    for share in RUNGS:
        epochs = max(round(share * config.train.epochs), 1)
        trials.sort(key=lambda drawn: -drawn[1].train(epochs).mrr(graph, "valid"))
        trials = trials[: math.ceil(len(trials) / 3)]
    return trials[0][0]


if __name__ == "__main__":
    main()
