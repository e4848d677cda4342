"""Knowledge graphs: read from files, given stable ids, indexed by their known answers."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metasd import families, powerlaw
from metasd.errors import InputError, nearest
from metasd.known import KnownAnswers, runs
from metasd.reading import Column, Triples, read_text, read_triples, whole
from metasd.rows import PART, IntArray, count_shared, parts, sorted_unique
from metasd.vocabulary import Vocabulary

SPLITS = ("train", "valid", "test")
ENTITY_LABELS = "entity_labels.tsv"
PREPARED = "prepared.json"  # what tells a folder that ``prepare`` wrote
_GENERATORS = ("families", "powerlaw")
_SUFFIXES = (".txt", ".tsv", ".txt.gz", ".tsv.gz", ".parquet")
_PYKEEN_GRAPHS = ("kinships", "nations", "umls")
_ALIASES = {"fb237": "fb15k237", "wnrr": "wn18rr", "kinship": "kinships", "nation": "nations"}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Graph(Vocabulary):
    """Triples of three splits over one vocabulary.

    Ids are the places of the labels in sorted order, and triples are sorted without duplicates, so
    the same data give the same arrays whatever the order of the rows in the files.

    Attributes:
        name: how the graph is called in reports.
        train, valid, test: int64 ``(n, 3)``, columns head, relation, tail.
        notes: one line for everything unusual that was found or done while reading.
        source: the arguments that make ``load_graph`` load it again, fit for JSON; None for a graph
            made in memory.
    """

    name: str
    train: IntArray
    valid: IntArray
    test: IntArray
    notes: tuple[str, ...] = ()
    source: dict[str, Any] | None = None

    def __repr__(self) -> str:
        sizes = "/".join(str(len(self.split(name))) for name in SPLITS)
        return (
            f"Graph({self.name}: {self.num_entities} entities, "
            f"{self.num_relations} relations, {sizes} triples)"
        )

    def split(self, name: str) -> IntArray:
        """The triples of ``train``, ``valid`` or ``test``; InputError for another name."""
        if name not in SPLITS:
            raise InputError(f'split must be train, valid or test; got "{name}"')
        triples: IntArray = getattr(self, name)
        return triples

    @cached_property
    def entity_counts(self) -> IntArray:
        """int64 ``(N,)``: how often each entity is a head or a tail in train."""
        counts = np.zeros(self.num_entities, dtype=np.int64)
        for part in parts(self.train):
            counts += np.bincount(part[:, [0, 2]].ravel(), minlength=self.num_entities)
        return counts

    @cached_property
    def relation_counts(self) -> IntArray:
        """int64 ``(R,)``: how many train triples each relation has."""
        counts = np.zeros(self.num_relations, dtype=np.int64)
        for part in parts(self.train):
            counts += np.bincount(part[:, 1], minlength=self.num_relations)
        return counts

    @cached_property
    def unseen(self) -> dict[str, int]:
        """What train lacks: entities, relations, and the valid and test triples with such a one."""
        new_entity, new_relation = self.entity_counts == 0, self.relation_counts == 0
        counts = {"entities": int(new_entity.sum()), "relations": int(new_relation.sum())}
        for name in ("valid", "test"):
            counts[name] = 0
            for head, relation, tail in (part.T for part in parts(self.split(name))):
                new = new_entity[head] | new_relation[relation] | new_entity[tail]
                counts[name] += int(new.sum())
        return counts

    @cached_property
    def digest(self) -> str:
        """sha256 over the labels and the triples of all splits, in hexadecimal."""
        digest = hashlib.sha256()
        for labels in (self.entities, self.relations):
            digest.update(f"{len(labels)}\n".encode())
            for start in range(0, len(labels), PART):
                digest.update(
                    b"\0" * (start > 0) + "\0".join(labels[start : start + PART]).encode()
                )
        for name in SPLITS:
            triples = self.split(name)
            digest.update(f"\n{name} {len(triples)}\n".encode())
            for part in parts(triples):
                digest.update(np.ascontiguousarray(part, dtype="<i8").data)
        return digest.hexdigest()

    def with_inverses(self, triples: IntArray) -> IntArray:
        """``(n, 3)`` -> ``(2n, 3)``: the rows ``(h, r, t)``, then the rows ``(t, r + R, h)``."""
        inverse = triples[:, ::-1] + np.array([0, self.num_relations, 0])
        return np.concatenate([triples, inverse])

    def known(self, splits: Sequence[str] = SPLITS) -> KnownAnswers:
        """Index the answers of every query of these splits, in both directions.

        It is built anew at each call: keep the result. That of all splits of a prepared graph is
        there already, mapped into memory.
        """
        if tuple(splits) == SPLITS and self._known is not None:
            return self._known
        num_relations = 2 * self.num_relations
        triples = self.with_inverses(np.concatenate([self.split(name) for name in splits]))
        triples = sorted_unique(triples, self.num_entities, num_relations)
        keys, starts = runs(triples, num_relations)
        return KnownAnswers(
            keys=keys,
            indptr=np.append(starts, len(triples)),
            indices=np.ascontiguousarray(triples[:, 2]),
            num_entities=self.num_entities,
            num_relations=num_relations,
        )

    @cached_property
    def _known(self) -> KnownAnswers | None:
        return None  # load_prepared puts it here, and no copy with other triples takes it over


class Generated(NamedTuple):
    """A generated graph: labels in sorted order, and id triples of the splits, part by part."""

    entities: pa.Array
    relations: pa.Array
    parts: Iterable[tuple[str, IntArray]]


class KnownGraph(NamedTuple):
    """A graph that ``load_graph`` finds by name: its source, and where it lies or what it needs."""

    name: str
    source: Literal["generated", "folder", "pykeen"]
    note: str


def load_graph(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    *,
    columns: str = "hrt",
    split: tuple[float, float, float] = (0.9, 0.05, 0.05),
    seed: int = 0,
) -> Graph:
    """Load a graph by path or by name.

    Tried in this order: a folder or file of that path; ``families``, ``families:N``,
    ``powerlaw:N`` or ``powerlaw:N:T``, which are generated; a folder of that name in ``data_dir``,
    then in the folders that the environment variable METASD_DATA lists, whatever the case and
    punctuation; the graphs that PyKEEN brings.

    A folder holds ``train``, ``valid`` and ``test`` as .txt or .tsv (also .gz) or .parquet, and may
    hold ``entity_labels.tsv`` (``id<TAB>label``). Text is UTF-8, tab-separated, without header.
    Labels hold no NUL and, in .parquet, neither tabs nor line breaks. A folder that ``prepare``
    wrote is mapped into memory, not read.

    Args:
        name_or_path: what to load; with a slash in it, it is only ever a path.
        data_dir: where to look for a name first.
        columns: which column of the file is head, relation and tail: a permutation of ``hrt``.
            Parquet columns that are named head, relation and tail go by their names.
        split: the shares of train, valid and test when the path is a single file.
        seed: for splitting a single file and for generating a graph.

    Raises:
        InputError: nothing is found, or a file is not as described (with file and line number).
    """
    check_options(columns, split)
    text, path = locate(name_or_path, data_dir)
    source = {
        "name_or_path": text,
        "data_dir": None if data_dir is None else str(Path(data_dir).expanduser().resolve()),
        "columns": columns,
        "split": list(split),
        "seed": seed,
    }
    if path is None:
        graph = _from_generator(text, seed)
    elif is_prepared(path):
        from metasd.prepared import load_prepared  # it is made of Graph

        return load_prepared(path, source)
    else:
        folder = path.is_dir()
        graph = _from_folder(path, columns) if folder else _from_file(path, columns, split, seed)
    return dataclasses.replace(graph, source=source)


def check_options(columns: str, split: tuple[float, float, float]) -> None:
    """InputError unless these are what ``load_graph`` takes."""
    if sorted(columns) != ["h", "r", "t"]:
        raise InputError(f'columns must be a permutation of "hrt", such as "htr"; got "{columns}"')
    if len(split) != 3 or min(split) < 0 or split[0] == 0 or not abs(sum(split) - 1) <= 1e-6:
        raise InputError(f"split must be three shares that sum to 1, the first not 0; got {split}")


def locate(
    name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None
) -> tuple[str, Path | None]:
    """The name, or the whole path if it is one, and where the graph lies: None if generated."""
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if text and path.exists():
        return str(path.resolve()), path
    if not isinstance(name_or_path, str) or any(mark in text for mark in {"/", os.sep}):
        raise InputError(f"{text}: no such file or folder")
    if text.partition(":")[0] in _GENERATORS:
        return text, None
    return text, _find_by_name(text, data_dir)


def is_prepared(path: Path) -> bool:
    """Whether ``prepare`` wrote this folder."""
    return (path / PREPARED).is_file()


def as_graph(graph: Graph | str | os.PathLike[str]) -> Graph:
    """The graph itself, or what ``load_graph`` loads by that name or path."""
    return graph if isinstance(graph, Graph) else load_graph(graph)


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
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and (_files_of(path, "train") or is_prepared(path))
    )


def _pykeen_folder() -> Path | None:
    """Where PyKEEN keeps its embedded graphs, found without the seconds that importing it takes."""
    spec = importlib.util.find_spec("pykeen")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "datasets"


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


def split_files(folder: Path) -> dict[str, Path]:
    """The one file of each split."""
    files = {name: _files_of(folder, name) for name in SPLITS}
    for name, found in files.items():
        if not found:
            wanted = ", ".join(_SUFFIXES[:-1])
            raise InputError(f"{folder}: no {name} file ({name}{wanted} or {_SUFFIXES[-1]})")
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise InputError(f"{folder}: {names} are both there; which one is {name}? keep one")
    return {name: found[0] for name, found in files.items()}


def graph_name(path: Path) -> str:
    """How the graph of a file or folder is called."""
    return path.resolve().name if path.is_dir() else path.name.partition(".")[0] or path.name


def draw_splits(
    path: Path, total: int, split: tuple[float, float, float], seed: int
) -> tuple[npt.NDArray[np.int8], str]:
    """For each sorted triple of a single file the number of its split, and a note of that."""
    valid, test = (max(1, round(share * total)) if share else 0 for share in split[1:])
    if valid + test >= total:
        raise InputError(f"{path}: {total} triples are too few to split")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    number = np.zeros(total, dtype=np.int8)
    number[order[total - valid - test : total - test]] = 1
    number[order[total - test :]] = 2
    shares = "/".join(f"{share:g}" for share in split)
    return number, f"one file, split {shares} with seed {seed}"


def notes_of(
    splits: dict[str, IntArray], dropped: dict[str, int], num_entities: int, num_relations: int
) -> list[str]:
    """A line for what was dropped and for what is in train, too; the splits are sorted."""
    notes = [
        f"{name}: {count} duplicate triples dropped" for name, count in dropped.items() if count
    ]
    shared = {
        name: count_shared(splits["train"], splits[name], num_entities, num_relations)
        for name in SPLITS[1:]
    }
    if any(shared.values()):
        told = " and ".join(f"{count} {name}" for name, count in shared.items() if count)
        notes.append(f"{told} triples are in train, too; they count")
    return notes


def _from_generator(text: str, seed: int) -> Graph:
    entities, relations, parts_of = generate(text, seed)
    found: dict[str, list[IntArray]] = {name: [] for name in SPLITS}
    for name, rows in parts_of:
        found[name].append(rows)
    splits: dict[str, Triples] = {}
    for name in SPLITS:
        head, relation, tail = np.concatenate(found[name]).T
        splits[name] = Triples(
            Column(entities, head), Column(relations, relation), Column(entities, tail)
        )
    return _build(text, splits)


def _from_folder(folder: Path, columns: str) -> Graph:
    files = split_files(folder)
    splits = {name: read_triples(path, columns) for name, path in files.items()}
    labels = folder / ENTITY_LABELS
    human = whole(read_text(labels, ("id", "label"))) if labels.exists() else None
    return _build(graph_name(folder), splits, human)


def _from_file(path: Path, columns: str, split: tuple[float, float, float], seed: int) -> Graph:
    graph = _build(graph_name(path), {"train": read_triples(path, columns)})
    number, note = draw_splits(path, len(graph.train), split, seed)
    chosen = {name: graph.train[number == i] for i, name in enumerate(SPLITS)}
    return dataclasses.replace(graph, **chosen, notes=(*graph.notes, note))


def _files_of(folder: Path, split: str) -> list[Path]:
    paths = (folder / (split + suffix) for suffix in _SUFFIXES)
    return [path for path in paths if path.is_file()]


def _build(name: str, splits: dict[str, Triples], human: dict[str, Column] | None = None) -> Graph:
    """Number the labels in sorted order and turn the splits into sorted unique id triples."""
    entities = _sorted_labels([c for part in splits.values() for c in (part.head, part.tail)])
    relations = _sorted_labels([part.relation for part in splits.values()])
    triples, dropped = {}, {}
    for split in SPLITS:
        if split not in splits:
            triples[split] = np.empty((0, 3), dtype=np.int64)
            continue
        part = splits[split]
        ids = np.stack(
            [_ids(part.head, entities), _ids(part.relation, relations), _ids(part.tail, entities)],
            axis=1,
        )
        triples[split] = sorted_unique(ids, len(entities), len(relations))
        dropped[split] = len(ids) - len(triples[split])
    notes = notes_of(triples, dropped, len(entities), len(relations))
    raw_labels: list[str] = entities.to_pylist()
    labels: dict[str, str] = {}
    if human:
        raw, label = (c.labels.take(pa.array(c.codes)).to_pylist() for c in human.values())
        used = set(raw_labels)
        labels = {r: text for r, text in zip(raw, label, strict=True) if r in used}
    return Graph(
        name=name,
        entities=raw_labels,
        relations=relations.to_pylist(),
        entity_labels=labels,
        train=triples["train"],
        valid=triples["valid"],
        test=triples["test"],
        notes=tuple(notes),
    )


def _sorted_labels(columns: Sequence[Column]) -> pa.Array:
    """The distinct labels in code point order (UTF-8 sorts by bytes as by code points)."""
    return pa.chunked_array([column.labels for column in columns]).unique().sort()


def _ids(column: Column, labels: pa.Array) -> IntArray:
    places = pc.index_in(column.labels, value_set=labels).to_numpy(zero_copy_only=False)
    ids: IntArray = places.astype(np.int64)[column.codes]
    return ids
