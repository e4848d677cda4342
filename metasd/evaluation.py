"""Filtered ranking metrics of a model on a split: MRR, mean rank and Hits@k."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metasd import kernels
from metasd.compressed import CompressedModel
from metasd.data.filter_index import KnownAnswers
from metasd.data.graph import Graph
from metasd.data.load import as_graph
from metasd.errors import InputError
from metasd.models.model import ModelView

FREQUENCIES = ("frequent", "medium", "rare")
"""Thirds of the relations by their number of train triples."""

PROTOCOL = {
    "filter": ["train", "valid", "test"],
    "ties": "realistic rank: the mean of the optimistic and the pessimistic one",
    "sides": "head and tail, averaged over queries",
    "candidates": "all entities",
    "precision": "fp32",
}
"""How the metrics of a run are computed."""

_RESAMPLED = 1000  # samples of a sample

_CHUNK = 4096  # queries at a time: bounds the query rows and the known answers held at once


def evaluate(
    model: ModelView | CompressedModel,
    graph: Graph | str | os.PathLike[str],
    split: str = "test",
    *,
    precision: str = "fp32",
    score_memory: int = kernels.DEFAULT_SCORE_MEMORY,
    known: KnownAnswers | None = None,
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Ranks both sides of every triple of a split, or of a sample of them, among all entities.

    Answers known from train, valid and test are left out (the filtered setting). Ranks are
    realistic: 1 + the number of better entities + half the number of equal ones. A NaN score raises
    ValueError.

    Args:
        model: `run.model.source` or `run.model.compact`, or a compressed model, which is ranked by
            its own engine.
        graph: the graph, or its name or path.
        split: train, valid or test.
        precision: of the score products; fp32 by default, since bf16 makes ties.
        score_memory: bytes for blocks of scores.
        known: `graph.known()`, if the caller has it already.
        sample: how many triples are ranked at most, drawn from the split by `seed`; None: all.
        progress: called with the number of queries done since the last call.

    Returns:
        A dict: `mrr`, `mr`, `hits@1`, `hits@3`, `hits@10` (both sides together); the same under
        `pessimistic`; `tie_rate`, the share of queries whose target ties with another entity;
        `queries`; `by_side` (`head`, `tail`); `by_frequency` (`frequent`, `medium`, `rare`: thirds
        of the relations by training triples); `by_relation`, by relation label, each with its
        number of `train` triples. Of a sample, also `interval`: the ends of a 95 %
        confidence interval of each metric (percentile bootstrap over triples).
    """
    if not isinstance(model, ModelView | CompressedModel):
        raise TypeError(
            "model must be run.model.source, run.model.compact or a CompressedModel; "
            f"got {type(model).__name__}"
        )
    graph = as_graph(graph)
    check_fits(model, graph)
    triples = graph.split(split)
    if len(triples) == 0:
        raise InputError(f"{graph.name} has no {split} triples to evaluate on")
    if sample is not None and sample < 1:
        raise InputError(f"a sample must have at least 1 triple; got {sample}")
    whole = sample is None or sample >= len(triples)
    if not whole:
        triples = triples[_drawn(len(triples), sample or 0, seed)]
    greater, equal = _rank(
        model, graph, triples, precision, score_memory, known or graph.known(), progress
    )
    realistic, pessimistic = 1 + greater + equal / 2, 1 + greater + equal

    def summary(chosen: npt.NDArray[np.bool_] | slice) -> dict[str, float]:
        return metrics(realistic[:, chosen])

    relation = triples[:, 1]
    train_counts = graph.relation_counts
    order = np.argsort(-train_counts, kind="stable")
    thirds = zip(FREQUENCIES, np.array_split(order, 3), strict=True)
    return {
        **summary(slice(None)),
        **({} if whole else {"interval": interval(realistic, seed)}),
        "pessimistic": metrics(pessimistic),
        "tie_rate": float((equal > 0).mean()),
        "queries": int(realistic.size),
        "by_side": {"head": metrics(realistic[1]), "tail": metrics(realistic[0])},
        "by_frequency": {
            name: {"relations": len(part), **summary(np.isin(relation, part))}
            for name, part in thirds
        },
        "by_relation": {
            graph.relations[r]: {"train": int(train_counts[r]), **summary(relation == r)}
            for r in np.unique(relation)
        },
    }


