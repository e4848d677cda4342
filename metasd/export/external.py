"""Tables trained elsewhere: PyKEEN, kbc, or plain numpy; nothing in them is ever executed."""

from __future__ import annotations

import csv
import io
import shlex
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from tokenize import TokenError
from typing import Any

import numpy as np
import torch

from metasd.compressed.model import CompressedModel
from metasd.compressed.table import Floats
from metasd.config import preset
from metasd.data.bounded import open_lines
from metasd.data.graph import Graph
from metasd.data.restriction import restricted
from metasd.data.vocabulary import Vocabulary, load_vocabulary
from metasd.errors import InputError, nearest
from metasd.files import check_regular, open_regular
from metasd.models import Scoring
from metasd.training.run import Run, RunFolder
from metasd.training.trainer import Trainer

from .compress import compress, compress_tables

SOURCES = ("pykeen", "kbc", "npy")

_PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""What a file of torch.save begins with: a zip archive, or a pickle of some protocol."""
_SAVE_STATE = (
    'python -c "import sys, torch; '
    'torch.save(torch.load(sys.argv[1], weights_only=False).state_dict(), sys.argv[2])"'
)
_PYKEEN = (
    "entity_representations.0._embeddings.weight",
    "relation_representations.0._embeddings.weight",
)


def import_tables(
    source: str,
    path: Path,
    scoring: str,
    codec: str = "auto",
    weight_format: str = "auto",
    graph: Graph | None = None,
    epochs: int = 0,
    settings: Sequence[str] = (),
    *,
    known: bool = True,
    calibrate: bool = False,
) -> CompressedModel:
    """Compresses tables that another program trained.

    Args:
        source: `pykeen`: a state_dict saved by torch.save, or the folder of a pipeline's result
            with such a file, trained_model.pt; `kbc`: a state_dict of ComplEx or CP; `npy`: a
            folder with entities.npy and relations.npy, fp32 (rows, width).
        path: the file or folder. Labels are read from beside it: `entity_to_id.tsv.gz` and
            `relation_to_id.tsv.gz` (PyKEEN), `ent_id` and `rel_id` (kbc), or entities.tsv and
            relations.tsv; where there are none, ids are those of the graph's sorted labels. Where
            there are both, the labels of the tables are the vocabulary: triples of the graph with
            others are left out, and `about["imported"]["left_out"]` counts them.
        scoring: the scoring function. Real and imaginary parts are put side by side, and inverse
            relations are made where there are none: the conjugate of a ComplEx relation, the
            relation itself of DistMult, the transpose of RESCAL.
        graph: its triples are kept for answers to leave out, and it is what is trained on.
        codec, weight_format: as in `compress`.
        epochs: of MetaSD, started from the tables, before the compact model is compressed.
        settings: of that training, `key=value`.
        known: False keeps no triples.
        calibrate: fits the temperature of the softmax on the graph's valid triples.

    Raises:
        InputError: a file that is not as described, or tables that do not fit graph or scoring.
    """
    if source not in SOURCES:
        raise InputError(
            f"--from must be one of {', '.join(SOURCES)}; got {source!r}{nearest(source, SOURCES)}"
        )
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    parts = Scoring.named(scoring).parts
    entities, relations = _READERS[source](path, scoring)
    for name, table in (("entities", entities), ("relations", relations)):
        if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
            raise InputError(f"{path}: {name} must be finite numbers (rows, width)")
    labels = _vocabulary(path if path.is_dir() else path.parent)
    vocabulary = labels or graph
    relations = _with_inverses(relations, source, path, scoring, vocabulary)
    rank = entities.shape[1] // parts
    about: dict[str, Any] = {"imported": {"from": source, "name": path.name}}
    if labels is not None and graph is not None:
        graph, left_out = _of_labels(graph, labels)
        entities = _reordered(entities, labels.entities, graph.entities, "entity")
        relations = _reordered(relations, labels.relations, graph.relations, "relation")
        vocabulary = graph
        about["imported"]["left_out"] = left_out
    if graph is None and (epochs or calibrate):
        raise InputError("--epochs and --calibrate need the triples of a graph: give --graph")
    if epochs and graph is not None:
        with tempfile.TemporaryDirectory() as folder:
            run = _tune(scoring, rank, entities, relations, graph, epochs, settings, Path(folder))
            small = compress(run, codec, weight_format, graph=graph, known=known)
        small = replace(small, about=small.about | about)
    else:
        kept = graph if known else None
        tables = (scoring, rank, entities, relations, codec, weight_format)
        small = compress_tables(*tables, vocabulary=vocabulary, graph=kept, about=about)
    return small.calibrated(graph.valid) if calibrate and graph is not None else small


def _of_labels(graph: Graph, labels: Vocabulary) -> tuple[Graph, int]:
    """The graph with the entities and relations of the tables, and how many triples that loses."""
    same = set(labels.entities) == set(graph.entities)
    if same and set(labels.relations) == set(graph.relations):
        return graph, 0
    vocabulary = Vocabulary(entities=sorted(labels.entities), relations=sorted(labels.relations))
    found, left_out = restricted(graph, vocabulary)
    if not len(found.train):
        raise InputError(
            f"no train triple of {graph.name} has entities and relations of the tables, such as "
            f"{labels.entities[0]!r}; the graph's are called {graph.entities[0]!r}"
        )
    return found, left_out


def _with_inverses(
    relations: Floats, source: str, path: Path, scoring: str, vocabulary: Vocabulary | None
) -> Floats:
    """Relations (2R, width), inverse ones second: put in that order, or made."""
    if vocabulary is None and source == "pykeen":
        raise InputError(
            f"{path}: whether half of the relations are inverses is known by their labels: put "
            "entity_to_id.tsv.gz and relation_to_id.tsv.gz beside it, or give --graph"
        )
    count = vocabulary.num_relations if vocabulary is not None else len(relations) // 2
    if len(relations) == count:
        return np.concatenate([relations, _inverse(relations, scoring)])
    if len(relations) != 2 * count:
        raise InputError(f"{path}: {len(relations)} relations; wanted {count} or {2 * count}")
    if source == "pykeen":  # PyKEEN numbers a relation 2 i and its inverse 2 i + 1
        return np.concatenate([relations[0::2], relations[1::2]])
    return relations


def _reordered(table: Floats, labels: Sequence[str], wanted: Sequence[str], what: str) -> Floats:
    """Rows in the order of `wanted`; both halves, if there are inverses or two roles."""
    place = {label: i for i, label in enumerate(labels)}
    if len(place) != len(labels) or len(table) % len(labels):
        raise InputError(
            f"{len(table)} rows and {len(labels)} {what} labels beside them, {len(place)} different"
        )
    order = [place[label] for label in wanted]
    halves = table.reshape(-1, len(labels), table.shape[1])[:, order]
    return np.ascontiguousarray(halves).reshape(table.shape)


def _read_npy(path: Path, scoring: str) -> tuple[Floats, Floats]:
    tables = []
    for name in ("entities", "relations"):
        file = path / f"{name}.npy"
        try:
            with open_regular(file) as opened:
                table = np.load(opened, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
            raise InputError(f"{file}: not a plain numpy array ({error})") from None
        if not isinstance(table, np.ndarray) or table.dtype.kind != "f":
            raise InputError(f"{file}: must hold floating-point numbers")
        if table.ndim < 2 or table.size == 0:
            raise InputError(f"{file}: must be (rows, width); got {table.shape}")
        tables.append(np.ascontiguousarray(table.reshape(len(table), -1), np.float32))
    return tables[0], tables[1]


def _read_pykeen(path: Path, scoring: str) -> tuple[Floats, Floats]:
    if path.is_dir():
        pickled = path / "trained_model.pkl"
        path = pickled.with_suffix(".pt")  # what the command for the pickle writes
        path = pickled if pickled.exists() and not path.exists() else path
    state = _state(path)
    entities, relations = (_tensor(path, state, name) for name in _PYKEEN)
    if scoring == "cp":
        raise InputError("PyKEEN's CP has other tables; complex, distmult and rescal can be read")
    if scoring == "complex":  # pairs of a real and an imaginary part
        return _side_by_side(path, entities), _side_by_side(path, relations)
    return entities, relations


def _read_kbc(path: Path, scoring: str) -> tuple[Floats, Floats]:
    state = _state(path)
    if scoring == "complex":
        return _tensor(path, state, "embeddings.0.weight"), _tensor(
            path, state, "embeddings.1.weight"
        )
    if scoring == "cp":
        left, right, relations = (
            _tensor(path, state, f"{name}.weight") for name in ("lhs", "rhs", "rel")
        )
        return np.concatenate([left, right]), relations
    raise InputError(f"kbc has ComplEx and CP; got --scoring {scoring}")


def _state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, read without executing what may be pickled beside them."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle's protocol
            check_regular(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is no checkpoint
        if isinstance(error, UnpicklingError) and _starts_as_pickle(path):
            new = path.with_suffix(".pt" if path.suffix != ".pt" else ".state.pt")
            raise InputError(
                f"{path}: a pickled model, which cannot be read without executing it; where it was "
                f"trained, run: {_SAVE_STATE} {shlex.quote(str(path))} {shlex.quote(str(new))} "
                f"and import {new}"
            ) from None
        first = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: not a state_dict that can be read without executing it ({first})"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds no state_dict")
    for key in ("model_state_dict", "state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
    found: dict[str, Any] = state
    return found


def _starts_as_pickle(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(2) in _PICKLES


def _tensor(path: Path, state: dict[str, Any], name: str) -> Floats:
    tensor = state.get(name)
    if not isinstance(tensor, torch.Tensor) or tensor.ndim < 2:
        raise InputError(f"{path}: has no table {name}; it has {', '.join(map(str, state))}")
    try:
        tensor = tensor.detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        table: Floats = tensor.flatten(1).float().contiguous().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(f"{path}: {name} is no plain table ({first})") from None
    return table


_READERS = {"pykeen": _read_pykeen, "kbc": _read_kbc, "npy": _read_npy}


def _side_by_side(path: Path, table: Floats) -> Floats:
    if table.shape[1] % 2:
        raise InputError(f"{path}: complex tables are of even width; got {table.shape}")
    return np.ascontiguousarray(np.concatenate([table[:, 0::2], table[:, 1::2]], axis=1))


def _inverse(relations: Floats, scoring: str) -> Floats:
    """Relations r' with score(t, r', h) = score(h, r, t)."""
    if scoring == "complex":
        real, imaginary = np.split(relations, 2, axis=1)
        return np.concatenate([real, -imaginary], axis=1)
    if scoring == "rescal":
        rank = round(relations.shape[1] ** 0.5)
        square = relations.reshape(-1, rank, rank)
        return np.ascontiguousarray(square.transpose(0, 2, 1)).reshape(relations.shape)
    if scoring == "cp":
        raise InputError("CP needs inverse relations: its heads and tails differ")
    return relations


def _vocabulary(folder: Path) -> Vocabulary | None:
    """The labels that lie beside the tables, in any of the programs' ways; None without."""
    if (folder / "entities.tsv").is_file():
        return load_vocabulary(folder)
    for names in (
        ("entity_to_id.tsv.gz", "relation_to_id.tsv.gz"),
        ("training_triples/entity_to_id.tsv.gz", "training_triples/relation_to_id.tsv.gz"),
        ("ent_id", "rel_id"),
    ):
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            entities, relations = (_labels_of(file) for file in files)
            return Vocabulary(entities=entities, relations=relations)
    return None


