"""What a shortcut in training costs of accuracy: the same trainings with and without it.

python benchmarks/shortcuts.py train.gradient_sampling GRAPH [--set key=value] [--seeds 2]
python benchmarks/shortcuts.py train.triples_per_query GRAPH ...

Valid MRR after the last epoch and processor time of one thread, by value of the setting and seed.
Test is not read. Results are added to benchmarks/results/shortcuts.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import metasd
from metasd.config import Config
from metasd.environment import measured_on
from metasd.evaluation import evaluate
from metasd.files import write_text
from metasd.training import sampling
from metasd.training.learner import Learner

RESULTS = Path(__file__).with_name("results") / "shortcuts.json"
SHORTCUTS = {
    "train.gradient_sampling": (sampling.AUTO, "off"),
    "train.triples_per_query": (sampling.TOGETHER, 1),
}
"""By setting, with and without."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("setting", choices=SHORTCUTS)
    parser.add_argument("graph")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    graph = metasd.load_graph(arguments.graph)
    config = Config().override({"train.objective": "dense", "tune.settings": []})
    config = config.override(arguments.set)
    for seed in range(arguments.seeds):
        for value in SHORTCUTS[arguments.setting]:
            found = trained(graph, config.override({"train.seed": seed, arguments.setting: value}))
            row = {
                "graph": graph.name,
                "settings": arguments.set,
                "seed": seed,
                "setting": arguments.setting,
                "value": value,
                **found,
                **measured_on(),
            }
            results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
            write_text(RESULTS, json.dumps([*results, row], indent=1) + "\n")
            print(json.dumps(row), flush=True)


def trained(graph: metasd.Graph, config: Config) -> dict[str, Any]:
    learner, seconds = Learner(graph, config), 0.0
    for epoch in range(config.train.epochs):
        start = time.process_time()
        for _ in learner.steps(epoch):
            pass
        seconds += time.process_time() - start
    views = learner.model.views.items()
    return {
        "seconds": seconds,
        "valid_mrr": {name: float(evaluate(view, graph, "valid")["mrr"]) for name, view in views},
    }


if __name__ == "__main__":
    main()
