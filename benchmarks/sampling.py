"""What sampled gradients do to accuracy: the same trainings with and without them.

python benchmarks/sampling.py GRAPH [--set key=value] [--seeds 2]

Valid MRR after the last epoch, by `train.gradient_sampling` and seed. Test is not read. Results are
added to benchmarks/results/sampling.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import metasd
from metasd.config import Config
from metasd.environment import measured_on
from metasd.evaluation import evaluate
from metasd.files import write_text
from metasd.training.learner import Learner
from metasd.training.sampling import AUTO

RESULTS = Path(__file__).with_name("results") / "sampling.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("graph")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    graph = metasd.load_graph(arguments.graph)
    config = Config().override({"train.objective": "dense", "tune.settings": []})
    config = config.override(arguments.set)
    for seed in range(arguments.seeds):
        for sampling in (AUTO, "off"):
            settings = {"train.seed": seed, "train.gradient_sampling": sampling}
            found = trained(graph, config.override(settings))
            row = {
                "graph": graph.name,
                "settings": arguments.set,
                "seed": seed,
                "sampling": sampling,
                **found,
                **measured_on(),
            }
            results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
            write_text(RESULTS, json.dumps([*results, row], indent=1) + "\n")
            print(json.dumps(row), flush=True)


def trained(graph: metasd.Graph, config: Config) -> dict[str, Any]:
    learner, seconds = Learner(graph, config), 0.0
    for epoch in range(config.train.epochs):
        start = time.perf_counter()
        for _ in learner.steps(epoch):
            pass
        seconds += time.perf_counter() - start
    views = learner.model.views.items()
    return {
        "seconds": seconds,
        "valid_mrr": {name: float(evaluate(view, graph, "valid")["mrr"]) for name, view in views},
    }


if __name__ == "__main__":
    main()
