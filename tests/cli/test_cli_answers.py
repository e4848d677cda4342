"""The commands that ask a model: predict, score and neighbors."""

import io
import json
from pathlib import Path

import pytest

from command_line import QUICK, Command
from metasd.training.run import Run


@pytest.fixture
def model(metasd: Command, folder: Path) -> str:
    """A compressed model; its run is the folder `x`."""
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    assert metasd("compress", "x", "--out", "small")[0] == 0
    return "small"


ADA = ("--head", "ada", "-r", "likes")


def test_hidden_answers_are_named(metasd: Command, model: str) -> None:
    for path in ("x", model):
        code, out, err = metasd("predict", path, *ADA, "--json")
        assert (code, err) == (0, "1 known answer hidden: tea; --keep-known shows it\n")
        assert not any(answer["known"] for answer in json.loads(out))
        code, _, err = metasd("predict", path, "--tail", "tea", "-r", "likes")
        assert err.startswith("4 known answers hidden: ")
        assert err.endswith(" and 1 more; --keep-known shows them\n")
        code, out, err = metasd("predict", path, *ADA, "--keep-known")
        header, *rows = (line.split() for line in out.splitlines())
        assert (code, err, header[-1]) == (0, "", "known")
        assert [row[1] for row in rows if row[-1] == "yes"] == ["tea"]


def test_named_candidates_are_kept_and_types_limit(metasd: Command, model: str) -> None:
    named = ("--among", "tea", "--among", "bo", "--json")
    for path in ("x", model):
        found = json.loads(metasd("predict", path, *ADA, *named)[1])
        assert {answer["label"]: answer["known"] for answer in found} == {"tea": True, "bo": False}
        found = json.loads(metasd("predict", path, *ADA, "--typed", "--json")[1])
        assert [answer["label"] for answer in found] == ["cake"]
        code, _, err = metasd("predict", path, *ADA, "--typed", "--among", "bo")
        assert (code, "either candidates or typed" in err) == (2, True)
    assert metasd("compress", "x", "--no-known", "--out", "bare")[0] == 0
    code, _, err = metasd("predict", "bare", *ADA, "--typed")
    assert (code, "this model stores none" in err) == (2, True)
    code, out, err = metasd("predict", "bare", *ADA, "--typed", "--json", "--graph", "mine")
    assert (code, [answer["label"] for answer in json.loads(out)]) == (0, ["cake"]), err


def test_marks_are_left_out_where_the_graph_is_gone(
    metasd: Command, model: str, folder: Path
) -> None:
    folder.rename(folder.with_name("moved"))
    assert metasd("predict", "x", *ADA)[0] == 2
    code, out, err = metasd("predict", "x", *ADA, "--keep-known", "--json")
    assert code == 0
    assert err.startswith("note: known answers are not marked: ")
    assert {answer["known"] for answer in json.loads(out)} == {None}
    assert metasd("neighbors", "x", "ada")[0] == 0


