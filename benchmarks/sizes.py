"""A compact model of a given size with nothing else set, against dense models of its bytes.

python benchmarks/sizes.py GRAPH... [--size 1/20]

Every rival is a source trained alone with the settings that were chosen for the graph, for as many
epochs as source and compact model together, at the largest rank that fits when it is rounded after
training. Processor time counts the choice of settings, training and evaluation; it is relative to
the training of the source alone. Results go to benchmarks/results/sizes.json, by graph and size.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import metasd
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.environment import measured_on
from metasd.evaluation import evaluate
from metasd.files import write_text
from metasd.models.base import Scoring
from metasd.training.learner import Learner
from metasd.training.sizing import compact_bytes, limit

RESULTS = Path(__file__).with_name("results") / "sizes.json"
RIVALS = ("int8", "int4", "int3")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("graphs", nargs="+")
    parser.add_argument("--size", default="1/20")
    arguments = parser.parse_args()
    for name in arguments.graphs:
        graph = metasd.load_graph(name)
        found = {**measured(graph, arguments.size), **measured_on()}
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        results[f"{graph.name}, {arguments.size}"] = found
        write_text(RESULTS, json.dumps(results, indent=1) + "\n")
        print(graph.name, json.dumps(found), flush=True)


def measured(graph: Graph, size: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        run = metasd.train(graph, {"compact.size": size}, Path(folder) / "run")
        whole = time.process_time() - start
        small = metasd.compress(run, known=False)
    config = run.config
    start = time.process_time()
    dense(graph, config, config.model.rank, config.warmup_epochs)
    alone = time.process_time() - start
    most, rivals = limit(graph, config), {}
    for weight_format in RIVALS:
        rank = max(
            rank
            for rank in range(1, config.model.rank + 1)
            if rank_bytes(graph, config, rank, weight_format) <= most
        )
        learner = dense(graph, config, rank, config.train.epochs)
        stored = metasd.compress(learner.model, weight_format, source=True, known=False)
        mrr = float(evaluate(stored, graph, "valid")["mrr"])
        rivals[weight_format] = {"rank": rank, "bytes": stored.nbytes, "valid": mrr}
    chosen = max(rivals, key=lambda name: rivals[name]["valid"])
    return {
        "entities": graph.num_entities,
        "train": len(graph.train),
        "rank": config.model.rank,
        "epochs": config.train.epochs,
        "formats": [config.compact.weight_format, config.compact.relation_format],
        "bytes": small.nbytes,
        "limit": most,
        "source": {split: run.metrics[split]["source"]["mrr"] for split in ("valid", "test")},
        "compact": {split: evaluate(small, graph, split)["mrr"] for split in ("valid", "test")},
        "rivals": rivals,
        "best rival": chosen,
        "processor time": whole / alone,
    }


def dense(graph: Graph, config: Config, rank: int, epochs: int) -> Learner:
    """A source trained alone."""
    settings = {"train.objective": "dense", "model.rank": rank, "train.epochs": epochs}
    learner = Learner(graph, config.override({**settings, "compact.size": None}))
    for epoch in range(epochs):
        for _ in learner.steps(epoch):
            pass
    return learner


def rank_bytes(graph: Graph, config: Config, rank: int, weight_format: str) -> int:
    """Of a dense model; its relations have 8 bits."""
    scoring = Scoring.named(config.model.name)(rank)
    return compact_bytes(graph, scoring, (weight_format, "int8", rank))


if __name__ == "__main__":
    main()
