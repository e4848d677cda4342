"""A compressed model as a folder: plain arrays in safetensors, labels and a description as text.

`config.json` names the format, the codecs, and a CRC-32 of every array and text, itself included.
Nothing is unpickled, nothing is trusted: `load` checks all that the engine relies on.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import zlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from metasd.errors import InputError
from metasd.files import write_atomically, write_text

from .known import KnownTriples
from .labels import Labels
from .table import Array, Table, from_arrays

if TYPE_CHECKING:
    from .model import CompressedModel

FORMAT = "metasd-compressed"
VERSION = 1
_TYPES = {"F32": "<f4", "F16": "<f2", "I8": "i1"} | {f"U{8 * n}": f"<u{n}" for n in (1, 2, 4, 8)}
_KNOWN = ("head", "relation", "tail")
_LARGEST_TEXT = 64 << 20  # of config.json


def save(model: CompressedModel, path: Path) -> None:
    """Writes all files beside `path` and renames the folder; an older model there is replaced."""
    if path.exists() and not _replaceable(path):
        raise InputError(f"{path} already exists and is no compressed model; give another folder")
    arrays: dict[str, Array] = {}
    for name, table in (("entities", model.entities), ("relations", model.relations)):
        arrays |= {f"{name}.{key}": array for key, array in table.arrays.items()}
    if model.known is not None:
        columns = zip(_KNOWN, model.known.columns, strict=True)
        arrays |= {f"known.{key}": column for key, column in columns}
    texts = {
        "entities.tsv": model.entity_labels.text.tobytes(),
        "relations.tsv": model.relation_labels.text.tobytes(),
    }
    config: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "scoring": model.scoring,
        "rank": model.rank,
        "num_entities": model.num_entities,
        "num_relations": model.num_relations,
        "temperature": float(model.temperature),
        "tables": {
            "entities": model.entities.description,
            "relations": model.relations.description,
        },
        "known_triples": None if model.known is None else len(model.known),
        "crc32": {
            **{name: _crc32(array) for name, array in sorted(arrays.items())},
            **{name: zlib.crc32(text) for name, text in texts.items()},
        },
        "about": model.about,
    }
    config["checksum"] = _checksum(config)
    new = path.with_name(f".{path.name}.new{os.getpid()}")
    old = path.with_name(f".{path.name}.old{os.getpid()}")
    try:
        new.mkdir(parents=True)
        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_atomically(new / "model.safetensors", lambda temporary: save_file(stored, temporary))
        for name, text in texts.items():
            write_atomically(new / name, partial(_write, text))
        write_text(new / "config.json", json.dumps(config, indent=1) + "\n")
        write_text(new / "README.md", _card(model))
        if path.exists():
            path.replace(old)
        new.replace(path)
    except (OSError, SafetensorError) as error:
        if old.exists():
            old.replace(path)
        raise InputError(f"{path}: could not be written ({error})") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def is_compressed(path: Path) -> bool:
    """Whether a folder says that it is a compressed model."""
    try:
        return FORMAT.encode() in _read_start(path / "config.json", 200)
    except OSError:
        return False


def _read_start(path: Path, limit: int) -> bytes:
    """At most so many bytes, of a file proper: pipes and devices might never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file")
    with path.open("rb") as file:
        return file.read(limit)


