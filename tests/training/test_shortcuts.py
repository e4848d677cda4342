"""When gradients are sampled, and triples share queries, without being asked for."""

import pytest
import torch

from metasd import kernels
from metasd.config import Config, preset
from metasd.data.graph import Graph
from metasd.training import sampling
from metasd.training.learner import Learner
from metasd.training.sampling import AUTO, TOGETHER, threshold, triples_per_query
from metasd.training.schedule import is_exact


@pytest.mark.parametrize(("entities", "pays"), [(14_541, True), (2_000, True), (135, False)])
def test_auto_takes_the_shortcuts_where_they_pay(
    monkeypatch: pytest.MonkeyPatch, entities: int, pays: bool
) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(kernels, "uses_amx", lambda _: False)
    assert threshold(Config(), entities, cpu) == (AUTO if pays else 0.0)
    assert threshold(Config(), entities, gpu) == 0.0
    assert triples_per_query(Config(), entities, cpu) == (TOGETHER if pays else 1)
    assert triples_per_query(Config(), entities, gpu) == 1
    assert triples_per_query(preset("metasd"), entities, cpu) == 1
    monkeypatch.setattr(kernels, "uses_amx", lambda _: True)
    assert threshold(Config(), entities, cpu) == 0.0


def test_what_is_asked_for_is_done() -> None:
    cpu = torch.device("cpu")
    for asked, wanted in (("off", 0.0), (0.05, 0.05)):
        config = Config().override({"train.gradient_sampling": asked})
        assert threshold(config, 100, cpu) == wanted
    config = Config().override({"train.triples_per_query": 3})
    assert triples_per_query(config, 100, cpu) == 3


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"train.objective": "dense"}, [0]),
        ({"compact.warmup_epochs": 3}, [0, 3]),
        ({"compact.warmup_epochs": 3, "compact.optimizer_state": "source"}, [0]),
        ({"compact.warmup_epochs": 0, "compact.source": "x"}, [0]),
        (
            {
                "compact.warmup_epochs": 0,
                "compact.source": "x",
                "compact.optimizer_state": "source",
            },
            [],
        ),
        ({"compact.weights": "shared", "compact.warmup_epochs": 2}, [0]),
    ],
    ids=str,
)
def test_the_first_epoch_of_an_optimizer_is_exact(
    settings: dict[str, object], wanted: list[int]
) -> None:
    config = Config().override({"train.epochs": 6, **settings})
    assert [epoch for epoch in range(6) if is_exact(config, epoch)] == wanted


def test_batches_of_later_epochs_take_the_shortcuts(small_graph: Graph) -> None:
    config = Config().override(
        {
            "train.objective": "dense",
            "train.gradient_sampling": 0.05,
            "train.triples_per_query": 4,
            "model.rank": 8,
        }
    )
    learner = Learner(small_graph, config)
    first, later = (learner.batches(epoch)(0)[0] for epoch in (0, 1))
    assert (first.threshold, first.query_of, first.first_of) == (0.0, None, None)
    assert later.threshold == 0.05
    assert later.first_of is not None
    assert len(later.first_of) < len(later.targets)


def test_many_triples_are_not_sorted_by_query_unless_asked(
    small_graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_FEWEST", 1)
    config = Config().override({"train.objective": "dense", "model.rank": 8})
    assert Learner(small_graph, config).step.triples_per_query == TOGETHER
    monkeypatch.setattr(sampling, "MOST_SORTED", 2 * len(small_graph.train) - 1)
    assert Learner(small_graph, config).step.triples_per_query == 1
    asked = config.override({"train.triples_per_query": 3})
    assert Learner(small_graph, asked).step.triples_per_query == 3
