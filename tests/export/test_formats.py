"""Exports, read back by the programs that they are for."""

from pathlib import Path

import numpy as np
import pytest

from compressed_cases import trained
from metasd.compressed import CompressedModel, Query
from metasd.data.graph import Graph
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError
from metasd.export.compress import compress
from metasd.export.external import import_tables
from metasd.export.formats import FORMATS, export

SCORINGS = ("complex", "cp", "distmult", "rescal")


@pytest.fixture(scope="module", params=SCORINGS)
def small(small_graph: Graph, request: pytest.FixtureRequest) -> CompressedModel:
    return compress(trained(request.param, small_graph), graph=small_graph)


def named(*labels: str) -> CompressedModel:
    """A model of entities with these labels."""
    rows = np.arange(4 * len(labels), dtype=np.float32).reshape(len(labels), 4) / 3
    vocabulary = Vocabulary(entities=list(labels), relations=["knows well"])
    return CompressedModel.of_tables("distmult", 4, rows, rows[:2], vocabulary)


def by_entity(small: CompressedModel) -> np.ndarray:
    return np.stack([small.embedding(label) for label in small.entity_labels])


def test_numpy_arrays_can_be_imported_again(small: CompressedModel, tmp_path: Path) -> None:
    record = export(small, "npy", tmp_path / "out")
    files = list((tmp_path / "out").iterdir())
    assert record["bytes"] == sum(file.stat().st_size for file in files)
    again = import_tables("npy", tmp_path / "out", small.scoring, "fp32")
    for mine, theirs in zip(small.dense(), again.dense(), strict=True):
        assert np.array_equal(mine, theirs)
    assert list(again.entity_labels) == list(small.entity_labels)
    assert list(again.relation_labels) == list(small.relation_labels)


def test_parquet_is_read_by_pyarrow_and_pandas(small: CompressedModel, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pandas = pytest.importorskip("pandas")
    export(small, "parquet", tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "entities.parquet")
    width = by_entity(small).shape[1]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), width)
    frame = pandas.read_parquet(tmp_path / "out" / "entities.parquet")
    assert list(frame.columns) == ["label", "id", "embedding"]
    assert list(frame["label"]) == list(small.entity_labels)
    assert list(frame["id"]) == list(range(small.num_entities))
    assert np.array_equal(np.stack(frame["embedding"]), by_entity(small))
    relations = pandas.read_parquet(tmp_path / "out" / "relations.parquet")
    labels = list(small.relation_labels)
    assert list(relations["label"]) == labels + [f"{label}_inverse" for label in labels]
    assert np.array_equal(np.stack(relations["embedding"]), small.dense()[1])


@pytest.mark.parametrize("binary", [False, True])
def test_word2vec_is_read_by_gensim(small: CompressedModel, tmp_path: Path, binary: bool) -> None:
    models = pytest.importorskip("gensim.models")
    record = export(small, "word2vec-binary" if binary else "word2vec", tmp_path / "out")
    spaces = sum(" " in label for label in small.entity_labels)
    assert record["labels with spaces, now underscores"] == spaces > 0
    for name, rows in (("entities", by_entity(small)), ("relations", small.dense()[1])):
        file = tmp_path / "out" / f"{name}.{'bin' if binary else 'txt'}"
        read = models.KeyedVectors.load_word2vec_format(str(file), binary=binary)
        assert len(read) == len(rows)
        assert np.array_equal(read.vectors, rows)
    label = next(label for label in small.entity_labels if " " in label)
    read = models.KeyedVectors.load_word2vec_format(
        str(tmp_path / "out" / f"entities.{'bin' if binary else 'txt'}"), binary=binary
    )
    assert np.array_equal(read[label.replace(" ", "_")], small.embedding(label))


def test_labels_that_word2vec_cannot_tell_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='"a b" and "a_b" are both "a_b"'):
        export(named("a b", "a_b"), "word2vec", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    export(named("a b", "a_b"), "parquet", tmp_path / "out")


def test_faiss_finds_what_predict_finds(
    small: CompressedModel, small_graph: Graph, tmp_path: Path
) -> None:
    """The same ten, but for the order of scores that differ by rounding."""
    faiss = pytest.importorskip("faiss")
    export(small, "faiss", tmp_path / "out")
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert isinstance(faiss.downcast_index(index), faiss.IndexFlatIP)
    labels = [line.split("\t")[1] for line in (tmp_path / "out/entities.tsv").open()]
    assert [label.rstrip("\n") for label in labels] == list(small.entity_labels)
    random = np.random.default_rng(0)
    ends = random.choice(list(small.entity_labels), 1000)
    relations = random.choice(list(small.relation_labels), 1000)
    queries = [
        Query(str(end), str(relation)) if i % 2 else Query(None, str(relation), str(end))
        for i, (end, relation) in enumerate(zip(ends, relations, strict=True))
    ]
    scores, found = index.search(small.query_vectors(queries), 10)
    for query, mine, places in zip(queries, scores, found, strict=True):
        theirs = small.predict(query.head, query.relation, query.tail, 11, keep_known=True)
        wanted = np.array([score for _, score in theirs])
        tolerance = 1e-4 * np.abs(wanted).max()
        assert mine == pytest.approx(wanted[:10], abs=tolerance)
        if wanted[9] - wanted[10] > tolerance:
            assert {small.entity_labels.human(i) for i in places} == {n for n, _ in theirs[:10]}


def test_other_faiss_indexes(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    model = named(*(f"e{i}" for i in range(200)))
    export(model, "faiss", tmp_path / "out", index="IVF4,Flat")
    index = faiss.downcast_index(faiss.read_index(str(tmp_path / "out" / "index.faiss")))
    assert (index.ntotal, index.nlist) == (200, 4)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    for wrong in ("Flatt", "IVF4096,Flat"):
        with pytest.raises(InputError, match="FAISS makes no index"):
            export(model, "faiss", tmp_path / "wrong", index=wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    model, out = named("a", "b"), tmp_path / "out"
    export(model, "npy", out)
    with pytest.raises(InputError, match="already exists; --overwrite"):
        export(model, "parquet", out)
    export(model, "parquet", out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["entities.parquet", "relations.parquet"]
    (out / "thesis.txt").write_text("five years")
    with pytest.raises(InputError, match=r"holds thesis.txt, which would be lost"):
        export(model, "npy", out, overwrite=True)
    with pytest.raises(InputError, match=f"format must be one of {', '.join(FORMATS)}; got 'npz'"):
        export(model, "npz", tmp_path / "other")
