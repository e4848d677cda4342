"""Answers of a run: those of its tables, by the mechanism of a compressed model."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import metasd
from metasd.compressed import CompressedModel
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError
from metasd.models import Scoring
from metasd.models.model import Model, ModelView
from metasd.training.run import Run, RunFolder


@pytest.fixture(params=["complex", "cp"])
def run(request: pytest.FixtureRequest, small_graph: Graph, tmp_path: Path) -> Run:
    """Random tables, and a compact model of them without most weights."""
    scoring = Scoring.named(request.param)(8)
    model = Model.create(scoring, small_graph.num_entities, small_graph.num_relations, seed=0)
    model.entities *= 1000
    model.relations *= 1000
    draw = torch.Generator().manual_seed(0)
    masks = [
        torch.randint(0, 2**8, (len(table), 1), generator=draw, dtype=torch.int32)
        for table in (model.entities, model.relations)
    ]
    model.masks = (masks[0], masks[1])
    return Run(tmp_path, Config(), small_graph, model)


def scores_of(view: ModelView, given: int, relation: int) -> torch.Tensor:
    query = view.queries(torch.tensor([given]), torch.tensor([relation]))
    return (query @ view.model.candidates(view.entities).T)[0]


@pytest.mark.parametrize("source", [False, True])
def test_answers_are_the_best_entities_in_order(run: Run, small_graph: Graph, source: bool) -> None:
    h, r, t = small_graph.test[0].tolist()
    view = run.model.source if source else run.model.compact
    model = run.answering(source=source, known=False)
    for side, given, relation in (("head", h, r), ("tail", t, r + small_graph.num_relations)):
        query = {side: small_graph.entities[given], "relation": small_graph.relations[r]}
        found = model.predict(**query, k=5)
        wanted = scores_of(view, given, relation).sort(descending=True, stable=True)
        names = [small_graph.entity_name(i) for i in wanted.indices[:5].tolist()]
        assert [label for label, _ in found] == names
        assert [score for _, score in found] == pytest.approx(wanted.values[:5].tolist(), rel=1e-4)


def test_known_answers_are_left_out(run: Run, small_graph: Graph) -> None:
    h, r, _ = small_graph.train[0].tolist()
    query = {"head": small_graph.entities[h], "relation": small_graph.relations[r]}
    everything = run.answering(known=False).predict(**query, k=1000)
    new = run.answering(graph=small_graph).predict(**query, k=1000)
    known = {small_graph.entity_name(e) for e in small_graph.known().answers(h, r)}
    assert len(everything) == small_graph.num_entities
    assert {label for label, _ in everything} - {label for label, _ in new} == known
    assert known


def test_a_run_without_a_compact_model_answers_by_its_source(run: Run, small_graph: Graph) -> None:
    run.model.masks = None
    run.model.changed()
    with pytest.warns(UserWarning, match="still in warm-up"):
        found = run.answering(known=False)
    source = run.answering(source=True, known=False)
    for one, other in zip(found.dense(), source.dense(), strict=True):
        assert np.array_equal(one, other)


def test_bad_queries_say_what_is_wrong(run: Run, small_graph: Graph) -> None:
    name, relation = small_graph.entities[0], small_graph.relations[0]
    for arguments, message in (
        ({"head": name, "tail": name, "relation": relation}, "either a head or a tail"),
        ({"relation": relation}, "either a head or a tail"),
        ({"head": name, "relation": relation, "k": 0}, "k must be at least 1"),
        ({"head": name + "x", "relation": relation}, name),
        ({"head": name, "relation": relation[:-1]}, relation),
    ):
        with pytest.raises(InputError, match=message):
            run.predict(**arguments, keep_known=True)


def test_a_run_asks_and_answers_like_a_compressed_model(run: Run, small_graph: Graph) -> None:
    for name in ("predict", "answers", "score", "neighbors", "embedding"):
        mine = dict(inspect.signature(getattr(Run, name)).parameters)
        assert mine.pop("source").default is False
        theirs = inspect.signature(getattr(CompressedModel, name)).parameters
        assert [(p.name, p.default) for p in mine.values()] == [
            (p.name, p.default) for p in theirs.values()
        ]
    h, r, t = small_graph.train[0].tolist()
    head, relation, tail = (
        small_graph.entities[h],
        small_graph.relations[r],
        small_graph.entities[t],
    )
    for source in (False, True):
        model = run.answering(source=source)
        query = (head, relation, None)
        for options in ({}, {"keep_known": True}, {"typed": True}, {"candidates": [tail]}):
            found = run.answers([query], 5, source=source, **options)
            assert found == model.answers([query], 5, **options)
        assert run.score([(head, relation, tail)], source=source) == model.score(
            [(head, relation, tail)]
        )
        assert run.neighbors(head, 3, source=source) == model.neighbors(head, 3)
        assert np.array_equal(run.embedding(head, source=source), model.embedding(head))


def test_the_graph_is_read_once_and_only_when_needed(
    run: Run, small_graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def read(*_: object) -> Graph:
        reads.append(1)
        if not found:
            raise InputError("no such file")
        return small_graph

    monkeypatch.setattr(RunFolder, "load_graph", read)
    run.vocabulary = Vocabulary(entities=small_graph.entities, relations=small_graph.relations)
    head, relation = small_graph.entities[0], small_graph.relations[0]
    found = False
    run.neighbors(head)
    run.score([(head, relation, head)])
    assert not reads
    with pytest.raises(InputError, match="no such file"):
        run.predict(head, relation)
    everything = run.answers([(head, relation, None)], 3, keep_known=True)[0]
    assert {answer.known for answer in everything} == {None}
    found, reads[:] = True, []
    for _ in range(3):
        run.predict(head, relation)
        run.predict(head, relation, source=True)
    assert len(reads) == 1


def test_the_representation_is_a_few_lines(run: Run) -> None:
    run.metrics = {
        "test": {"compact": {"mrr": 0.5, "hits@10": 0.75}},
        "protocol": {"graph": "kin"},
    }
    first, *rest = repr(run).splitlines()
    assert f" on kin: {run.model.num_entities:,} entities" in first
    assert rest[-1] == "  test MRR (Hits@10): compact 0.500 (0.750)"
    assert len(rest) == 3


@pytest.mark.slow
def test_a_trained_run_predicts(small_graph: Graph, quick: Config, tmp_path: Path) -> None:
    metasd.train(small_graph, quick, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    h, r, _ = small_graph.train[0].tolist()
    query = {"head": small_graph.entities[h], "relation": small_graph.relations[r], "k": 1000}
    new, everything = run.predict(**query), run.predict(**query, keep_known=True)
    assert len(everything) == small_graph.num_entities
    known = {small_graph.entity_name(e) for e in small_graph.known().answers(h, r)}
    assert {label for label, _ in everything} - {label for label, _ in new} == known
    assert run.predict(**query, source=True) != new


def test_a_folder_of_the_other_kind_is_called_so(run: Run, tmp_path: Path) -> None:
    for given in (None, run, 3):
        for load in (Run.load, CompressedModel.from_pretrained, Config.load):
            with pytest.raises(
                InputError, match=f"is given by its path; got {type(given).__name__}"
            ):
                load(given)  # type: ignore[operator]
    run.config.save(tmp_path / "config.yaml")
    with pytest.raises(InputError, match="is a run folder, not a compressed model: `metasd compre"):
        CompressedModel.from_pretrained(tmp_path)
    run.answering(known=False).save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match=r"not a run folder \(it is a compressed model\)"):
        Run.load(tmp_path / "small")


def test_a_graph_of_other_labels_gives_no_known_answers(run: Run, small_graph: Graph) -> None:
    fewer = Graph.from_triples([(label, "r", label) for label in small_graph.entities[:5]])
    with pytest.raises(InputError, match="trained on another graph than triples: entities differ"):
        run.answering(graph=fewer)
