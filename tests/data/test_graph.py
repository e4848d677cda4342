"""Reading graphs, stable ids, the known answers, vocabularies and what is said about mistakes."""

import dataclasses
import gzip
import importlib.util
import json
import math
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.data.sources import known_graphs
from metasd.data.vocabulary import Vocabulary, load_vocabulary
from metasd.errors import InputError, nearest

DATA = os.environ.get("METASD_DATA")
Rows = list[tuple[str, str, str]]

TRAIN: Rows = [
    ("ada", "likes", "bo"),
    ("bo", "likes", "cy"),
    ("cy", "knows", "ada"),
    ("ada", "knows", "cy"),
]
VALID: Rows = [("bo", "likes", "ada")]
TEST: Rows = [("cy", "knows", "bo")]


@pytest.fixture(autouse=True)
def _no_data_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METASD_DATA", raising=False)


def text_of(rows: Rows, end: str = "\n") -> bytes:
    return "".join("\t".join(row) + end for row in rows).encode()


def write_folder(folder: Path, train: Rows = TRAIN, valid: Rows = VALID, test: Rows = TEST) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"{name}.txt").write_bytes(text_of(rows))
    return folder


def rows_of(graph: Graph, split: str) -> set[tuple[str, str, str]]:
    return {
        (graph.entities[h], graph.relations[r], graph.entities[t])
        for h, r, t in graph.split(split).tolist()
    }


def random_rows(count: int, entities: int = 12, relations: int = 3) -> Rows:
    draw = random.Random(count)
    return [
        (
            f"e{draw.randrange(entities)}",
            f"r{draw.randrange(relations)}",
            f"e{draw.randrange(entities)}",
        )
        for _ in range(count)
    ]


# Reading


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
    assert load_graph(tmp_path).entities == ["1", "10", "2"]


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
    assert graph.notes == ("1 valid and 2 test triples are in train, too; they count",)


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


# Single files


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
    parts = [rows_of(a, name) for name in ("train", "valid", "test")]
    assert set.union(*parts) == set(rows)
    assert sum(map(len, parts)) == len(rows)
    assert a.notes == ("one file, split 0.9/0.05/0.05 with seed 0",)
    assert load_graph(tmp_path / "a.tsv", seed=1).digest != a.digest


def test_single_file_shares(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(text_of(TRAIN))
    graph = load_graph(tmp_path / "a.tsv", split_ratios=(0.5, 0.25, 0.25))
    assert [len(graph.split(name)) for name in ("train", "valid", "test")] == [2, 1, 1]
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
        load_graph("families", split=split)


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


# Mistakes in files


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


def test_missing_split(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "valid.txt").unlink()
    with pytest.raises(InputError, match=r"no valid file \(valid\.txt, \.tsv, .* or \.parquet\)$"):
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


# Names


@pytest.mark.parametrize("name", ["FB15k-237", "fb15k237", "fb237", "FB15K_237", "fb15k 237"])
def test_folders_are_found_by_name(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "FB15k-237")
    write_folder(tmp_path / "FB15k")
    assert load_graph(name, tmp_path).name == "FB15k-237"


def test_alias(tmp_path: Path) -> None:
    write_folder(tmp_path / "WN18RR")
    for name in ("wnrr", "wn18rr", "WN-18-RR"):
        assert load_graph(name, data_dir=tmp_path).name == "WN18RR"


def test_data_dir_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "one" / "talk", train=TRAIN[:2])
    write_folder(tmp_path / "two" / "talk", train=TRAIN[:3])
    write_folder(tmp_path / "two" / "umls")
    listed = [tmp_path / "nowhere", tmp_path / "two"]
    monkeypatch.setenv("METASD_DATA", os.pathsep.join(map(str, listed)))
    assert len(load_graph("talk", tmp_path / "one").train) == 2
    assert len(load_graph("talk").train) == 3
    assert load_graph("UMLS").num_entities == 3


def test_an_existing_path_comes_before_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "families")
    monkeypatch.chdir(tmp_path)
    assert load_graph("families").num_entities == 3


def test_a_path_is_never_a_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "talk")
    for path in ("./talk", "data/talk", "/talk", Path("talk")):
        with pytest.raises(InputError, match=r"talk: no such file or folder$"):
            load_graph(path, tmp_path)


