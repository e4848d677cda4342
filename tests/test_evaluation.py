"""Metrics against a brute-force evaluator and against PyKEEN's, with the same tables."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from metasd.config import Config
from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.errors import InputError
from metasd.evaluation import evaluate, interval, metrics
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.trainer import train


def random_model(graph: Graph, name: str = "complex", rank: int = 6, coarse: bool = False) -> Model:
    model = Model.create(Scoring.named(name)(rank), graph.num_entities, graph.num_relations, seed=3)
    model.entities *= 1000
    model.relations *= 1000
    if coarse:  # small whole numbers: many exact ties
        model.entities.round_().clamp_(-1, 1)
        model.relations.round_().clamp_(-1, 1)
    return model


def brute_force(model: Model, graph: Graph, split: str) -> npt.NDArray[np.float64]:
    """(optimistic, pessimistic) ranks (2 n, 2), one query after the other, in float64."""
    everything = {tuple(t) for t in np.concatenate([graph.train, graph.valid, graph.test]).tolist()}
    entities, relations = model.entities.double(), model.relations.double()
    ranks = []
    for inverse in (False, True):
        for h, r, t in graph.split(split).tolist():
            given, target, relation = (t, h, r + graph.num_relations) if inverse else (h, t, r)
            query = model.scoring.query(entities[given][None], relations[relation][None])
            scores = (model.candidates(entities) @ query[0]).tolist()
            better = equal = 0
            for e, score in enumerate(scores):
                known = ((e, r, t) if inverse else (h, r, e)) in everything
                if e == target or known:
                    continue
                better += score > scores[target]
                equal += score == scores[target]
            ranks.append((1 + better, 1 + better + equal))
    return np.array(ranks, dtype=np.float64)


@pytest.mark.parametrize("name", ["complex", "cp"])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("score_memory", [1 << 28, 1 << 16])
def test_ranks_equal_a_brute_force_evaluator(
    small_graph: Graph, name: str, coarse: bool, score_memory: int
) -> None:
    model = random_model(small_graph, name, coarse=coarse)
    ranks = brute_force(model, small_graph, "test")
    realistic = ranks.mean(axis=1)
    found = evaluate(model.source, small_graph, "test", score_memory=score_memory)
    assert found["mrr"] == pytest.approx((1 / realistic).mean())
    assert found["mr"] == pytest.approx(realistic.mean())
    for k in (1, 3, 10):
        assert found[f"hits@{k}"] == pytest.approx((realistic <= k).mean())
    assert found["pessimistic"]["mrr"] == pytest.approx((1 / ranks[:, 1]).mean())
    assert found["tie_rate"] == pytest.approx((ranks[:, 0] != ranks[:, 1]).mean())
    assert (found["tie_rate"] > 0.01) == coarse
    tails, heads = np.split(realistic, 2)
    assert found["by_side"]["tail"]["mrr"] == pytest.approx((1 / tails).mean())
    assert found["by_side"]["head"]["mrr"] == pytest.approx((1 / heads).mean())


def test_parts_add_up_to_the_whole(small_graph: Graph) -> None:
    found = evaluate(random_model(small_graph).source, small_graph)
    for parts in (found["by_relation"], found["by_frequency"], found["by_side"]):
        weights = [part["ranks"] for part in parts.values()]
        assert sum(weights) == found["queries"] == 2 * len(small_graph.test)
        mean = np.average([part["mrr"] for part in parts.values()], weights=weights)
        assert mean == pytest.approx(found["mrr"])
    counts = small_graph.relation_counts
    named = {small_graph.relations[r]: int(c) for r, c in enumerate(counts)}
    assert all(part["train"] == named[name] for name, part in found["by_relation"].items())
    thirds = found["by_frequency"]
    assert sum(part["relations"] for part in thirds.values()) == small_graph.num_relations


def test_ranks_equal_pykeens_on_umls() -> None:
    pytest.importorskip("pykeen", reason="the oracle is PyKEEN: pip install metasd[pykeen]")
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models import ERModel
    from pykeen.nn.modules import DistMultInteraction
    from pykeen.triples import CoreTriplesFactory

    graph = load_graph("umls")
    model = random_model(graph, "distmult", rank=10)
    # Inverse relations equal to the relations themselves: DistMult is symmetric, so both score
    # alike.
    model.relations[graph.num_relations :] = model.relations[: graph.num_relations]

    def factory(triples: npt.NDArray[np.int64]) -> CoreTriplesFactory:
        return CoreTriplesFactory(
            torch.from_numpy(triples.copy()), graph.num_entities, graph.num_relations
        )

    rival = ERModel(
        triples_factory=factory(graph.train),
        interaction=DistMultInteraction,
        entity_representations_kwargs={"shape": (10,)},
        relation_representations_kwargs={"shape": (10,)},
    )
    with torch.no_grad():
        rival.entity_representations[0]._embeddings.weight.copy_(model.entities)
        rival.relation_representations[0]._embeddings.weight.copy_(
            model.relations[: graph.num_relations]
        )
    result = RankBasedEvaluator().evaluate(
        rival,
        torch.from_numpy(graph.test.copy()),
        additional_filter_triples=[
            torch.from_numpy(graph.train.copy()),
            torch.from_numpy(graph.valid.copy()),
        ],
        batch_size=128,
        use_tqdm=False,
    )
    found = evaluate(model.source, graph)
    for side, name in (("both", None), ("head", "head"), ("tail", "tail")):
        ours = found if name is None else found["by_side"][name]
        theirs = {
            "mrr": result.get_metric(f"{side}.realistic.inverse_harmonic_mean_rank"),
            "mr": result.get_metric(f"{side}.realistic.arithmetic_mean_rank"),
            "hits@10": result.get_metric(f"{side}.realistic.hits_at_10"),
        }
        for metric, value in theirs.items():
            assert ours[metric] == pytest.approx(value, rel=1e-6), (side, metric)


def test_a_nan_score_is_refused(small_graph: Graph) -> None:
    model = random_model(small_graph)
    model.entities[5, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate(model.source, small_graph)


def test_another_graphs_model_is_refused(small_graph: Graph) -> None:
    with pytest.raises(InputError, match=r"the model has 120 entities .*has 200"):
        evaluate(random_model(small_graph).source, load_graph("families:200"))


def test_a_model_without_masks_has_no_compact_one(small_graph: Graph) -> None:
    with pytest.raises(InputError, match="this model has no compact part"):
        evaluate(random_model(small_graph).compact, small_graph)


def test_of_no_ranks_the_metrics_are_zero() -> None:
    assert metrics(np.empty(0))["mrr"] == 0.0


def test_history_and_metrics_come_from_the_same_evaluator(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    run = train(small_graph, quick, tmp_path / "run")
    stored = json.loads((run.path / "metrics.json").read_text())
    again = evaluate(run.model.compact, small_graph, "test")
    assert stored["test"]["compact"] == json.loads(json.dumps(again))


def test_a_sample_is_ranked_exactly_and_its_intervals_hold_the_whole(small_graph: Graph) -> None:
    model = random_model(small_graph)
    whole = evaluate(model.source, small_graph, "train")
    assert "interval" not in whole
    inside = 0
    for seed in range(20):
        found = evaluate(model.source, small_graph, "train", sample=60, seed=seed)
        assert found["queries"] == 120
        low, high = found["interval"]["mrr"]
        assert low < found["mrr"] < high
        inside += low <= whole["mrr"] <= high
    assert inside >= 16  # 19 of 20 are wanted; fewer than 16 have a chance of 0.3 %
    again = evaluate(model.source, small_graph, "train", sample=60, seed=19)
    assert again["interval"] == found["interval"]
    everything = evaluate(model.source, small_graph, "train", sample=10**9)
    assert everything == whole


def test_a_sample_of_nothing_is_refused(small_graph: Graph) -> None:
    with pytest.raises(InputError, match="a sample must have at least 1 triple; got 0"):
        evaluate(random_model(small_graph).source, small_graph, "test", sample=0)


def test_an_interval_keeps_the_queries_of_a_triple_together() -> None:
    ranks = np.repeat(np.array([[1], [1000]]), 50, axis=1)  # the mean of every triple is the same
    low, high = interval(ranks)["mrr"]
    assert high - low < 1e-9
