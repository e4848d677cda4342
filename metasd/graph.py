"""Knowledge graphs: read from files, given stable ids, indexed by their known answers."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from metasd import families
from metasd.errors import InputError, nearest
from metasd.files import write_text

IntArray: TypeAlias = npt.NDArray[np.int64]

SPLITS = ("train", "valid", "test")
_SUFFIXES = (".txt", ".tsv", ".txt.gz", ".tsv.gz", ".parquet")
_PYKEEN_GRAPHS = ("kinships", "nations", "umls")
_ALIASES = {"fb237": "fb15k237", "wnrr": "wn18rr", "kinship": "kinships", "nation": "nations"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """The labels behind the ids: what turns a user's words into ids and ids back into words.

    Attributes:
        entities: raw labels as in the data; the index is the id.
        relations: likewise, without inverse relations.
        entity_labels: raw label -> human label, for the entities that have one.
    """

    entities: list[str]
    relations: list[str]
    entity_labels: dict[str, str] = field(default_factory=dict)

    @property
    def num_entities(self) -> int:
        return len(self.entities)

    @property
    def num_relations(self) -> int:
        """How many relations the data have; inverse relations are not counted."""
        return len(self.relations)

    @cached_property
    def entity_to_id(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.entities)}

    @cached_property
    def relation_to_id(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.relations)}

    @cached_property
    def _by_human_label(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for raw, human in self.entity_labels.items():
            if raw in self.entity_to_id:
                found.setdefault(human, []).append(self.entity_to_id[raw])
        return found

    def entity_id(self, text: str) -> int:
        """The id of an entity given by its raw label or by a human label that only it has.

        Raises:
            InputError: nothing is called that (the nearest names are offered), or several are.
        """
        if text in self.entity_to_id:
            return self.entity_to_id[text]
        found = self._by_human_label.get(text, [])
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(self.entities[i] for i in found[:5]) + ", ..." * (len(found) > 5)
            raise InputError(f'"{text}" names {len(found)} entities ({shown}); give the id of one')
        names = [*self.entities, *self._by_human_label]
        raise InputError(f'no entity "{text}"{nearest(text, names, limit=3)}')

    def relation_id(self, text: str) -> int:
        """The id of a relation given by its label; InputError with the nearest names otherwise."""
        if text in self.relation_to_id:
            return self.relation_to_id[text]
        raise InputError(f'no relation "{text}"{nearest(text, self.relations, limit=3)}')

    def entity_name(self, entity: int) -> str:
        """The human label of an entity where there is one, else the raw label."""
        raw = self.entities[entity]
        return self.entity_labels.get(raw, raw)

    def save_vocabulary(self, folder: str | os.PathLike[str]) -> None:
        """Write ``entities.tsv`` and ``relations.tsv``, each whole or not at all.

        Lines are ``id<TAB>label``; where the graph has human labels, entities get a third column,
        empty for those without one.

        Raises:
            InputError: a label holds a tab or a line break.
        """
        entities = self.entities
        if self.entity_labels:
            human = [self.entity_labels.get(raw, "") for raw in entities]
            _check_labels(human, "human label")
        _check_labels(entities, "entity")
        _check_labels(self.relations, "relation")
        lines = [f"{i}\t{raw}" for i, raw in enumerate(entities)]
        if self.entity_labels:
            lines = [f"{line}\t{label}" for line, label in zip(lines, human, strict=True)]
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "entities.tsv", "".join(line + "\n" for line in lines))
        lines = [f"{i}\t{raw}" for i, raw in enumerate(self.relations)]
        write_text(folder / "relations.tsv", "".join(line + "\n" for line in lines))


def load_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """Read what ``save_vocabulary`` wrote.

    Raises:
        InputError: a file is missing, or a line is not ``id<TAB>label`` with ids 0, 1, 2, ...
    """
    entities, human = _read_ids(Path(folder) / "entities.tsv")
    relations, _ = _read_ids(Path(folder) / "relations.tsv")
    return Vocabulary(entities=entities, relations=relations, entity_labels=human)


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
        return np.bincount(self.train[:, [0, 2]].ravel(), minlength=self.num_entities)

    @cached_property
    def relation_counts(self) -> IntArray:
        """int64 ``(R,)``: how many train triples each relation has."""
        return np.bincount(self.train[:, 1], minlength=self.num_relations)

    @cached_property
    def unseen(self) -> dict[str, int]:
        """What train lacks: entities, relations, and the valid and test triples with such a one."""
        new_entity, new_relation = self.entity_counts == 0, self.relation_counts == 0
        counts = {"entities": int(new_entity.sum()), "relations": int(new_relation.sum())}
        for name in ("valid", "test"):
            head, relation, tail = self.split(name).T
            new = new_entity[head] | new_relation[relation] | new_entity[tail]
            counts[name] = int(new.sum())
        return counts

    @cached_property
    def digest(self) -> str:
        """sha256 over the labels and the triples of all splits, in hexadecimal."""
        digest = hashlib.sha256()
        for labels in (self.entities, self.relations):
            digest.update(f"{len(labels)}\n".encode())
            digest.update("\0".join(labels).encode())
        for name in SPLITS:
            triples = self.split(name)
            digest.update(f"\n{name} {len(triples)}\n".encode())
            digest.update(np.ascontiguousarray(triples, dtype="<i8").tobytes())
        return digest.hexdigest()

    def with_inverses(self, triples: IntArray) -> IntArray:
        """``(n, 3)`` -> ``(2n, 3)``: the rows ``(h, r, t)``, then the rows ``(t, r + R, h)``."""
        inverse = triples[:, ::-1] + np.array([0, self.num_relations, 0])
        return np.concatenate([triples, inverse])

    def known(self, splits: Sequence[str] = SPLITS) -> KnownAnswers:
        """Index the answers of every query of these splits, in both directions.

        It is built anew at each call: keep the result.
        """
        num_relations = 2 * self.num_relations
        triples = self.with_inverses(np.concatenate([self.split(name) for name in splits]))
        triples = _sorted_unique(triples, self.num_entities, num_relations)
        queries = triples[:, 0] * num_relations + triples[:, 1]
        starts = np.flatnonzero(np.diff(queries, prepend=-1))
        return KnownAnswers(
            keys=queries[starts],
            indptr=np.append(starts, len(triples)).astype(np.int64),
            indices=np.ascontiguousarray(triples[:, 2]),
            num_entities=self.num_entities,
            num_relations=num_relations,
        )


@dataclass(frozen=True, eq=False)
class KnownAnswers:
    """For each query (entity, relation), inverse relations included, its known answers.

    Attributes:
        keys: sorted int64, ``entity * num_relations + relation`` of the queries with answers.
        indptr: int64 ``(len(keys) + 1,)``: where the answers of each key begin and end.
        indices: int64 entities, sorted and unique within a key.
        num_entities: ``N``.
        num_relations: inverse relations included.
    """

    keys: IntArray
    indptr: IntArray
    indices: IntArray
    num_entities: int
    num_relations: int

    def rows(self, entity: npt.ArrayLike, relation: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """The answers of a batch of queries as compressed rows.

        Args:
            entity: integers ``(B,)``; queries may repeat.
            relation: integers ``(B,)``, inverse relations included.

        Returns:
            ``indptr`` int64 ``(B + 1,)`` and ``indices`` int64: the answers of row ``i`` are
            ``indices[indptr[i]:indptr[i + 1]]``, sorted; none for an unknown query.

        Raises:
            ValueError: the shapes differ, or an id is out of range.
        """
        entity, relation = np.asarray(entity), np.asarray(relation)
        if entity.ndim != 1 or entity.shape != relation.shape:
            raise ValueError(
                f"entity and relation must both be (B,); got {entity.shape} and {relation.shape}"
            )
        _check_range("entity", entity, self.num_entities)
        _check_range("relation", relation, self.num_relations)
        indptr = np.zeros(len(entity) + 1, dtype=np.int64)
        if not len(self.keys):
            return indptr, self.indices
        query = entity.astype(np.int64) * self.num_relations + relation
        place = np.minimum(np.searchsorted(self.keys, query), len(self.keys) - 1)
        count = np.where(self.keys[place] == query, self.indptr[place + 1] - self.indptr[place], 0)
        np.cumsum(count, out=indptr[1:])
        shift = np.repeat(self.indptr[place] - indptr[:-1], count)
        return indptr, self.indices[shift + np.arange(len(shift))]

    def answers(self, entity: int, relation: int) -> IntArray:
        """The sorted known answers of one query."""
        return self.rows([entity], [relation])[1]


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

    Tried in this order: a folder or file of that path; ``families`` or ``families:N``, which are
    generated; a folder of that name in ``data_dir``, then in the folders that the environment
    variable METASD_DATA lists, whatever the case and punctuation; the graphs that PyKEEN brings.

    A folder holds ``train``, ``valid`` and ``test`` as .txt or .tsv (also .gz) or .parquet, and may
    hold ``entity_labels.tsv`` (``id<TAB>label``). Text is UTF-8, tab-separated, without header.

    Args:
        name_or_path: what to load; with a slash in it, it is only ever a path.
        data_dir: where to look for a name first.
        columns: which column of the file is head, relation and tail: a permutation of ``hrt``.
            Parquet columns that are named head, relation and tail go by their names.
        split: the shares of train, valid and test when the path is a single file.
        seed: for splitting a single file and for generating ``families``.

    Raises:
        InputError: nothing is found, or a file is not as described (with file and line number).
    """
    if sorted(columns) != ["h", "r", "t"]:
        raise InputError(f'columns must be a permutation of "hrt", such as "htr"; got "{columns}"')
    if len(split) != 3 or min(split) < 0 or split[0] == 0 or abs(sum(split) - 1) > 1e-6:
        raise InputError(f"split must be three shares that sum to 1, the first not 0; got {split}")
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if text and path.exists():
        text = str(path.resolve())
        folder = path.is_dir()
        graph = _from_folder(path, columns) if folder else _from_file(path, columns, split, seed)
    elif not isinstance(name_or_path, str) or any(mark in text for mark in {"/", os.sep}):
        raise InputError(f"{text}: no such file or folder")
    elif text.partition(":")[0] == "families":
        graph = _from_families(text, seed)
    else:
        graph = _from_folder(_find_by_name(text, data_dir), columns)
    source = {
        "name_or_path": text,
        "data_dir": None if data_dir is None else str(Path(data_dir).expanduser().resolve()),
        "columns": columns,
        "split": list(split),
        "seed": seed,
    }
    return dataclasses.replace(graph, source=source)


