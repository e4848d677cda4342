"""When gradients are sampled, and triples share queries, without being asked for."""

import pytest
import torch

from metasd import kernels
from metasd.config import Config, preset
from metasd.data.graph import Graph
from metasd.training.learner import Learner
from metasd.training.sampling import AUTO, TOGETHER, threshold, triples_per_query
from metasd.training.schedule import is_exact


@pytest.mark.parametrize(
    ("entities", "triples", "wanted"),
    [
        (14_541, 272_115, AUTO),
        (14_541, None, AUTO),
        (40_943, 86_835, 0.0),  # few triples per entity
        (2_000, 24_491, 0.0),  # few entities
    ],
)
def test_auto_samples_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, entities: int, triples: int | None, wanted: float
) -> None:
    monkeypatch.setattr(kernels, "uses_amx", lambda _: False)
    cpu = torch.device("cpu")
    assert threshold(Config(), entities, cpu, triples) == wanted
    assert threshold(Config(), entities, torch.device("cuda"), triples) == 0.0
    monkeypatch.setattr(kernels, "uses_amx", lambda _: True)
    assert threshold(Config(), entities, cpu, triples) == 0.0
    shared = TOGETHER if wanted and triples else 1
    assert triples_per_query(Config(), entities, cpu, triples) == shared
    assert triples_per_query(Config(), entities, torch.device("cuda"), triples) == 1
    assert triples_per_query(preset("metasd"), entities, cpu, triples) == 1


def test_what_is_asked_for_is_done() -> None:
    cpu = torch.device("cpu")
    for asked, wanted in (("off", 0.0), (0.05, 0.05)):
        config = Config().override({"train.gradient_sampling": asked})
        assert threshold(config, 100, cpu, 10) == wanted
    config = Config().override({"train.triples_per_query": 3})
    assert triples_per_query(config, 100, cpu, 10) == 3


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"train.objective": "dense"}, [0]),
        ({"compact.warmup_epochs": 3}, [0, 3]),
        ({"compact.warmup_epochs": 3, "compact.optimizer_state": "source"}, [0]),
        ({"compact.warmup_epochs": 0, "compact.source": "x"}, [0]),
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
