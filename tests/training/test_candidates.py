"""Training on candidates: what is drawn, what it estimates, and which rows a step touches."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from metasd.config import Config, preset
from metasd.data.load import load_graph
from metasd.models import Scoring
from metasd.models.masks import draw_masks
from metasd.models.model import Model
from metasd.training import candidates
from metasd.training.candidates import CandidateStep, TouchedRows, draw
from metasd.training.parts import Batch
from metasd.training.run import Run
from metasd.training.schedule import Phase
from metasd.training.step import Step
from metasd.training.trainer import train

ENTITIES, RELATIONS, RANK = 203, 5, 6


def made(config: Config, count: int | None, dtype: torch.dtype = torch.float64) -> Step:
    """A step with masks, on all entities or on `count` candidates."""
    scoring = Scoring.named(config.model.name)(RANK)
    model = Model.create(scoring, ENTITIES, RELATIONS, 0, config.compact.weight_format)
    model.entities = (model.entities * 300).to(dtype)
    model.relations = (model.relations * 300).to(dtype)
    model.masks = draw_masks(model, 0.5, "weight")
    weights = torch.linspace(0.5, 1.5, ENTITIES, dtype=dtype)
    if count is None:
        return Step(model, config, weights)
    return CandidateStep(model, config, weights, count)


def batches(step: Step, seed: int) -> list[Batch]:
    """A batch and a quiz; both have heads that are no answers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (ENTITIES, 2 * RELATIONS, ENTITIES)
    return [
        step.batch(*(torch.randint(n, (rows,), generator=generator) for n in sizes), key=seed)
        for rows in (31, 17)
    ]


CASES: dict[str, tuple[Phase, dict[str, Any]]] = {
    "metasd": (Phase.SHARED, {}),
    "two roles": (Phase.SHARED, {"model.name": "cp"}),
    "rounded": (Phase.SHARED, {"compact.weight_format": "int3", "train.objective": "distill"}),
    "separate": (
        Phase.SEPARATE,
        {"compact.weights": "separate", "compact.warmup_epochs": 1, "train.objective": "distill"},
    ),
    "compact": (
        Phase.SEPARATE,
        {"compact.weights": "separate", "compact.warmup_epochs": 1, "train.objective": "compact"},
    ),
    "dense": (Phase.SOURCE, {"train.objective": "dense"}),
}


def config_of(settings: dict[str, Any]) -> Config:
    return preset("metasd").override(
        {
            "model.rank": RANK,
            "train.precision": "fp32",
            "train.gradient_sampling": "off",
            "relation_prediction.weight": 1.0,
            **settings,
        }
    )


def tables(step: Step) -> dict[str, Tensor]:
    found = {"entities": step.model.entities, "relations": step.model.relations}
    if step.model.separate:
        found["separate"] = step.model.separate[0]
    return found | {k: v for k, v in step.optimizer_tensors().items() if k.endswith("sum")}


@pytest.mark.parametrize("name", CASES)
def test_all_entities_as_candidates_train_like_all_entities(name: str) -> None:
    phase, settings = CASES[name]
    config = config_of(settings)
    whole, sampled = made(config, None), made(config, ENTITIES)
    for step in (whole, sampled):
        if phase is Phase.SEPARATE:
            step.untie_weights()
            step.teachers = [(step.model.entities.flip(0), step.model.relations)]
    for seed in range(4):
        losses = [step(phase, *batches(step, seed)) for step in (whole, sampled)]
        kc.assert_close(list(losses[1].values()), list(losses[0].values()), 1e-9)
    for key, wanted in tables(whole).items():
        kc.assert_close([tables(sampled)[key]], [wanted], 1e-8)


@pytest.mark.parametrize("name", CASES)
def test_only_rows_of_heads_and_candidates_are_written(name: str) -> None:
    phase, settings = CASES[name]
    step = made(config_of(settings), 70, torch.float32)
    if phase is Phase.SEPARATE:
        step.untie_weights()
    before = {key: x.clone() for key, x in tables(step).items()}
    batch, quiz = batches(step, 3)
    step(phase, batch, quiz)
    changed = torch.zeros(len(step.model.entities), dtype=torch.bool)
    for key, x in tables(step).items():
        if len(x) == len(changed):
            changed |= (x != before[key]).any(1)
    read = torch.cat([batch.ends[0], quiz.ends[0]]).unique()
    most = len(read) + max(70, len(torch.cat([batch.ends[1], quiz.ends[1]]).unique()) + 18)
    assert 70 <= int(changed.sum()) <= most < len(changed)


def test_what_is_drawn_are_others_and_none_twice() -> None:
    for answers in ([], [0], [4, 5, 6, 99], list(range(0, 100, 2))):
        drawn = draw(np.array(answers, np.int64), 100, 30, key=5)
        assert len(set(drawn) | set(answers)) == 30 + len(answers)
        assert (np.diff(drawn) > 0).all()
        assert drawn.min() >= 0
        assert drawn.max() < 100
    everything = draw(np.array([3, 7], np.int64), 20, 100, key=5)
    assert sorted({*everything, 3, 7}) == list(range(20))


