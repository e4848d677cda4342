"""Questions in labels, answers in labels."""

import numpy as np
import pytest
import torch

from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.prediction import predict


@pytest.fixture(params=["complex", "cp"])
def model(request: pytest.FixtureRequest, small_graph: Graph) -> Model:
    scoring = Scoring.named(request.param)(8)
    model = Model.create(scoring, small_graph.num_entities, small_graph.num_relations, seed=0)
    model.entities *= 1000
    model.relations *= 1000
    return model


def scores_of(model: Model, graph: Graph, given: int, relation: int) -> torch.Tensor:
    query = model.scoring.query(model.entities[given][None], model.relations[relation][None])
    return (query @ model.candidates(model.entities).T)[0]


def test_answers_are_the_best_entities_in_order(model: Model, small_graph: Graph) -> None:
    h, r, _ = small_graph.test[0].tolist()
    answers = predict(
        model, small_graph, head=small_graph.entities[h], relation=small_graph.relations[r], k=5
    )
    wanted = scores_of(model, small_graph, h, r).sort(descending=True)
    assert [small_graph.entity_id(label) for label, _ in answers] == wanted.indices[:5].tolist()
    assert [score for _, score in answers] == pytest.approx(wanted.values[:5].tolist(), rel=1e-5)


def test_a_tail_asks_for_heads_through_the_inverse_relation(
    model: Model, small_graph: Graph
) -> None:
    _, r, t = small_graph.test[0].tolist()
    answers = predict(
        model, small_graph, tail=small_graph.entities[t], relation=small_graph.relations[r], k=1
    )
    inverse = r + small_graph.num_relations
    best = int(scores_of(model, small_graph, t, inverse).argmax())
    assert answers[0][0] == small_graph.entity_name(best)


def test_known_answers_are_left_out(model: Model, small_graph: Graph) -> None:
    h, r, _ = small_graph.train[0].tolist()
    question = {"head": small_graph.entities[h], "relation": small_graph.relations[r]}
    everything = predict(model, small_graph, **question, k=1000)
    new = predict(model, small_graph, **question, k=1000, known=small_graph.known())
    known = {small_graph.entity_name(e) for e in small_graph.known().answers(h, r)}
    assert len(everything) == small_graph.num_entities
    assert {label for label, _ in everything} - {label for label, _ in new} == known
    assert known


def test_bad_questions_say_what_is_wrong(model: Model, small_graph: Graph) -> None:
    name, relation = small_graph.entities[0], small_graph.relations[0]
    with pytest.raises(InputError, match="either a head or a tail"):
        predict(model, small_graph, head=name, tail=name, relation=relation)
    with pytest.raises(InputError, match="either a head or a tail"):
        predict(model, small_graph, relation=relation)
    with pytest.raises(InputError, match="k must be at least 1"):
        predict(model, small_graph, head=name, relation=relation, k=0)
    with pytest.raises(InputError, match=name):
        predict(model, small_graph, head=name + "x", relation=relation)
    with pytest.raises(InputError, match=relation):
        predict(model, small_graph, head=name, relation=relation[:-1])


def test_the_default_model_is_the_pruned_one(small_graph: Graph) -> None:
    scoring = Scoring.named("complex")(8)
    model = Model.create(scoring, small_graph.num_entities, small_graph.num_relations, seed=0)
    words = torch.zeros(model.entities.shape[0], 1, dtype=torch.int32)
    model.masks = (words, torch.zeros(model.relations.shape[0], 1, dtype=torch.int32))
    question = {"head": small_graph.entities[0], "relation": small_graph.relations[0]}
    assert {score for _, score in predict(model, small_graph, **question)} == {0.0}
    assert np.ptp([s for _, s in predict(model, small_graph, **question, pruned=False)]) > 0
