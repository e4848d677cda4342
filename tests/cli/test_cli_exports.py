"""The commands that turn a model into something else: compress, export and push."""

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import QUICK, Command
from hub_server import hub_server


def test_compress_has_a_place_of_its_own_and_keeps_what_is_there(
    metasd: Command, folder: Path
) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    code, out, _ = metasd("compress", "x", "--json")
    assert (code, json.loads(out)["folder"]) == (0, "x/model")
    before = Path("x/model/config.json").read_bytes()
    code, _, err = metasd("compress", "x", "--codec", "int8", "--source")
    assert (code, "x/model already exists; --overwrite" in err) == (2, True)
    assert Path("x/model/config.json").read_bytes() == before
    assert metasd("compress", "x", "--codec", "int8", "--source", "--overwrite")[0] == 0
    assert Path("x/model/config.json").read_bytes() != before
    for out_folder, message in (
        ("-", 'a folder needs a name of its own; got "-"'),
        ("x", "x already exists and is no compressed model"),
    ):
        code, _, err = metasd("compress", "x", "--out", out_folder, "--overwrite")
        assert (code, message in err) == (2, True)
    Path("x/model/notes.txt").touch()
    code, _, err = metasd("compress", "x", "--overwrite")
    assert (code, "holds notes.txt, which would be lost" in err) == (2, True)


def test_codecs_that_do_not_exist_or_fit(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    for options, message in (
        (
            ("--codec", "int5"),
            "unknown codec 'int5'; did you mean \"int8\"?; there are auto, sparse",
        ),
        (("--codec", "fp61"), "fp16"),
        (("--weight-format", "delta8"), "unknown weight format 'delta8'; there are auto, fp32"),
        (
            ("--codec", "sparse", "--weight-format", "int4"),
            "codec sparse stores weights as fp32, fp16, bf16 or int8; got weight format int4",
        ),
        (
            ("--codec", "fp16", "--weight-format", "int8"),
            "codec fp16 stores weights as fp16; got weight format int8",
        ),
    ):
        code, _, err = metasd("compress", "x", *options)
        assert (code, message in err) == (2, True), err
    code, out, _ = metasd("compress", "x", "--weight-format", "fp16", "--source", "--json")
    assert (code, json.loads(out)["codec"]) == (0, "fp16")


def test_a_smaller_choice_is_noted(metasd: Command, folder: Path) -> None:
    bits = ("--set", "compact.weight_format=int3")
    assert metasd("train", folder, *QUICK, *bits, "--run", "x")[0] == 0
    assert metasd("compress", "x")[2] == ""
    err = metasd("compress", "x", "--codec", "int8", "--overwrite")[2]
    assert "note: the model was trained in int3: int8 takes 160 B for the entities" in err
    assert "--codec auto takes 80 B (int3) and adds no rounding" in err
    err = metasd("compress", "x", "--codec", "sparse", "--source", "--overwrite")[2]
    assert "takes 308 B for the entities; all weights as fp16 take 256 B: --codec fp16" in err
    out = metasd("compress", "x", "--codec", "fp16", "--source", "--overwrite")[1]
    assert "times larger" in out
    assert "0.0 MB" not in out


def test_export_of_runs_and_of_compressed_models(metasd: Command, folder: Path) -> None:
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    assert metasd("export", "x", "--format", "npy", "--source")[0] == 0
    assert metasd("compress", "x", "--source", "--codec", "fp32")[0] == 0
    code, out, _ = metasd("export", "x/model", "--format", "npy", "--json")
    assert (code, json.loads(out)["folder"]) == (0, "x/model-npy")
    mine, theirs = (np.load(f"{name}/entities.npy") for name in ("x-npy", "x/model-npy"))
    assert np.array_equal(mine, theirs)
    for options, message in (
        (("x/model", "--format", "npy"), "x/model-npy already exists; --overwrite"),
        (("x/model", "--format", "parquet", "--source"), "--source is for run folders"),
        (("x", "--format", "parquet", "--index", "IVF4,Flat"), "--index goes with --format faiss"),
        (("x", "--format", "parquett"), 'did you mean "parquet"'),
        (("x", "--format", "npy", "--out", "x", "--overwrite"), "would be lost"),
    ):
        code, _, err = metasd("export", *options)
        assert (code, message in err) == (2, True), err
    assert metasd("compress", "x-npy", "--from", "npy", "--codec", "fp16")[0] == 0
    assert Path("x-npy-compressed/config.json").is_file()


def test_push(metasd: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    assert metasd("train", folder, *QUICK, "--run", "x")[0] == 0
    code, _, err = metasd("push", "x", "ada/small")
    assert (code, "x is no compressed model" in err) == (2, True)
    assert metasd("compress", "x")[0] == 0
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)  # as HF_ENDPOINT would
        code, out, _ = metasd("push", "x/model", "ada/small")
        assert (code, out.startswith(f"{server.endpoint}/ada/small/commit/")) == (0, True)
        assert "model.safetensors" in server.commits["ada/small"][-1]
