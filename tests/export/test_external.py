"""Tables that other programs trained: read without executing anything, and put in order."""

import csv
import gzip
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metasd
from metasd.cli.options import graph_of
from metasd.compressed import CompressedModel, Query
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.export.external import import_tables
from metasd.models import Scoring
from metasd.models.model import Model


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    return path


def test_numpy_tables_with_and_without_inverse_relations(outside: Path, small_graph: Graph) -> None:
    random = np.random.default_rng(0)
    n, r = small_graph.num_entities, small_graph.num_relations
    for scoring, width, wide in (("complex", 12, 12), ("distmult", 6, 6), ("rescal", 6, 36)):
        entities = random.standard_normal((n, width)).astype(np.float32)
        relations = random.standard_normal((r, wide))
        np.save(outside / "entities.npy", entities)
        np.save(outside / "relations.npy", relations)
        small = import_tables("npy", outside, scoring, "column", "fp32", small_graph)
        triples = small_graph.test[:20]
        head, relation, tail = triples.T
        asked = small.queries(tail, relation + r)  # the inverse relation asks for heads
        rows = small.entities.decode(head)
        assert np.einsum("ij,ij->i", asked, rows) == pytest.approx(small.score(triples), abs=1e-4)
        assert list(small.entity_labels) == small_graph.entities
    np.save(outside / "relations.npy", relations[:-1])
    with pytest.raises(InputError, match="wanted"):
        import_tables("npy", outside, "rescal", graph=small_graph)
    np.save(outside / "relations.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match="not a plain numpy array"):
        import_tables("npy", outside, "complex")


def test_kbc_checkpoints(outside: Path, small_graph: Graph) -> None:
    n, r = small_graph.num_entities, small_graph.num_relations
    state = {
        "embeddings.0.weight": torch.randn(n, 8),
        "embeddings.1.weight": torch.randn(2 * r, 8),
    }
    torch.save(state, outside / "model.pt")
    for name, labels in (("ent_id", small_graph.entities), ("rel_id", small_graph.relations)):
        lines = [f"{label}\t{i}\n" for i, label in enumerate(labels)]
        (outside / name).write_text("".join(lines))
    small = import_tables("kbc", outside / "model.pt", "complex", "column", "fp32")
    assert np.array_equal(small.dense()[0], state["embeddings.0.weight"].numpy())
    assert list(small.entity_labels) == small_graph.entities
    assert small.known is None
    sides = {"lhs.weight": torch.randn(n, 4), "rhs.weight": torch.randn(n, 4)}
    torch.save({**sides, "rel.weight": torch.randn(2 * r, 4)}, outside / "cp.pt")
    both = import_tables("kbc", outside / "cp.pt", "cp", "column", "fp32").dense()[0]
    assert np.array_equal(both[n:], sides["rhs.weight"].numpy())
    with pytest.raises(InputError, match="kbc has ComplEx and CP"):
        import_tables("kbc", outside / "cp.pt", "distmult")


def write_pykeen_labels(folder: Path, entities: list[str], relations: list[str]) -> None:
    """Label files as a PyKEEN triples factory writes them."""
    for name, labels in (("entity", entities), ("relation", relations)):
        path = folder / f"{name}_to_id.tsv.gz"
        with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerows([("id", "label"), *enumerate(labels)])


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


def test_nothing_that_is_pickled_is_executed(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(outside)
    torch.save({"embeddings.0.weight": Hostile()}, outside / "model.pt")
    with pytest.raises(InputError, match="without executing it"):
        import_tables("kbc", outside / "model.pt", "complex")
    assert not (outside / "executed").exists()


@pytest.mark.slow
@pytest.mark.parametrize("inverses", [False, True])
@pytest.mark.parametrize(
    ("name", "scoring"), [("ComplEx", "complex"), ("DistMult", "distmult"), ("RESCAL", "rescal")]
)
def test_pykeen_models_score_as_they_did(
    outside: Path, name: str, scoring: str, inverses: bool
) -> None:
    pytest.importorskip("pykeen")
    from pykeen.datasets import Nations
    from pykeen.models import model_resolver

    factory = Nations(create_inverse_triples=inverses).training
    model = model_resolver.make(name, triples_factory=factory, embedding_dim=6, random_seed=0)
    torch.save(model.state_dict(), outside / "state.pt")
    factory.to_path_binary(outside / "training_triples")
    small = import_tables("pykeen", outside / "state.pt", scoring, "column", "fp32")
    triples = factory.mapped_triples[:50]
    wanted = model.predict_hrt(triples).detach()[:, 0].numpy()
    labels = [
        (
            factory.entity_id_to_label[h],
            factory.relation_id_to_label[r],
            factory.entity_id_to_label[t],
        )
        for h, r, t in triples.tolist()
    ]
    assert small.score(labels) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_a_pickled_model_is_read_by_way_of_its_state(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command in the message works as it stands, in a shell."""
    monkeypatch.chdir(outside)
    whole = torch.nn.Module()
    for name in ("entity", "relation"):
        part = torch.nn.Module()
        part._embeddings = torch.nn.Embedding(4, 6)
        whole.add_module(f"{name}_representations", torch.nn.ModuleList([part]))
    path = outside / "my results" / "trained_model.pkl"
    path.parent.mkdir()
    torch.save(whole, path, pickle_protocol=5)
    with pytest.raises(InputError, match="cannot be read without executing it") as failure:
        import_tables("pykeen", path, "distmult")
    command = str(failure.value).partition("run: ")[2].rpartition(" and import ")[0]
    subprocess.run(["bash", "-c", command], check=True)
    write_pykeen_labels(path.parent, ["a", "b", "c", "d"], ["r", "s"])
    small = import_tables("pykeen", path.parent, "distmult", "fp32")
    wanted = whole.state_dict()["entity_representations.0._embeddings.weight"].numpy()
    assert np.array_equal(small.dense()[0], wanted)
    (outside / "text.pkl").write_text("no model")
    with pytest.raises(InputError, match="not a state_dict"):
        import_tables("pykeen", outside / "text.pkl", "distmult")


def test_the_vocabulary_is_that_of_the_tables(small_graph: Graph, outside: Path) -> None:
    """Triples are left out whose entities have no rows; rows without triples stay."""
    random = np.random.default_rng(0)
    lacking = set(small_graph.entities[10:25])
    labels = [label for label in small_graph.entities if label not in lacking] + ["a new one"]
    random.shuffle(labels)
    relations = small_graph.relations[::-1]
    rows = {label: random.standard_normal(8).astype(np.float32) for label in labels + relations}
    for name, names in (("entities", labels), ("relations", relations)):
        np.save(outside / f"{name}.npy", np.stack([rows[label] for label in names]))
        lines = [f"{i}\t{label}\n" for i, label in enumerate(names)]
        (outside / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    small = import_tables("npy", outside, "distmult", "fp32", "auto", small_graph, calibrate=True)
    assert sorted(labels) == list(small.entity_labels)
    for label in labels:
        assert np.array_equal(small.embedding(label), rows[label])
    triples = np.concatenate([small_graph.train, small_graph.valid, small_graph.test])
    names = [
        (small_graph.entities[h], small_graph.relations[r], small_graph.entities[t])
        for h, r, t in triples.tolist()
    ]
    kept = {(h, r, t) for h, r, t in names if not {h, t} & lacking}
    assert small.about["imported"]["left_out"] == len(names) - len(kept) > 0
    for head, relation in {(h, r) for h, r, _ in kept}:
        asked = [Query(head, relation)]
        answers = {a.entity for a in small.answers(asked, small.num_entities)[0]}
        known = {t for h, r, t in kept if (h, r) == (head, relation)}
        assert answers == set(labels) - known
    small.save_pretrained(outside / "model")
    again = graph_of(CompressedModel.from_pretrained(outside / "model"), "families:120", None)
    assert sum(len(again.split(name)) for name in ("train", "valid", "test")) == len(kept)
    assert again.entities == sorted(labels)


@pytest.mark.slow
def test_imported_tables_are_tuned_on_a_graph(outside: Path, small_graph: Graph) -> None:
    random = np.random.default_rng(0)
    np.save(outside / "entities.npy", random.normal(0, 0.1, (small_graph.num_entities, 16)))
    np.save(outside / "relations.npy", random.normal(0, 0.1, (small_graph.num_relations, 16)))
    settings = ["train.batch_size=400"]
    small = import_tables("npy", outside, "complex", "auto", "auto", small_graph, 1, settings)
    assert small.info()["density"] == pytest.approx(0.1, abs=0.01)
    assert small.about["training"]["train.epochs"] == 1
    with pytest.raises(InputError, match="give --graph"):
        import_tables("npy", outside, "complex", epochs=1)


def test_the_source_of_tables_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--from must be one of pykeen, kbc, npy"):
        import_tables("onnx", tmp_path, "complex")
    with pytest.raises(InputError, match="no such file"):
        import_tables("npy", tmp_path / "x", "complex")


def test_imported_rows_are_put_in_the_graphs_order(small_graph: Graph, tmp_path: Path) -> None:
    """Labels beside the tables say which row is whose."""
    half = small_graph.num_relations
    model = Model.create(Scoring.named("complex")(40), small_graph.num_entities, half, seed=0)
    entities, relations = (table.numpy() for table in (model.entities, model.relations))
    orders = (
        np.arange(len(entities))[::-1],
        np.r_[np.arange(half)[::-1], np.arange(half, 2 * half)[::-1]],
    )
    for name, order, labels in (
        ("entities", orders[0], small_graph.entities),
        ("relations", orders[1], small_graph.relations),
    ):
        np.save(
            tmp_path / f"{name}.npy", {"entities": entities, "relations": relations}[name][order]
        )
        lines = [f"{i}\t{label}\n" for i, label in enumerate(reversed(labels))]
        (tmp_path / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    small = import_tables("npy", tmp_path, "complex", "column", "fp32", small_graph)
    wanted = metasd.compress(model, "column", "fp32", source=True, graph=small_graph)
    assert np.array_equal(small.dense()[0], wanted.dense()[0])
    assert np.array_equal(small.dense()[1], wanted.dense()[1])
    head, relation, tail = small_graph.train[0]
    asked = [Query(small_graph.entities[head], small_graph.relations[relation])]
    found = {a.entity for a in small.answers(asked, k=small_graph.num_entities)[0]}
    assert small_graph.entities[tail] not in found
    (tmp_path / "entities.tsv").write_text(
        "".join(f"{i}\tx{i}\n" for i in range(len(entities))), encoding="utf-8"
    )
    with pytest.raises(InputError, match="no train triple of families:120 has entities"):
        import_tables("npy", tmp_path, "complex", graph=small_graph)


def test_pykeen_tables_need_labels_or_a_graph(tmp_path: Path) -> None:
    names = (
        "entity_representations.0._embeddings.weight",
        "relation_representations.0._embeddings.weight",
    )
    torch.save(
        {name: torch.nn.Parameter(torch.ones(4, 6)) for name in names}, tmp_path / "model.pt"
    )
    with pytest.raises(InputError, match="known by their labels"):
        import_tables("pykeen", tmp_path / "model.pt", "distmult")
    write_pykeen_labels(tmp_path, ['a "q" b', "c\u2028d", "e", "f"], ["r", "s", "t", "u"])
    small = import_tables("pykeen", tmp_path / "model.pt", "distmult")
    assert small.num_relations == 4
    assert small.entity_labels[0] == 'a "q" b'


def test_codes_too_wide_to_be_scored_are_not_written(tmp_path: Path) -> None:
    np.save(tmp_path / "entities.npy", np.ones((2, 70_000), np.float32))
    np.save(tmp_path / "relations.npy", np.ones((2, 70_000), np.float32))
    with pytest.raises(InputError, match="rows of int8 may be 65535 wide; got 70000"):
        import_tables("npy", tmp_path, "distmult", "int8")