def test_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as error:
        load_graph("familes")
    assert str(error.value) == (
        'no graph "familes"; did you mean "families"? '
        "(searched: no data folder is given and METASD_DATA is not set)"
    )
    write_folder(tmp_path / "WN18RR")
    monkeypatch.setenv("METASD_DATA", str(tmp_path))
    with pytest.raises(InputError) as error:
        load_graph("WN18R")
    assert str(error.value) == f'no graph "WN18R"; did you mean "WN18RR"? (searched: {tmp_path})'
    write_folder(tmp_path / "FB15k-237")
    with pytest.raises(InputError, match='no graph "fb238"; did you mean "fb237"'):
        load_graph("fb238")
    with pytest.raises(InputError, match='no graph ""'):
        load_graph("")
    with pytest.raises(InputError, match=r"nowhere: no such data folder$"):
        load_graph("WN18RR", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["families:", "families:many", "families:-5", "families:²"])
def test_bad_families(name: str) -> None:
    with pytest.raises(InputError, match=f'families:N with a number of entities; got "{name}"'):
        load_graph(name)


def test_pykeen_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pykeen"
    write_folder(package / "datasets" / "kinships")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pykeen", raising=False)
    assert load_graph("Kinship").name == "kinships"
    assert ("kinships", "pykeen", str(package / "datasets" / "kinships")) in known_graphs()


def test_pykeen_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasd.data.graph._pykeen_folder", lambda: None)
    with pytest.raises(InputError) as error:
        load_graph("umls")
    assert str(error.value) == 'umls comes with PyKEEN: pip install "metasd[pykeen]"'


@pytest.mark.skipif(importlib.util.find_spec("pykeen") is None, reason="PyKEEN is not installed")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("umls", (135, 46, 5216, 652, 661)),
        ("kinships", (104, 25, 8544, 1068, 1074)),
        ("nations", (14, 55, 1592, 199, 201)),
    ],
)
def test_pykeen_graphs(name: str, sizes: tuple[int, ...]) -> None:
    graph = load_graph(name)
    lengths = (len(graph.train), len(graph.valid), len(graph.test))
    assert (graph.num_entities, graph.num_relations, *lengths) == sizes


def test_known_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasd.data.graph._pykeen_folder", lambda: None)
    write_folder(tmp_path / "talk")
    (tmp_path / "empty").mkdir()
    extra = 'pip install "metasd[pykeen]"'
    assert known_graphs(tmp_path) == [
        ("families", "generated", "2000 entities; families:N for another size"),
        (
            "powerlaw",
            "generated",
            "powerlaw:N or powerlaw:N:T for N entities and T triples",
        ),
        ("talk", "folder", str(tmp_path / "talk")),
        ("kinships", "pykeen", extra),
        ("nations", "pykeen", extra),
        ("umls", "pykeen", extra),
    ]


# Labels and vocabularies


@pytest.fixture
def labelled(tmp_path: Path) -> Graph:
    folder = write_folder(tmp_path / "labelled", valid=[*VALID, ("dan", "likes", "bo")])
    (folder / "entity_labels.tsv").write_text("ada\tAda Berg\nbo\tSmith\ncy\tSmith\nzed\tZed\n")
    return load_graph(folder)


def test_entities_by_label(labelled: Graph) -> None:
    assert labelled.entity_labels == {"ada": "Ada Berg", "bo": "Smith", "cy": "Smith"}
    assert labelled.entity_id("ada") == labelled.entity_id("Ada Berg") == 0
    assert [labelled.entity_name(i) for i in range(4)] == ["Ada Berg", "Smith", "Smith", "dan"]
    with pytest.raises(InputError) as error:
        labelled.entity_id("Smith")
    assert str(error.value) == '"Smith" names 2 entities (bo, cy); give the id of one'
    with pytest.raises(InputError) as error:
        labelled.entity_id("ada berg")
    assert str(error.value) == 'no entity "ada berg"; did you mean "Ada Berg"?'
    assert labelled.relation_id("likes") == 1
    with pytest.raises(InputError) as error:
        labelled.relation_id("know")
    assert str(error.value) == 'no relation "know"; did you mean "knows"?'
    with pytest.raises(InputError, match='split must be train, valid or test; got "dev"'):
        labelled.split("dev")


def test_bad_entity_labels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "entity_labels.tsv").write_text("ada\tAda\nbo\n")
    with pytest.raises(InputError, match=r"entity_labels\.tsv: line 2: 1 field, wanted 2"):
        load_graph(folder)


