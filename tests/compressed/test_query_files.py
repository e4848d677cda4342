"""Files of queries, answered by files of answers."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fuzz_compressed import small_model
from metasd.compressed import Query, answer_file, score_file
from metasd.errors import InputError


def test_queries_are_answered_from_file_to_file(tmp_path: Path) -> None:
    small = small_model("complex", "sparse", "fp16", 0.3, seed=0)
    a, b, r = small.entity_labels[0], small.entity_labels[1], small.relation_labels[0]
    queries, answers = tmp_path / "queries.tsv", tmp_path / "answers.tsv"
    queries.write_text(f"{a}\t{r}\t?\n\t{r}\t{b}\r\n" * 200)
    steps: list[tuple[int, int]] = []
    count = answer_file(small, queries, answers, 3, progress=lambda *step: steps.append(step))
    assert count == (400, 400)
    assert steps == [(256, 400), (400, 400)]
    header, *rows = [line.split("\t") for line in answers.read_text().splitlines()]
    assert header[:4] == ["head", "relation", "tail", "rank"]
    assert len(rows) == 1200
    wanted = small.answers([Query(a, r), Query(None, r, b)], 3)
    for part, found in ((rows[0:3], wanted[0]), (rows[1197:1200], wanted[1])):
        assert [(row[4], row[5]) for row in part] == [(x.entity, x.label) for x in found]
        assert [float(row[6]) for row in part] == pytest.approx([x.score for x in found], rel=1e-5)
    assert {row[8] for row in rows} == {"false"}
    answers.write_text("before")
    queries.write_text(f"{a}\t{r}\t?\n{a}x\t{r}\t?\n")
    with pytest.raises(InputError, match=r"queries.tsv: row 2: no entity"):
        answer_file(small, queries, answers)
    queries.write_text(f"{a}\t{r}\t{b}\n")
    with pytest.raises(InputError, match=r"row 1: wanted head, relation and tail, with \\?"):
        answer_file(small, queries, answers)
    queries.write_text(f"{a}\t\t?\n")
    with pytest.raises(InputError, match=r"row 1: wanted head, relation and tail, with"):
        answer_file(small, queries, answers)
    assert answers.read_text() == "before"


def write_parquet(path: Path, rows: list[tuple[str | None, ...]]) -> None:
    columns = zip(("head", "relation", "tail"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(column) for name, column in columns}), path)


def test_files_are_of_every_format_that_graphs_are(tmp_path: Path) -> None:
    small = small_model("complex", "sparse", "fp16", 0.3, seed=0)
    a, b, r = small.entity_labels[0], small.entity_labels[1], small.relation_labels[0]
    (tmp_path / "plain.tsv").write_text(f"{a}\t{r}\t\n?\t{r}\t{b}\n")
    (tmp_path / "named.csv").write_text(f"tail,head,relation\n,{a},{r}\n{b},?,{r}\n")
    with gzip.open(tmp_path / "packed.tsv.gz", "wt") as file:
        file.write(f"{a}\t{r}\t?\n\t{r}\t{b}\n")
    write_parquet(tmp_path / "table.parquet", [(a, r, None), (None, r, b)])
    found = {}
    for name in ("plain.tsv", "named.csv", "packed.tsv.gz", "table.parquet"):
        answer_file(small, tmp_path / name, tmp_path / "out.tsv", 2)
        found[name] = (tmp_path / "out.tsv").read_text()
    assert len(found["plain.tsv"].splitlines()) == 5
    assert set(found.values()) == {found["plain.tsv"]}

    write_parquet(tmp_path / "triples.parquet", [(a, r, b), (b, r, a)])
    (tmp_path / "triples.csv").write_text(f"{b},{r},{a}\n{a},{r},{b}\n")
    assert score_file(small, tmp_path / "triples.parquet", tmp_path / "one.tsv") == 2
    assert score_file(small, tmp_path / "triples.csv", tmp_path / "two.tsv", columns="trh") == 2
    assert (tmp_path / "one.tsv").read_text() == (tmp_path / "two.tsv").read_text()
    notes: list[str] = []
    answer_file(small, tmp_path / "named.csv", tmp_path / "out.tsv", notes=notes)
    assert [note.split(" is taken")[0] for note in notes] == [
        "named.csv: line 1 (tail, head, relation)"
    ]
    write_parquet(tmp_path / "triples.parquet", [(a, r, b), (None, r, a)])
    with pytest.raises(InputError, match=r"triples.parquet: row 2: head is empty"):
        score_file(small, tmp_path / "triples.parquet", tmp_path / "one.tsv")


def test_json_has_a_line_per_query(tmp_path: Path) -> None:
    small = small_model("complex", "sparse", "fp16", 0.3, seed=0)
    a, r = small.entity_labels[0], small.relation_labels[0]
    (tmp_path / "queries.tsv").write_text(f"{a}\t{r}\t?\n?\t{r}\t{a}\n")
    answer_file(small, tmp_path / "queries.tsv", tmp_path / "out.jsonl", 3, as_json=True)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    queries = [Query(a, r), Query(None, r, a)]
    for one, query, answers in zip(found, queries, small.answers(queries, 3), strict=True):
        assert one["answers"] == [answer._asdict() for answer in answers]
        assert (one["head"], one["relation"], one["tail"]) == query
        assert one["hidden"] == answers.num_hidden
