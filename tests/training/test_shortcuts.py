"""When gradients are sampled, and triples share queries, without being asked for."""

import pytest
import torch

from metasd import kernels
from metasd.config import Config, preset
from metasd.training.sampling import AUTO, TOGETHER, threshold, triples_per_query


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