def test_vocabulary_round_trip(labelled: Graph, tmp_path: Path) -> None:
    labelled.save_vocabulary(tmp_path / "new" / "model")
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [
        "entities.tsv",
        "relations.tsv",
    ]
    assert (tmp_path / "new" / "model" / "entities.tsv").read_text() == (
        "0\tada\tAda Berg\n1\tbo\tSmith\n2\tcy\tSmith\n3\tdan\t\n"
    )
    assert (tmp_path / "new" / "model" / "relations.tsv").read_text() == "0\tknows\n1\tlikes\n"
    read = load_vocabulary(tmp_path / "new" / "model")
    assert read.entities == labelled.entities
    assert read.relations == labelled.relations
    assert read.entity_labels == labelled.entity_labels
    assert read.entity_id("Ada Berg") == 0


LABELS = st.lists(
    st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1),
    min_size=1,
    unique=True,
)


@settings(max_examples=50, deadline=None)
@given(entities=LABELS, relations=LABELS)
def test_vocabulary_keeps_any_label(
    tmp_path_factory: pytest.TempPathFactory, entities: list[str], relations: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("vocabulary")
    Vocabulary(entities=entities, relations=relations).save_vocabulary(folder)
    read = load_vocabulary(folder)
    assert (read.entities, read.relations, read.entity_labels) == (entities, relations, {})


def test_bad_vocabulary(tmp_path: Path) -> None:
    for bad in ("a\tb", "a\nb", "a\rb", "a\0b"):
        with pytest.raises(InputError, match="holds a tab, a line break or NUL"):
            Vocabulary(entities=["a"], relations=[bad]).save_vocabulary(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match=r"entities\.tsv: No such file"):
        load_vocabulary(tmp_path)
    (tmp_path / "relations.tsv").write_text("0\tr\n")
    for text, line in (("0\ta\n2\tb\n", 2), ("a\n", 1), ("", 1), ("0\t\n", 1)):
        (tmp_path / "entities.tsv").write_text(text)
        with pytest.raises(
            InputError, match=rf"entities\.tsv: line {line}: wanted {line - 1}<TAB>label"
        ):
            load_vocabulary(tmp_path)


def test_nearest() -> None:
    names = ["wn18rr", "FB15k-237", "/location/country/capital"]
    assert nearest("wn18r", names) == '; did you mean "wn18rr"?'
    assert nearest("fb15k-237", names) == '; did you mean "FB15k-237"?'
    assert nearest("capital", names) == '; did you mean "/location/country/capital"?'
    assert nearest("zzz", names) == ""
    assert nearest("cat", ["bat", "cart", "dog"], limit=2) == '; did you mean "cart" or "bat"?'


def test_nearest_is_quick_on_long_lists() -> None:
    draw = random.Random(0)
    names = [
        "".join(draw.choices("abcdefghijklmnop ", k=draw.randrange(4, 30))) for _ in range(50_000)
    ]
    names.append("Mount Kilimanjaro")
    start = time.perf_counter()
    assert nearest("Mount Kilimanjarro", names) == '; did you mean "Mount Kilimanjaro"?'
    assert time.perf_counter() - start < 2


# Known answers


def make_graph(train: list[list[int]], valid: list[list[int]], test: list[list[int]]) -> Graph:
    splits = [np.array(rows, dtype=np.int64).reshape(-1, 3) for rows in (train, valid, test)]
    return Graph(
        name="made",
        entities=[f"e{i}" for i in range(6)],
        relations=["r0", "r1", "r2"],
        train=splits[0],
        valid=splits[1],
        test=splits[2],
    )


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


# Real graphs


@pytest.mark.skipif(not DATA, reason="METASD_DATA is not set")
@pytest.mark.parametrize(
    ("name", "sizes", "unseen"),
    [
        ("fb237", (14541, 237, 272115, 17535, 20466), (9, 28)),
        ("wn18rr", (40943, 11, 86835, 3034, 3134), (210, 210)),
    ],
)
def test_real_graphs(name: str, sizes: tuple[int, ...], unseen: tuple[int, int]) -> None:
    for folder in (DATA or "").split(os.pathsep):
        try:
            start = time.perf_counter()
            graph = load_graph(name, folder)
        except InputError as error:
            if "no graph" not in str(error):
                raise
            continue
        known = graph.known()
        assert time.perf_counter() - start < 3
        lengths = (len(graph.train), len(graph.valid), len(graph.test))
        assert (graph.num_entities, graph.num_relations, *lengths) == sizes
        assert (graph.unseen["valid"], graph.unseen["test"]) == unseen
        head, relation, tail = graph.test[0].tolist()
        assert tail in known.answers(head, relation)
        assert head in known.answers(tail, relation + graph.num_relations)
        return
    pytest.skip(f"no {name} in METASD_DATA")
