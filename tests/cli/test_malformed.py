"""Malformed input of every form: one line, exit code 2, never an abort.

METASD_REPEATS says how often each is read (1 by default), because an abort may depend on luck.
"""

import gzip
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command_line import Command

REPEATS = int(os.environ.get("METASD_REPEATS", "1"))
GOOD = b"a\tr\tb\nb\tr\tc\nc\tr\ta\na\tr\tc\n"
pytestmark = pytest.mark.slow

LINES = {  # fields are separated by |
    "nothing": b"",
    "blank lines": b"\n\n\r\n",
    "only a mark": b"\xef\xbb\xbf",
    "one field": b"a\n",
    "two fields": b"a|r\n",
    "four fields": b"a|r|b|c\n",
    "four fields, long": b"a|r|b|c\n" * 50_000,
    "five fields": b"a|r|b|c|d\n",
    "two fields, late": b"a|r|b\nb|r|a\na|r\n",
    "four fields, late": b"a|r|b\nb|r|a\na|r|c|d\n",
    "four fields, far down": b"a|r|b\n" * 100_000 + b"a|r|c|d\n",
    "two fields at the end": b"a|r|b\na|r",
    "an empty head": b"|r|b\n",
    "an empty relation": b"a|r|b\na||b\n",
    "an empty tail": b"a|r|\n",
    "an empty tail, CRLF": b"a|r|b\r\na|r|\r\n",
    "only separators": b"||\n||\n",
    "NUL": b"a|r|b\na\0|r|b\n",
    "all NUL": b"\0" * 1000,
    "not UTF-8": b"a|r|b\n\xff\xfe|r|b\n",
    "Latin-1": "é|r|b\n".encode("latin-1"),
    "UTF-16": "a|r|b\n".encode("utf-16"),
    "UTF-32": "a|r|b\n".encode("utf-32"),
    "half a letter": b"a|r|b\na|r|\xe6\x9d\n",
    "spaces": b"a r b\n",
    "a carriage return": b"a|r|b\n\rx|r|b|c\rc|r\n",
    "JSON": b'{"head": "a"}\n',
    "HTML": b"<!doctype html>\n<html></html>\n",
    "a ZIP file": b"PK\x03\x04" + bytes(range(256)),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a header alone": b"head|relation|tail\n",
    "a header, then four": b"head|relation|tail\na|r|b|c\n",
    "a header, then an empty tail": b"head|relation|tail\na|r|b\na|r|\n",
}
QUOTES = {
    "an open quote": b'a,r,b\n"a,r,b\n',
    "an open quote at the end": b'a,r,b\na,r,"b',
    "a quoted line break": b'a,r,"b\nc"\n',
    "a quoted tab": b'a,r,"b\tc"\n',
    "an empty quoted label": b'a,r,""\n',
}
RDF = {
    "nothing": b"",
    "only a comment": b"# a comment\n",
    "only literals": b'<x:a> <x:r> "b" .\n',
    "no end": b"<x:a> <x:r> <x:b>\n",
    "no object": b"<x:a> <x:r> .\n",
    "a literal as subject": b'"a" <x:r> <x:b> .\n',
    "a blank relation": b"<x:a> _:r <x:b> .\n",
    "a relative IRI": b"<a> <r> <b> .\n",
    "a space in an IRI": b"<x:a b> <x:r> <x:b> .\n",
    "an open IRI": b"<x:a> <x:r> <x:b\n",
    "an open literal": b'<x:a> <x:r> "b .\n',
    "not UTF-8": b"<x:a> <x:r> <x:\xff> .\n",
    "UTF-16": "<x:a> <x:r> <x:b> .\n".encode("utf-16"),
    "NUL": b"<x:a\0> <x:r> <x:b> .\n",
    "tabs": GOOD,
    "no such prefix": b"e:a e:r e:b .\n",
    "late": b"<x:a> <x:r> <x:b> .\n" * 5000 + b"<x:a> <x:r>\n",
    "JSON": b'{"head": "a"}\n',
}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _parquets() -> Iterator[tuple[str, bytes]]:
    good = _parquet(pa.table({"head": ["a"] * 50, "relation": ["r"] * 50, "tail": ["b"] * 50}))
    yield from {
        "nothing": b"",
        "text": GOOD,
        "no footer": good[:-20],
        "no start": good[20:],
        "half": good[: len(good) // 2],
        "only marks": b"PAR1PAR1",
        "noise": good[:8] + bytes(200) + good[208:],
        "noise in the footer": good[:-100] + bytes(60) + good[-40:],
        "two columns": _parquet(pa.table({"a": ["x"], "b": ["y"]})),
        "four columns": _parquet(pa.table({c: ["x"] for c in "abcd"})),
        "no rows": _parquet(pa.table({c: pa.array([], pa.string()) for c in "abc"})),
        "lists": _parquet(pa.table({"a": [["x"]], "b": ["y"], "c": ["z"]})),
        "nothing in a row": _parquet(pa.table({"a": ["x", None], "b": ["y"] * 2, "c": ["z"] * 2})),
        "an empty label": _parquet(pa.table({"a": [""], "b": ["y"], "c": ["z"]})),
        "a line break": _parquet(pa.table({"a": ["x\n"], "b": ["y"], "c": ["z"]})),
        "bytes": _parquet(pa.table({"a": [b"\xff"], "b": [b"y"], "c": [b"z"]})),
    }.items()


def _gzips(good: bytes) -> Iterator[tuple[str, bytes]]:
    packed = gzip.compress(good * 200)
    yield "not gzip", good
    yield "nothing", b""
    yield "cut off", packed[:-12]
    yield "cut off early", packed[:15]
    yield "noise", packed[:20] + b"\0\1\2\3" * 4 + packed[36:]
    yield "a wrong sum", packed[:-8] + bytes(4) + packed[-4:]
    yield "only a head", packed[:10]
    yield "something behind", packed + b"tail"


def _folders() -> Iterator[tuple[str, dict[str, bytes]]]:
    train = {"train.txt": GOOD}
    yield "an empty folder", {}
    yield "no train", {"valid.txt": GOOD, "test.txt": GOOD}
    yield "two of train", {**train, "train.csv": b"a,r,b\n"}
    yield "an empty valid", {**train, "valid.txt": b""}
    yield "a bad test", {**train, "test.txt": b"a\tr\n"}
    yield "two files", {"one.csv": b"a,r,b\n", "two.csv": b"a,r,b\n"}
    yield "nothing that is read", {"a.xlsx": b"a", "b.json": b"{}"}
    yield "damaged, prepared", {"prepared.json": b"{"}
    yield "damaged, saved", {"triples.parquet": b"a", "entities.tsv": b"0\ta\n"}
    yield "too few to split", {"train.txt": b"a\tr\tb\n"}
    whole = dict.fromkeys(("train.txt", "valid.txt", "test.txt"), GOOD)
    for name in ("entity_labels.tsv", "relation_labels.tsv"):
        for kind in (
            *("nothing", "one field", "an empty head", "NUL", "not UTF-8", "UTF-16"),
            *("four fields, long", "four fields, far down", "half a letter", "JSON"),
        ):
            text = b"a\tA\tmore\n" if "four" in kind else LINES[kind].replace(b"|", b"\t")
            yield f"{kind} in {name}", {**whole, name: text}


def cases() -> dict[str, dict[str, bytes]]:
    """By name, the files of a folder, one of which is bad."""
    found: dict[str, dict[str, bytes]] = {}
    for kind, text in LINES.items():
        found[f"{kind}.tsv"] = {"train.tsv": text.replace(b"|", b"\t")}
        found[f"{kind}.csv"] = {"train.csv": text.replace(b"|", b",")}
        found[f"{kind}.txt.gz"] = {"train.txt.gz": gzip.compress(text.replace(b"|", b"\t"))}
    for kind, text in QUOTES.items():
        found[f"{kind}.csv"] = {"train.csv": text}
        found[f"{kind}.csv.gz"] = {"train.csv.gz": gzip.compress(text)}
    for kind, text in RDF.items():
        for suffix in ("nt", "ttl"):
            found[f"{kind}.{suffix}"] = {f"train.{suffix}": text}
    for suffix, good in (
        ("tsv.gz", GOOD),
        ("csv.gz", GOOD.replace(b"\t", b",")),
        ("nt.gz", b"<x:a> <x:r> <x:b> .\n"),
        ("ttl.gz", b"<x:a> <x:r> <x:b> .\n"),
    ):
        for kind, data in _gzips(good):
            found[f"{kind}.{suffix}"] = {f"train.{suffix}": data}
    found |= {f"{kind}.parquet": {"train.parquet": data} for kind, data in _parquets()}
    found |= dict(_folders())
    return found


CASES = cases()
SPAWNED = [  # one of each form in a process of its own, which ends while a file is half read
    *("four fields, long.tsv", "four fields, far down.csv", "four fields, long.txt.gz"),
    *("late.nt", "late.ttl", "noise.parquet", "a bad test"),
    "four fields, far down in entity_labels.tsv",
]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_code_2(metasd: Command, tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyoxigraph")
    folder = write(tmp_path / "graph", CASES[name])
    for _ in range(REPEATS):
        code, out, err = metasd("prepare", folder, "--out", "out")
        assert (code, out) == (2, ""), err
        assert err.startswith("metasd: ")
        assert err.count("\n") == 1
        assert str(folder) in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["graph"]


@pytest.mark.parametrize("name", SPAWNED)
def test_the_process_ends_well(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyoxigraph")
    folder = write(tmp_path / "graph", CASES[name])
    for _ in range(REPEATS):
        ended = subprocess.run(
            [sys.executable, "-m", "metasd", "train", folder, "--dry-run"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert ended.returncode == 2, ended
        assert ended.stderr.count("\n") == 1
