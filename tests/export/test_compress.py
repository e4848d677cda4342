"""Compression of models and runs: the same scores, a fitting codec, all that belongs to a run."""

from pathlib import Path

import numpy as np
import pytest
import torch

import metasd
from compressed_cases import trained
from metasd.compressed import CompressedModel
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.models.masks import draw_masks
from metasd.training.run import Run


@pytest.fixture(scope="module")
def run(small_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = Config().override({"model.rank": 8, "train.epochs": 2, "train.batch_size": 400})
    return metasd.train(small_graph, config, tmp_path_factory.mktemp("runs") / "x")


@pytest.mark.parametrize(
    ("codec", "granularity", "weight_format", "wanted"),
    [
        ("auto", "weight", "fp32", "sparse fp16"),
        ("auto", "weight", "ternary", "sparse int8"),
        ("auto", "column", "fp32", "column fp16"),
        ("auto", "column", "int4", "column int4"),
        ("auto", "column", "int2", "column int2"),
        ("int8", "weight", "fp32", "int8 int8"),
        ("auto", "column", "int3", "column int3"),
        ("int4", "weight", "int3", "int4 int4"),
        ("ternary", "weight", "ternary", "ternary ternary"),
    ],
)
@pytest.mark.parametrize("scoring", ["complex", "cp", "distmult", "rescal"])
def test_a_model_and_its_compressed_form_score_alike(
    small_graph: Graph, scoring: str, codec: str, granularity: str, weight_format: str, wanted: str
) -> None:
    if scoring == "rescal" and granularity == "column":
        pytest.skip("RESCAL has no columns to prune")
    model = trained(scoring, small_graph, granularity, weight_format)
    small = metasd.compress(model, codec, graph=small_graph)
    assert f"{small.entities.codec} {small.entities.weight_format}" == wanted
    tables = [table.numpy() for table in (model.compact.entities, model.compact.relations)]
    rounding = 0.65 / 127 if (codec, weight_format) == ("int8", "fp32") else 6e-4
    for table, dense in zip(tables, small.dense(), strict=True):
        assert np.abs(table - dense).max() <= rounding * np.abs(table).max()
    triples = small_graph.test[:50]
    head, relation, tail = (torch.from_numpy(column.copy()) for column in triples.T)
    entities, relations = model.compact.entities, model.compact.relations
    query = model.scoring.query(entities[head], relations[relation])
    scores = (query * model.candidates(entities)[tail]).sum(1)
    got = small.score(triples)
    assert np.abs(got - scores.numpy()).max() <= 0.03 * scores.abs().max()


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("granularity", ["weight", "row", "column"])
@pytest.mark.parametrize("weight_format", ["int3", "int2"])
def test_auto_always_finds_a_codec(
    small_graph: Graph, weight_format: str, granularity: str, fraction: float
) -> None:
    model = trained("complex", small_graph, weight_format=weight_format)
    model.entities[:, 3] = 0  # whichever the granularity, one column is empty
    model.masks = draw_masks(model, fraction, granularity)
    model.changed()
    small, wanted = (
        metasd.compress(model),
        (model.compact.entities, model.compact.relations)[0].numpy(),
    )
    if small.info()["codec"].split()[0] != "sparse":  # which has a weight format of its own
        kept = wanted != 0
        assert np.allclose(small.dense()[0][kept], wanted[kept], rtol=2e-3)


def test_columns_that_round_to_many_zeros_stay_columns(small_graph: Graph) -> None:
    model = trained("complex", small_graph, "column", "int4")
    columns = np.flatnonzero(model.compact.entities.numpy().any(axis=0))
    model.entities[:, columns[0]] = 12 * model.entities.std()  # of such rows most is zero
    model.changed()
    entities = model.compact.entities.numpy()
    assert np.count_nonzero(entities) < 0.5 * len(columns) * len(entities)
    small = metasd.compress(model).entities
    assert f"{small.codec} {small.weight_format}" == "column int4"
    assert small.nbytes < metasd.compress(model, "sparse").entities.nbytes


@pytest.mark.parametrize("relation_format", ["int8", "int4", "int3", "int2"])
def test_relations_are_stored_in_what_they_were_trained_in(
    small_graph: Graph, relation_format: str
) -> None:
    model = trained("complex", small_graph, "column", "int3")
    model.relation_format = relation_format
    model.changed()
    small = metasd.compress(model)
    assert small.relations.weight_format == relation_format
    wanted = model.compact.relations.numpy()
    assert np.abs(small.dense()[1] - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_a_run_is_compressed_with_all_that_belongs_to_it(run: Run, tmp_path: Path) -> None:
    small = metasd.compress(run)
    small.save_pretrained(tmp_path / "m")
    small = CompressedModel.from_pretrained(tmp_path / "m")
    assert small.about["training"]["model.rank"] == 8
    assert small.about["metrics"]["test"]["compact"]["mrr"] == run.metrics["test"]["compact"]["mrr"]
    assert small.about["protocol"]["seed"] == run.metrics["protocol"]["seed"]
    assert small.known is not None
    entity, relation = small.entity_labels[0], small.relation_labels[0]
    wanted = [score for _, score in run.predict(head=entity, relation=relation, k=3)]
    got = [score for _, score in small.predict(head=entity, relation=relation, k=3)]
    assert got == pytest.approx(wanted, rel=5e-3, abs=1e-5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "from_pretrained" in card
    assert f"{run.metrics['test']['compact']['mrr']:.4f}" in card
    assert metasd.compress(run, known=False).known is None
    plain = metasd.compress(run.model)
    assert list(plain.relation_labels)[:2] == ["0", "1"]
    dense = metasd.compress(run, source=True, codec="int8")
    assert dense.info()["times smaller than dense"]["fp32 (tables)"] > 3
