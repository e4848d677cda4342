"""Answers, scores and probabilities of a compressed model; what it needs to be used."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import metasd
from compressed_cases import trained
from fuzz_compressed import small_model
from metasd.compressed import CompressedModel, Query
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.evaluation import evaluate


@pytest.fixture
def small(small_graph: Graph) -> CompressedModel:
    model = trained("complex", small_graph)
    return metasd.compress(model, "sparse", "fp32", graph=small_graph)


@pytest.mark.parametrize("scoring", ["complex", "cp", "distmult", "rescal"])
def test_answers_and_metrics_are_those_of_the_model(small_graph: Graph, scoring: str) -> None:
    model = trained(scoring, small_graph)
    small = metasd.compress(model, "sparse", "fp32", graph=small_graph)
    known = small_graph.known()
    candidates = model.candidates(model.compact.entities)
    for h, r, t in small_graph.test[:10].tolist():
        for side, given, relation in (("head", h, r), ("tail", t, r + small_graph.num_relations)):
            ids = torch.tensor([given]), torch.tensor([relation])
            scores = (model.compact.queries(*ids) @ candidates.T)[0]
            scores[torch.from_numpy(known.answers(given, relation))] = -torch.inf
            wanted = scores.sort(descending=True, stable=True)
            query = {side: small_graph.entities[given], "relation": small_graph.relations[r]}
            got = small.predict(**query, k=7)
            assert [score for _, score in got] == pytest.approx(
                wanted.values[:7].tolist(), rel=1e-4
            )
            names = [small_graph.entity_name(i) for i in wanted.indices[:7].tolist()]
            assert [label for label, _ in got] == names
    before, after = evaluate(model.compact, small_graph), evaluate(small, small_graph)
    assert after["mrr"] == pytest.approx(before["mrr"], abs=2e-4)
    assert after["hits@10"] == pytest.approx(before["hits@10"], abs=2e-3)


def test_probabilities_are_a_softmax_over_the_candidates(small: CompressedModel) -> None:
    query = Query(small.entity_labels[3], small.relation_labels[0])
    everything = small.answers([query], 10**6, keep_known=True)[0]
    assert len(everything) == small.num_entities
    assert sum(answer.probability for answer in everything) == pytest.approx(1, rel=1e-4)
    scores = np.array([answer.score for answer in everything])
    assert (np.diff(scores) <= 0).all()
    assert everything[0].probability == pytest.approx(
        1 / np.exp(scores - scores[0]).sum(), rel=1e-3
    )
    flat = replace(small, temperature=1000.0).answers([query], 1)[0][0]
    assert flat.probability == pytest.approx(1 / small.num_entities, rel=0.1)


def test_known_triples_and_candidates(small: CompressedModel, small_graph: Graph) -> None:
    h, r, _ = small_graph.train[0].tolist()
    query = Query(small_graph.entities[h], small_graph.relations[r])
    known = set(small_graph.known().answers(h, r).tolist())
    found = {small.entity_labels.find(a.entity) for a in small.answers([query], 10**6)[0]}
    assert found == set(range(small.num_entities)) - known
    among = [small_graph.entities[i] for i in (*known, 5, 9, 5)]
    chosen = small.answers([query], 100, candidates=among)[0]
    assert {answer.entity for answer in chosen} == set(among)
    assert {a.entity for a in chosen if a.known} == {small_graph.entities[i] for i in known}
    assert chosen.num_hidden == 0
    assert sum(answer.probability for answer in chosen) == pytest.approx(1, rel=1e-4)
    assert small.answers([query], 3, candidates=[]) == [[]]
    assert small.answers([], 3) == []


def test_neighbors_are_nearest_by_cosine(small: CompressedModel) -> None:
    rows = small.dense()[0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = unit @ unit[5]
    wanted[5] = -2
    got = small.neighbors(small.entity_labels[5], 4)
    assert [score for _, score in got] == pytest.approx(sorted(wanted)[::-1][:4], abs=1e-5)
    assert len(small.neighbors(small.entity_labels[5], 10**6)) == small.num_entities - 1
    assert np.array_equal(small.embedding(small.entity_labels[5]), rows[5])


def test_queries_that_are_none_are_reported(small: CompressedModel) -> None:
    entity, relation = small.entity_labels[0], small.relation_labels[0]
    for call, message in [
        (lambda: small.predict(head=entity), "a query has a relation"),
        (lambda: small.predict(head=entity, tail=entity, relation=relation), "either a head or"),
        (lambda: small.predict(head=entity, relation=relation, k=0), "k must be at least 1; got 0"),
        (lambda: small.predict(head=entity + "x", relation=relation), f'did you mean "{entity}"'),
        (lambda: small.predict(head=entity, relation=relation + "x"), f'mean "{relation}"'),
        (lambda: small.predict(head="", relation=relation), 'no entity ""'),
        (lambda: small.predict(head="\ud800", relation=relation), "no entity"),
        (lambda: small.neighbors(entity, 0), "k must be"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


def test_calibration_makes_the_right_answers_most_likely(small: CompressedModel) -> None:
    random = np.random.default_rng(0)
    given, relations = random.integers(0, small.num_entities, 400), np.zeros(400, np.int64)
    scores = small.entities.scores(small.queries(given, relations))
    share = np.exp((scores - scores.max(1, keepdims=True)) / 3.0)  # draws at temperature 3
    tails = [random.choice(len(row), p=row / row.sum()) for row in share.astype(np.float64)]
    triples = np.stack([given, relations, np.array(tails)], axis=1)
    both = small.calibrated(triples)
    assert both.temperature == small.calibrated(triples).temperature
    assert 1.5 < both.temperature < 15
    with pytest.raises(InputError, match="needs triples"):
        small.calibrated(np.empty((0, 3), np.int64))


def test_a_command_that_needs_torch_says_so(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from metasd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "env"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (
        2,
        "metasd: torch is not installed, and this command needs it\n",
    )


def test_nothing_of_torch_is_needed(tmp_path: Path) -> None:
    small_model("complex", "sparse", "fp16", 0.1, seed=0).save_pretrained(tmp_path / "m")
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "pyarrow", "pydantic", "rich", "typer", "yaml"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Refuse())
import metasd
assert dir(metasd) == sorted([*metasd.__all__, "__version__"])
assert metasd.__version__[0].isdigit()
from metasd.compressed import CompressedModel
model = CompressedModel.from_pretrained("m")
print(model.predict(head="entity 03", relation="relation 1", k=2))
print(metasd.CompressedModel is CompressedModel)
assert not any(name.startswith("torch") for name in sys.modules)
try:
    metasd.train
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers, same, refusal = done.stdout.splitlines()
    assert len(eval(answers)) == 2
    assert same == "True"
    assert refusal.endswith("is not installed")
