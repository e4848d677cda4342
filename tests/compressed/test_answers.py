"""What answers say about known triples, candidates and types; questions that are none."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import metasd
from compressed_cases import trained
from metasd.compressed import Answer, CompressedModel, Query
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.evaluation import evaluate


@pytest.fixture(scope="module")
def small(small_graph: Graph) -> CompressedModel:
    return metasd.compress(trained("complex", small_graph), "sparse", "fp32", graph=small_graph)


def sides(graph: Graph) -> list[tuple[Query, int, int]]:
    """Queries for the tail and for the head of some triples; entity and relation in ids."""
    found = []
    for h, r, t in graph.train[:40].tolist():
        relation = graph.relations[r]
        found.append((Query(graph.entities[h], relation), h, r))
        found.append((Query(None, relation, graph.entities[t]), t, r + graph.num_relations))
    return found


def test_hidden_answers_are_the_known_ones_in_order(
    small: CompressedModel, small_graph: Graph
) -> None:
    asked = sides(small_graph)
    found = small.answers([query for query, _, _ in asked], 3)
    for (query, entity, relation), answers in zip(asked, found, strict=True):
        known = small_graph.known().answers(entity, relation).tolist()
        everything = small.answers([query], 10**6, keep_known=True)[0]
        wanted = [a for a in everything if small.entity_labels.find(a.entity) in known]
        assert answers.num_hidden == len(known) == len(wanted)
        assert [a.entity for a in answers.hidden] == [a.entity for a in wanted]
        assert [a.probability for a in answers.hidden] == pytest.approx(
            [a.probability for a in wanted], rel=1e-5
        )
        assert [a for a in everything if a.known] == wanted
        assert all(a.known for a in answers.hidden)
        assert not any(a.known for a in answers)


def test_typed_candidates_are_those_of_the_known_triples(
    small: CompressedModel, small_graph: Graph
) -> None:
    asked = sides(small_graph)
    triples = np.concatenate([small_graph.train, small_graph.valid, small_graph.test]).tolist()
    found = small.answers([query for query, _, _ in asked], 10**6, typed=True, keep_known=True)
    for (query, _, _), answers in zip(asked, found, strict=True):
        r = small_graph.relation_to_id[query.relation]
        place = 2 if query.tail is None else 0
        seen = {small_graph.entities[triple[place]] for triple in triples if triple[1] == r}
        assert {answer.entity for answer in answers} == seen
        assert sum(answer.probability for answer in answers) == pytest.approx(1, rel=1e-4)
    query = asked[0][0]
    hidden = small.answers([query], 10**6, typed=True)[0]
    assert {a.entity for a in hidden} | {a.entity for a in hidden.hidden} == {
        a.entity for a in found[0]
    }
    label = small.predict(*query, typed=True, k=1)[0][0]
    assert label == hidden[0].label


def test_a_model_without_known_triples_marks_and_hides_nothing(
    small: CompressedModel, small_graph: Graph
) -> None:
    bare = metasd.compress(trained("complex", small_graph), "int8", graph=small_graph, known=False)
    query = sides(small_graph)[0][0]
    answers = bare.answers([query], 3)[0]
    assert [answer.known for answer in answers] == [None] * 3
    assert (answers.num_hidden, answers.hidden) == (0, [])
    for call in (
        lambda: bare.answers([query], typed=True),
        lambda: bare.ranks(small_graph.test[:1]),
    ):
        with pytest.raises(InputError, match="this model stores none"):
            call()
    with pytest.raises(InputError, match="either candidates or typed"):
        small.answers([query], typed=True, candidates=[small.entity_labels[0]])


def test_answers_are_lists_that_can_be_copied(small: CompressedModel, small_graph: Graph) -> None:
    answers = small.answers([sides(small_graph)[0][0]], 2)[0]
    assert Answer._fields == ("entity", "label", "score", "probability", "known")
    for again in (pickle.loads(pickle.dumps(answers)), copy.copy(answers), copy.deepcopy(answers)):
        assert again == list(answers)
        assert again.hidden == answers.hidden


def test_ranks_are_those_of_the_evaluation(small: CompressedModel, small_graph: Graph) -> None:
    ranks = small.ranks(small_graph.test)
    wanted = evaluate(small, small_graph)
    assert (1 / ranks).mean() == pytest.approx(wanted["mrr"])
    assert (1 / ranks[:, 0]).mean() == pytest.approx(wanted["by_side"]["head"]["mrr"])
    h, r, t = small_graph.test[0].tolist()
    labels = (small_graph.entities[h], small_graph.relations[r], small_graph.entities[t])
    assert small.ranks([labels])[0].tolist() == ranks[0].tolist()
    others = small.answers([Query(labels[0], labels[1])], 10**6)[0]
    score = small.score([labels])[0]
    assert ranks[0, 1] == 1 + sum(answer.score > score for answer in others)


def test_tuples_are_queries_and_arrays_are_triples(
    small: CompressedModel, small_graph: Graph
) -> None:
    query, _, r = sides(small_graph)[0]
    assert small.answers([(query.head, query.relation, None)]) == small.answers([query])
    assert small.answers([[query.head, query.relation, None]]) == small.answers([query])  # type: ignore[list-item]
    labels = np.array([[query.head, query.relation, small.entity_labels[0]]])
    ids = np.array([[small.entity_labels.find(query.head or ""), r, 0]])
    assert small.score(labels) == small.score(ids)


MISTAKES: list[tuple[Callable[[CompressedModel, str, str], object], str]] = [
    (lambda m, e, r: m.predict(3, r), r"entity must be a label; got 3 \(int\)"),  # type: ignore[arg-type]
    (lambda m, e, r: m.predict(e, 3), r"relation must be a label; got 3 \(int\)"),  # type: ignore[arg-type]
    (lambda m, e, r: m.predict(tail=np.int64(3), relation=r), "entity must be a label"),  # type: ignore[arg-type]
    (lambda m, e, r: m.answers([(float("nan"), r, None)]), "must be a label; got nan"),  # type: ignore[list-item]
    (lambda m, e, r: m.answers([(e, r)]), r"list of \(head, relation, tail\).*one of them is \("),  # type: ignore[list-item]
    (lambda m, e, r: m.answers(Query(e, r)), "queries are a list of .* one of them is"),  # type: ignore[arg-type]
    (lambda m, e, r: m.answers([(e, r, e)]), "either a head or a tail"),
    (lambda m, e, r: m.predict(e, r, candidates=e), "candidates are a list of labels"),
    (lambda m, e, r: m.predict(e, r, k="3"), "k must be a whole number; got '3'"),  # type: ignore[arg-type]
    (lambda m, e, r: m.score([(e, r)]), "triples are a list of"),  # type: ignore[list-item]
    (lambda m, e, r: m.score([e]), "triples are a list of"),  # type: ignore[list-item]
    (lambda m, e, r: m.score(np.zeros((2, 2), int)), r"triples must be integers \(n, 3\)"),
    (lambda m, e, r: m.score(np.full((1, 3), -1)), "triples must be ids below"),
    (lambda m, e, r: m.answers(3), r"queries are a list of .*; got 3 \(int\)"),  # type: ignore[arg-type]
    (lambda m, e, r: m.query_vectors([(0, 1)]), r"queries are a list of .* one of them is \(0, 1"),  # type: ignore[list-item]
    (lambda m, e, r: m.predict(np.array([0, 1]), r), "entity must be a label; got array"),  # type: ignore[arg-type]
    (lambda m, e, r: m.predict(e, np.array([0, 1])), "relation must be a label; got array"),  # type: ignore[arg-type]
    (lambda m, e, r: m.predict(e, 0), r"relation must be a label; got 0 \(int\)"),  # type: ignore[arg-type]
    (lambda m, e, r: m.predict(e, r, candidates=3), "candidates are a list of labels; got 3"),  # type: ignore[arg-type]
    (lambda m, e, r: m.answers_of_ids([(e, r)]), r"queries must be integers \(n, 2\)"),  # type: ignore[list-item]
    (lambda m, e, r: m.score([1, 2, 3]), "triples are a list of .* one of them is 1"),  # type: ignore[list-item]
    (lambda m, e, r: m.score(3), r"triples are a list of .*; got 3 \(int\)"),  # type: ignore[arg-type]
    (lambda m, e, r: m.ranks(np.array([1, 2, 3])), r"triples must be integers \(n, 3\)"),
    (lambda m, e, r: m.neighbors(3), "entity must be a label"),  # type: ignore[arg-type]
    (lambda m, e, r: m.embedding(3), "entity must be a label"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "message"), MISTAKES)
def test_a_mistake_is_one_line(
    small: CompressedModel,
    call: Callable[[CompressedModel, str, str], object],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        call(small, small.entity_labels[0], small.relation_labels[0])


def test_the_representation_is_a_few_lines(small: CompressedModel) -> None:
    lines = repr(small).splitlines()
    assert lines[0].endswith(f"{small.num_entities:,} entities, {small.num_relations} relations")
    assert "complex, rank 40; sparse delta8 fp32" in lines[1]
    assert lines[2].endswith("known triples")
    about = {"graph": {"name": "kin"}, "metrics": {"test": {"compact": {"mrr": 0.5, "hits@10": 1}}}}
    shown = repr(replace(small, about=about)).splitlines()
    assert shown[0].startswith("CompressedModel of kin: ")
    assert shown[3] == "  test MRR (Hits@10) before compression: compact 0.500 (1.000)"