def known_graphs(data_dir: str | os.PathLike[str] | None = None) -> list[KnownGraph]:
    """Every graph that ``load_graph`` would find by name, in the order in which it looks."""
    size = f"{families.DEFAULT_ENTITIES} entities; families:N for another size"
    found = [KnownGraph("families", "generated", size)]
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
    return sorted(path for path in folder.iterdir() if path.is_dir() and _file_of(path, "train"))


def _pykeen_folder() -> Path | None:
    """Where PyKEEN keeps its embedded graphs, found without the seconds that importing it takes."""
    spec = importlib.util.find_spec("pykeen")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "datasets"


def _from_families(text: str, seed: int) -> Graph:
    size = text.partition(":")[2] if ":" in text else str(families.DEFAULT_ENTITIES)
    if not size.isascii() or not size.isdigit():
        raise InputError(f'write families or families:N with a number of entities; got "{text}"')
    world = families.generate(int(size), seed)
    entities, relations = pa.array(world.entities), pa.array(world.relations)
    splits: dict[str, _Triples] = {}
    for name in SPLITS:
        head, relation, tail = world.triples[name].T
        splits[name] = _Triples(
            _Column(entities, head), _Column(relations, relation), _Column(entities, tail)
        )
    return _build(text, splits)


def _from_folder(folder: Path, columns: str) -> Graph:
    files = {name: _file_of(folder, name) for name in SPLITS}
    splits = {}
    for name, path in files.items():
        if path is None:
            wanted = ", ".join(_SUFFIXES[:-1])
            raise InputError(f"{folder}: no {name} file ({name}{wanted} or {_SUFFIXES[-1]})")
        splits[name] = _read_triples(path, columns)
    labels = folder / "entity_labels.tsv"
    human = _read_text(labels, ("id", "label")) if labels.exists() else None
    return _build(folder.resolve().name, splits, human)


