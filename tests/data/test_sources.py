"""Names of graphs: folders, generators and what PyKEEN brings."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from graph_folders import TRAIN, write_folder
from metasd.data.load import load_graph
from metasd.data.sources import known_graphs
from metasd.errors import InputError


@pytest.fixture(autouse=True)
def _no_data_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METASD_DATA", raising=False)


@pytest.mark.parametrize("name", ["FB15k-237", "fb15k237", "fb237", "FB15K_237", "fb15k 237"])
def test_folders_are_found_by_name(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path / "FB15k-237")
    write_folder(tmp_path / "FB15k")
    assert load_graph(name, tmp_path).name == "FB15k-237"


def test_alias(tmp_path: Path) -> None:
    write_folder(tmp_path / "WN18RR")
    for name in ("wnrr", "wn18rr", "WN-18-RR"):
        assert load_graph(name, data_dir=tmp_path).name == "WN18RR"


def test_data_dir_comes_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "one" / "talk", train=TRAIN[:2])
    write_folder(tmp_path / "two" / "talk", train=TRAIN[:3])
    write_folder(tmp_path / "two" / "umls")
    listed = [tmp_path / "nowhere", tmp_path / "two"]
    monkeypatch.setenv("METASD_DATA", os.pathsep.join(map(str, listed)))
    assert len(load_graph("talk", tmp_path / "one").train) == 2
    assert len(load_graph("talk").train) == 3
    assert load_graph("UMLS").num_entities == 3


def test_an_existing_path_comes_before_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "families")
    monkeypatch.chdir(tmp_path)
    assert load_graph("families").num_entities == 3


def test_a_path_is_never_a_name(tmp_path: Path) -> None:
    write_folder(tmp_path / "talk")
    for path in ("./talk", "data/talk", "/talk", Path("talk")):
        with pytest.raises(InputError, match=r"talk: no such file or folder$"):
            load_graph(path, tmp_path)


def test_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as error:
        load_graph("familes")
    assert str(error.value) == (
        'no graph "familes"; did you mean "families"? '
        "(searched: no data folder is given and METASD_DATA is not set)"
    )
    write_folder(tmp_path / "WN18RR")
    monkeypatch.setenv("METASD_DATA", str(tmp_path))
    with pytest.raises(InputError) as error:
        load_graph("WN18R")
    assert str(error.value) == f'no graph "WN18R"; did you mean "WN18RR"? (searched: {tmp_path})'
    write_folder(tmp_path / "FB15k-237")
    with pytest.raises(InputError, match='no graph "fb238"; did you mean "fb237"'):
        load_graph("fb238")
    with pytest.raises(InputError, match='no graph ""'):
        load_graph("")
    with pytest.raises(InputError, match=r"nowhere: no such data folder$"):
        load_graph("WN18RR", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["families:", "families:many", "families:-5", "families:²"])
def test_bad_families(name: str) -> None:
    with pytest.raises(InputError, match=f'families:N with a number of entities; got "{name}"'):
        load_graph(name)


def test_pykeen_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pykeen"
    write_folder(package / "datasets" / "kinships")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pykeen", raising=False)
    assert load_graph("Kinship").name == "kinships"
    assert ("kinships", "pykeen", str(package / "datasets" / "kinships")) in known_graphs()


def test_pykeen_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasd.data.sources._pykeen_folder", lambda: None)
    with pytest.raises(InputError) as error:
        load_graph("umls")
    assert str(error.value) == 'umls comes with PyKEEN: pip install "metasd[pykeen]"'


@pytest.mark.skipif(importlib.util.find_spec("pykeen") is None, reason="PyKEEN is not installed")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("umls", (135, 46, 5216, 652, 661)),
        ("kinships", (104, 25, 8544, 1068, 1074)),
        ("nations", (14, 55, 1592, 199, 201)),
    ],
)
def test_pykeen_graphs(name: str, sizes: tuple[int, ...]) -> None:
    graph = load_graph(name)
    lengths = (len(graph.train), len(graph.valid), len(graph.test))
    assert (graph.num_entities, graph.num_relations, *lengths) == sizes


def test_known_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metasd.data.sources._pykeen_folder", lambda: None)
    write_folder(tmp_path / "talk")
    (tmp_path / "empty").mkdir()
    extra = 'pip install "metasd[pykeen]"'
    assert known_graphs(tmp_path) == [
        ("families", "generated", "2000 entities; families:N for another size"),
        (
            "powerlaw",
            "generated",
            "powerlaw:N or powerlaw:N:T for N entities and T triples",
        ),
        ("talk", "folder", str(tmp_path / "talk")),
        ("kinships", "pykeen", extra),
        ("nations", "pykeen", extra),
        ("umls", "pykeen", extra),
    ]
