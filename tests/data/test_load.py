"""Loading: every format, stable ids, splits of a single file, and mistakes in files."""

import dataclasses
import gzip
import json
import math
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_folders import (
    TEST,
    TRAIN,
    VALID,
    Rows,
    make_graph,
    random_rows,
    rows_of,
    text_of,
    write_folder,
)
from metasd.data.load import load_graph
from metasd.errors import InputError


@pytest.fixture(autouse=True)
def _no_data_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METASD_DATA", raising=False)


def test_folder(tmp_path: Path) -> None:
    graph = load_graph(write_folder(tmp_path / "Small Talk"))
    assert graph.name == "Small Talk"
    assert graph.entities == ["ada", "bo", "cy"]
    assert graph.relations == ["knows", "likes"]
    assert (graph.num_entities, graph.num_relations) == (3, 2)
    assert graph.entity_to_id == {"ada": 0, "bo": 1, "cy": 2}
    assert graph.relation_to_id == {"knows": 0, "likes": 1}
    assert graph.train.tolist() == [[0, 0, 2], [0, 1, 1], [1, 1, 2], [2, 0, 0]]
    assert graph.valid.tolist() == [[1, 1, 0]]
    assert graph.test.tolist() == [[2, 0, 1]]
    assert all(graph.split(name).dtype == np.int64 for name in ("train", "valid", "test"))
    assert graph.entity_counts.tolist() == [3, 2, 3]
    assert graph.relation_counts.tolist() == [2, 2]
    assert graph.unseen == {"entities": 0, "relations": 0, "valid": 0, "test": 0}
    assert graph.notes == ()
    assert repr(graph) == "Graph(Small Talk: 3 entities, 2 relations, 4/1/1 triples)"


@pytest.mark.parametrize(
    "kind", ["tsv", "txt.gz", "tsv.gz", "parquet", "crlf", "blank lines", "bom"]
)
def test_every_format_reads_the_same(tmp_path: Path, kind: str) -> None:
    expected = load_graph(write_folder(tmp_path / "plain"))
    folder = tmp_path / "other"
    folder.mkdir()
    for name, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        if kind == "tsv":
            (folder / f"{name}.tsv").write_bytes(text_of(rows))
        elif kind.endswith(".gz"):
            (folder / f"{name}.{kind}").write_bytes(gzip.compress(text_of(rows)))
        elif kind == "parquet":
            columns = dict(zip("abc", zip(*rows, strict=True), strict=True))
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        elif kind == "crlf":
            (folder / f"{name}.txt").write_bytes(text_of(rows, "\r\n"))
        elif kind == "blank lines":
            (folder / f"{name}.txt").write_bytes(text_of(rows, "\n\n"))
        else:
            (folder / f"{name}.txt").write_bytes(b"\xef\xbb\xbf" + text_of(rows))
    assert load_graph(folder).digest == expected.digest


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "test.txt").write_bytes(text_of(TEST).rstrip(b"\n"))
    assert rows_of(load_graph(folder), "test") == set(TEST)


@pytest.mark.parametrize("columns", ["hrt", "htr", "rht", "rth", "thr", "trh"])
def test_columns(tmp_path: Path, columns: str) -> None:
    expected = load_graph(write_folder(tmp_path / "plain"))

    def reorder(rows: Rows) -> Rows:
        return [tuple(row["hrt".index(letter)] for letter in columns) for row in rows]  # type: ignore[misc]

    folder = write_folder(tmp_path / "other", reorder(TRAIN), reorder(VALID), reorder(TEST))
    assert load_graph(folder, columns=columns).digest == expected.digest