def _from_file(path: Path, columns: str, split: tuple[float, float, float], seed: int) -> Graph:
    whole = _build(
        path.name.partition(".")[0] or path.name, {"train": _read_triples(path, columns)}
    )
    total = len(whole.train)
    valid, test = (max(1, round(share * total)) if share else 0 for share in split[1:])
    if valid + test >= total:
        raise InputError(f"{path}: {total} triples are too few to split")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(total)
    parts = np.split(whole.train[order], [total - valid - test, total - test])
    train, valid_part, test_part = (part[np.lexsort(part.T[::-1])] for part in parts)
    shares = "/".join(f"{share:g}" for share in split)
    note = f"one file, split {shares} with seed {seed}"
    return dataclasses.replace(
        whole, train=train, valid=valid_part, test=test_part, notes=(*whole.notes, note)
    )


def _file_of(folder: Path, split: str) -> Path | None:
    paths = (folder / (split + suffix) for suffix in _SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


class _Column(NamedTuple):
    """Strings as a dictionary of distinct labels and int codes into it."""

    labels: pa.Array
    codes: npt.NDArray[np.integer]


class _Triples(NamedTuple):
    head: _Column
    relation: _Column
    tail: _Column


def _build(
    name: str, splits: dict[str, _Triples], human: dict[str, _Column] | None = None
) -> Graph:
    """Number the labels in sorted order and turn the splits into sorted unique id triples."""
    entities = _sorted_labels([c for part in splits.values() for c in (part.head, part.tail)])
    relations = _sorted_labels([part.relation for part in splits.values()])
    triples, notes = {}, []
    for split in SPLITS:
        if split not in splits:
            triples[split] = np.empty((0, 3), dtype=np.int64)
            continue
        part = splits[split]
        ids = np.stack(
            [_ids(part.head, entities), _ids(part.relation, relations), _ids(part.tail, entities)],
            axis=1,
        )
        triples[split] = _sorted_unique(ids, len(entities), len(relations))
        if dropped := len(ids) - len(triples[split]):
            notes.append(f"{split}: {dropped} duplicate triples dropped")
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


def _sorted_labels(columns: Sequence[_Column]) -> pa.Array:
    """The distinct labels in code point order (UTF-8 sorts by bytes as by code points)."""
    return pa.chunked_array([column.labels for column in columns]).unique().sort()


def _ids(column: _Column, labels: pa.Array) -> IntArray:
    places = pc.index_in(column.labels, value_set=labels).to_numpy(zero_copy_only=False)
    ids: IntArray = places.astype(np.int64)[column.codes]
    return ids


def _sorted_unique(triples: IntArray, num_entities: int, num_relations: int) -> IntArray:
    """The distinct rows, sorted by head, relation, tail; through one integer a row if it fits."""
    if num_entities**2 * num_relations > np.iinfo(np.int64).max:
        return np.unique(triples, axis=0)
    head, relation, tail = triples.T
    key = np.sort((head * num_relations + relation) * num_entities + tail)
    key = key[np.diff(key, prepend=-1) > 0]
    rest, tail = np.divmod(key, max(1, num_entities))
    head, relation = np.divmod(rest, max(1, num_relations))
    return np.stack([head, relation, tail], axis=1)


def _read_triples(path: Path, columns: str) -> _Triples:
    names = {"h": "head", "r": "relation", "t": "tail"}
    fields = [names[letter] for letter in columns]
    read = _read_parquet if path.suffix == ".parquet" else _read_text
    return _Triples(**read(path, fields))


def _read_text(path: Path, fields: Sequence[str]) -> dict[str, _Column]:
    data = _read_bytes(path)
    if not data.strip():
        raise InputError(f"{path}: the file is empty")
    try:
        table = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(column_names=list(fields)),
            parse_options=pacsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pacsv.ConvertOptions(
                column_types={name: pa.dictionary(pa.int32(), pa.string()) for name in fields},
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        line = _first_bad_line(path, data, len(fields))
        raise InputError(line or f"{path}: {str(error).splitlines()[0]}") from None
    columns = {name: _column(table[name]) for name in fields}
    if any(pc.any(pc.equal(column.labels, "")).as_py() for column in columns.values()):
        raise InputError(_first_bad_line(path, data, len(fields)) or f"{path}: a field is empty")
    return columns


def _read_parquet(path: Path, fields: Sequence[str]) -> dict[str, _Column]:
    try:
        table = pq.read_table(path)
        if table.num_columns != len(fields):
            raise InputError(f"{path}: {table.num_columns} columns, wanted {len(fields)}")
        if set(table.column_names) != set(fields):
            table = table.rename_columns(list(fields))
        table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a Parquet file of text columns ({reason})") from None
    if not table.num_rows:
        raise InputError(f"{path}: the file has no triples")
    for name in fields:
        empty = pc.fill_null(pc.equal(table[name], ""), True)
        if (row := pc.index(empty, True).as_py()) >= 0:
            raise InputError(f"{path}: row {row + 1}: {name} is empty")
    columns = {name: _column(table[name].dictionary_encode()) for name in fields}
    for name, column in columns.items():
        _check_labels(column.labels.to_pylist(), f"{path}: {name}")
    return columns


def _column(column: pa.ChunkedArray) -> _Column:
    chunks = column.unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
    return _Column(chunks[0].dictionary, codes)


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except gzip.BadGzipFile as error:
        raise InputError(f"{path}: not a gzip file ({error})") from None
    except (EOFError, zlib.error):
        raise InputError(f"{path}: the gzip file is damaged or cut off") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _first_bad_line(path: Path, data: bytes, width: int) -> str:
    """What is wrong with the first line that is not ``width`` UTF-8 fields; "" if none is."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        fields = line.split(b"\t")
        if not line:
            continue
        if len(fields) != width:
            count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
            return f"{path}: line {number}: {count}, wanted {width} separated by tabs"
        if not all(fields):
            return f"{path}: line {number}: field {fields.index(b'') + 1} is empty"
        try:
            line.decode()
        except UnicodeDecodeError:
            return f"{path}: line {number}: not UTF-8 text"
    return ""


def _read_ids(path: Path) -> tuple[list[str], dict[str, str]]:
    """Labels by id, and raw label -> human label from the third column where it is filled."""
    try:
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    labels: list[str] = []
    human: dict[str, str] = {}
    for i, line in enumerate(lines):
        number, *rest = line.split("\t")
        if number != str(i) or len(rest) not in (1, 2) or not rest[0]:
            raise InputError(f"{path}: line {i + 1}: wanted {i}<TAB>label")
        labels.append(rest[0])
        if len(rest) == 2 and rest[1]:
            human[rest[0]] = rest[1]
    return labels, human


def _check_labels(labels: Sequence[str], what: str) -> None:
    for label in labels:
        if "\t" in label or "\n" in label or "\r" in label:
            raise InputError(f"{what} {label!r} holds a tab or a line break")


def _check_range(name: str, ids: npt.NDArray[np.generic], size: int) -> None:
    if not np.issubdtype(ids.dtype, np.integer) and ids.size:
        raise ValueError(f"{name} must hold integers; got {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        raise ValueError(f"{name} must be in 0 ... {size - 1}; got {ids.min()} ... {ids.max()}")
