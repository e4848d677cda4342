"""Compact models in a run: masks, warm-up, weights of their own, and where they start from."""

import math
from pathlib import Path

import pytest
import torch
from training_cases import SEPARATE

from metasd import compress, kernels
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.training.stop_signal import Interrupted
from metasd.training.trainer import Trainer, resume, train


def test_the_compact_model_keeps_a_tenth(small_graph: Graph, quick: Config, tmp_path: Path) -> None:
    model = train(small_graph, quick, tmp_path / "run").model
    total = model.entities.numel() + model.relations.numel()
    assert model.density() == (total - math.ceil(0.9 * total)) / total
    kept = int((model.compact.entities != 0).sum() + (model.compact.relations != 0).sum())
    assert kept <= round(model.density() * total)


@pytest.mark.parametrize("values", ["fp32", "int2"])
def test_separate_weights_are_what_is_compressed(
    small_graph: Graph, quick: Config, tmp_path: Path, values: str
) -> None:
    run = train(
        small_graph, quick.override({**SEPARATE, "compact.weight_format": values}), tmp_path / "run"
    )
    assert run.model.separate
    decoded, _ = compress(run).dense()
    wanted = run.model.compact.entities
    assert float(abs(torch.from_numpy(decoded) - wanted).max()) < 1e-3 * float(wanted.abs().max())
    with pytest.raises(InputError, match=r"train\.epochs cannot change within this run"):
        resume(tmp_path / "run", ["train.epochs=5"])


