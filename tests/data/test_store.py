"""Prepared graphs are the graphs that they were made of; power laws are what they say."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metasd.data.graph import SPLITS, Graph
from metasd.data.load import load_graph
from metasd.data.mapped_labels import MappedIds, MappedLabels
from metasd.data.powerlaw import PowerLaw
from metasd.data.sorting import RowFile, count_shared, sorted_parts, sorted_unique
from metasd.data.sources import known_graphs
from metasd.data.store import prepare
from metasd.data.triple_files import read_batches
from metasd.data.vocabulary import load_vocabulary
from metasd.errors import InputError

DATA = os.environ.get("METASD_DATA")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_data_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METASD_DATA", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Duplicates, triples in two splits, labels of many kinds, entities that train lacks."""
    draw = np.random.default_rng(0)
    names = [f"{kind} {i}" for i in range(40) for kind in ("ada", "Zürich", "東京", "NA", "ab")]
    made = tmp_path / "Small Talk"
    made.mkdir()
    for split, rows in (("train", 3000), ("valid", 300), ("test", 300)):
        ids = draw.integers(0, 150 if split == "train" else 200, (rows, 2)) ** 2 // 200
        relations = draw.integers(0, 5, rows)
        lines = [
            f"{names[h]}\tr{r}\t{names[t]}\n" for (h, t), r in zip(ids, relations, strict=True)
        ]
        (made / f"{split}.txt").write_text("".join(lines))
    human = "ada 0\tAda\nab 3\tfirst\nnobody\tNobody\nab 2\tBo\nab 1\tBo\nab 3\tlast\n"
    (made / "entity_labels.tsv").write_text(human)
    return made


def check_same(made: Graph, expected: Graph) -> None:
    assert made.name == expected.name
    assert made.notes == expected.notes
    assert list(made.entities) == list(expected.entities)
    assert made.relations == expected.relations
    assert dict(made.entity_labels) == dict(expected.entity_labels)
    for split in SPLITS:
        assert isinstance(made.split(split), np.memmap)
        assert made.split(split).dtype == np.int64
        assert np.array_equal(made.split(split), expected.split(split))
    computed = dataclasses.replace(made)  # by the arrays, not by what was stored
    for graph in (made, computed):
        assert graph.digest == expected.digest
        assert graph.unseen == expected.unseen
        assert np.array_equal(graph.entity_counts, expected.entity_counts)
        assert np.array_equal(graph.relation_counts, expected.relation_counts)
    wanted = expected.known()
    assert made.known() is made.known()
    assert made.known().num_relations == wanted.num_relations
    for name in ("keys", "indptr", "indices"):
        assert np.array_equal(getattr(made.known(), name), getattr(wanted, name))
    valid = expected.known(["valid"])
    assert np.array_equal(made.known(["valid"]).indices, valid.indices)


@pytest.mark.parametrize("memory", [MIB, 1 << 30])
def test_a_folder(folder: Path, tmp_path: Path, memory: int) -> None:
    expected = load_graph(folder)
    assert len(expected.notes) == 4
    assert all(expected.unseen[name] for name in ("entities", "valid", "test"))
    made = prepare(folder, tmp_path / "out" / "talk", memory=memory)
    check_same(made, expected)
    assert not list((tmp_path / "out").glob(".*"))
    assert sorted(load_graph(tmp_path / "out" / "talk").source or {}) == sorted(
        expected.source or {}
    )


def test_small_blocks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_graph(folder)
    assert expected.digest
    monkeypatch.setattr("metasd.data.text_files._BLOCK", 5000)
    monkeypatch.setattr("metasd.data.store._BLOCK", 300)
    for module in ("sorting", "graph", "mapped_labels", "store"):
        monkeypatch.setattr(f"metasd.data.{module}.PART", 100)
    monkeypatch.setattr("metasd.data.sorting._SORTING", 1 << 14)
    check_same(prepare(folder, tmp_path / "out", memory=MIB), expected)
    assert len(list(read_batches(folder / "train.txt", "hrt", None, []))) > 5