def _labels_of(path: Path) -> list[str]:
    """Labels by id from lines `label<TAB>id` or `id<TAB>label`, a header allowed."""
    try:
        with open_lines(path) as file:
            text = file.read().decode()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path}: not text ({error})") from None
    found: dict[int, str] = {}
    id_first = path.suffix == ".gz"  # PyKEEN's, with a header; kbc's are the other way round
    rows: Iterable[list[str]] = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
    if id_first:  # written by pandas, which quotes
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
    for number, fields in enumerate(rows, 1):
        if len(fields) != 2:
            raise InputError(f"{path}: line {number}: wanted a label and its id")
        place, label = fields if id_first else fields[::-1]
        if number == 1 and id_first and not place.isdigit():
            continue
        number_like = place.isascii() and place.isdigit() and len(place) < 19
        if not number_like or int(place) in found:
            raise InputError(f"{path}: line {number}: {place[:40]!r} is no id, or is there twice")
        found[int(place)] = label
    if sorted(found) != list(range(len(found))):
        raise InputError(f"{path}: the ids must be 0 ... {len(found) - 1}")
    return [found[place] for place in range(len(found))]


def _tune(
    scoring: str,
    rank: int,
    entities: Floats,
    relations: Floats,
    graph: Graph,
    epochs: int,
    settings: Sequence[str],
    folder: Path,
) -> Run:
    """MetaSD on a graph, started from tables whose rows are in the order of its labels."""
    config = preset("metasd").override(
        {"model.name": scoring, "model.rank": rank, "train.epochs": epochs}
    )
    config = config.override(settings)
    run_folder = RunFolder(folder / "run")
    trainer = Trainer(graph, config, run_folder)
    for mine, table in ((trainer.model.entities, entities), (trainer.model.relations, relations)):
        if tuple(mine.shape) != table.shape:
            raise InputError(f"a table is {table.shape}; {graph.name} needs {tuple(mine.shape)}")
        mine.copy_(torch.from_numpy(table))
    trainer.model.changed()
    run_folder.create(graph, config)
    return trainer.run()
