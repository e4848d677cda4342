"""Bounds on lines and inflation, and duplicates that take no memory."""

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metasd.data import triple_files
from metasd.data.bounded import open_lines
from metasd.data.load import load_graph
from metasd.errors import InputError


def test_a_line_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    monkeypatch.setenv("METASD_MAX_LINE_BYTES", "10")
    for longest, text in ((10, b"a" * 10 + b"\n" + b"b" * 10), (11, b"a\n" + b"b" * 11 + b"\nc")):
        path.write_bytes(text)
        with open_lines(path) as file:
            if longest <= 10:
                assert file.read() == text
            else:
                with pytest.raises(InputError, match=r"longer than 10 bytes; .* METASD_MAX_LINE"):
                    file.read()
    path.write_bytes(b"a" * 5 + b"\n" + b"b" * 200_000)  # longer than what is read at a time
    with open_lines(path) as file, pytest.raises(InputError, match="longer than 10"):
        file.read()
    monkeypatch.setenv("METASD_MAX_LINE_BYTES", "200000")
    with open_lines(path) as file:
        assert len(file.read()) == 200_006


@pytest.mark.parametrize("text", ["0", "-1", "many", "1e3"])
def test_a_bound_that_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("METASD_MAX_LINE_BYTES", text)
    (tmp_path / "train.tsv").write_text("a\tr\tb\n")
    with pytest.raises(InputError, match="METASD_MAX_LINE_BYTES takes a whole number above 0"):
        load_graph(tmp_path)


def test_an_archive_that_inflates_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasd.data.bounded._ALWAYS", 1000)
    text = b"".join(b"a\tr\tb%d\n" % i for i in range(20)) * 5_000
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(text))
    with pytest.raises(InputError, match=r"than 200 times its size; .* METASD_MAX_INFLATION"):
        load_graph(tmp_path)
    monkeypatch.setenv("METASD_MAX_INFLATION", "2000")
    assert load_graph(tmp_path).num_entities == 21


def test_parquet_that_inflates_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasd.data.bounded._ALWAYS", 1000)
    monkeypatch.setenv("METASD_MAX_INFLATION", "5")
    table = pa.table({name: ["x"] * 1_000_000 for name in ("head", "relation", "tail")})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(InputError, match="inflates to more than 5 times its size"):
        load_graph(tmp_path)


def test_parquet_that_is_no_utf_8(tmp_path: Path) -> None:
    good = pa.table({name: ["xyz"] * 4 for name in ("head", "relation", "tail")})
    path = tmp_path / "train.parquet"
    pq.write_table(good, path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"\x03\x00\x00\x00xyz", b"\x03\x00\x00\x00\x8fyz"))
    with pytest.raises(InputError, match="not a Parquet file of text columns"):
        load_graph(path)


def test_duplicates_are_dropped_while_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"e{i % 50}", f"r{i % 3}", f"e{i % 49}") for i in range(2000)]
    (tmp_path / "train.tsv").write_text("".join("\t".join(row) + "\n" for row in rows * 3))
    wanted = load_graph(tmp_path)
    monkeypatch.setattr(triple_files, "_GATHERED", 100)
    monkeypatch.setattr("metasd.data.text_files._BLOCK", 500)
    read = triple_files.read_triples(tmp_path / "train.tsv", "hrt", None, [])
    assert read.rows == 6000
    assert len(read.head.codes) < 5000
    found = load_graph(tmp_path)
    assert found.digest == wanted.digest
    assert found.notes == wanted.notes


def test_a_pipe_is_no_file_of_a_graph(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.tsv")
    with pytest.raises(InputError, match=r"train\.tsv: not a regular file"):
        load_graph(tmp_path)
