"""The folder of a compressed model: written whole, read back the same, refused when damaged."""

import json
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metasd
from compressed_cases import trained
from fuzz_compressed import KINDS, fuzz, small_model
from metasd.compressed import CompressedModel, Query, storage
from metasd.data.graph import Graph
from metasd.errors import InputError


@pytest.fixture
def small(small_graph: Graph) -> CompressedModel:
    model = trained("complex", small_graph)
    return metasd.compress(model, "sparse", "fp32", graph=small_graph)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model("complex", "sparse", "fp16", 0.1, seed=0).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def recheck(folder: Path, **changes: Any) -> None:
    """Writes config.json anew, its own checksum right."""
    config = json.loads((folder / "config.json").read_text())
    config = {**config, **changes}
    config.pop("checksum")
    config["checksum"] = zlib.crc32(json.dumps(config, sort_keys=True).encode())
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_folder_gives_the_same_model(kind: Any, tmp_path: Path) -> None:
    model = replace(small_model(*kind, seed=1), temperature=0.7, about={"graph": {"name": "x"}})
    model.save_pretrained(tmp_path / "m")
    again = CompressedModel.from_pretrained(tmp_path / "m")
    assert repr(again) == repr(model)
    assert (again.temperature, again.about) == (0.7, {"graph": {"name": "x"}})
    for mine, other in zip(model.dense(), again.dense(), strict=True):
        assert np.array_equal(mine, other)
    queries = [Query(label, "relation 1") for label in model.entity_labels]
    assert model.answers(queries) == again.answers(queries)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        *("README.md", "config.json", "entities.tsv", "model.safetensors", "relations.tsv")
    ]
    again.save_pretrained(tmp_path / "m")  # over what is mapped
    assert again.answers(queries) == CompressedModel.from_pretrained(tmp_path / "m").answers(
        queries
    )
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_files_are_as_the_umask_has_them(small: CompressedModel, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "m")
    (tmp_path / "plain").touch()
    wanted = (tmp_path / "plain").stat().st_mode
    assert {path.stat().st_mode for path in (tmp_path / "m").iterdir()} == {wanted}


def test_only_a_compressed_model_is_ever_replaced(small: CompressedModel, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("five years")
    with pytest.raises(InputError, match="already exists and is no compressed model"):
        small.save_pretrained(tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="already exists"):
        small.save_pretrained(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    small.save_pretrained(tmp_path / "empty")
    CompressedModel.from_pretrained(tmp_path / "empty")


def test_sizes_are_counted(small: CompressedModel, tmp_path: Path) -> None:
    info = small.info()
    assert info["density"] == pytest.approx(0.1, abs=1e-3)
    assert info["bytes"]["tables"] == small.nbytes
    small.save_pretrained(tmp_path / "m")
    files = ("model.safetensors", "entities.tsv", "relations.tsv")
    stored = sum((tmp_path / "m" / name).stat().st_size for name in files)
    assert info["bytes"]["together"] <= stored <= info["bytes"]["together"] + 2000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not of a compressed model"),
        ({"version": 1}, "format version 1, and this metasd reads 2: compress the run again"),
        ({"scoring": "transe"}, "must be one of complex, cp, distmult, .*rescal"),
        ({"rank": 71}, "must be"),
        ({"rank": 2**80}, "rank must be above 0"),
        ({"num_entities": 22}, "entities.tsv: line 23: wanted the end after 22 lines"),
        ({"num_entities": 2**39}, "labels do not fit"),
        ({"temperature": float("nan")}, "temperature"),
        ({"known_triples": 3}, "3 known triples"),
        ({"known_triples": None}, "known.key belongs to nothing"),
        ({"about": []}, "about is missing or of another type"),
        ({"tables": {}}, "its description is missing"),
    ],
)
def test_a_description_that_lies_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    recheck(folder, **changes)
    with pytest.raises(InputError, match=message):
        CompressedModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "entities.tsv"])
def test_files_that_are_missing_cut_or_flipped_are_named(folder: Path, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = [b"", data[:middle], data[:-3], data[:9]]
    damaged.append(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            CompressedModel.from_pretrained(folder)
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: No such file"):
        CompressedModel.from_pretrained(folder)
    with pytest.raises(InputError, match="no such folder"):
        CompressedModel.from_pretrained(folder / "elsewhere")


def test_a_full_disk_leaves_the_older_model(
    folder: Path, small: CompressedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(InputError, match="cannot be made"):
        small.save_pretrained(folder)
    assert CompressedModel.from_pretrained(folder).num_entities == 23
    assert os.listdir(folder.parent) == ["m"]


@pytest.mark.parametrize(
    "about",
    [{"graph": 5}, {"graph": {"name": 5}}, {"metrics": 5}, {"metrics": {"test": {"m": {}}}}],
)
def test_a_description_of_another_form_is_refused(
    small: CompressedModel, about: dict[str, Any], tmp_path: Path
) -> None:
    replace(small, about={}).save_pretrained(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["checksum"]
    config["about"] = about
    config["checksum"] = storage._checksum(config)
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="about is not of the form"):
        CompressedModel.from_pretrained(tmp_path / "m")


def test_a_pipe_in_place_of_a_file_is_refused(small: CompressedModel, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    os.mkfifo(tmp_path / "m" / "config.json")
    with pytest.raises(InputError, match="not a regular file"):
        CompressedModel.from_pretrained(tmp_path / "m")
    assert not storage.is_compressed(tmp_path / "m")


@pytest.mark.slow
def test_two_thousand_mutations_are_refused_or_answered(tmp_path: Path) -> None:
    """A hundred thousand, also under AddressSanitizer: tests/compressed/fuzz_compressed.py."""
    ends = fuzz(2000, 0, tmp_path, lambda number: None)
    assert sum(ends.values()) == 2000
    assert min(ends["refused"], ends["answered"]) > 50
