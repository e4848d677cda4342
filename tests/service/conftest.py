"""A compressed model, its folder, and a server of it with small limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from metasd.compressed import CompressedModel
from service_model import served, small_model

LIMITS = {"--max-batch": "20", "--max-k": "50", "--max-body": "20000"}


@pytest.fixture(scope="module")
def model() -> CompressedModel:
    return small_model()


@pytest.fixture(scope="module")
def folder(model: CompressedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("service") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    options = [part for option in LIMITS.items() for part in option]
    with served("-m", "metasd", "serve", folder, "--port", "0", *options) as (address, process):
        yield address
        assert process.poll() is None
