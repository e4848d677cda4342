"""One MetaSD step, and one of a source alone, against the dense baseline and the products alone."""

from functools import partial
from typing import Any

import torch

from dense import DenseMetaSD, Settings
from measure import (
    Call,
    Contender,
    Options,
    compare,
    products_alone,
    random_tables,
    random_triples,
)
from metasd import kernels
from metasd.config import preset
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.schedule import Phase
from metasd.training.step import Step


def metasd_step(options: Options) -> Call:
    """The package's step, as the trainer runs it."""
    step = _step(options, "metasd")

    def call() -> dict[str, float]:
        batch, quiz = (random_triples(options, n) for n in (options.batch, options.quiz))
        columns = batch.T.contiguous(), quiz.T.contiguous()
        losses = step(Phase.SHARED, *(step.batch(*part) for part in columns))
        return {name: float(loss) for name, loss in losses.items()}

    return call


def source_step(options: Options) -> Call:
    """The same without a compact model."""
    step = _step(options, "dense")

    def call() -> dict[str, float]:
        batch = random_triples(options, options.batch).T.contiguous()
        losses = step(Phase.SOURCE, step.batch(*batch), None)
        return {name: float(loss) for name, loss in losses.items()}

    return call


def _step(options: Options, objective: str) -> Step:
    entities, relations = random_tables(options)
    config = preset("metasd").override(
        {
            "model.rank": options.rank,
            "relation_prediction.weight": 4.0,
            "train.objective": objective,
            "train.precision": options.precision,
        }
    )
    masks = kernels.topk_mask([entities, relations], 0.9)
    model = Model(Scoring.named("complex")(options.rank), entities, relations, (masks[0], masks[1]))
    return Step(model, config)


def dense_step(options: Options) -> Call:
    """Eager PyTorch with a double backward, see dense.py."""
    model = _dense(options)

    def call() -> None:
        model.step(random_triples(options, options.batch), random_triples(options, options.quiz))

    return call


def dense_source_step(options: Options) -> Call:
    model = _dense(options)

    def call() -> None:
        model.source_step(random_triples(options, options.batch))

    return call


def _dense(options: Options) -> DenseMetaSD:
    entities, relations = random_tables(options)
    return DenseMetaSD(
        entities,
        relations,
        Settings(
            options.rank, product_dtype=torch.bfloat16 if options.precision == "bf16" else None
        ),
        *(
            kernels.unpack_mask(mask, 2 * options.rank)
            for mask in kernels.topk_mask([entities, relations], 0.9)
        ),
    )


def pykeen_batch(options: Options) -> Call:
    """What PyKEEN's LCWA loop does with a batch of (head, relation) pairs, loading left out."""
    from pykeen.losses import CrossEntropyLoss
    from pykeen.models import ComplEx
    from pykeen.triples import CoreTriplesFactory

    # As large as ours: from its default, softmax makes subnormal numbers, at 60 times the time.
    initializer = partial(torch.nn.init.normal_, std=0.1)
    factory = CoreTriplesFactory(
        random_triples(options, options.batch),
        num_entities=options.entities,
        num_relations=options.relations,
    )
    model = ComplEx(
        triples_factory=factory,
        embedding_dim=options.rank,
        loss=CrossEntropyLoss(),
        regularizer=None,
        entity_initializer=initializer,
        relation_initializer=initializer,
        random_seed=0,
    )
    optimizer = torch.optim.Adagrad(model.get_grad_params(), lr=0.1)
    pairs = random_triples(options, options.batch)[:, :2]
    labels = torch.zeros(options.batch, options.entities)
    labels[torch.arange(options.batch), torch.randint(options.entities, (options.batch,))] = 1

    def call() -> None:
        optimizer.zero_grad()
        loss = model.loss.process_lcwa_scores(
            model.score_t(pairs), labels, num_entities=options.entities
        )
        (loss + model.collect_regularization_term()).backward()
        optimizer.step()
        model.post_parameter_update()

    return call


PRODUCTS = {"products": {"batch": [9, 5], "quiz": [1, 1]}}

CONTENDERS = {
    "metasd": Contender(metasd_step, {"precision": "auto"}),
    "metasd, fp32": Contender(metasd_step, {"precision": "fp32"}),
    "dense, fp32": Contender(dense_step, {"precision": "fp32"}, keep_memory=False),
    "dense, fp32, memory kept": Contender(dense_step, {"precision": "fp32"}),
    "dense, bf16 products": Contender(dense_step, {"precision": "bf16"}, keep_memory=False),
    "dense, bf16 products, memory kept": Contender(dense_step, {"precision": "bf16"}),
    "PyKEEN, a plain batch of ComplEx": Contender(pykeen_batch),
    "products alone": Contender(products_alone, {"precision": "auto", **PRODUCTS}),
    "products alone, fp32": Contender(products_alone, {"precision": "fp32", **PRODUCTS}),
}
ALONE = {"products": {"batch": [1, 1]}}
SOURCE_CONTENDERS = {
    "metasd": Contender(source_step, {"precision": "auto"}),
    "metasd, fp32": Contender(source_step, {"precision": "fp32"}),
    "eager, fp32": Contender(dense_source_step, {"precision": "fp32"}),
    "eager, bf16 products": Contender(dense_source_step, {"precision": "bf16"}),
    "products alone": Contender(products_alone, {"precision": "auto", **ALONE}),
    "products alone, fp32": Contender(products_alone, {"precision": "fp32", **ALONE}),
}
SHAPE = {"entities": 14541, "relations": 474, "rank": 128, "batch": 1000, "quiz": 1000}
QUICK = {"entities": 2000, "relations": 474, "rank": 16, "batch": 200, "quiz": 200}


def test_step(benchmark: Any, record: Any, quick: bool) -> None:
    shape = QUICK if quick else SHAPE
    record("step", compare(CONTENDERS, shape, quick, rounds=2))
    step = metasd_step(Options(**shape, precision="auto"))
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)


def test_source_step(benchmark: Any, record: Any, quick: bool) -> None:
    shape = QUICK if quick else SHAPE
    record("source_step", compare(SOURCE_CONTENDERS, shape, quick, rounds=2))
    step = source_step(Options(**shape, precision="auto"))
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