def test_a_compact_model_may_take_over_the_source_of_a_finished_run(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    dense = quick.override({"train.objective": "dense", "train.epochs": 1, "train.seed": 3})
    dense = dense.override({"train.decay": 1.0})
    train(small_graph, dense, tmp_path / "source")
    whole = train(small_graph, quick.override({**SEPARATE, "train.seed": 3}), tmp_path / "whole")
    settings = {**SEPARATE, "compact.warmup_epochs": 0, "compact.source": str(tmp_path / "source")}
    config = quick.override({**settings, "train.seed": 3})
    run = train(small_graph, config, tmp_path / "compact")
    # Neither its batches nor its quiz are those of the whole run's epochs: the source is the same.
    assert torch.allclose(run.model.entities, whole.model.entities, atol=1e-3)
    assert run.model.separate
    for setting, message in (
        ("model.rank=9", "is complex of rank 8; this run is complex of rank 9"),
        (f"compact.source={tmp_path / 'no'}", "not a run folder"),
        ("compact.weights=shared", r"compact\.source needs compact\.weights = separate"),
    ):
        with pytest.raises(InputError, match=message):
            train(small_graph, config.override([setting]), tmp_path / "wrong")
        assert not (tmp_path / "wrong").exists()


TAUGHT = {**SEPARATE, "train.objective": "distill", "distill.forward_weight": 5.0}


def test_other_sources_teach_trained_by_the_run_or_before_it(
    small_graph: Graph, quick: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = quick.override({**TAUGHT, "distill.teachers": 3})
    run = train(small_graph, several, tmp_path / "run")
    seeds = sorted((tmp_path / "run" / "teachers").iterdir())
    assert [path.name for path in seeds] == ["seed-1", "seed-2"]
    named = quick.override({**TAUGHT, "distill.teachers": [str(path) for path in seeds]})
    again = train(small_graph, named, tmp_path / "named")
    alone = train(small_graph, quick.override(TAUGHT), tmp_path / "alone")
    assert torch.equal(run.model.compact.entities, again.model.compact.entities)
    assert not torch.equal(run.model.compact.entities, alone.model.compact.entities)
    assert torch.equal(run.model.entities, alone.model.entities)

    finish = Trainer._finish
    monkeypatch.setattr(Trainer, "_finish", interrupted)  # at the end of the first other source
    with pytest.raises(Interrupted):
        train(small_graph, several, tmp_path / "stopped")
    monkeypatch.setattr(Trainer, "_finish", finish)
    resumed = resume(tmp_path / "stopped")
    assert torch.equal(run.model.compact.entities, resumed.model.compact.entities)


def interrupted(*_: object) -> None:
    raise Interrupted("stopped")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill.teachers": ["no"]}, r"no: not a run folder"),
        ({"distill.teachers": 0}, r"distill\.teachers"),
        (
            {"distill.teachers": 2, "compact.source": "x", "compact.warmup_epochs": 0},
            r"needs compact\.warmup_epochs, in which they learn; .* list their runs",
        ),
    ],
)
def test_teachers_that_cannot_be_are_refused(
    small_graph: Graph, quick: Config, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(small_graph, quick.override({**TAUGHT, **settings}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_patience_stops_at_the_pruned_models_best(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    config = quick.override({"train.epochs": 60, "eval.patience": 2, "train.lr": 0.5})
    run = train(small_graph, config, tmp_path / "run")
    scores = [record["valid/compact"]["mrr"] for record in run.history]
    best = max(range(len(scores)), key=scores.__getitem__)
    assert len(scores) == best + 3 < 60
    assert run.metrics["protocol"]["best_epoch"] == best + 1
    assert run.metrics["valid"]["compact"]["mrr"] == pytest.approx(scores[best])


def test_the_cubic_ramp_ends_at_the_fraction(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    config = quick.override(
        {"train.epochs": 5, "prune.schedule": "cubic", "prune.ramp_epochs": 3, "eval.patience": 1}
    )
    run = train(small_graph, config, tmp_path / "run")
    fractions = [record["prune_fraction"] for record in run.history]
    assert fractions[:4] == pytest.approx([0.9 * (1 - (1 - e / 3) ** 3) for e in range(4)])
    assert run.metrics["protocol"]["best_epoch"] > 3
    assert run.metrics["protocol"]["density"] == pytest.approx(0.1, abs=1e-3)


def test_the_source_warms_up_alone(small_graph: Graph, quick: Config, tmp_path: Path) -> None:
    config = quick.override({"train.epochs": 4, "compact.warmup_epochs": 2, "eval.every": 1})
    run = train(small_graph, config, tmp_path / "run")
    for record in run.history[:2]:
        assert "loss/mutual_compact" not in record
        assert "valid/compact" not in record
        assert record["prune_fraction"] == 0
    for record in run.history[2:]:
        assert {"loss/quiz", "valid/compact"} <= record.keys()
    assert run.metrics["protocol"]["best_epoch"] > 2
    dense = quick.override({"train.objective": "dense", "train.epochs": 2})
    alone = train(small_graph, dense, tmp_path / "alone")
    assert run.history[1]["loss/source"] == alone.history[1]["loss/source"]


def test_the_compact_model_starts_from_the_best_source(
    small_graph: Graph, quick: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = quick.override({"train.objective": "dense", "train.decay": 0.0, "eval.every": 1})
    first, last = (
        train(small_graph, quick.override({"train.epochs": epochs}), tmp_path / f"{epochs}")
        for epochs in (1, 3)
    )

    def falling(self: Trainer, *_: object) -> dict[str, float]:
        return dict.fromkeys(("mrr", "mr", "hits@1", "hits@3", "hits@10"), 1 / self.state.epoch)

    monkeypatch.setattr(Trainer, "_evaluate", falling)
    settings = {**SEPARATE, "train.epochs": 4, "train.decay": 0.0, "compact.warmup_epochs": 3}
    config = quick.override({**settings, "train.objective": "compact"})
    model = train(small_graph, config, tmp_path / "compact").model
    assert torch.equal(model.entities, first.model.entities)
    assert torch.equal(model.relations, first.model.relations)
    assert not torch.equal(model.entities, last.model.entities)


def test_a_run_that_ends_while_warming_up_has_a_source_alone_until_it_is_continued(
    small_graph: Graph, quick: Config, tmp_path: Path
) -> None:
    config = quick.override({"train.epochs": 4, "compact.warmup_epochs": 2, "train.max_steps": 1})
    run = train(small_graph, config, tmp_path / "run")
    assert run.model.masks is None
    assert set(run.metrics["valid"]) == {"source"}
    longer = resume(tmp_path / "run", ["train.max_steps=null"])
    assert longer.model.masks is not None
    assert longer.metrics["protocol"]["best_epoch"] > 2
    with pytest.raises(InputError, match=r"leaves the compact model none of train\.epochs = 2"):
        config.override({"train.epochs": 2})


@pytest.mark.parametrize("granularity", ["row", "column"])
def test_granularity(small_graph: Graph, quick: Config, tmp_path: Path, granularity: str) -> None:
    config = quick.override({"prune.granularity": granularity, "model.rank": 20})
    model = train(small_graph, config, tmp_path / "run").model
    assert model.masks is not None
    kept = kernels.unpack_mask(model.masks[0], 40)
    assert kept.sum(1).tolist() == [4] * len(kept)
    if granularity == "column":
        assert (kept == kept[0]).all()
        assert torch.equal(kept[0, :20], kept[0, 20:])


@pytest.mark.parametrize(
    ("granularity", "fraction", "of"),
    [
        ("weight", 0.99999, "2880 weights"),
        ("row", 0.95, "16 weights per row"),
        ("column", 0.9, "8"),
    ],
)
def test_a_mask_that_keeps_nothing_is_refused(
    small_graph: Graph, quick: Config, tmp_path: Path, granularity: str, fraction: float, of: str
) -> None:
    config = quick.override({"prune.granularity": granularity, "prune.fraction": fraction})
    with pytest.raises(InputError, match=rf"prune\.fraction = {fraction} .* keeps none of {of}"):
        train(small_graph, config, tmp_path / "run")
    train(small_graph, config.override(["train.objective=dense"]), tmp_path / "run")