def test_parquet_columns_go_by_their_names(tmp_path: Path) -> None:
    head, relation, tail = zip(*TRAIN, strict=True)
    table = pa.table({"tail": tail, "head": head, "relation": relation})
    for name in ("train", "valid", "test"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert rows_of(load_graph(tmp_path), "train") == set(TRAIN)


def test_parquet_numbers_become_labels(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        pq.write_table(
            pa.table({"a": [1, 2], "b": [7, 7], "c": [2, 10]}), tmp_path / f"{name}.parquet"
        )
    assert load_graph(tmp_path).entities == ["1", "2", "10"]


def test_odd_labels_survive(tmp_path: Path) -> None:
    odd = [
        "NA",
        "null",
        "NULL",
        "nan",
        "N/A",
        "#N/A",
        "1.50",
        "007",
        "true",
        ' "quoted',
        "it's",
        "a,b",
        "Zürich",
        "東京",
    ]
    rows = [(label, "null", odd[i - 1]) for i, label in enumerate(odd)]
    graph = load_graph(write_folder(tmp_path, rows, rows[:1], rows[1:2]))
    assert graph.entities == sorted(odd)
    assert rows_of(graph, "train") == set(rows)


def test_duplicates_are_dropped_and_noted(tmp_path: Path) -> None:
    graph = load_graph(write_folder(tmp_path, [*TRAIN, TRAIN[2], TRAIN[2]]))
    assert len(graph.train) == len(TRAIN)
    assert graph.notes == ("train: 2 duplicate triples dropped",)


def test_triples_that_are_in_train_too_are_noted(tmp_path: Path) -> None:
    graph = load_graph(write_folder(tmp_path, valid=[*VALID, TRAIN[0]], test=[*TEST, *TRAIN[:2]]))
    assert graph.notes[0] == ("1 of 2 valid and 2 of 3 test triples are in train, too; they count")


def test_unseen_entities_and_relations_are_kept_and_counted(tmp_path: Path) -> None:
    valid = [*VALID, ("ada", "hates", "bo")]
    test = [*TEST, ("dan", "likes", "ada"), ("ada", "likes", "eve")]
    graph = load_graph(write_folder(tmp_path, valid=valid, test=test))
    assert graph.unseen == {"entities": 2, "relations": 1, "valid": 1, "test": 2}
    assert rows_of(graph, "test") == set(test)
    assert graph.entity_counts[graph.entity_id("eve")] == 0


@settings(max_examples=25, deadline=None)
@given(st.permutations(TRAIN))
def test_ids_do_not_depend_on_row_order(
    tmp_path_factory: pytest.TempPathFactory, train: Rows
) -> None:
    folder = tmp_path_factory.mktemp("shuffled")
    graph = load_graph(write_folder(folder, train))
    assert graph.entities == ["ada", "bo", "cy"]
    assert graph.train.tolist() == [[0, 0, 2], [0, 1, 1], [1, 1, 2], [2, 0, 0]]


def test_digest_depends_on_everything(tmp_path: Path) -> None:
    graph = load_graph(write_folder(tmp_path))
    others = [
        dataclasses.replace(graph, entities=["ada", "bo", "cyd"]),
        dataclasses.replace(graph, relations=["knows", "loves"]),
        dataclasses.replace(graph, train=graph.train[1:]),
        dataclasses.replace(graph, valid=graph.test, test=graph.valid),
        dataclasses.replace(graph, train=graph.train[:, ::-1]),
    ]
    assert len({graph.digest, *(other.digest for other in others)}) == 6
    assert dataclasses.replace(graph, name="other").digest == graph.digest


def test_single_file_is_split_reproducibly(tmp_path: Path) -> None:
    rows = sorted(set(random_rows(300)))
    random.Random(0).shuffle(rows)
    (tmp_path / "a.tsv").write_bytes(text_of(rows))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text_of(rows[::-1])))
    a, b = load_graph(tmp_path / "a.tsv"), load_graph(tmp_path / "b.txt.gz")
    assert (a.name, b.name) == ("a", "b")
    assert a.digest == b.digest
    held_out = max(1, round(0.05 * len(rows)))
    assert [len(a.split(name)) for name in ("valid", "test")] == [held_out, held_out]
    assert min(*a.entity_counts, *a.relation_counts) > 0
    parts = [rows_of(a, name) for name in ("train", "valid", "test")]
    assert set.union(*parts) == set(rows)
    assert sum(map(len, parts)) == len(rows)
    assert a.notes[0] == (
        f"{held_out} valid triples and {held_out} test triples were drawn from {len(rows)} with "
        "seed 0; train keeps every entity and relation"
    )
    assert load_graph(tmp_path / "a.tsv", seed=1).digest != a.digest


