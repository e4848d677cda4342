"""The folder of a compressed model: arrays in safetensors, labels and a description as text.

`config.json` names the format, the codecs, and a CRC-32 of every array and text, itself included.
Nothing is unpickled, nothing is trusted: `load` checks all that the engine relies on.
"""

from __future__ import annotations

import json
import mmap
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metasd.data.filter_index import KnownAnswers
from metasd.errors import InputError, error_context
from metasd.files import (
    check_new_folder,
    check_regular,
    new_folder,
    open_regular,
    read_json,
    write_atomically,
)

from .labels import Labels
from .table import Array, Table, from_arrays

FORMAT = "metasd-compressed"
VERSION = 2
FILES = ("config.json", "model.safetensors", "entities.tsv", "relations.tsv", "README.md")
_TYPES = {"F32": "<f4", "F16": "<f2", "I8": "i1"} | {f"U{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)}
_KNOWN = ("known.key", "known.tail")
_PART = 1 << 20


@dataclass(frozen=True, eq=False)
class ModelParts:
    """What the folder of a compressed model holds.

    Attributes:
        scoring: name of the scoring function.
        rank: coordinates per entity.
        entities: (roles * N, width), and `relations` (2R, width): inverse relations come second.
        entity_labels, relation_labels: of the N entities and the R relations.
        known: triples that answers leave out, with packed keys; None if saved without.
        temperature: of the softmax behind probabilities; see `CompressedModel.calibrated`.
        about: where the model comes from (JSON): training, protocol, metrics, graph.
    """

    scoring: str
    rank: int
    entities: Table
    relations: Table
    entity_labels: Labels
    relation_labels: Labels
    known: KnownAnswers | None = None
    temperature: float = 1.0
    about: dict[str, Any] = field(default_factory=dict)


def save(parts: ModelParts, path: Path, card: str, overwrite: bool) -> None:
    """Writes a model folder, whole or not at all.

    Args:
        parts: the model.
        path: the folder.
        card: the text of README.md.
        overwrite: replaces an older model there.

    Raises:
        InputError: there is something else at `path`, or it cannot be written.
    """
    check_out(path, overwrite)
    arrays: dict[str, Array] = {}
    for name, table in (("entities", parts.entities), ("relations", parts.relations)):
        arrays |= {f"{name}.{key}": array for key, array in table.arrays.items()}
    if parts.known is not None:
        found = (parts.known.key_array, parts.known.indices)
        arrays |= dict(zip(_KNOWN, found, strict=True))
    texts = {
        "entities.tsv": parts.entity_labels.text.tobytes(),
        "relations.tsv": parts.relation_labels.text.tobytes(),
    }
    config = _description(parts, arrays, texts)
    stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with new_folder(path, FILES, overwrite) as new:
        write_atomically(new / "model.safetensors", partial(_save_arrays, stored))
        for name, text in texts.items():
            (new / name).write_bytes(text)
        (new / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (new / "README.md").write_text(card, encoding="utf-8")


def check_out(path: Path, overwrite: bool) -> None:
    """Raises InputError unless `save` can write `path`: only an older model is ever replaced."""
    if path.is_dir() and any(path.iterdir()) and not is_compressed(path):
        raise InputError(f"{path} already exists and is no compressed model; give another folder")
    check_new_folder(path, FILES, overwrite)


def load(path: Path) -> ModelParts:
    """What a folder holds, checked; see `CompressedModel.from_pretrained`."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    if (path / "config.yaml").exists() and not (path / "config.json").exists():
        raise InputError(
            f"{path} is a run folder, not a compressed model: `metasd compress {path}` makes one "
            "(metasd.compress, metasd.Run.load)"
        )
    config = _read_config(path / "config.json")
    sums = config["crc32"]
    arrays = _read_arrays(path / "model.safetensors")
    for name, array in arrays.items():
        if sums.get(name) != _crc32(array):
            raise InputError(f"{path / 'model.safetensors'}: the checksum of {name} is wrong")
    tables = {name: _table(path, config, arrays, name) for name in ("entities", "relations")}
    labels = {
        what: _labels(path / f"{what}.tsv", config[f"num_{what}"], sums)
        for what in ("entities", "relations")
    }
    with error_context(path):
        known = _known(config, arrays)
        if arrays:
            raise InputError(f"{next(iter(arrays))} belongs to nothing")
    return ModelParts(
        config["scoring"],
        config["rank"],
        tables["entities"],
        tables["relations"],
        labels["entities"],
        labels["relations"],
        known,
        config["temperature"],
        config["about"],
    )


def is_compressed(path: Path) -> bool:
    """Whether a folder says that it is a compressed model."""
    try:
        with open_regular(path / "config.json") as file:
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False


def _description(
    parts: ModelParts, arrays: dict[str, Array], texts: dict[str, bytes]
) -> dict[str, Any]:
    """What config.json holds."""
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "scoring": parts.scoring,
        "rank": parts.rank,
        "num_entities": len(parts.entity_labels),
        "num_relations": len(parts.relation_labels),
        "temperature": float(parts.temperature),
        "tables": {
            "entities": parts.entities.description,
            "relations": parts.relations.description,
        },
        "known_triples": None if parts.known is None else len(parts.known),
        "crc32": {
            **{name: _crc32(array) for name, array in sorted(arrays.items())},
            **{name: zlib.crc32(text) for name, text in texts.items()},
        },
        "about": parts.about,
    }
    return {**config, "checksum": _checksum(config)}


def _read_config(path: Path) -> dict[str, Any]:
    kinds: dict[str, type | tuple[type, ...]] = {
        "scoring": str,
        "rank": int,
        "num_entities": int,
        "num_relations": int,
        "temperature": float,
        "tables": dict,
        "known_triples": (int, type(None)),
        "crc32": dict,
        "about": dict,
    }
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{path}: not of a compressed model")
    if config.get("version") != VERSION:
        raise InputError(
            f"{path}: format version {config.get('version')!r}, and this metasd reads {VERSION}: "
            "compress the run again"
        )
    for key, kind in kinds.items():
        value = config.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) or key not in config:
            raise InputError(f"{path}: {key} is missing or of another type")
    for key in ("rank", "num_entities", "num_relations"):
        if not 0 < config[key] < 2**40:
            raise InputError(f"{path}: {key} must be above 0; got {config[key]}")
    if config.pop("checksum", None) != _checksum(config):
        raise InputError(f"{path}: the checksum is wrong")
    if not _is_about(config["about"]):
        raise InputError(f"{path}: about is not of the form that this version writes")
    return config


def _is_about(about: dict[str, Any]) -> bool:
    """Whether the graph and the metrics by split and model are of the form that readers expect."""
    graph, metrics = about.get("graph", {}), about.get("metrics", {})
    added = about.get("added", {"to": {}, "entities": 0})
    if not all(isinstance(part, dict) for part in (graph, metrics, added)):
        return False
    if type(added.get("entities")) is not int or not isinstance(added.get("to"), dict):
        return False
    if not isinstance(graph.get("source"), dict | None):
        return False
    for one in (graph, added["to"]):
        if not all(isinstance(one.get(key, ""), str) for key in ("name", "digest")):
            return False
    models = [found for found in metrics.values() if isinstance(found, dict)]
    values = [model for found in models for model in found.values() if isinstance(model, dict)]
    whole = len(models) == len(metrics) and len(values) == sum(map(len, models))
    shown = ("mrr", "hits@1", "hits@3", "hits@10")
    return whole and all(type(model.get(key)) is float for model in values for key in shown)


def _read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a safetensors file, mapped; the library checks its header first."""
    try:
        check_regular(path)
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
        with open_regular(path) as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        size = int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8 : 8 + size])
        header.pop("__metadata__", None)
        if set(header) != names:
            raise ValueError("two headers")
        arrays = {}
        for name, about in header.items():
            if about["dtype"] not in _TYPES:
                raise ValueError(f"{name} is of type {about['dtype']}")
            dtype, shape = np.dtype(_TYPES[about["dtype"]]), tuple(about["shape"])
            begin, end = about["data_offsets"]
            count = (end - begin) // dtype.itemsize
            array = np.empty(0, dtype)
            if count:
                array = np.frombuffer(mapped, dtype, count, 8 + size + begin)
            array = array.reshape(shape)
            arrays[name] = array if array.flags.aligned else array.copy()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged or not safetensors ({error})") from None
    return arrays


