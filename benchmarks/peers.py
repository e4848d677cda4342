"""Training on candidates against PyKEEN's training on negative samples (sLCWA), on one graph.

python benchmarks/peers.py GRAPH [--rank 32] [--batch 1000] [--candidates 2000] [--negatives 64]
    [--epochs 3]

Both train ComplEx with Adagrad on one thread, whose processor time is taken. Ours trains every
triple and its inverse against the batch's candidates for some epochs; PyKEEN's trains every triple
against negatives of its own, with a softmax over them (InfoNCE), for as many seconds. A triple
counts once per epoch in triples per second, whether its inverse is trained as well or not. Valid
MRR, filtered and over all entities, is ours for both. The result is added to
benchmarks/results/peers.json.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pykeen
import torch
from candidates import RANKED, configured
from pykeen.losses import InfoNCELoss
from pykeen.models import ComplEx
from pykeen.training import SLCWATrainingLoop
from pykeen.triples import CoreTriplesFactory

import metasd
from metasd.data.graph import Graph
from metasd.environment import measured_on
from metasd.evaluation import evaluate
from metasd.files import write_text
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.learner import Learner

_BATCHES = 10  # that PyKEEN is given at a time, so that it ends when its time is over

RESULTS = Path(__file__).with_name("results") / "peers.json"


def ours(graph: Graph, arguments: argparse.Namespace) -> tuple[Model, float, float]:
    config = configured(
        [
            f"model.rank={arguments.rank}",
            f"train.batch_size={arguments.batch}",
            f"train.candidates={arguments.candidates}",
            f"train.epochs={arguments.epochs}",
            "regularizer.weight=0.01",
            "relation_prediction.weight=0.125",
        ]
    )
    learner = Learner(graph, config)
    start = time.process_time()
    for epoch in range(config.train.epochs):
        for _ in learner.steps(epoch):
            pass
    return learner.model, config.train.epochs, time.process_time() - start


def theirs(
    graph: Graph, arguments: argparse.Namespace, budget: float
) -> tuple[Model, float, float]:
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(graph.train))
    size = _BATCHES * arguments.batch

    def part(start: int) -> CoreTriplesFactory:
        triples = torch.from_numpy(graph.train[order[start : start + size]])
        return CoreTriplesFactory(triples, graph.num_entities, graph.num_relations)

    factory = part(0)
    rival = ComplEx(
        triples_factory=factory, embedding_dim=arguments.rank, loss=InfoNCELoss(), random_seed=0
    )
    optimizer = torch.optim.Adagrad(rival.parameters(), lr=0.1)
    done, start = 0, time.process_time()
    while time.process_time() - start < budget:
        factory = part(done % len(order))
        loop = SLCWATrainingLoop(
            model=rival,
            triples_factory=factory,
            optimizer=optimizer,
            negative_sampler="basic",
            negative_sampler_kwargs={"num_negs_per_pos": arguments.negatives},
        )
        loop.train(factory, num_epochs=1, batch_size=arguments.batch, use_tqdm=False)
        done += factory.num_triples
    seconds = time.process_time() - start
    with torch.no_grad():
        tables = [
            torch.cat([rows.real, rows.imag], dim=1).float().contiguous()
            for rows in (
                r[0]() for r in (rival.entity_representations, rival.relation_representations)
            )
        ]
    inverse = tables[1].clone()
    inverse[:, arguments.rank :] *= -1
    scoring = Scoring.named("complex")(arguments.rank)
    return Model(scoring, tables[0], torch.cat([tables[1], inverse])), done / len(order), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("graph")
    for name, value in (("rank", 32), ("batch", 1000), ("candidates", 2000), ("negatives", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    graph = metasd.load_graph(arguments.graph)
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(len(graph.valid))[:RANKED]
    sample, known = replace(graph, valid=graph.valid[np.sort(chosen)]), graph.known()
    found: dict[str, Any] = {}
    budget = 0.0
    for name in ("metasd", "pykeen"):
        model, epochs, seconds = (
            ours(graph, arguments) if name == "metasd" else theirs(graph, arguments, budget)
        )
        budget = seconds
        found[name] = {
            "epochs": epochs,
            "cpu_seconds": seconds,
            "triples_per_second": epochs * len(graph.train) / seconds,
            "valid_mrr": float(evaluate(model.source, sample, "valid", known=known)["mrr"]),
        }
        print(name, found[name], flush=True)
    about = {"graph": graph.name, "pykeen_version": pykeen.get_version(), **vars(arguments)}
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    write_text(
        RESULTS, json.dumps([*results, {**about, **found, **measured_on()}], indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
