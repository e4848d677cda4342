"""Estimates of what a training run needs, before it starts (`metasd train --dry-run`)."""

import math
import time
from bisect import bisect_right
from dataclasses import replace
from pathlib import Path
from typing import Any

from metasd import kernels
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.evaluation import evaluate
from metasd.models.base import Scoring

from . import candidates
from .learner import Learner
from .sizing import stored_bytes
from .tune import search_seconds, searched

_EVALUATED = 200
"""Triples whose ranking is timed."""

_SIZES = (1, 3, 10, 30, 100)
"""Megabytes of compact tables for which `ranks_by_size` names a rank."""

_MOST = 4096
"""The largest rank that it names."""

_BITS = {"fp32": 32, "int8": 8, "int4": 4, "int3": 3, "int2": 2, "ternary": 1.6}


def estimate(graph: Graph, config: Config) -> dict[str, Any]:
    """Sizes of a run: parameters, bytes by purpose, blocks and steps. Bytes are predictions.

    The peak is what the process is expected to hold at most: what it holds already, plus the tables
    with their optimizer states, separate weights of the compact model with theirs, and the most
    that a step needs at once, in the meta step.
    """
    scoring = Scoring.named(config.model.name)(config.model.rank)
    train = config.train
    entities = scoring.entity_roles * graph.num_entities * scoring.entity_width
    relations = 2 * graph.num_relations * scoring.relation_width
    tables = 4 * (entities + relations)
    itemsize = kernels.product_dtype(train.precision).itemsize
    matrices = {"metasd": 3, "distill": 2, "compact": 2, "dense": 1}[train.objective]
    triples = 2 * len(graph.train)
    batch = min(train.batch_size, triples)
    scored = candidates.scored(config, graph.num_entities)
    height, width = kernels.block_shape(batch, scored, matrices, itemsize, train.score_memory)
    tiles = kernels.uses_amx(train.precision)  # then neither scores nor operands are stored
    scores = 0 if tiles else matrices * height * width * itemsize
    numbers = scored * scoring.entity_width
    # Cast operands: the source's, the compact model's joined with its direction, and a product
    # before it is added.
    operands = (
        0 if tiles else {"metasd": 4, "distill": 3, "compact": 3, "dense": 2}[train.objective]
    )
    # Gradients alive together: of source and compact model, v and the meta gradient; one in the
    # making.
    gradients = {"metasd": 3, "distill": 2, "compact": 2, "dense": 1}[train.objective]
    whole = candidates.wanted(config, graph.num_entities) is None
    heads = 0 if whole else 2 * batch * scoring.entity_width
    touched = tables if whole else 4 * (numbers + heads + relations)
    rows = 4 * batch * (2 * scoring.entity_width + scoring.relation_width) * 8
    step = scores + operands * numbers * itemsize + gradients * touched + rows
    steps = math.ceil(triples / batch)
    compact = train.objective != "dense"
    masks = tables // 32 if compact else 0
    rounded = tables if compact and config.compact.weight_format != "fp32" else 0
    own = 2 * tables if compact and config.compact.weights == "separate" else 0
    states = tables * (2 if train.objective == "metasd" else 1)
    total = min(steps * train.epochs, train.max_steps or steps * train.epochs)
    return {
        "graph": graph.name,
        "entities": graph.num_entities,
        "relations": graph.num_relations,
        "train triples": len(graph.train),
        "model": f"{config.model.name}, rank {config.model.rank}",
        "objective": train.objective,
        "batch size": train.batch_size,
        "learning rate": train.lr,
        "regularizer weight": config.regularizer.weight,
        "relation prediction weight": config.relation_prediction.weight,
        "of these a search improves": ", ".join(sorted(searched(graph, config))) or None,
        "epochs": train.epochs,
        "epochs of the source alone": train.epochs if not compact else config.warmup_epochs,
        "size of the compact model at most": config.compact.size if compact else None,
        "weight format of the compact model": config.compact.weight_format if compact else None,
        "weight format of its relations": config.compact.relation_format if rounded else None,
        "share of its weights that are dropped": config.prune.fraction if compact else None,
        "bytes of the compact model's tables": stored_bytes(graph, config),
        "weights": entities + relations,
        "weights kept": entities
        + relations
        - (0 if not masks else math.ceil(config.prune.fraction * (entities + relations))),
        "bytes of tables": tables,
        "bytes of masks": masks,
        "bytes of optimizer states": states + own // 2,
        "bytes of a step at most": step,
        "score block": "tiles, in registers"
        if tiles
        else f"{height} x {width} of {batch} x {scored}, {matrices} at once",
        "bytes of score blocks": scores,
        "bytes at the peak": resident_memory() + tables + states + masks + rounded + own + step,
        "product precision": str(kernels.product_dtype(train.precision)).removeprefix("torch."),
        "bytes of a checkpoint": tables + states + masks + own,
        "steps per epoch": steps,
        "steps": total,
        "rank by size of the compact tables": ranks_by_size(graph, config) if compact else None,
    }


def ranks_by_size(graph: Graph, config: Config) -> dict[str, int]:
    """For sizes of the compact model's tables on the disk, the largest rank that fits."""
    bits = _BITS[config.compact.weight_format] * (1 - config.prune.fraction)

    def size(rank: int) -> int:
        scoring = Scoring.named(config.model.name)(rank)
        rows = scoring.entity_roles * graph.num_entities, 2 * graph.num_relations
        weights = rows[0] * scoring.entity_width + rows[1] * scoring.relation_width
        return math.ceil(4 * sum(rows) + weights * bits / 8)

    ranks = {
        f"{limit} MB": bisect_right(range(1, _MOST + 1), limit * 10**6, key=size)
        for limit in _SIZES
    }
    return {limit: rank for limit, rank in ranks.items() if 0 < rank < _MOST}


def timing(graph: Graph, config: Config) -> dict[str, float]:
    """Seconds of a run on this machine, from a few steps of each phase that are run for it.

    Returns:
        `search` (of `tune.settings`), `training`, `evaluation`, and their sum as `total`.
    """
    settings, seconds = config.train, {"search": search_seconds(graph, config)}
    learner = Learner(graph, config.override({"tune.settings": []}))
    alone = settings.epochs if settings.objective == "dense" else config.warmup_epochs
    steps = learner.steps_per_epoch
    source = min(alone * steps, settings.max_steps or math.inf)
    both = min(settings.epochs * steps, settings.max_steps or math.inf) - source
    training = learner.seconds(0, source / steps) if source else 0.0
    if isinstance(config.distill.teachers, int) and config.has_teacher:
        training *= config.distill.teachers
    validations = {"source": source / steps / config.eval.every, "compact": 0.0}
    if both:
        training += learner.seconds(alone, both / steps)
        validations["compact"] = both / steps / config.eval.every
    seconds["training"] = training
    seconds["evaluation"] = 0.0
    triples = graph.valid if len(graph.valid) else graph.test
    views, known = learner.model.views if len(triples) else {}, graph.known()
    sample = replace(graph, valid=triples[:_EVALUATED])
    for name, view in views.items():
        start = time.perf_counter()
        evaluate(view, sample, "valid", known=known)
        one = (time.perf_counter() - start) / len(sample.valid)
        ranked = len(graph.valid) * (1 + validations[name]) + len(graph.test)
        seconds["evaluation"] += one * ranked
    seconds["total"] = sum(seconds.values())
    return {part: round(found, 1) for part, found in seconds.items()}


def resident_memory() -> int:
    """Bytes that this process holds now (0 where the system does not say)."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * 4096
