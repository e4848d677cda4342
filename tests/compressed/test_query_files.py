"""Files of queries, answered by files of answers."""

from pathlib import Path

import pytest

from fuzz_compressed import small_model
from metasd.compressed import Query, answer_file
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
    with pytest.raises(InputError, match=r"queries.tsv: line 2: no entity"):
        answer_file(small, queries, answers)
    queries.write_text(f"{a}\t{r}\t{b}\n")
    with pytest.raises(InputError, match=r"line 1: wanted head<TAB>relation<TAB>tail"):
        answer_file(small, queries, answers)
    assert answers.read_text() == "before"
