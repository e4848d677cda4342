"""Every form of the same triples is the same graph; missing splits are drawn alike."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_folders import Rows, random_rows, rows_of, write_folder
from metasd.data.graph import Graph
from metasd.data.load import load_graph
from metasd.data.store import prepare
from metasd.errors import InputError

NAMES = ("head", "relation", "tail")


def _uri(label: str) -> str:
    return f"http://example.org/{label}"


def splits() -> dict[str, Rows]:
    rows = sorted(set(random_rows(400)))
    rows = [(_uri(h), _uri(r), _uri(t)) for h, r, t in rows]
    return {"train": rows[20:], "valid": rows[:10], "test": rows[10:20]}


def _lines(rows: Rows, mark: str) -> str:
    return "".join(mark.join(row) + "\n" for row in rows)


def _triples(rows: Rows) -> str:
    return "".join(f"<{h}> <{r}> <{t}> .\n" for h, r, t in rows)


def _turtle(rows: Rows) -> str:
    short = "@prefix e: <http://example.org/> .\n"
    local = [[label.removeprefix("http://example.org/") for label in row] for row in rows]
    return short + "".join(f"e:{h} e:{r} e:{t} .\n" for h, r, t in local)


TEXTS: dict[str, Callable[[Rows], str]] = {
    "txt": lambda rows: _lines(rows, "\t"),
    "tsv": lambda rows: "head\trelation\ttail\n" + _lines(rows, "\t"),
    "csv": lambda rows: (
        "subject,weight,predicate,object\n" + "".join(f'"{h}",1,{r},{t}\n' for h, r, t in rows)
    ),
    "nt": _triples,
    "ttl": _turtle,
}


def write(folder: Path, kind: str, parts: dict[str, Rows]) -> Path:
    """A folder of files of one format."""
    folder.mkdir()
    for split, rows in parts.items():
        path = folder / f"{split}.{kind}"
        if kind == "parquet":
            tail, head, relation = ([row[i] for row in rows] for i in (2, 0, 1))
            pq.write_table(pa.table({"target": tail, "source": head, "type": relation}), path)
            continue
        text = TEXTS[kind.removesuffix(".gz")](rows).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith(".gz") else text)
    return folder


KINDS = [*TEXTS, *(f"{kind}.gz" for kind in TEXTS), "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_of_files(tmp_path: Path, kind: str) -> None:
    if kind.startswith(("nt", "ttl")):
        pytest.importorskip("pyoxigraph")
    parts = splits()
    wanted = Graph.from_triples(*parts.values())
    graph = load_graph(write(tmp_path / "graph", kind, parts))
    assert graph.digest == wanted.digest
    assert graph.entities == wanted.entities
    assert prepare(tmp_path / "graph", tmp_path / "out").digest == wanted.digest
    assert load_graph(**json.loads(json.dumps(graph.source))).digest == wanted.digest


def _pykeen(rows: Rows) -> Any:
    return pytest.importorskip("pykeen.triples").TriplesFactory.from_labeled_triples(np.array(rows))


IN_MEMORY: dict[str, Callable[[Rows], Any]] = {
    "tuples": list,
    "a generator": iter,
    "an array of strings": np.array,
    "an array of objects": lambda rows: np.array(rows, dtype=object),
    "bytes": lambda rows: np.array(rows).astype("S"),
    "columns": lambda rows: dict(zip(NAMES, zip(*rows, strict=True), strict=True)),
    "pyarrow": lambda rows: pa.table(dict(zip("abc", zip(*rows, strict=True), strict=True))),
    "pandas": lambda rows: pytest.importorskip("pandas").DataFrame(rows),
    "pandas, named": lambda rows: pytest.importorskip("pandas").DataFrame(
        [(t, 0.5, h, r) for h, r, t in rows], columns=["object", "weight", "subject", "predicate"]
    ),
    "polars": lambda rows: pytest.importorskip("polars").DataFrame(rows, orient="row"),
    "PyKEEN": _pykeen,
}


@pytest.mark.parametrize("form", IN_MEMORY)
def test_every_form_in_memory(form: str) -> None:
    parts = splits()
    make = IN_MEMORY[form]
    graph = Graph.from_triples(*(make(rows) for rows in parts.values()))
    wanted = Graph.from_triples(*parts.values())
    assert graph.digest == wanted.digest
    assert {name: rows_of(graph, name) for name in parts} == {
        name: set(rows) for name, rows in parts.items()
    }


def test_a_data_set_of_pykeen() -> None:
    datasets = pytest.importorskip("pykeen.datasets")
    assert Graph.from_triples(datasets.Nations()).digest == load_graph("nations").digest


@pytest.mark.parametrize(
    "make", [np.array, list, lambda rows: pa.table(np.array(rows).T.tolist(), list("abc"))]
)
def test_ids_stay_what_they_are(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    draw = np.random.default_rng(0)
    rows = np.stack([draw.integers(0, n, 600) for n in (30, 12, 30)], axis=1)
    graph = Graph.from_triples(make(rows.tolist()), [], [])
    assert graph.entities == [str(i) for i in range(30)]
    assert graph.relations == [str(i) for i in range(12)]
    assert graph.train.tolist() == np.unique(rows, axis=0).tolist()
    labels = [tuple(map(str, row)) for row in rows.tolist()]
    file = write_folder(tmp_path / "files", labels, labels[:5], labels[5:10])  # type: ignore[arg-type]
    prepared = prepare(file, tmp_path / "prepared")
    assert prepared.digest == load_graph(file).digest
    assert [prepared.entity_to_id[str(i)] for i in range(30)] == list(range(30))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("train.tsv", "train: triples wanted, got 'train.tsv'; load_graph reads files"),
        ([], "train: there are no triples"),
        ([("a", "r")], "train: row 1: 2 fields, wanted 3"),
        ([("a", "r", "b"), ("a", None, "b")], "train: row 2: relation is empty"),
        ([("a", "r", "b"), ("a", "", "b")], "train: row 2: relation is empty"),
        ([("a", "r", "b\n")], "train: row 1: tail 'b\\n' holds a tab, a line break or NUL"),
        (np.zeros((3, 4), dtype=int), "train: an array must be (n, 3); got (3, 4)"),
        (np.zeros((3, 3)), "train: an array must be of integers or strings; got float64"),
        (None, 'train: triples wanted, such as [("ada", "knows", "bo"), ...] or a data frame'),
        (7, "train: not triples of labels or numbers ('int' object is not iterable)"),
        ({"a": [1], "b": [2]}, "train: 2 columns, wanted 3, or columns named"),
        ({"a": [1], "b": [2], "c": [[3]]}, "train: not triples of labels or numbers"),
    ],
)
def test_bad_triples(value: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        Graph.from_triples(value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# Headers


@pytest.mark.parametrize(
    ("text", "header", "rows", "note"),
    [
        ("Source,Type,Target\na,r,b\n", None, 1, "is taken as a header"),
        ("Source,Type,Target\na,r,b\n", False, 2, None),
        ("x,y,z\na,r,b\n", None, 2, None),
        ("x,y,z\na,r,b\n", True, 1, None),
        ("h,r,t\na,r,b\n", None, 2, "looks like a header"),
        ("h,r,t\na,r,b\n", True, 1, None),
        ("head,x,tail\na,r,b\n", None, 2, "looks like a header"),
        ("\n\nhead;relation;tail\na;r;b\n", None, 1, "is taken as a header"),
        ("id,to,from,label\n1,b,a,r\n", None, 1, "1 columns are not read (id)"),
    ],
)
def test_headers(
    tmp_path: Path, text: str, header: bool | None, rows: int, note: str | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    graph = load_graph(path, header=header, split_ratios=(1.0, 0.0, 0.0))
    assert len(graph.train) == rows
    assert ("a", "r", "b") in rows_of(graph, "train")
    assert any(note in line for line in graph.notes) if note else len(graph.notes) == 1


def test_quotes_and_commas(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a ""b"", c",r,"d, e"\n')
    graph = load_graph(tmp_path / "a.csv", split_ratios=(1.0, 0.0, 0.0))
    assert rows_of(graph, "train") == {('a "b", c', "r", "d, e")}


def test_literals_are_left_out_and_blank_nodes_kept(tmp_path: Path) -> None:
    pytest.importorskip("pyoxigraph")
    lines = '_:b0 <x:r> <x:a> .\n_:b0 <x:r> "text" .\n_:b0 <x:r> "7"@en .\n'
    (tmp_path / "my.nt").write_text(lines)
    graph = load_graph(tmp_path / "my.nt", split_ratios=(1.0, 0.0, 0.0))
    assert rows_of(graph, "train") == {("_:b0", "x:r", "x:a")}
    assert graph.notes[0] == "my.nt: 2 triples with a literal are left out"
    (tmp_path / "a.ttl").write_text("@prefix : <x:> . :a :r [ :r :b ], ( :c ), _:own .")
    first, second = (load_graph(tmp_path / "a.ttl", split_ratios=(1.0, 0.0, 0.0)) for _ in "ab")
    assert first.digest == second.digest
    assert {"_:anonymous1", "_:anonymous2", "_:own"} <= set(first.entities)


# Splits


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 9)), min_size=8, max_size=80
    ),
    seed=st.integers(0, 5),
    given_test=st.booleans(),
)
def test_train_keeps_everything(
    rows: list[tuple[int, int, int]], seed: int, given_test: bool
) -> None:
    distinct = set(rows)
    test = [(0, 0, 0)] if given_test else None
    if len(distinct) < 8:
        return
    graph = Graph.from_triples(rows, None, test, seed=seed, split_ratios=(0.5, 0.25, 0.25))
    names = ("train", "valid") if given_test else ("train", "valid", "test")
    found = [rows_of(graph, name) for name in names]
    assert sum(map(len, found)) == len(distinct)
    assert set.union(*found) == {tuple(map(str, row)) for row in distinct}
    for place in ((0, 2), (1,)):
        whole = {str(row[i]) for row in distinct for i in place}
        assert {row[i] for row in found[0] for i in place} == whole


def test_a_folder_without_valid(tmp_path: Path) -> None:
    rows = sorted(set(random_rows(400)))
    folder = write_folder(tmp_path / "some", rows[10:], rows[:5], rows[5:10])
    (folder / "valid.txt").unlink()
    graph = load_graph(folder)
    assert graph.digest == Graph.from_triples(rows[10:], None, rows[5:10]).digest
    assert rows_of(graph, "test") == set(rows[5:10])
    assert len(graph.valid) == round(0.05 * len(rows[10:]))
    made = prepare(folder, tmp_path / "out")
    assert made.digest == graph.digest
    assert made.notes == graph.notes


def test_a_folder_with_one_file(tmp_path: Path) -> None:
    rows = sorted(set(random_rows(300)))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "data.csv").write_text(_lines(rows, ","))
    (folder / "README.txt").write_text("mine\n")
    (folder / "entity_labels.tsv").write_text("e0\tZero\n")
    (folder / "relation_labels.tsv").write_text("r0\tlikes\n")
    graph = load_graph(folder)
    assert graph.digest == load_graph(folder / "data.csv").digest
    assert graph.entity_labels == {"e0": "Zero"}
    assert graph.relation_labels == {"r0": "likes"}
    assert graph.relation_id("likes") == graph.relation_id("r0") == 0
    assert graph.relation_name(0) == "likes"
    assert prepare(folder, tmp_path / "out").relation_labels == {"r0": "likes"}
    assert load_graph("mine", tmp_path).digest == graph.digest
    (folder / "more.csv").write_text("a,b,c\n")
    with pytest.raises(InputError, match=r"no train file .* and 2 other files"):
        load_graph(folder)


def test_a_shared_prefix_is_named() -> None:
    notes = Graph.from_triples(*splits().values()).notes
    assert any("12 of 12 entity labels begin with http://example.org/ ;" in note for note in notes)
    assert any("3 of 3 relation labels begin with http://example.org/ ;" in n for n in notes)


@pytest.mark.parametrize("name", ["my.csv", "a.nt.gz", "x.parquet", "triples.tsv"])
def test_a_missing_file_is_called_a_missing_file(name: str) -> None:
    with pytest.raises(InputError) as error:
        load_graph(name)
    assert str(error.value) == f"{name}: no such file"
