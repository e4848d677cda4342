"""Small graphs and settings that most tests start from."""

import pytest

from metasd.config import Config
from metasd.graph import Graph, load_graph


@pytest.fixture(scope="session")
def small_graph() -> Graph:
    """A generated graph of 120 entities: a run on it takes a fraction of a second."""
    return load_graph("families:120")


@pytest.fixture
def quick() -> Config:
    """Two epochs of a tiny model."""
    return Config().override(
        {"model.rank": 8, "train.epochs": 2, "train.batch_size": 400, "eval.every": 1}
    )
