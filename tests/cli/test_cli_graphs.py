"""The commands `prepare`, `datasets` and `env`."""

import json
from pathlib import Path

import pytest

from command_line import SMALL, Command


@pytest.mark.slow
def test_a_prepared_graph_trains_like_its_files(metasd: Command, folder: Path) -> None:
    code, out, _ = metasd("prepare", folder, "--out", "big/mine", "--memory", "1", "--json")
    assert code == 0
    written = json.loads(out)
    assert (written["graph"], written["entities"], written["train triples"]) == ("mine", 8, 16)
    found = []
    for graph, run in ((folder, "a"), ("big/mine", "b")):
        assert metasd("train", graph, *SMALL, "--run", run)[0] == 0
        found.append(json.loads(metasd("evaluate", run, "--json")[1]))
    assert found[0] == found[1]
    assert Path("a/entities.tsv").read_bytes() == Path("b/entities.tsv").read_bytes()
    assert metasd("resume", "b", "--set", "train.epochs=3")[0] == 0
    assert metasd("evaluate", "a", "--graph", "big/mine")[0] == 0
    code, _, err = metasd("prepare", folder, "--out", "big/mine")
    assert (code, err) == (2, "metasd: big/mine already exists\n")


def test_env_and_datasets(metasd: Command) -> None:
    code, out, _ = metasd("env", "--json")
    assert code == 0
    assert json.loads(out)["compiled"]["instruction_set"] in (
        "amx",
        "avx512bf16",
        "avx512",
        "avx2",
        "portable",
    )
    code, out, _ = metasd("datasets")
    assert code == 0
    assert "families" in out