def _table(path: Path, config: dict[str, Any], arrays: dict[str, Array], name: str) -> Table:
    mine = {key: arrays.pop(key) for key in list(arrays) if key.startswith(f"{name}.")}
    description = config["tables"].get(name)
    try:
        if not isinstance(description, dict):
            raise InputError("its description is missing")
        table = from_arrays(description, {k.removeprefix(f"{name}."): a for k, a in mine.items()})
        if len(table.arrays) != len(mine):
            raise InputError("there are arrays that belong to nothing")
        return table
    except InputError as error:
        raise InputError(f"{path / 'model.safetensors'}: {name}: {error}") from None


def _known(config: dict[str, Any], arrays: dict[str, Array]) -> KnownAnswers | None:
    count = config["known_triples"]
    if count is None:
        return None
    keys, tails = (arrays.pop(name, None) for name in _KNOWN)
    if keys is None or tails is None:
        raise InputError("known triples need keys and tails")
    if tails.shape != (count,):
        raise InputError(f"there must be {count} known triples; got tails {tails.shape}")
    return KnownAnswers.of_arrays(keys, tails, config["num_entities"], config["num_relations"])


def _labels(path: Path, count: int, sums: dict[str, Any]) -> Labels:
    try:
        with open_regular(path) as opened:
            crc = 0
            while part := opened.read(_PART):  # of what is mapped, all would be in memory at once
                crc = zlib.crc32(part, crc)
            if sums.get(path.name) != crc:
                raise InputError(f"{path}: the checksum is wrong")
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(
            str(error) if isinstance(error, InputError) else f"{path}: empty"
        ) from None
    what = {"entities": "entity", "relations": "relation"}[path.stem]
    try:
        labels = Labels(memoryview(mapped), count, what)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)  # read once to check it; of use a few lines at a time
    return labels


def _crc32(array: Array) -> int:
    """Of type, shape and bytes, so that a changed header is noticed, too."""
    about = f"{array.dtype.str} {array.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(about))


def _checksum(config: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(config, sort_keys=True).encode())


def _save_arrays(arrays: dict[str, Array], path: Path) -> None:
    try:
        save_file(arrays, path)
    except SafetensorError as error:
        raise OSError(None, str(error)) from None
