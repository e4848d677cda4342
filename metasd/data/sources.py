"""The meaning of a graph's name or path: generated, a folder or file, or one of PyKEEN's."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from metasd.errors import InputError, nearest

from . import families, powerlaw
from .sorting import IntArray
from .splits import SPLITS
from .triple_files import SUFFIXES, suffix_of

ENTITY_LABELS = "entity_labels.tsv"
RELATION_LABELS = "relation_labels.tsv"
PREPARED = "prepared.json"  # marks a folder that ``prepare`` wrote
_GENERATORS = ("families", "powerlaw")
SAVED = "triples.parquet"  # marks a folder that ``save_graph`` wrote
_NO_TRIPLES = (*SPLITS, ".", "readme", "license", "requirements")  # beginnings of names
_PYKEEN_GRAPHS = ("kinships", "nations", "umls")
_ALIASES = {"fb237": "fb15k237", "wnrr": "wn18rr", "kinship": "kinships", "nation": "nations"}


def locate(
    name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None
) -> tuple[str, Path | None]:
    """The name, or the whole path if it is one, and where the graph lies: None if generated."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise InputError(
            f"a graph is given by its name or path; got {type(name_or_path).__name__} (tables, "
            "arrays and lists of triples: Graph.from_triples)"
        )
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if text and path.exists():
        return str(path.resolve()), path
    if not isinstance(name_or_path, str) or any(mark in text for mark in {"/", os.sep}):
        raise InputError(f"{text}: no such file or folder")
    if text.partition(":")[0] in _GENERATORS:
        return text, None
    if suffix_of(path):
        raise InputError(f"{text}: no such file")
    return text, _find_by_name(text, data_dir)


def source_arguments(
    text: str,
    path: Path | None,
    columns: str,
    split_ratios: tuple[float, float, float],
    seed: int,
    header: bool | None,
) -> dict[str, Any]:
    """The arguments with which ``load_graph`` loads the same graph again, fit for JSON.

    Args:
        text, path: what ``locate`` gave. A graph of PyKEEN keeps its name: the package may move.
    """
    pykeen = _pykeen_folder() if path is not None else None
    if path is not None and (pykeen is None or not path.is_relative_to(pykeen)):
        text = str(path.resolve())
    return {
        "name_or_path": text,
        "columns": columns,
        "split_ratios": list(split_ratios),
        "seed": seed,
        "header": header,
    }


class KnownGraph(NamedTuple):
    """A graph that ``load_graph`` finds by name: its source, and where it lies or what it needs."""

    name: str
    source: Literal["generated", "folder", "pykeen"]
    note: str


def known_graphs(data_dir: str | os.PathLike[str] | None = None) -> list[KnownGraph]:
    """Every graph that ``load_graph`` would find by name, in the order in which it looks."""
    size = f"{families.DEFAULT_ENTITIES} entities; families:N for another size"
    found = [KnownGraph("families", "generated", size)]
    size = "powerlaw:N or powerlaw:N:T for N entities and T triples"
    found.append(KnownGraph("powerlaw", "generated", size))
    for folder in _data_folders(data_dir):
        found += [KnownGraph(path.name, "folder", str(path)) for path in _graph_folders(folder)]
    pykeen = _pykeen_folder()
    for name in _PYKEEN_GRAPHS:
        note = str(pykeen / name) if pykeen else 'pip install "metasd[pykeen]"'
        found.append(KnownGraph(name, "pykeen", note))
    return found


def is_prepared(path: Path) -> bool:
    """Whether ``prepare`` wrote this folder."""
    return (path / PREPARED).is_file()


def is_saved(path: Path) -> bool:
    """Whether ``save_graph`` wrote this folder."""
    return (path / SAVED).is_file() and (path / "entities.tsv").is_file()


def graph_files(path: Path) -> dict[str, Path]:
    """The file of each split that there is; a single file, in a folder or not, is of train."""
    if not path.is_dir():
        return {"train": path}
    files = {name: found for name in SPLITS if (found := _files_of(path, name))}
    for name, found in files.items():
        if len(found) > 1:
            names = " and ".join(file.name for file in found)
            raise InputError(f"{path}: {names} are both there; which one is {name}? keep one")
    if "train" in files:
        return {name: found[0] for name, found in files.items()}
    others = _other_files(path)
    if files or len(others) != 1:
        wanted = ", ".join(SUFFIXES[:-1])
        single = "nor a single file of triples" if not others else f"and {len(others)} other files"
        raise InputError(f"{path}: no train file (train{wanted} or {SUFFIXES[-1]}) {single}")
    return {"train": others[0]}