def test_single_file_shares(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(text_of(TRAIN))
    graph = load_graph(tmp_path / "a.tsv", split_ratios=(0.5, 0.25, 0.25))
    assert [len(graph.split(name)) for name in ("train", "valid", "test")] == [3, 0, 1]
    assert graph.notes[0] == (
        "0 valid triples and 1 test triples were drawn from 4 with seed 0, not 2: train would lack "
        "entities or relations without the others"
    )
    graph = load_graph(tmp_path / "a.tsv", split_ratios=(1.0, 0.0, 0.0))
    assert [len(graph.split(name)) for name in ("train", "valid", "test")] == [4, 0, 0]
    (tmp_path / "two.tsv").write_bytes(text_of(TRAIN[:2]))
    with pytest.raises(InputError, match=r"two\.tsv: 2 triples are too few to split$"):
        load_graph(tmp_path / "two.tsv")


@pytest.mark.parametrize(
    "split", [(0.9, 0.1), (0.5, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (math.nan, 0.5, 0.5)]
)
def test_bad_shares(split: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="three shares that sum to 1"):
        load_graph("families", split_ratios=split)


def test_source_loads_the_graph_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(t, r, h) for h, r, t in random_rows(60)]
    write_folder(tmp_path / "talk")
    (tmp_path / "a.tsv").write_bytes(text_of(rows))
    monkeypatch.chdir(tmp_path)
    graphs = [
        load_graph("talk"),
        load_graph("TALK", "."),
        load_graph("families:30", seed=3),
        load_graph(Path("a.tsv"), columns="trh", split_ratios=(0.8, 0.1, 0.1), seed=4),
    ]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for graph in graphs:
        assert load_graph(**json.loads(json.dumps(graph.source))).digest == graph.digest
    assert make_graph([], [], []).source is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"a\tr\tb\n\na\tr\n", "line 3: 2 fields, wanted 3 separated by tabs"),
        (b"a\tr\tb\na\tr\tb\tc\r\n", "line 2: 4 fields, wanted 3 separated by tabs"),
        (b"a r b\n", "line 1: 1 field, wanted 3 separated by tabs"),
        (b"a\tr\tb\na\t\tb\n", "line 2: field 2 is empty"),
        (b"a\tr\tb\na\tr\t\r\n", "line 2: field 3 is empty"),
        (b"a\tr\tb\na\tr\t\xff\xfe\n", "line 2: not UTF-8 text"),
        (b"a\tr\tb\na\tr\0\tb\n", "line 2: a label holds NUL"),
        ("a\tr\tb\n".encode("utf-16"), "line 1: not UTF-8 text"),
    ],
)
def test_bad_text(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_folder(tmp_path)
    (folder / "valid.txt").write_bytes(content)
    with pytest.raises(InputError) as error:
        load_graph(folder)
    assert str(error.value) == f"{folder / 'valid.txt'}: {message}"


def test_a_bad_line_is_found_far_down(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    lines = text_of(TRAIN) * 20_000
    (folder / "train.txt").write_bytes(lines + b"a\tb\n" + lines)
    with pytest.raises(InputError, match="line 80001: 2 fields"):
        load_graph(folder)


def test_bad_gzip(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "test.txt").unlink()
    packed = gzip.compress(text_of(TEST))
    (folder / "test.txt.gz").write_bytes(packed[:-12])
    with pytest.raises(InputError, match=r"test\.txt\.gz: the gzip file is damaged or cut off$"):
        load_graph(folder)
    (folder / "test.txt.gz").write_bytes(text_of(TEST))
    with pytest.raises(InputError, match=r"test\.txt\.gz: not a gzip file"):
        load_graph(folder)


def test_missing_train(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "train.txt").unlink()
    with pytest.raises(InputError, match=r"no train file \(train\.txt, .* or \.parquet\)"):
        load_graph(folder)


def test_two_files_of_one_split(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "test.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r": test\.txt and test\.parquet are both there"):
        load_graph(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"a": ["x"], "b": ["y"]}), "2 columns, wanted 3"),
        (pa.table({"a": ["x", None], "b": ["y", "y"], "c": ["z", "z"]}), "row 2: head is empty"),
        (pa.table({"a": ["x"], "b": ["y"], "c": [""]}), "row 1: tail is empty"),
        (pa.table({"a": ["x"], "b": ["y\ny"], "c": ["z"]}), "row 1: relation 'y.*a line break or"),
        (pa.table({"a": ["x", "x\0"], "b": ["y", "y"], "c": ["z", "z"]}), "row 2: head .* or NUL"),
        (pa.table({"a": [["x"]], "b": ["y"], "c": ["z"]}), "not a Parquet file of text columns"),
        (
            pa.table({"a": [], "b": [], "c": []}).cast(
                pa.schema([(c, pa.string()) for c in "abc"])
            ),
            "the file has no triples",
        ),
        (None, "not a Parquet file of text columns"),
    ],
)
def test_bad_parquet(tmp_path: Path, table: pa.Table | None, message: str) -> None:
    folder = write_folder(tmp_path)
    (folder / "test.txt").unlink()
    if table is None:
        (folder / "test.parquet").write_bytes(b"no parquet")
    else:
        pq.write_table(table, folder / "test.parquet")
    with pytest.raises(InputError, match=message) as error:
        load_graph(folder)
    assert "\n" not in str(error.value)
    assert "test.parquet" in str(error.value)


@pytest.mark.parametrize("columns", ["", "hr", "hrr", "abc", "hrth"])
def test_bad_columns(columns: str) -> None:
    with pytest.raises(InputError, match='permutation of "hrt"'):
        load_graph("families", columns=columns)
