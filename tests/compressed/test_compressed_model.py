"""The compressed model from a run to a folder and back: answers, metrics, hostile folders."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_compressed import KINDS, fuzz, small_model

import metasd
from metasd.compressed import Answer, CompressedModel, Question, storage
from metasd.compressed.known import KnownTriples
from metasd.compressed.labels import Labels
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.evaluation import evaluate
from metasd.models import Scoring
from metasd.models.model import Model, draw_masks
from metasd.training.prediction import predict
from metasd.training.run import Run


def trained(scoring: str, graph: Graph, granularity: str = "weight", values: str = "fp32") -> Model:
    """Random tables with a mask that keeps a tenth, or a half of the columns."""
    model = Model.create(
        Scoring.named(scoring)(40), graph.num_entities, graph.num_relations, 0, values
    )
    model.entities *= 1000
    model.relations *= 1000
    model.masks = draw_masks(model, 0.5 if granularity == "column" else 0.9, granularity)
    return model


@pytest.fixture(scope="module")
def run(small_graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = Config().override({"model.rank": 8, "train.epochs": 2, "train.batch_size": 400})
    return metasd.train(small_graph, config, tmp_path_factory.mktemp("runs") / "x")


@pytest.fixture
def small(small_graph: Graph) -> CompressedModel:
    model = trained("complex", small_graph)
    return metasd.compress(model, "sparse", "fp32", graph=small_graph)


@pytest.mark.parametrize(
    ("codec", "granularity", "values", "wanted"),
    [
        ("auto", "weight", "fp32", "sparse fp16"),
        ("auto", "weight", "ternary", "sparse int8"),
        ("auto", "column", "fp32", "column fp16"),
        ("auto", "column", "int4", "column int4"),
        ("auto", "column", "int2", "column int2"),
        ("int8", "weight", "fp32", "int8 int8"),
        ("auto", "column", "int3", "column int3"),
        ("int4", "weight", "int3", "int4 int4"),
        ("ternary", "weight", "ternary", "ternary ternary"),
    ],
)
@pytest.mark.parametrize("scoring", ["complex", "cp", "distmult", "rescal"])
def test_a_model_and_its_compressed_form_score_alike(
    small_graph: Graph, scoring: str, codec: str, granularity: str, values: str, wanted: str
) -> None:
    if scoring == "rescal" and granularity == "column":
        pytest.skip("RESCAL has no columns to prune")
    model = trained(scoring, small_graph, granularity, values)
    small = metasd.compress(model, codec, graph=small_graph)
    assert f"{small.entities.codec} {small.entities.values}" == wanted
    tables = [table.numpy() for table in model.tables(pruned=True)]
    rounding = 0.65 / 127 if (codec, values) == ("int8", "fp32") else 6e-4
    for table, dense in zip(tables, small.dense(), strict=True):
        assert np.abs(table - dense).max() <= rounding * np.abs(table).max()
    triples = small_graph.test[:50]
    head, relation, tail = (torch.from_numpy(column.copy()) for column in triples.T)
    entities, relations = model.tables(True)
    query = model.scoring.query(entities[head], relations[relation])
    scores = (query * model.candidates(entities)[tail]).sum(1)
    got = small.score(triples)
    assert np.abs(got - scores.numpy()).max() <= 0.03 * scores.abs().max()


@pytest.mark.parametrize("scoring", ["complex", "cp", "distmult", "rescal"])
def test_answers_and_metrics_are_those_of_the_model(small_graph: Graph, scoring: str) -> None:
    model = trained(scoring, small_graph)
    small = metasd.compress(model, "sparse", "fp32", graph=small_graph)
    known = small_graph.known()
    for h, r, t in small_graph.test[:10].tolist():
        for question in (
            {"head": small_graph.entities[h], "relation": small_graph.relations[r]},
            {"tail": small_graph.entities[t], "relation": small_graph.relations[r]},
        ):
            wanted = predict(model, small_graph, **question, k=7, known=known)
            got = small.predict(**question, k=7)
            assert [score for _, score in got] == pytest.approx([s for _, s in wanted], rel=1e-4)
            assert [label for label, _ in got] == [label for label, _ in wanted]
    before, after = evaluate(model, small_graph), evaluate(small, small_graph)
    assert after["mrr"] == pytest.approx(before["mrr"], abs=2e-4)
    assert after["hits@10"] == pytest.approx(before["hits@10"], abs=2e-3)


def test_probabilities_are_a_softmax_over_the_candidates(small: CompressedModel) -> None:
    question = Question(small.entity_labels[3], small.relation_labels[0])
    everything = small.answers([question], 10**6, keep_known=True)[0]
    assert len(everything) == small.num_entities
    assert sum(answer.probability for answer in everything) == pytest.approx(1, rel=1e-4)
    scores = np.array([answer.score for answer in everything])
    assert (np.diff(scores) <= 0).all()
    assert everything[0].probability == pytest.approx(
        1 / np.exp(scores - scores[0]).sum(), rel=1e-3
    )
    flat = replace(small, temperature=1000.0).answers([question], 1)[0][0]
    assert flat.probability == pytest.approx(1 / small.num_entities, rel=0.1)


def test_known_triples_and_candidates(small: CompressedModel, small_graph: Graph) -> None:
    h, r, _ = small_graph.train[0].tolist()
    question = Question(small_graph.entities[h], small_graph.relations[r])
    known = set(small_graph.known().answers(h, r).tolist())
    found = {small.entity_labels.find(a.entity) for a in small.answers([question], 10**6)[0]}
    assert found == set(range(small.num_entities)) - known
    among = [small_graph.entities[i] for i in (*known, 5, 9, 5)]
    chosen = small.answers([question], 10, candidates=among)[0]
    assert {answer.entity for answer in chosen} == set(among[len(known) :]) - {
        small_graph.entities[i] for i in known
    }
    kept = small.answers([question], 100, candidates=among, keep_known=True)[0]
    assert sum(answer.probability for answer in kept) == pytest.approx(1, rel=1e-4)
    assert small.answers([question], 3, candidates=[]) == [[]]
    assert small.answers([], 3) == []


def test_answers_of_a_known_index_are_those_of_the_graph(small_graph: Graph) -> None:
    triples = np.concatenate([small_graph.split(name) for name in ("test", "valid", "train")])
    mine = KnownTriples.of(triples, small_graph.num_entities, small_graph.num_relations)
    wanted = small_graph.known()
    for entity in range(0, small_graph.num_entities, 7):
        for relation in range(2 * small_graph.num_relations):
            got = mine.answers(entity, relation)
            assert got.tolist() == wanted.answers(entity, relation).tolist()


def test_neighbors_are_nearest_by_cosine(small: CompressedModel) -> None:
    rows = small.dense()[0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    wanted = unit @ unit[5]
    wanted[5] = -2
    got = small.neighbors(small.entity_labels[5], 4)
    assert [score for _, score in got] == pytest.approx(sorted(wanted)[::-1][:4], abs=1e-5)
    assert len(small.neighbors(small.entity_labels[5], 10**6)) == small.num_entities - 1
    assert np.array_equal(small.embedding(small.entity_labels[5]), rows[5])


def test_questions_that_are_none_are_told(small: CompressedModel) -> None:
    entity, relation = small.entity_labels[0], small.relation_labels[0]
    for call, message in [
        (lambda: small.predict(head=entity), "a question has a relation"),
        (lambda: small.predict(head=entity, tail=entity, relation=relation), "either a head or"),
        (lambda: small.predict(head=entity, relation=relation, k=0), "k must be at least 1; got 0"),
        (lambda: small.predict(head=entity + "x", relation=relation), f'did you mean "{entity}"'),
        (lambda: small.predict(head=entity, relation=relation + "x"), f'mean "{relation}"'),
        (lambda: small.predict(head="", relation=relation), 'no entity ""'),
        (lambda: small.predict(head="\ud800", relation=relation), "no entity"),
        (lambda: small.neighbors(entity, 0), "k must be"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


def test_a_human_label_finds_its_entity_when_only_one_has_it() -> None:
    labels = Labels.of(["q1", "q2", "q3", "q4"], {"q1": "Ada", "q2": "Bo", "q4": "Bo"}, "entity")
    assert [labels.find(name) for name in ("q2", "Ada", "q4")] == [1, 0, 3]
    assert [labels.human(i) for i in range(4)] == ["Ada", "Bo", "q3", "Bo"]
    assert list(labels) == ["q1", "q2", "q3", "q4"]
    with pytest.raises(InputError, match=r'"Bo" names 2 of them \(q2, q4\)'):
        labels.find("Bo")
    with pytest.raises(IndexError):
        labels[4]
    with pytest.raises(InputError, match="tab"):
        Labels.of(["a\tb"], {}, "entity")
    with pytest.raises(InputError, match="twice"):
        Labels.of(["b", "a", "b"], {}, "entity")


def test_batches_go_from_file_to_file(small: CompressedModel, tmp_path: Path) -> None:
    a, b, r = small.entity_labels[0], small.entity_labels[1], small.relation_labels[0]
    questions, answers = tmp_path / "questions.tsv", tmp_path / "answers.tsv"
    questions.write_text(f"{a}\t{r}\t?\n\t{r}\t{b}\r\n" * 200)
    steps: list[tuple[int, int]] = []
    count = small.answer_file(questions, answers, 3, progress=lambda *step: steps.append(step))
    assert count == 400
    assert steps == [(256, 400), (400, 400)]
    header, *rows = [line.split("\t") for line in answers.read_text().splitlines()]
    assert header[:4] == ["head", "relation", "tail", "rank"]
    assert len(rows) == 1200
    wanted = small.answers([Question(a, r), Question(None, r, b)], 3)
    for part, found in ((rows[0:3], wanted[0]), (rows[1197:1200], wanted[1])):
        assert [(row[4], row[5]) for row in part] == [(x.entity, x.label) for x in found]
        assert [float(row[6]) for row in part] == pytest.approx([x.score for x in found], rel=1e-5)
    answers.write_text("before")
    questions.write_text(f"{a}\t{r}\t?\n{a}x\t{r}\t?\n")
    with pytest.raises(InputError, match=r"questions.tsv: line 2: no entity"):
        small.answer_file(questions, answers)
    questions.write_text(f"{a}\t{r}\t{b}\n")
    with pytest.raises(InputError, match=r"line 1: wanted head<TAB>relation<TAB>tail"):
        small.answer_file(questions, answers)
    assert answers.read_text() == "before"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_folder_gives_the_same_model(kind: Any, tmp_path: Path) -> None:
    model = replace(small_model(*kind, seed=1), temperature=0.7, about={"graph": {"name": "x"}})
    model.save_pretrained(tmp_path / "m")
    again = CompressedModel.from_pretrained(tmp_path / "m")
    assert repr(again) == repr(model)
    assert (again.temperature, again.about) == (0.7, {"graph": {"name": "x"}})
    for mine, other in zip(model.dense(), again.dense(), strict=True):
        assert np.array_equal(mine, other)
    questions = [Question(label, "relation 1") for label in model.entity_labels]
    assert model.answers(questions) == again.answers(questions)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        *("README.md", "config.json", "entities.tsv", "model.safetensors", "relations.tsv")
    ]
    again.save_pretrained(tmp_path / "m")  # over what is mapped
    assert again.answers(questions) == CompressedModel.from_pretrained(tmp_path / "m").answers(
        questions
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("granularity", ["weight", "row", "column"])
@pytest.mark.parametrize("values", ["int3", "int2"])
def test_auto_always_finds_a_codec(
    small_graph: Graph, values: str, granularity: str, fraction: float
) -> None:
    model = trained("complex", small_graph, values=values)
    model.entities[:, 3] = 0  # whichever the granularity, one column is empty
    model.masks = draw_masks(model, fraction, granularity)
    model.changed()
    small, wanted = metasd.compress(model), model.tables(pruned=True)[0].numpy()
    if small.info()["codec"].split()[0] != "sparse":  # which has values of its own
        kept = wanted != 0
        assert np.allclose(small.dense()[0][kept], wanted[kept], rtol=2e-3)


def test_files_are_as_the_umask_has_them(small: CompressedModel, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "m")
    (tmp_path / "plain").touch()
    wanted = (tmp_path / "plain").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "m").iterdir()} == {wanted}


def test_only_a_compressed_model_is_ever_replaced(small: CompressedModel, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("five years")
    with pytest.raises(InputError, match="already exists and is no compressed model"):
        small.save_pretrained(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="already exists"):
        small.save_pretrained(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    small.save_pretrained(tmp_path / "empty")
    CompressedModel.from_pretrained(tmp_path / "empty")


def test_a_run_is_compressed_with_all_that_belongs_to_it(run: Run, tmp_path: Path) -> None:
    small = metasd.compress(run)
    small.save_pretrained(tmp_path / "m")
    small = CompressedModel.from_pretrained(tmp_path / "m")
    assert small.about["training"]["model.rank"] == 8
    assert small.about["metrics"]["test"]["compact"]["mrr"] == run.metrics["test"]["compact"]["mrr"]
    assert small.about["protocol"]["seed"] == run.metrics["protocol"]["seed"]
    assert small.known is not None
    entity, relation = small.entity_labels[0], small.relation_labels[0]
    wanted = [score for _, score in run.predict(head=entity, relation=relation, k=3)]
    got = [score for _, score in small.predict(head=entity, relation=relation, k=3)]
    assert got == pytest.approx(wanted, rel=5e-3, abs=1e-5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "from_pretrained" in card
    assert f"{run.metrics['test']['pruned']['mrr']:.4f}" in card
    assert metasd.compress(run, known=False).known is None
    plain = metasd.compress(run.model)
    assert list(plain.relation_labels)[:2] == ["0", "1"]
    dense = metasd.compress(run, pruned=False, codec="int8")
    assert dense.info()["times smaller than dense"]["fp32 (tables)"] > 3


def test_sizes_are_counted(small: CompressedModel, tmp_path: Path) -> None:
    info = small.info()
    assert info["density"] == pytest.approx(0.1, abs=1e-3)
    assert info["bytes"]["tables"] == small.nbytes
    small.save_pretrained(tmp_path / "m")
    files = ("model.safetensors", "entities.tsv", "relations.tsv")
    stored = sum((tmp_path / "m" / name).stat().st_size for name in files)
    assert info["bytes"]["together"] <= stored <= info["bytes"]["together"] + 2000


def test_calibration_makes_the_right_answers_most_likely(small: CompressedModel) -> None:
    random = np.random.default_rng(0)
    given, relations = random.integers(0, small.num_entities, 400), np.zeros(400, np.int64)
    scores = small.entities.scores(small.queries(given, relations))
    share = np.exp((scores - scores.max(1, keepdims=True)) / 3.0)  # draws at temperature 3
    tails = [random.choice(len(row), p=row / row.sum()) for row in share.astype(np.float64)]
    triples = np.stack([given, relations, np.array(tails)], axis=1)
    both = small.calibrated(triples)
    assert both.temperature == small.calibrated(triples).temperature
    assert 1.5 < both.temperature < 15
    with pytest.raises(InputError, match="needs triples"):
        small.calibrated(np.empty((0, 3), np.int64))


def test_a_command_that_needs_torch_says_so(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from metasd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "env"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (
        2,
        "metasd: torch is not installed, and this command needs it\n",
    )


def test_nothing_of_torch_is_needed(tmp_path: Path) -> None:
    small_model("complex", "sparse", "fp16", 0.1, seed=0).save_pretrained(tmp_path / "m")
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "pyarrow", "pydantic", "rich", "typer", "yaml"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Refuse())
import metasd
from metasd.compressed import CompressedModel
model = CompressedModel.from_pretrained("m")
print(model.predict(head="entity 03", relation="relation 1", k=2))
print(metasd.CompressedModel is CompressedModel)
assert not any(name.startswith("torch") for name in sys.modules)
try:
    metasd.train
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers, same, refusal = done.stdout.splitlines()
    assert len(eval(answers)) == 2
    assert same == "True"
    assert refusal.endswith("is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model("complex", "sparse", "fp16", 0.1, seed=0).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def recheck(folder: Path, **changes: Any) -> None:
    """Writes config.json anew, its own checksum right."""
    import zlib

    config = json.loads((folder / "config.json").read_text())
    config = {**config, **changes}
    config.pop("checksum")
    config["checksum"] = zlib.crc32(json.dumps(config, sort_keys=True).encode())
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not of a compressed model"),
        ({"version": 2}, "format version 2; this version reads 1"),
        ({"scoring": "transe"}, "scores by one of complex, cp, distmult, rescal"),
        ({"rank": 71}, "must be"),
        ({"rank": 2**80}, "rank must be above 0"),
        ({"num_entities": 22}, "entities.tsv: line 23: wanted the end after 22 lines"),
        ({"num_entities": 2**39}, "labels do not fit"),
        ({"temperature": float("nan")}, "temperature"),
        ({"known_triples": 3}, "3 known triples"),
        ({"known_triples": None}, "known.head belongs to nothing"),
        ({"about": []}, "about is missing or of another type"),
        ({"tables": {}}, "its description is missing"),
    ],
)
def test_a_description_that_lies_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    recheck(folder, **changes)
    with pytest.raises(InputError, match=message):
        CompressedModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "entities.tsv"])
def test_files_that_are_missing_cut_or_flipped_are_named(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = [b"", data[:middle], data[:-3], data[:9]]
    damaged.append(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            CompressedModel.from_pretrained(folder)
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: No such file"):
        CompressedModel.from_pretrained(folder)
    with pytest.raises(InputError, match="no such folder"):
        CompressedModel.from_pretrained(folder / "elsewhere")


def test_a_full_disk_leaves_the_older_model(
    folder: Path, small: CompressedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metasd.compressed import storage

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(InputError, match="could not be written"):
        small.save_pretrained(folder)
    assert CompressedModel.from_pretrained(folder).num_entities == 23
    assert os.listdir(folder.parent) == ["m"]


def test_two_thousand_mutations_are_refused_or_answered(tmp_path: Path) -> None:
    """A hundred thousand, also under AddressSanitizer: tests/fuzz_compressed.py."""
    ends = fuzz(2000, 0, tmp_path, lambda number: None)
    assert sum(ends.values()) == 2000
    assert min(ends["refused"], ends["answered"]) > 50


def test_an_answer_has_what_is_shown(small: CompressedModel) -> None:
    answer = small.answers([Question(small.entity_labels[0], small.relation_labels[0])], 1)[0][0]
    assert Answer._fields == ("entity", "label", "score", "probability")
    assert 0 <= answer.probability <= 1


@pytest.mark.parametrize(
    "about",
    [{"graph": 5}, {"graph": {"name": 5}}, {"metrics": 5}, {"metrics": {"test": {"m": {}}}}],
)
def test_a_description_of_another_form_is_refused(
    small: CompressedModel, about: dict[str, Any], tmp_path: Path
) -> None:
    replace(small, about={}).save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["checksum"]
    config["about"] = about
    config["checksum"] = storage._checksum(config)
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="about is not of the form"):
        CompressedModel.from_pretrained(tmp_path / "m")


def test_a_pipe_in_place_of_a_file_is_refused(small: CompressedModel, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    os.mkfifo(tmp_path / "m" / "config.json")
    with pytest.raises(InputError, match="not a file"):
        CompressedModel.from_pretrained(tmp_path / "m")
    assert not storage.is_compressed(tmp_path / "m")