@pytest.mark.parametrize("kind", ["tsv.gz", "parquet"])
def test_other_formats(folder: Path, tmp_path: Path, kind: str) -> None:
    expected = load_graph(folder)
    for split in SPLITS:
        text = folder / f"{split}.txt"
        if kind == "parquet":
            rows = [line.split("\t") for line in text.read_text().splitlines()]
            table = pa.table(dict(zip("abc", zip(*rows, strict=True), strict=True)))
            pq.write_table(table, folder / f"{split}.parquet", row_group_size=500)
        else:
            (folder / f"{split}.{kind}").write_bytes(gzip.compress(text.read_bytes()))
        text.unlink()
    check_same(prepare(folder, tmp_path / "out"), expected)


def test_a_single_file_and_the_order_of_columns(folder: Path, tmp_path: Path) -> None:
    file = folder / "train.txt"
    options = {"split_ratios": (0.8, 0.15, 0.05), "seed": 3, "columns": "trh"}
    check_same(prepare(file, tmp_path / "out", **options), load_graph(file, **options))  # type: ignore[arg-type]
    whole = prepare(file, tmp_path / "whole", split_ratios=(1.0, 0.0, 0.0))
    check_same(whole, load_graph(file, split_ratios=(1.0, 0.0, 0.0)))
    assert len(whole.valid) == 0
    file.write_text("a\tr\tb\nb\tr\ta\n")
    with pytest.raises(InputError, match=r"train\.txt: 2 triples are too few to split$"):
        prepare(file, tmp_path / "two")
    assert not list(tmp_path.glob("*two*"))


@pytest.mark.parametrize("name", ["families:100", "powerlaw:1000:3000"])
def test_generated_graphs(tmp_path: Path, name: str) -> None:
    check_same(prepare(name, tmp_path / "out", seed=2), load_graph(name, seed=2))


@pytest.mark.skipif(not DATA, reason="METASD_DATA is not set")
@pytest.mark.parametrize("name", ["fb237", "wn18rr"])
def test_real_graphs(tmp_path: Path, name: str) -> None:
    assert DATA is not None
    try:
        expected = load_graph(name, DATA.split(os.pathsep)[0])
    except InputError:
        pytest.skip(f"no {name} in METASD_DATA")
    made = prepare(name, tmp_path / "out", DATA.split(os.pathsep)[0], memory=MIB)
    *notes, unsearched = made.notes  # in so little memory inverse relations are not looked for
    assert unsearched.startswith("inverse relations are looked for up to")
    assert tuple(notes) == expected.notes[: len(notes)]
    check_same(made, dataclasses.replace(expected, notes=made.notes))


def test_a_prepared_graph_goes_by_its_name_and_loads_again(folder: Path, tmp_path: Path) -> None:
    made = prepare(folder, tmp_path / "data" / "talk")
    again = load_graph("TALK", tmp_path / "data")
    assert again.digest == made.digest
    assert load_graph(**json.loads(json.dumps(again.source))).digest == made.digest
    assert ("talk", "folder", str(tmp_path / "data" / "talk")) in known_graphs(tmp_path / "data")


def test_other_triples_have_another_digest(folder: Path, tmp_path: Path) -> None:
    made = prepare(folder, tmp_path / "out")
    other = dataclasses.replace(made, train=made.train[1:])
    assert other.digest != made.digest
    assert other.entity_counts.sum() == made.entity_counts.sum() - 2
    assert len(other.known().indices) < len(made.known().indices)


# Labels


def test_labels_are_found(folder: Path, tmp_path: Path) -> None:
    expected, made = load_graph(folder), prepare(folder, tmp_path / "out")
    assert isinstance(made.entities, Sequence)
    assert not isinstance(made.entities, list)
    for i, label in enumerate(expected.entities):
        assert made.entities[i] == label
        assert made.entity_id(label) == made.entity_to_id[label] == i
        assert made.entity_name(i) == expected.entity_name(i)
        assert label in made.entities
        assert label in made.entity_to_id
    assert made.entities[-1] == expected.entities[-1]
    assert made.entities[3:9] == expected.entities[3:9]
    assert made.entities[9:3:-2] == expected.entities[9:3:-2]
    assert made.entities[5:5] == []
    assert list(made.entity_to_id) == expected.entities
    assert len(made.entity_to_id) == len(made.entities) == expected.num_entities
    with pytest.raises(IndexError):
        made.entities[len(made.entities)]
    assert made.entity_id("Ada") == expected.entity_id("Ada")
    assert made.entity_id("last") == expected.entity_id("ab 3")
    assert "Ada" not in made.entity_to_id
    assert "ada 1" not in made.entity_labels
    for wrong in ("Bo", "ada  1", "zürich 2", "Adá", "first", "Nobody", "", "\ud800"):
        said = []
        for graph in (made, expected):
            with pytest.raises(InputError) as error:
                graph.entity_id(wrong)
            said.append(str(error.value))
        assert said[0].partition("(")[0] == said[1].partition("(")[0]
    with pytest.raises(InputError, match=r'"Bo" names 2 entities \(ab 1, ab 2\)'):
        made.entity_id("Bo")


