"""Devices, small graphs and settings that most tests start from."""

import os

import pytest
import torch

import gpu_cases
from metasd.config import Config, preset
from metasd.data.graph import Graph
from metasd.data.load import load_graph

if not torch.cuda.is_available():  # what Triton defines when it is imported depends on this
    os.environ["TRITON_INTERPRET"] = "1"

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that the operations must agree on."""
    return str(request.param)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the operations run on their GPU implementations: a GPU, or the CPU in its place."""
    if torch.cuda.is_available():
        return "cuda"
    pytest.importorskip("triton")
    gpu_cases.interpret(monkeypatch)
    return "cpu"


@pytest.fixture(scope="session")
def small_graph() -> Graph:
    """A generated graph of 120 entities: a run on it takes a fraction of a second."""
    return load_graph("families:120")


@pytest.fixture
def quick() -> Config:
    """Two epochs of a tiny model."""
    return preset("metasd").override(
        {"model.rank": 8, "train.epochs": 2, "train.batch_size": 400, "eval.every": 1}
    )
