"""Whether a graph is the one that a model was trained on, and what differs."""

import pytest

from metasd.data.comparison import check_same, other_triples, with_labels_of
from metasd.data.graph import Graph
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError

ROWS = [("a", "r", "b"), ("b", "r", "c"), ("a", "s", "c")]


def graph_of(rows: list[tuple[str, str, str]]) -> Graph:
    return Graph.from_triples(rows, [], [], name="g")


OLD = graph_of(ROWS)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([*ROWS, ("a", "r", "c")], "train triples differ (4 instead of 3)"),
        ([*ROWS[:2], ("b", "s", "c")], "some triples differ"),
        (
            [*ROWS[:2], ("a", "t", "d")],
            'entities differ (4 instead of 3; first that only the graph has: "d"), '
            'relations differ (first that only the graph has: "t")',
        ),
        (
            ROWS[:2],
            'relations differ (1 instead of 2; first that only the model has: "s"), '
            "train triples differ (2 instead of 3)",
        ),
    ],
)
def test_another_graph_is_refused_with_what_differs(
    rows: list[tuple[str, str, str]], wanted: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_same(graph_of(rows), OLD.description, OLD, "x")
    assert str(caught.value) == f"x was trained on another graph than g: {wanted}"


def test_the_same_graph_passes_and_has_no_other_triples() -> None:
    again = graph_of(ROWS[::-1])
    check_same(again, OLD.description, OLD, "x")
    assert other_triples(again, OLD.description) == ""
    assert other_triples(again, {}) == ""
    other = graph_of([*ROWS[:2], ("b", "s", "c")])
    assert other_triples(other, OLD.description) == "some triples differ"


def test_ids_follow_the_vocabulary() -> None:
    turned = Vocabulary(entities=["c", "a", "b"], relations=["s", "r"])
    found = with_labels_of(OLD, turned, "x")
    assert {
        (found.entities[h], found.relations[r], found.entities[t]) for h, r, t in found.train
    } == set(ROWS)
    assert list(found.entities) == ["c", "a", "b"]
    assert with_labels_of(OLD, OLD, "x") is OLD
    with pytest.raises(InputError, match=r'only the graph has: "c"'):
        with_labels_of(OLD, Vocabulary(entities=["a", "b", "z"], relations=["r", "s"]), "x")