def test_vocabulary_files(folder: Path, tmp_path: Path) -> None:
    expected, made = load_graph(folder), prepare(folder, tmp_path / "out")
    for graph, name in ((expected, "expected"), (made, "made")):
        graph.save_vocabulary(tmp_path / name)
    for file in ("entities.tsv", "relations.tsv"):
        text = (tmp_path / "made" / file).read_text()
        assert text == (tmp_path / "expected" / file).read_text()
    assert load_vocabulary(tmp_path / "made").entity_labels == expected.entity_labels


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True)


@settings(max_examples=50, deadline=None)
@given(labels=TEXTS, wanted=st.text(max_size=3))
def test_mapped_labels_are_a_list_and_a_dict(labels: list[str], wanted: str) -> None:
    encoded = sorted(label.encode() for label in labels)
    text = np.frombuffer(b"".join(encoded), np.uint8)
    mapped = MappedLabels(text, np.cumsum([0, *map(len, encoded)]))
    assert list(mapped) == sorted(labels)
    ids = MappedIds(mapped)
    assert dict(ids) == {label: i for i, label in enumerate(sorted(labels))}
    assert (wanted in ids) == (wanted in mapped) == (wanted in labels)


# What goes wrong


def test_a_killed_prepare_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import time, metasd.data.store\n"
        "metasd.data.store._write_derived = lambda *_: time.sleep(60)\n"
        f"metasd.data.store.prepare('families:100', {str(out)!r})"
    )
    child = subprocess.Popen([sys.executable, "-P", "-c", code])
    while not list(tmp_path.glob(".out.new/human_order.npy")):
        assert child.poll() is None
        time.sleep(0.01)
    with pytest.raises(InputError, match="another process is writing in this folder"):
        prepare("powerlaw:1000", out)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not out.exists()
    (tmp_path / ".out.new" / "whole.npy").touch()
    made = prepare("powerlaw:1000", out)
    assert not (out / "whole.npy").exists()
    assert made.digest == load_graph("powerlaw:1000").digest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bad_input_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with (folder / "test.txt").open("a") as file:
        file.write("a\tb\n")
    with pytest.raises(InputError, match=r"test\.txt: line 301: 2 fields, wanted 3"):
        prepare(folder, tmp_path / "out")
    with pytest.raises(InputError, match="no such file or folder"):
        prepare(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(InputError, match='permutation of "hrt"'):
        prepare(folder, tmp_path / "out", columns="hr")
    with pytest.raises(InputError, match="memory must be at least 1 MiB"):
        prepare("families:30", tmp_path / "out", memory=1)
    assert [path.name for path in tmp_path.iterdir()] == ["Small Talk"]
    with pytest.raises(InputError, match="Small Talk already exists"):
        prepare("families:30", folder)
    prepare("families:30", tmp_path / "out")
    with pytest.raises(InputError, match="out: is prepared already"):
        prepare(tmp_path / "out", tmp_path / "again")


@pytest.mark.parametrize("name", ["train", "known_keys", "entities_text", "human_order"])
def test_a_damaged_array(tmp_path: Path, name: str) -> None:
    prepare("families:100", tmp_path)
    file = tmp_path / f"{name}.npy"
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[-1] ^= 1
    for bad in (b"", whole[:-8], whole[:50], whole + b"12345678", bytes(changed)):
        file.write_bytes(bad)
        with pytest.raises(InputError, match=rf"{name}\.npy: missing, damaged") as error:
            load_graph(tmp_path)
        assert "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(InputError, match=rf"{name}\.npy: missing"):
        load_graph(tmp_path)


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    prepare("families:100", tmp_path)
    np.save(tmp_path / "train.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"train\.npy: missing, damaged"):
        load_graph(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, not 1: prepare it again"),
        ({"files": {}}, "damaged"),
        (None, "damaged"),
    ],
)
def test_a_damaged_description(
    tmp_path: Path, change: dict[str, object] | None, message: str
) -> None:
    prepare("families:100", tmp_path)
    file = tmp_path / "prepared.json"
    told = json.loads(file.read_text())
    file.write_text("[]" if change is None else json.dumps({**told, **change}))
    with pytest.raises(InputError, match=message):
        load_graph(tmp_path)


# Rows


@settings(max_examples=50, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 6)), max_size=20)
    ),
    memory=st.integers(1, 4000),
)
def test_sorted_parts(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[int, int, int]]],
    memory: int,
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    arrays = [np.array(rows, dtype=np.int64).reshape(-1, 3) for rows in batches]
    found = list(sorted_parts(lambda: arrays, 7, 3, scratch, memory))
    wanted = sorted({row for rows in batches for row in rows})
    assert [tuple(row) for part in found for row in part.tolist()] == wanted
    assert list(scratch.iterdir()) == []
    if arrays:
        half = sorted_unique(arrays[0], 7, 3)
        whole = sorted_unique(np.concatenate(arrays), 7, 3)
        assert count_shared(whole, half, 7, 3) == len(half)


