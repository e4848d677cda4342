"""How long until a valid MRR is reached: metasd, PyKEEN, and the code of ComplEx-N3-RP.

python benchmarks/time_to_accuracy.py GRAPH SYSTEM [--set key=value] [--rank 64] [--minutes 30]

SYSTEM is `metasd`; `pykeen`, whose ComplEx is trained by its LCWA loop; or a checkout of
facebookresearch/ssl-relation-prediction, whose model, regularizer and loss are trained in a loop
like its own. All train ComplEx of one rank with reciprocal relations, Adagrad and N3. After each
epoch the tables are ranked by the same evaluator, outside the clock. The clock is the processor's
(`time.process_time`), so that other work on the machine does not count: with one thread it is the
time that a training takes on one quiet core. Curves go to
benchmarks/results/time-to-accuracy.json; test is not read.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import metasd
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.environment import measured_on
from metasd.evaluation import evaluate
from metasd.files import write_text
from metasd.models.base import Scoring
from metasd.models.model import Model
from metasd.training.learner import Learner
from metasd.training.tune import by_rules

RESULTS = Path(__file__).with_name("results") / "time-to-accuracy.json"

Epochs = Iterator[tuple[Tensor, Tensor]]
"""Trains an epoch, then yields entities (N, 2 * rank) and relations (2R, 2 * rank)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("graph")
    parser.add_argument("system")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--regularizer", type=float, default=0.05)
    parser.add_argument("--relation-prediction", type=float, default=4.0)
    parser.add_argument("--set", action="append", default=[], help="of metasd alone")
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    graph = metasd.load_graph(arguments.graph)
    known = {"metasd": of_metasd, "pykeen": of_pykeen}
    epochs = known.get(arguments.system, partial(of_checkout, arguments.system))
    row = {
        "graph": graph.name,
        "system": arguments.system if arguments.system in known else "ssl-relation-prediction",
        "settings": {
            key: value
            for key, value in vars(arguments).items()
            if key not in ("graph", "system", "minutes")
            and (arguments.system != "pykeen" or key != "relation_prediction")  # it has none
        },
        "curve": curve(graph, arguments, epochs(graph, arguments)),
        **measured_on(),
    }
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    write_text(RESULTS, json.dumps([*results, row], indent=1) + "\n")


def curve(graph: Graph, arguments: argparse.Namespace, epochs: Epochs) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    scoring = Scoring.named("complex")(arguments.rank)
    seconds = 0.0
    while seconds < 60 * arguments.minutes:
        start = time.process_time()
        tables = next(epochs, None)
        if tables is None:
            break
        seconds += time.process_time() - start
        model = Model(scoring, *(table.contiguous() for table in tables))
        mrr = float(evaluate(model.source, graph, "valid")["mrr"])
        found.append({"epoch": len(found) + 1, "seconds": seconds, "valid_mrr": mrr})
        print(json.dumps(found[-1]), flush=True)
    return found


def of_metasd(graph: Graph, arguments: argparse.Namespace) -> Epochs:
    config = Config().override(
        {
            "train.objective": "dense",
            "model.rank": arguments.rank,
            "train.batch_size": arguments.batch,
            "regularizer.name": "n3",
            "regularizer.weight": arguments.regularizer,
            "relation_prediction.weight": arguments.relation_prediction,
        }
    )
    config = by_rules(graph, config.override(arguments.set))
    learner = Learner(graph, config)
    for epoch in range(config.train.epochs):
        for _ in learner.steps(epoch):
            pass
        yield learner.model.entities, learner.model.relations


def of_pykeen(graph: Graph, arguments: argparse.Namespace) -> Epochs:
    from pykeen.losses import CrossEntropyLoss
    from pykeen.models import ComplEx
    from pykeen.regularizers import PowerSumRegularizer
    from pykeen.training import LCWATrainingLoop
    from pykeen.triples import CoreTriplesFactory

    factory = CoreTriplesFactory(
        torch.from_numpy(np.array(graph.train, dtype=np.int64)),
        num_entities=graph.num_entities,
        num_relations=graph.num_relations,
        create_inverse_triples=True,
    )
    initializer = partial(torch.nn.init.normal_, std=1e-3)
    model = ComplEx(
        triples_factory=factory,
        embedding_dim=arguments.rank,
        loss=CrossEntropyLoss(),
        regularizer=PowerSumRegularizer,
        regularizer_kwargs={"weight": arguments.regularizer, "p": 3.0, "normalize": False},
        entity_initializer=initializer,
        relation_initializer=initializer,
        random_seed=0,
    )
    loop = LCWATrainingLoop(
        model=model,
        triples_factory=factory,
        optimizer=torch.optim.Adagrad(model.get_grad_params(), lr=0.1),
    )
    torch.set_flush_denormal(True)  # a softmax has such numbers, at many times the time
    epoch = 0
    while True:
        epoch += 1
        loop.train(
            factory,
            num_epochs=epoch,
            batch_size=arguments.batch,
            continue_training=True,
            use_tqdm=False,
            use_tqdm_batch=False,
        )
        entities, relations = (
            table.detach()
            for table in (model.entity_representations[0](), model.relation_representations[0]())
        )
        # Numbers a relation 2 i and its inverse 2 i + 1.
        relations = torch.cat([relations[::2], relations[1::2]])
        yield _side_by_side(entities), _side_by_side(relations)


def _side_by_side(table: Tensor) -> Tensor:
    return torch.cat([table.real, table.imag], dim=1)


def of_checkout(path: str, graph: Graph, arguments: argparse.Namespace) -> Epochs:
    sys.path.insert(0, str(Path(path) / "src"))
    from models import ComplEx
    from regularizers import N3

    torch.manual_seed(0)
    heads, relations, tails = torch.from_numpy(np.array(graph.train, dtype=np.int64)).T
    both = torch.cat(
        [
            torch.stack([heads, relations, tails], 1),
            torch.stack([tails, relations + graph.num_relations, heads], 1),
        ]
    )
    sizes = graph.num_entities, 2 * graph.num_relations, graph.num_entities
    model, regularizer = ComplEx(sizes, arguments.rank), N3(arguments.regularizer)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    loss: Callable[[Tensor, Tensor], Tensor] = torch.nn.CrossEntropyLoss()
    torch.set_flush_denormal(True)
    while True:
        for batch in both[torch.randperm(len(both))].split(arguments.batch):
            (tail_scores, relation_scores), factors = model(batch, score_rel=True)
            fit = loss(tail_scores, batch[:, 2])
            fit = fit + arguments.relation_prediction * loss(relation_scores, batch[:, 1])
            optimizer.zero_grad()
            (fit + regularizer.penalty(batch, factors)[0]).backward()
            optimizer.step()
        yield tuple(table.weight.detach() for table in model.embeddings)  # type: ignore[misc]


if __name__ == "__main__":
    main()