def test_a_file_of_queries(metasd: Command, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("queries.tsv").write_text("ada\tlikes\t?\n?\tlikes\ttea\n")
    batch = ("--batch", "queries.tsv")
    code, printed, err = metasd("predict", model, *batch, "-k", "2")
    assert (code, err) == (0, "5 known answers hidden; --keep-known shows them\n")
    assert len(printed.splitlines()) == 1 + 2 * 2
    code, out, _ = metasd("predict", model, *batch, "-k", "2", "--out", "answers.tsv")
    assert (code, out) == (0, "2 queries answered: answers.tsv\n")
    assert Path("answers.tsv").read_text() == printed
    assert not Path("-").exists()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ada\tlikes\t?\n")))
    out = metasd("predict", model, "--batch", "-", "-k", "9", "--keep-known")[1]
    marks = {line.split("\t")[4]: line.split("\t")[8] for line in out.splitlines()[1:]}
    assert marks.pop("tea") == "true"
    assert set(marks.values()) == {"false"}
    code, _, err = metasd("predict", model, *batch, "--head", "ada")
    assert (code, "--batch goes without" in err) == (2, True)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ada\tlikes\n")))
    code, _, err = metasd("predict", model, "--batch", "-")
    assert (code, err.startswith("metasd: standard input: line 1: 2 fields, wanted 3")) == (2, True)
    Path("queries.csv").write_text("relation,head,tail\nlikes,ada,?\nlikes,?,tea\n")
    code, out, err = metasd("predict", model, "--batch", "queries.csv", "-k", "2", "--json")
    assert (code, err.startswith("note: queries.csv: line 1 (relation, head, tail)")) == (0, True)
    found = [json.loads(line) for line in out.splitlines()]
    assert [(one["head"], one["tail"], one["hidden"]) for one in found] == [
        ("ada", None, 1),
        (None, "tea", 4),
    ]
    assert [one["answers"][0]["entity"] for one in found] == [
        line.split("\t")[4] for line in printed.splitlines()[1::2]
    ]
    code, _, err = metasd("predict", model, *ADA, "--out", "x.tsv")
    assert (code, "--out is for --batch" in err) == (2, True)


def test_score(metasd: Command, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "ada\tlikes\ttea\nbo\tknows\tcy\n"
    Path("triples.tsv").write_text(lines)
    code, out, _ = metasd("score", model, "triples.tsv")
    header, *rows = (line.split("\t") for line in out.splitlines())
    assert (code, header) == (0, ["head", "relation", "tail", "score"])
    assert ["\t".join(row[:3]) for row in rows] == lines.splitlines()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    found = json.loads(metasd("score", "x", "-", "--ranks", "--json")[1])
    assert [one["score"] for one in found] == pytest.approx(
        [float(row[3]) for row in rows], rel=0.1
    )
    assert all(1 <= one[side] <= 8 for one in found for side in ("head_rank", "tail_rank"))
    code, out, _ = metasd("score", model, "triples.tsv", "--out", "scores.tsv")
    assert (code, out) == (0, "2 triples scored: scores.tsv\n")
    assert len(Path("scores.tsv").read_text().splitlines()) == 3
    for text, message in (
        ("bo\tknows\tcy\nbo\tknows\tzoe\n", 'triples.tsv: row 2: no entity "zoe"'),
        ("bo\tknows\n", "triples.tsv: line 1: 2 fields, wanted 3 separated by tabs"),
    ):
        Path("triples.tsv").write_text(text)
        code, _, err = metasd("score", model, "triples.tsv", "--out", "other.tsv")
        assert (code, message in err) == (2, True), err
        assert not Path("other.tsv").exists()


def test_the_known_answers_of_a_newer_graph(metasd: Command, model: str, folder: Path) -> None:
    with (folder / "train.txt").open("a") as file:
        file.write("ada\tlikes\tcake\n")
    for path in ("x", model):
        code, _, err = metasd("predict", path, *ADA, "--graph", folder)
        noted, hidden = err.splitlines()
        assert (code, noted.startswith("note: known answers are those of mine")) == (0, True)
        assert noted.endswith("not trained: train triples differ (17 instead of 16)")
        assert hidden.startswith("2 known answers hidden: ")
        code, _, err = metasd("score", path, folder / "test.txt", "--ranks", "--graph", folder)
        assert (code, err.splitlines()) == (0, [noted])
        code, _, err = metasd("evaluate", path, "--graph", folder)
        assert (code, "than mine: train triples differ (17 instead of 16)" in err) == (2, True)
    assert metasd("predict", model, *ADA)[2].startswith("1 known answer hidden: tea")
    (folder / "train.txt").write_text("ada\tlikes\ttea\n" * 2)
    for path in ("x", model):
        code, _, err = metasd("predict", path, *ADA, "--graph", folder)
        assert (code, err.count("\n")) == (2, 1)
        assert 'first that only the model has: "knows")' in err


def test_neighbors(metasd: Command, model: str) -> None:
    for path in ("x", model):
        found = json.loads(metasd("neighbors", path, "ada", "-k", "3", "--json")[1])
        assert [set(one) for one in found] == [{"label", "cosine"}] * 3
        out = metasd("neighbors", path, "ada", "-k", "3")[1]
        assert [line.split()[1] for line in out.splitlines()[1:]] == [one["label"] for one in found]
    code, _, err = metasd("neighbors", model, "adda")
    assert (code, 'did you mean "ada"' in err) == (2, True)


def test_a_run_within_its_warmup_says_who_answers(
    metasd: Command, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = metasd("predict", "x", *ADA, "--source")[1]
    monkeypatch.setattr(Run, "within_warmup", True)
    code, out, err = metasd("predict", "x", *ADA)
    assert (code, out) == (0, wanted)
    assert err.startswith("note: there is no compact model yet")
    assert "note:" not in metasd("predict", "x", *ADA, "--source")[2]


def test_the_version(metasd: Command) -> None:
    code, out, _ = metasd("--version")
    assert (code, out.split()[0]) == (0, "metasd")