def check_fits(model: ModelView | CompressedModel, graph: Graph) -> None:
    """The model must have been trained on a graph with as many entities and relations."""
    have = (model.num_entities, model.num_relations)
    if have != (graph.num_entities, graph.num_relations):
        raise InputError(
            f"the model has {have[0]} entities and {have[1]} relations; {graph.name} has "
            f"{graph.num_entities} and {graph.num_relations}"
        )


def metrics(ranks: npt.NDArray[np.number[Any]]) -> dict[str, float]:
    """`mrr`, `mr`, `hits@k` and the number of ranks; of no ranks, zeros."""
    means = {k: float(v.mean()) if ranks.size else 0.0 for k, v in _of_each(ranks).items()}
    return {**means, "ranks": int(ranks.size)}


def _of_each(ranks: npt.NDArray[np.number[Any]]) -> dict[str, npt.NDArray[Any]]:
    """What the metrics are means of."""
    return {"mrr": 1 / ranks, "mr": ranks, **{f"hits@{k}": ranks <= k for k in (1, 3, 10)}}


def interval(ranks: npt.NDArray[np.number[Any]], seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of the metrics of a sample of triples.

    The percentile bootstrap (Efron, 1979) over triples, whose two queries stay together.

    Args:
        ranks: (2, n), a column per triple.
    """
    values = _of_each(ranks)
    means = np.stack([value.mean(0) for value in values.values()], axis=1)  # (n, metrics)
    generator = np.random.default_rng(seed)
    count = len(means)
    found = [
        np.bincount(generator.integers(count, size=count), minlength=count) @ means / count
        for _ in range(_RESAMPLED)
    ]
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(values)}


def _drawn(count: int, sample: int, seed: int) -> npt.NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(count)[:sample])


def _rank(
    model: ModelView | CompressedModel,
    graph: Graph,
    triples: npt.NDArray[np.int64],
    precision: str,
    score_memory: int,
    known: KnownAnswers,
    progress: Callable[[int], None] | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Counts of better and of equal entities: (2, n), the tail side first."""
    queries = graph.with_inverses(triples)
    if isinstance(model, CompressedModel):
        given, relation_ids, targets = queries.T
        found = model.rank_targets(given, relation_ids, targets, known.rows, progress)
        return found[0].reshape(2, -1), found[1].reshape(2, -1)
    candidates = model.model.candidates(model.entities)
    device, processes = model.model.device, model.model.processes
    counts = torch.zeros(2, len(queries), dtype=torch.int64)
    for start in range(0, len(queries), _CHUNK):
        part = queries[start : start + _CHUNK]
        if progress is not None:
            progress(len(part))
        if start // _CHUNK % processes.replicas != processes.replica:
            continue
        heads, relation_ids, targets = (torch.from_numpy(c.copy()).to(device) for c in part.T)
        query = model.queries(heads, relation_ids)
        indptr, indices = known.rows(part[:, 0], part[:, 1])
        above, ties = kernels.rank_targets(
            query,
            candidates,
            targets,
            (torch.from_numpy(indptr).to(device), torch.from_numpy(indices).to(device)),
            precision=precision,
            score_memory=score_memory,
            group=processes.group,
            first=processes.block(model.num_entities).start,
        )
        counts[0, start : start + _CHUNK], counts[1, start : start + _CHUNK] = above, ties
    greater, equal = processes.all_reduce_sum_replicas(counts).numpy()
    return greater.reshape(2, -1), equal.reshape(2, -1)