def test_row_file(tmp_path: Path) -> None:
    with RowFile(tmp_path / "a.npy", 3) as file:
        for start in range(0, 999, 9):
            file.append(np.arange(start, start + 9).reshape(3, 3))
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.arange(999).reshape(-1, 3))


# Power laws


def test_powerlaw_is_what_it_says() -> None:
    graph = load_graph("powerlaw:2000:12000", seed=1)
    assert (graph.num_entities, len(graph.train), len(graph.valid), len(graph.test)) == (
        2000,
        11_976,
        12,
        12,
    )
    assert graph.notes == ()
    assert graph.unseen == {"entities": 0, "relations": 0, "valid": 0, "test": 0}
    assert graph.entities[1] == "e0000001"
    assert np.bincount(graph.train[:, 0], minlength=2000).min() == 1
    counts = np.sort(graph.entity_counts)[::-1]
    assert counts[:20].sum() > 0.1 * counts.sum()
    assert load_graph("powerlaw:2000:12000", seed=1).digest == graph.digest
    assert load_graph("powerlaw:2000:12000", seed=2).digest != graph.digest
    assert len(load_graph("powerlaw:2000").train) == 9_980
    law = PowerLaw(2000, 12_000, 1)
    for relation in range(graph.num_relations):
        head, tail = law.cluster(graph.train[graph.train[:, 1] == relation][:, [0, 2]].T)
        assert len(np.unique((tail - head) % law.clusters)) == 1


def test_powerlaw_is_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    law = PowerLaw(3000, 30_000)
    assert len(list(law.parts())) == 3
    monkeypatch.setattr("metasd.data.powerlaw._DRAWN", 4000)
    parts = list(law.parts())
    assert len(parts) > 20
    rows = np.concatenate([rows for _, rows in parts])
    assert len(np.unique(rows, axis=0)) == 30_000
    train = np.concatenate([rows for name, rows in parts if name == "train"])
    assert np.array_equal(sorted_unique(train, 3000, law.num_relations), train)


def test_powerlaw_takes_as_many_triples_as_there_can_be() -> None:
    graph = load_graph("powerlaw:100:5000")
    assert sum(len(graph.split(name)) for name in SPLITS) == 5000
    for name in ("powerlaw:99", "powerlaw:0"):
        with pytest.raises(InputError, match="powerlaw needs at least 100 entities"):
            load_graph(name)
    for triples in (199, 6000):
        with pytest.raises(InputError, match=f"can have 200 to 5000 triples; got {triples}"):
            load_graph(f"powerlaw:100:{triples}")


@pytest.mark.parametrize("name", ["powerlaw", "powerlaw:", "powerlaw:1e6", "powerlaw:200:400:1"])
def test_bad_powerlaw(name: str) -> None:
    with pytest.raises(InputError, match=f'write powerlaw:N or powerlaw:N:T .*; got "{name}"'):
        load_graph(name)