def needs_splits(name_or_path: str, data_dir: str | os.PathLike[str] | None) -> bool:
    """Whether valid or test are drawn from train when this graph is loaded."""
    _, path = locate(name_or_path, data_dir)
    if path is None or is_prepared(path) or is_saved(path):
        return False
    return len(graph_files(path)) < len(SPLITS)


def graph_name(path: Path) -> str:
    """How the graph of a file or folder is called."""
    return path.resolve().name if path.is_dir() else path.name.partition(".")[0] or path.name


class Generated(NamedTuple):
    """A generated graph: labels in sorted order, and id triples of the splits, part by part."""

    entities: pa.Array
    relations: pa.Array
    parts: Iterable[tuple[str, IntArray]]


def generate(text: str, seed: int) -> Generated:
    """What a name such as ``families:2000`` or ``powerlaw:20000:100000`` stands for."""
    kind, *sizes = text.split(":")
    numbers = [int(size) for size in sizes if size.isascii() and size.isdigit()]
    if kind == "powerlaw":
        if len(numbers) != len(sizes) or len(sizes) not in (1, 2):
            wanted = "powerlaw:N or powerlaw:N:T with numbers of entities and triples"
            raise InputError(f'write {wanted}; got "{text}"')
        law = powerlaw.PowerLaw(numbers[0], numbers[1] if numbers[1:] else 5 * numbers[0], seed)
        return Generated(law.entities(), law.relations(), law.parts())
    if len(numbers) != len(sizes) or len(sizes) > 1:
        raise InputError(f'write families or families:N with a number of entities; got "{text}"')
    world = families.generate(numbers[0] if numbers else families.DEFAULT_ENTITIES, seed)
    return Generated(pa.array(world.entities), pa.array(world.relations), world.triples.items())


def _find_by_name(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    searched = _data_folders(data_dir)
    for folder in searched:
        for path in _graph_folders(folder):
            if _canonical(path.name) == _canonical(name):
                return path
    if _canonical(name) in _PYKEEN_GRAPHS:
        pykeen = _pykeen_folder()
        if pykeen is None:
            raise InputError(f'{name} comes with PyKEEN: pip install "metasd[pykeen]"')
        return pykeen / _canonical(name)
    places = ", ".join(map(str, searched)) or "no data folder is given and METASD_DATA is not set"
    names = [known.name for known in known_graphs(data_dir)]
    plain = {_canonical(known) for known in names}
    names += [alias for alias, full in _ALIASES.items() if full in plain]
    raise InputError(f'no graph "{name}"{nearest(name, names)} (searched: {places})')


def _canonical(name: str) -> str:
    plain = re.sub(r"[\W_]", "", name).casefold()
    return _ALIASES.get(plain, plain)


def _data_folders(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    folders = [] if data_dir is None else [Path(data_dir).expanduser()]
    if folders and not folders[0].is_dir():
        raise InputError(f"{folders[0]}: no such data folder")
    listed = os.environ.get("METASD_DATA", "").split(os.pathsep)
    return folders + [Path(entry).expanduser() for entry in listed if entry]


def _graph_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and _holds_graph(path))


def _files_of(folder: Path, split: str) -> list[Path]:
    paths = (folder / (split + suffix) for suffix in SUFFIXES)
    return [path for path in paths if path.exists()]  # a pipe is refused when it is opened


def _other_files(folder: Path) -> list[Path]:
    """Files of a folder that may hold triples, whatever their names."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and suffix_of(path)
        and path.name not in (ENTITY_LABELS, RELATION_LABELS)
        and not path.name.casefold().startswith(_NO_TRIPLES)
    )


def _holds_graph(folder: Path) -> bool:
    return bool(_files_of(folder, "train")) or is_prepared(folder) or len(_other_files(folder)) == 1


def _pykeen_folder() -> Path | None:
    """Where PyKEEN keeps its embedded graphs, found without the seconds that importing it takes."""
    spec = importlib.util.find_spec("pykeen")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "datasets"