@pytest.mark.parametrize("entities", [100, 20_000])
def test_every_other_entity_is_drawn_as_often(entities: int) -> None:
    answers, keys = np.array([0, 7, 8, 50], np.int64), 2000
    drawn = np.concatenate([draw(answers, entities, 30, key) for key in range(keys)])
    cells = np.bincount(drawn * 20 // entities, minlength=20)
    sizes = np.full(20, entities / 20) - np.bincount(answers * 20 // entities, minlength=20)
    wanted = keys * 30 * sizes / sizes.sum()
    deviation = (cells - wanted) / np.sqrt(wanted)
    assert np.abs(deviation).max() < 4
    assert not np.isin(drawn, answers).any()


def touched(count: int, key: int) -> TouchedRows:
    step = made(config_of({}), None)
    batch, _ = batches(step, 1)
    return TouchedRows(step.model, [batch.ends[0]], [batch.ends[1]], count, key)


def test_candidates_count_as_all_entities() -> None:
    for count in (1, 50, 100, ENTITIES):
        rows = touched(count, 9)
        assert float(rows.multiplicity.sum()) == pytest.approx(ENTITIES)
        assert len(rows.multiplicity) >= count
        assert len(rows.index.unique()) == len(rows.index)


def scores(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return kc.table(rows, 8, seed, 1.0, torch.float64), kc.table(
        ENTITIES, 8, seed + 1, 1.0, torch.float64
    )


def test_sums_over_candidates_have_the_expectation_of_those_over_all() -> None:
    """Numerator and denominator of the gradient, over thousands of draws, for a batch as it is."""
    queries, entities = scores(3)
    weights = (queries @ entities.T).exp()  # (3, N)
    exact = torch.cat([weights.sum(1, keepdim=True), weights @ entities], dim=1)
    draws = []
    for key in range(4000):
        rows = touched(80, key)
        chosen = rows.index[rows.heads :]
        part = weights[:, chosen] * rows.multiplicity
        draws.append(torch.cat([part.sum(1, keepdim=True), part @ entities[chosen]], dim=1))
    found = torch.stack(draws)
    error = found.std(0) / math.sqrt(len(found))
    deviation = ((found.mean(0) - exact) / error).abs()
    assert float(error.min()) > 0
    assert float(deviation.max()) < 4, deviation
    unweighted = torch.stack([d[:, 0] for d in draws]).mean(0)
    assert float(((unweighted - exact[:, 0]) / error[:, 0]).abs().max()) < 4


@pytest.mark.parametrize("name", kc.LOSSES)
def test_mean_gradients_approach_those_over_all_as_candidates_grow(name: str) -> None:
    """A softmax is a ratio of such sums: what is left of its bias falls like 1 / candidates."""
    c = kc.case(5, ENTITIES, 8, mask="none", scale=1.5).to(torch.float64)
    ours = kc.LOSSES[name][0]
    exact = ours(c)[-1]
    answers = np.unique(c.targets.numpy())

    def mean(count: int) -> Tensor:
        total = torch.zeros_like(exact)
        for key in range(1500):
            drawn = draw(answers, ENTITIES, count, key)
            chosen = torch.from_numpy(np.concatenate([answers, drawn]))
            counts = torch.ones(len(chosen), dtype=torch.float64)
            counts[len(answers) :] = (ENTITIES - len(answers)) / len(drawn)
            part = kc.case(5, ENTITIES, 8, mask="none", scale=1.5).to(torch.float64)
            part.entities, part.dentities = c.entities[chosen], c.dentities[chosen]
            part.targets = torch.searchsorted(torch.from_numpy(answers), c.targets)
            total[chosen] += ours(part, multiplicity=counts)[-1]
        return total / 1500

    few, many = (float((mean(count) - exact).norm() / exact.norm()) for count in (15, 120))
    assert many < 0.03
    assert many < few / 2


QUICK: dict[str, Any] = {
    "model.rank": 8,
    "train.epochs": 3,
    "train.batch_size": 64,
    "train.candidates": 100,
    "eval.every": 1,
}


def test_a_run_on_candidates_learns(tmp_path: Path) -> None:
    graph = load_graph("families:203")
    settings = {**QUICK, "train.objective": "dense", "tune.settings": [], "train.epochs": 10}
    run = train(graph, preset("default").override(settings), tmp_path / "run")
    assert Run.load(run.path).metrics["valid"]["source"]["mrr"] > 0.3


def test_auto_takes_all_of_a_small_graph() -> None:
    config = Config()
    assert candidates.wanted(config, 99_999) is None
    assert candidates.wanted(config, 10**6) == 4000
    assert candidates.wanted(config.override(["train.candidates=all"]), 10**6) is None
    few = config.override(["train.candidates=500"])
    assert candidates.wanted(few, 10**6) == 500
    assert candidates.wanted(few, 500) is None
    assert candidates.scored(few, 10**6) == 1125
    assert candidates.scored(config, 10**6) == 4000


def test_weighted_answers_and_a_multiplicity_go_together() -> None:
    loss = kernels.entity_cross_entropy(
        torch.zeros(2, 3),
        torch.zeros(4, 3),
        torch.tensor([0, 1]),
        weight=torch.tensor([1.0, 3.0, 1.0, 1.0]),
        multiplicity=torch.tensor([1.0, 1.0, 5.0, 5.0]),
    )
    assert float(loss) == pytest.approx(2 * math.log(12))
