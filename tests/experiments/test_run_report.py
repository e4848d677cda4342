"""The report: figures, page, escaping, and runs that lack something."""

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from metasd.config import preset
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError
from metasd.experiments import run_figures, run_report
from metasd.experiments.run_report import summary_rows, write_report
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.run import Run

pytest.importorskip("matplotlib")

HOSTILE = "</td><script>alert('x')</script>&\"$\\frac{a$\n\0\ud800"
PNG = b"\x89PNG\r\n\x1a\n"


def values(mrr: float, ranks: int = 40) -> dict[str, Any]:
    hits = {f"hits@{k}": min(1.0, mrr + k / 50) for k in (1, 3, 10)}
    return {"mrr": mrr, "mr": 2345.5, **hits, "ranks": ranks}


def evaluated(mrr: float, relations: dict[str, int]) -> dict[str, Any]:
    """What `evaluate` returns, made up; a relation's value is its number of train triples."""
    thirds = {"frequent": len(relations), "medium": 0, "rare": 0}
    if len(relations) >= 3:
        thirds = dict.fromkeys(thirds, len(relations) // 3)
    return {
        **values(mrr),
        "pessimistic": values(mrr / 2),
        "tie_rate": 0.25,
        "queries": 40,
        "by_side": {"head": values(mrr), "tail": values(mrr)},
        "by_frequency": {
            third: {"relations": n, **(values(mrr, 40 * n) if n else dict.fromkeys(values(0), 0))}
            for third, n in thirds.items()
        },
        "by_relation": {
            label: {"train": train, **values(mrr / (1 + i % 7), 2 + i)}
            for i, (label, train) in enumerate(relations.items())
        },
    }


def epoch(number: int, models: tuple[str, ...], validated: bool) -> dict[str, Any]:
    names = ("source", "inner", "quiz", "mutual_source", "mutual_compact")
    record: dict[str, Any] = {
        "epoch": number,
        **{f"loss/{name}": 5 / (number + i) for i, name in enumerate(names)},
        "seconds": 1.5,
        "steps": 7,
        "triples_per_second": 43210.5,
        "peak_memory_bytes": 3 << 20,
        "prune_fraction": 0.0 if models == ("source",) else min(0.9, 0.3 * number),
    }
    if validated:
        record |= {f"valid/{m}": values(0.1 * number - 0.02 * i) for i, m in enumerate(models)}
    return record


def make_run(
    path: Path,
    *,
    epochs: int = 4,
    relations: dict[str, int] | None = None,
    models: tuple[str, ...] = ("source", "compact"),
    splits: tuple[str, ...] = ("valid", "test"),
    finished: bool = True,
    graph: str = "toys",
) -> Run:
    relations = relations or {"likes": 500, "owns": 60, "near": 7}
    dense = models == ("source",)
    objective = "dense" if dense else "metasd"
    config = preset("metasd").override(
        {"train.objective": objective, "train.epochs": 20, "model.rank": 4}
    )
    history = [epoch(n + 1, models, "valid" in splits and n % 2 == 1) for n in range(epochs)]
    metrics: dict[str, Any] = {}
    if finished:
        found = {m: evaluated(0.4 - 0.1 * i, relations) for i, m in enumerate(models)}
        metrics = {
            **dict.fromkeys(splits, found),
            "protocol": {
                "graph": graph,
                "filter": ["train", "valid", "test"],
                "unseen": {"valid": 0, "test": 1},
                "epochs": epochs,
                "best_epoch": epochs - epochs % 2 if "valid" in splits else epochs,
                "density": 1.0 if dense else 0.1,
            },
        }
    vocabulary = Vocabulary(entities=["a", "b"], relations=list(relations))
    model = Model.create(Scoring.named("complex")(4), 2, len(relations), seed=0)
    return Run(path, config, vocabulary, model, history, metrics)


class Page(HTMLParser):
    """What a browser would see: text, tags, rows of cells; unclosed tags fail."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def files(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def test_page_and_figures(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path / "run-1"))
    assert path == tmp_path / "run-1" / "report" / "report.html"
    assert files(path) == {"report.html", "curves.png", "long_tail.png", "relations.png"}
    page = Page(path)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    for image, name in zip(images, ("curves", "long_tail", "relations"), strict=True):
        data = path.with_name(f"{name}.png").read_bytes()
        assert data.startswith(PNG)
        assert data.endswith(b"IEND\xaeB`\x82")
        assert image["src"] == f"data:image/png;base64,{base64.b64encode(data).decode()}"
        assert image["alt"]
        assert image["width"] == "960"
    assert "toys · run-1" in page.text
    assert (
        "The compact model keeps 10.0% of the weights and reaches a test MRR of 0.3000" in page.text
    )
    assert ["MRR", *["0.4000", "0.3000", "−25.0%"] * 2] in page.rows
    assert ["MR (low is good)", *["2,345.5", "2,345.5", "+0.0%"] * 2] in page.rows
    assert ["likes", "500", "2", "0.4000", "0.6000", "0.3000", "0.5000", "-0.1000"] in page.rows
    assert ["unseen", "valid 0, test 1"] in page.rows
    assert "temperature: 3.0" in page.text
    history = next(row for row in page.rows if row[0] == "1")
    assert history[6:] == ["1.5000", "7", "43,210", "3", "0.3000", "–", "–"]


def test_page_is_self_contained(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path), tmp_path / "deep" / "out"))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in page.source
    script = re.search(r"<script>(.*)</script>", page.source, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy  # or browsers would not run the sorting


@pytest.mark.filterwarnings("error")
def test_hostile_labels_stay_text(tmp_path: Path) -> None:
    relations = {HOSTILE: 9, "<img src=x onerror=y>": 8, "關係": 7, "$" * 200: 6}
    run = make_run(tmp_path / "<b>run", relations=relations, graph="<i>graph")
    page = Page(write_report(run))
    assert page.count("script") == 1
    assert page.count("img") == 3
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert "<i>graph · <b>run" in page.text
    labels = [row[0] for row in page.rows]
    assert HOSTILE.translate(dict.fromkeys((0, 10, 0xD800), "\ufffd")) in labels
    assert set(relations) - {HOSTILE} < set(labels)


@pytest.mark.slow
def test_two_reports_are_equal(tmp_path: Path) -> None:
    import matplotlib

    run = make_run(tmp_path / "run")
    first = write_report(run, tmp_path / "a")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):  # a user's own taste
        second = write_report(run, tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 20
    for name in files(first):
        assert first.with_name(name).read_bytes() == second.with_name(name).read_bytes()


def test_interrupted_run(tmp_path: Path) -> None:
    finished, interrupted = make_run(tmp_path), make_run(tmp_path, epochs=3, finished=False)
    write_report(finished)
    path = write_report(interrupted)
    assert files(path) == {"report.html", "curves.png"}  # nothing is left of an older report
    page = Page(path)
    assert "not finished: it has done 3 of 20 epochs" in page.text
    assert page.count("img") == 1
    interrupted.history.clear()
    path = write_report(interrupted)
    assert files(path) == {"report.html"}
    assert "it has done 0 of 20 epochs" in Page(path).text


def test_metrics_older_than_the_history(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.history.append(epoch(5, ("source", "compact"), validated=False))
    assert "metrics are those after 4 epochs" in Page(write_report(run)).text


def test_dense_run(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path, models=("source",))))
    assert "A dense model with a test MRR of 0.4000" in page.text
    assert page.count("img") == 3
    assert ["likes", "500", "2", "0.4000", "0.6000"] in page.rows
    assert "difference" not in page.text
    assert "compact MRR" not in page.text


def test_without_valid_or_without_test(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path / "a", splits=("test",))))
    assert ["MRR", "0.4000", "0.3000", "−25.0%"] in page.rows
    assert [a["width"] for tag, a in page.tags if tag == "img"] == ["560", "960", "960"]
    page = Page(write_report(make_run(tmp_path / "b", splits=("valid",))))
    assert "valid ranks" in page.text
    assert "a valid MRR of 0.3000" in page.text
    page = Page(write_report(make_run(tmp_path / "c", splits=())))
    assert page.count("img") == 1


def test_one_epoch_and_one_relation(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=1, relations={"only": 1})
    assert write_report(run).with_name("relations.png").exists()


@pytest.mark.slow
def test_many_relations_are_drawn_in_part(tmp_path: Path) -> None:
    relations = {f"relation {i:03}": 1000 - i for i in range(57)}
    run = make_run(tmp_path, relations=relations)
    figure = run_figures.draw_relations(run)
    assert figure is not None
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == [f"relation {i:03}" for i in [*range(20), *range(37, 57)]]
    assert any("17 relations between these" in text.get_text() for text in figure.axes[0].texts)
    page = Page(write_report(run))
    assert sum(row[0].startswith("relation ") for row in page.rows) == 57


def test_best_epoch_of_an_unfinished_run_has_the_final_mask(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=6, finished=False)
    run.config = run.config.override({"prune.schedule": "cubic", "prune.ramp_epochs": 2})
    run.history[1]["valid/compact"]["mrr"] = 0.99  # denser than what was asked for
    best = run_figures.best_epoch(run)
    assert best is not None
    assert best == pytest.approx((6, 0.58))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prune.fraction": 0.9}, "keeps 10.0% of the weights and reaches"),
        (
            {"prune.fraction": 0.9, "compact.weight_format": "int8"},
            "keeps 10.0% of the weights, as int8, and reaches",
        ),
        (
            {"prune.fraction": 0, "compact.weight_format": "int3"},
            "stores its weights as int3 and reaches",
        ),
    ],
    ids=str,
)
def test_the_lead_says_what_is_compact(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    run = make_run(tmp_path, epochs=0)
    run.config = run.config.override(settings)
    assert any(f"The compact model {sentence}" in line for line in run_report._lead(run))


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r'pip install "metasd\[plots\]"'):
        write_report(make_run(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert len(summary_rows(make_run(tmp_path).metrics)) == 5


def test_summary_rows() -> None:
    metrics = {"test": {"source": evaluated(0.5, {"r": 1})}, "protocol": {"seed": 0}}
    assert summary_rows(metrics) == [
        ["split", "model", "MRR", "Hits@1", "Hits@3", "Hits@10"],
        ["test", "source", "0.5000", "0.5200", "0.5600", "0.7000"],
    ]
    assert len(summary_rows({})) == 1
