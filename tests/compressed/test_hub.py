"""Models on a hub: uploaded to a local server with its interface, and downloaded again."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import metasd
from compressed_cases import trained
from hub_server import HubServer, hub_server
from metasd.compressed import CompressedModel, hub
from metasd.compressed.storage import FILES
from metasd.data.graph import Graph
from metasd.errors import InputError


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub, an empty cache of downloads, and an empty working folder."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.chdir(tmp_path)
    with hub_server() as running:
        yield running


@pytest.fixture(scope="module")
def small(small_graph: Graph) -> CompressedModel:
    return metasd.compress(trained("complex", small_graph), graph=small_graph)


def test_a_model_is_pushed_and_pulled(server: HubServer, small: CompressedModel) -> None:
    first = small.push_to_hub("ada/small", endpoint=server.endpoint).rpartition("/")[2]
    assert sorted(server.commits["ada/small"][-1]) == sorted(FILES)
    assert b'from_pretrained("ada/small")' in server.commits["ada/small"][-1]["README.md"]
    server.commits["ada/small"][-1]["extra.pkl"] = b"never asked for"
    again = CompressedModel.from_pretrained("ada/small", endpoint=server.endpoint)
    assert sorted(server.requested) == sorted(FILES)
    for mine, theirs in zip(small.dense(), again.dense(), strict=True):
        assert np.array_equal(mine, theirs)
    assert list(again.entity_labels) == list(small.entity_labels)

    other = small.calibrated(np.zeros((3, 3), np.int64))
    other.push_to_hub("ada/small", endpoint=server.endpoint)
    pull = CompressedModel.from_pretrained
    assert pull("ada/small", endpoint=server.endpoint).temperature == other.temperature
    old = pull("ada/small", revision=first, endpoint=server.endpoint)
    assert old.temperature == small.temperature != other.temperature


def test_a_pushed_model_does_not_say_where_its_graph_lies(
    server: HubServer, small: CompressedModel
) -> None:
    graph = {"name": "mine", "digest": "0", "source": {"name_or_path": "/home/ada/mine"}}
    replace(small, about={"graph": graph}).push_to_hub("ada/places", endpoint=server.endpoint)
    pulled = CompressedModel.from_pretrained("ada/places", endpoint=server.endpoint)
    assert pulled.about["graph"] == {"name": "mine", "digest": "0"}


def test_a_folder_wins_over_the_hub(server: HubServer, small: CompressedModel) -> None:
    small.save_pretrained("models/mine")
    CompressedModel.from_pretrained("models/mine", endpoint=server.endpoint)
    assert server.requested == []


def test_a_name_that_is_neither_folder_nor_model(server: HubServer, small: CompressedModel) -> None:
    for name, revision in (("ada/none", None), ("ada/small", "other")):
        with pytest.raises(InputError, match=f"{name}: no such folder, and no model"):
            CompressedModel.from_pretrained(name, revision=revision, endpoint=server.endpoint)
        small.push_to_hub("ada/small", endpoint=server.endpoint)
    with pytest.raises(InputError, match="a/b/c: no such folder"):
        CompressedModel.from_pretrained("a/b/c", endpoint=server.endpoint)
    with pytest.raises(InputError, match="ada/small: no such folder"):
        CompressedModel.from_pretrained(Path("ada/small"), endpoint=server.endpoint)
    server.commits["ada/bert"] = [{"config.json": b"{}", "model.safetensors": b"large"}]
    server.requested.clear()
    with pytest.raises(InputError, match="holds no compressed model of metasd"):
        CompressedModel.from_pretrained("ada/bert", endpoint=server.endpoint)
    assert server.requested == ["config.json"]


def test_uploads_that_are_not_possible(server: HubServer, small: CompressedModel) -> None:
    server.refused = 403
    with pytest.raises(InputError, match="ada/small: could not be uploaded to http"):
        small.push_to_hub("ada/small", endpoint=server.endpoint)
    assert server.commits == {}
    with pytest.raises(InputError, match="could not be uploaded"):
        small.push_to_hub("not a name", endpoint=server.endpoint)


def test_the_library_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, small: CompressedModel, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    for call in (CompressedModel.from_pretrained, small.push_to_hub):
        with pytest.raises(InputError, match=r'pip install "metasd\[hub\]"'):
            call("ada/small")


def test_the_library_is_imported_only_when_it_is_needed(tmp_path: Path) -> None:
    program = "import sys, metasd.compressed; sys.exit('huggingface_hub' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize("name", ["user/model", "a-b/c.d_e"])
def test_names_of_models(name: str) -> None:
    assert hub.is_repo_id(name)
    for other in (Path(name), f"/{name}", f"./{name}", f"{name}/x", name.replace("/", "")):
        assert not hub.is_repo_id(other)
