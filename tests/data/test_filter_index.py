"""Known answers against brute force."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_folders import make_graph
from metasd.data.filter_index import KnownAnswers
from metasd.data.graph import Graph


def test_with_inverses() -> None:
    graph = make_graph([[0, 1, 2], [3, 2, 3]], [], [])
    assert graph.with_inverses(graph.train).tolist() == [[0, 1, 2], [3, 2, 3], [2, 4, 0], [3, 5, 3]]
    assert graph.with_inverses(graph.valid).shape == (0, 3)


TRIPLES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 5)).map(list), max_size=40
)
QUERIES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30)


@settings(max_examples=150, deadline=None)
@given(train=TRIPLES, valid=TRIPLES, test=TRIPLES, queries=QUERIES)
def test_known_answers_are_those_of_brute_force(
    train: list[list[int]],
    valid: list[list[int]],
    test: list[list[int]],
    queries: list[tuple[int, int]],
) -> None:
    graph = make_graph(train, valid, test)
    for splits, rows in (
        (("train", "valid", "test"), train + valid + test),
        (("train",), train),
        (("valid", "test"), valid + test),
    ):
        answers: dict[tuple[int, int], set[int]] = {}
        for head, relation, tail in rows:
            answers.setdefault((head, relation), set()).add(tail)
            answers.setdefault((tail, relation + 3), set()).add(head)
        known = graph.known(splits)
        assert known.keys.tolist() == sorted(e * 6 + r for e, r in answers)
        assert len(known.indices) == known.indptr[-1] == sum(map(len, answers.values()))
        indptr, indices = known.rows([e for e, _ in queries], [r for _, r in queries])
        assert indptr.dtype == indices.dtype == np.int64
        assert indptr.shape == (len(queries) + 1,)
        assert indptr[0] == 0
        assert indptr[-1] == len(indices)
        for i, query in enumerate(queries):
            expected = sorted(answers.get(query, set()))
            assert indices[indptr[i] : indptr[i + 1]].tolist() == expected
            assert known.answers(*query).tolist() == expected
        array = np.array(rows, np.int64).reshape(-1, 3)
        for index in (known, KnownAnswers.of_triples(array, 6, 3)):
            for relation in range(6):
                seen = {
                    found for (_, r), part in answers.items() if r == relation for found in part
                }
                assert index.entities_of(relation).tolist() == sorted(seen)


def test_known_answers_where_one_integer_cannot_hold_a_triple() -> None:
    graph = make_graph([[5, 2, 1], [0, 0, 1], [0, 0, 1]], [], [])
    expected = graph.known()

    class Huge(Graph):
        num_entities = property(lambda self: 2**60)

    fields = {field.name: getattr(graph, field.name) for field in dataclasses.fields(graph)}
    known = Huge(**fields).known()
    assert known.indptr.tolist() == expected.indptr.tolist()
    assert known.indices.tolist() == expected.indices.tolist()
    assert known.answers(0, 0).tolist() == [1]


def test_known_answers_check_their_queries() -> None:
    known = make_graph([[0, 1, 2]], [], []).known()
    with pytest.raises(ValueError, match=r"must both be \(B,\); got \(2,\) and \(1,\)"):
        known.rows([0, 1], [0])
    with pytest.raises(ValueError, match=r"must both be \(B,\); got \(\) and \(\)"):
        known.rows(0, 0)
    with pytest.raises(ValueError, match=r"relation must be in 0 \.\.\. 5; got 6 \.\.\. 6"):
        known.rows([0], [6])
    with pytest.raises(ValueError, match=r"entity must be in 0 \.\.\. 5; got -1 \.\.\. 1"):
        known.rows([-1, 1], [0, 0])
    with pytest.raises(ValueError, match="entity must hold integers; got float64"):
        known.rows([0.0], [0])
