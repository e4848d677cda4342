"""New entities in a compressed model: what stays, what is stored, and what is answered."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from compressed_cases import CODECS, weights
from metasd import InputError, add_entities, compress, evaluate, train
from metasd.compressed import CompressedModel
from metasd.compressed.labels import Labels
from metasd.data.filter_index import KnownAnswers
from metasd.data.graph import Graph
from metasd.export.encode import encode, insert_rows
from metasd.models import Scoring

LABELS = ["ann", "bo", "cy", "di", "ed"]
NEW = [
    ("al", "knows", "bo"),
    ("ed", "knows", "zoe"),
    ("zoe", "likes", "al"),
    ("ann", "likes", "bo"),
]


def model(
    codec: str = "int8", weight_format: str = "int8", scoring: str = "complex"
) -> CompressedModel:
    kind = Scoring.named(scoring)(20)
    density = 0.4 if codec in ("sparse", "column") else 1.0
    entities = weights(codec, density, kind.entity_roles * 5, kind.entity_width)
    relations = weights("int8", 1.0, 4, kind.relation_width, seed=1)
    triples = np.array([[0, 0, 1], [2, 1, 3], [4, 0, 0]])
    return CompressedModel(
        scoring,
        20,
        encode(entities, codec, weight_format),
        encode(relations, "int8"),
        Labels.of(LABELS, {"cy": "Cyrus"}, "entity"),
        Labels.of(["knows", "likes"], {}, "relation"),
        KnownAnswers.of_triples(triples, 5, 2),
        temperature=2.0,
        about={"graph": {"name": "mine", "digest": "x"}},
    )


@pytest.mark.parametrize(("codec", "weight_format", "density"), CODECS)
def test_rows_are_inserted_as_they_are_encoded(
    codec: str, weight_format: str, density: float
) -> None:
    both = weights(codec, density, 12, 300)
    first, added = both[:9], both[9:]
    if codec == "sparse":
        added = weights("int8", 1.0, 3, 300)
    table = encode(first, codec, weight_format)
    order = np.array([9, 0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 11])
    grown = insert_rows(table, added, order)
    grown.check()
    assert grown.description == {**table.description, "rows": 12}
    decoded, old = grown.dense(), order < 9
    np.testing.assert_array_equal(decoded[old], table.dense()[order[old]])
    if codec == "sparse":
        kept = (decoded[~old] != 0).sum(1)
        assert (abs(kept - table.nonzero / 9) < 2).all()
    else:
        wanted = encode(added, codec, weight_format).dense()
        np.testing.assert_allclose(decoded[~old], wanted, rtol=1e-6)


@pytest.mark.parametrize("scoring", ["complex", "cp", "rescal"])
@pytest.mark.parametrize(("codec", "weight_format"), [("int3", "int3"), ("sparse", "fp16")])
def test_labels_stay_sorted_and_known_rows_and_answers_stay(
    tmp_path: Path, scoring: str, codec: str, weight_format: str
) -> None:
    old = model(codec, weight_format, scoring)
    add_entities(old, NEW).save_pretrained(tmp_path / "grown")
    grown = CompressedModel.from_pretrained(tmp_path / "grown")
    assert list(grown.entity_labels) == sorted([*LABELS, "al", "zoe"])
    assert grown.entity_labels.human(grown.entity_labels.find("cy")) == "Cyrus"
    for label in LABELS:
        np.testing.assert_array_equal(grown.embedding(label), old.embedding(label))
    for label in ("al", "zoe"):
        assert grown.embedding(label).any()
    known = {tuple(row) for row in grown.known.triples.tolist()}
    wanted = [("ann", "knows", "bo"), ("cy", "likes", "di"), ("ed", "knows", "ann"), *NEW]
    entity, relation = grown.entity_labels.find, grown.relation_labels.find
    assert known == {(entity(h), relation(r), entity(t)) for h, r, t in wanted}
    assert grown.temperature == 2
    assert grown.about == {"added": {"to": {"name": "mine", "digest": "x"}, "entities": 2}}
    again = add_entities(grown, [("al", "likes", "bea")])
    assert again.about["added"]["entities"] == 3
    assert list(old.entity_labels) == LABELS


def test_labels_that_were_not_sorted_keep_their_places() -> None:
    old = dataclasses.replace(
        model(), entity_labels=Labels.of(["d", "b", "c", "a", "e"], {}, "entity")
    )
    grown = add_entities(old, [("aa", "knows", "b")])
    assert list(grown.entity_labels) == ["d", "b", "c", "a", "e", "aa"]


def test_triples_of_known_entities_are_merged() -> None:
    old = dataclasses.replace(model(), known=None)
    assert add_entities(old, NEW).known is None
    grown = add_entities(model(), [("Cyrus", "knows", "ann"), ("ann", "knows", "bo")])
    assert len(grown.known) == 4
    assert grown.num_entities == 5


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        ([], "no triples"),
        ([("al", "hates", "bo")], 'relation .*"hates"'),
        ([("x", "knows", "y"), ("al", "knows", "bo")], "2 new entities, such as 'x', have no"),
        ([("a\tb", "knows", "bo")], "holds a tab"),
        ([("al", "knows")], "triples: row 1: 2 fields, wanted 3"),
        ("new.tsv", "triples: triples wanted, got 'new.tsv'"),
        (None, "triples: not triples of labels or numbers"),
    ],
)
def test_what_cannot_be_added(triples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_entities(model(), triples)


def test_triples_may_be_a_table_and_the_model_must_be_compressed() -> None:
    head, relation, tail = zip(*NEW, strict=True)
    table = pa.table({"tail": tail, "head": head, "relation": relation})
    grown, wanted = add_entities(model(), table), add_entities(model(), NEW)
    assert list(grown.entity_labels) == list(wanted.entity_labels)
    assert np.array_equal(grown.entities.dense(), wanted.entities.dense())
    with pytest.raises(InputError, match=r"added to a CompressedModel; got str \(`metasd.compress"):
        add_entities("models/mine", NEW)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_trained_model_answers_about_new_entities(small_graph: Graph, tmp_path: Path) -> None:
    new = np.arange(small_graph.num_entities) % 10 == 0
    rows = small_graph.train
    touched = new[rows[:, 0]] | new[rows[:, 2]]
    settings = {"model.rank": 16, "train.epochs": 20, "train.batch_size": 200}
    # The new entities have no triples in training: their rows are where they happened to be.
    before = dataclasses.replace(small_graph, train=rows[~touched])
    run = train(before, settings, tmp_path / "run")
    small = compress(run, graph=before)
    kept = np.flatnonzero(~new)
    place = np.cumsum(~new) - 1
    ids = small.known.triples
    ids = ids[~(new[ids[:, 0]] | new[ids[:, 2]])]
    ids[:, [0, 2]] = place[ids[:, [0, 2]]]
    old = dataclasses.replace(
        small,
        entities=encode(small.dense()[0][kept], "int8"),
        entity_labels=Labels.of([small_graph.entities[i] for i in kept], {}, "entity"),
        known=KnownAnswers.of_triples(ids, len(kept), small.num_relations),
    )
    names = [
        (small_graph.entities[h], small_graph.relations[r], small_graph.entities[t])
        for h, r, t in rows[touched].tolist()
    ]
    grown = add_entities(old, names)
    assert list(grown.entity_labels) == list(small_graph.entities)
    test = small_graph.test
    asked = test[new[test[:, 0]] | new[test[:, 2]]]
    about_new = dataclasses.replace(small_graph, test=asked)
    assert evaluate(grown, about_new)["mrr"] > 3 * evaluate(small, about_new)["mrr"]