def load(path: Path) -> CompressedModel:
    """See `CompressedModel.from_pretrained`."""
    from .model import CompressedModel

    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
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
    try:
        known = None
        if config["known_triples"] is not None:
            columns = [arrays.pop(f"known.{name}", None) for name in _KNOWN]
            head, relation, tail = (column for column in columns if column is not None)
            unsigned = all(column.dtype.kind == "u" for column in (head, relation, tail))
            if not unsigned or head.shape != (config["known_triples"],):
                raise InputError(f"there must be {config['known_triples']} known triples")
            known = KnownTriples(
                (head, relation, tail), config["num_entities"], config["num_relations"]
            )
        if arrays:
            raise InputError(f"{next(iter(arrays))} belongs to nothing")
        return CompressedModel(
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
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except ValueError:
        raise InputError(f"{path}: known triples need a head, a relation and a tail") from None


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
    try:
        text = _read_start(path, _LARGEST_TEXT + 1)
        if len(text) > _LARGEST_TEXT:
            raise InputError(f"{path}: larger than {_LARGEST_TEXT} bytes")
        config = json.loads(text)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{path}: not of a compressed model")
    if config.get("version") != VERSION:
        raise InputError(
            f"{path}: format version {config.get('version')!r}; this version reads {VERSION}"
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
    """Whether what others read of it, the graph and metrics by split and model, is in order."""
    graph, metrics = about.get("graph", {}), about.get("metrics", {})
    if not isinstance(graph, dict) or not isinstance(metrics, dict):
        return False
    if not all(isinstance(graph.get(key, ""), str) for key in ("name", "digest")):
        return False
    models = [found for found in metrics.values() if isinstance(found, dict)]
    values = [model for found in models for model in found.values() if isinstance(model, dict)]
    whole = len(models) == len(metrics) and len(values) == sum(map(len, models))
    shown = ("mrr", "hits@1", "hits@3", "hits@10")
    return whole and all(type(model.get(key)) is float for model in values for key in shown)


def _read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a safetensors file, mapped; the library checks its header first."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
        with path.open("rb") as opened:
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


def _labels(path: Path, count: int, sums: dict[str, Any]) -> Labels:
    try:
        with path.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or 'empty'}") from None
    if sums.get(path.name) != zlib.crc32(mapped):
        raise InputError(f"{path}: the checksum is wrong")
    what = {"entities": "entity", "relations": "relation"}[path.stem]
    try:
        labels = Labels(memoryview(mapped), count, what)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)  # read once to check it; of use a few lines at a time
    return labels


def _crc32(array: Array) -> int:
    """Of type, shape and bytes: a header that was changed is noticed, too."""
    about = f"{array.dtype.str} {array.shape}".encode()
    return zlib.crc32(np.ascontiguousarray(array).data, zlib.crc32(about))


def _checksum(config: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(config, sort_keys=True).encode())


def _replaceable(path: Path) -> bool:
    return path.is_dir() and (is_compressed(path) or not any(path.iterdir()))


def _write(text: bytes, path: Path) -> None:
    path.write_bytes(text)


def _card(model: CompressedModel) -> str:
    info, about = model.info(), model.about
    graph = about.get("graph", {}).get("name", "a graph of its own")
    lines = [
        "---",
        "library_name: metasd",
        "tags: [knowledge-graph-embeddings, link-prediction]",
        "---",
        "",
        f"# {info['model']}, compressed",
        "",
        f"Answers (head, relation, ?) and (?, relation, tail) about {graph}: "
        f"{info['entities']:,} entities, {info['relations']:,} relations.",
        "",
        "```python",
        "from metasd.compressed import CompressedModel",
        "",
        'model = CompressedModel.from_pretrained("path/to/this/folder")',
        f"model.predict(head={json.dumps(model.entity_labels.human(0), ensure_ascii=False)}, "
        f"relation={json.dumps(model.relation_labels[0], ensure_ascii=False)}, k=10)",
        "```",
        "",
        "| | |",
        "| --- | --- |",
        f"| codec | {info['codec']} |",
        f"| weights that are not zero | {100 * info['density']:.2f} % |",
        f"| bytes of the tables | {info['bytes']['tables']:,} |",
        f"| times smaller than dense fp32 tables | "
        f"{info['times smaller than dense']['fp32 (tables)']} |",
    ]
    for split, found in about.get("metrics", {}).items():
        for name, metrics in found.items():
            lines.append(f"| {split} MRR of the {name} model, as trained | {metrics['mrr']:.4f} |")
    return "\n".join([*lines, ""])
