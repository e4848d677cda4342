"""A training state as one safetensors file: written whole or not at all, never unpickled.

Its tensors are those of `model_tensors` (source tables, masks, separate weights of the compact
model) and, but for the best model, of `Step.optimizer_tensors`. Its metadata hold `metasd` (JSON:
`TrainingState`, settings, the graph's digest, and the CRC-32 of every tensor, piece by piece) and
the `crc32` of that text. In a distributed run each process writes and reads its own rows of the
same file, which therefore continues a run on any number of processes.
"""

import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metasd.config import Config
from metasd.distributed import SINGLE_PROCESS, ProcessGrid
from metasd.errors import InputError
from metasd.files import check_regular, temporary_path, write_atomically
from metasd.models import Scoring
from metasd.models.model import Model

FORMAT = 3
_PIECE = 1 << 16  # rows under one checksum
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int32: "I32", torch.int64: "I64"}


@dataclass
class TrainingState:
    """Progress of a run: what a checkpoint holds beside tensors."""

    epoch: int = 0  # finished epochs
    step: int = 0  # steps done of the next one
    total_steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # losses of the epoch so far
    seconds: float = 0.0  # of the epoch so far
    best: float | None = None
    best_epoch: int = 0
    best_source: float | None = None  # before there is a compact model
    without_gain: int = 0  # validations since the best
    stopped: bool = False


_FREE = ("train.epochs", "train.max_steps", "eval.every", "eval.patience")
"""Settings that may change within a run; the first, unless others are fractions of it."""


def frozen_settings(config: Config) -> dict[str, Any]:
    """The settings that determine the weights after a given number of steps."""
    by_share = config.train.decay > 0 or 0 < config.compact.warmup_epochs < 1
    free = _FREE[by_share:]
    return {
        key: value
        for key, value in config.flat().items()
        if key not in free and not key.startswith(("checkpoint.", "tune."))
    }


@dataclass(frozen=True)
class Layout:
    """Which process holds which rows of the tables by entity (`roles` times `entities` rows)."""

    processes: ProcessGrid = SINGLE_PROCESS
    entities: int = 0
    roles: int = 1

    def is_cut(self, name: str) -> bool:
        by_entity = name in ("entities", "entity_mask", "separate_entities")
        return self.processes.shards > 1 and (by_entity or name.endswith(".entities.sum"))

    def rows(self, name: str, count: int, shard: int) -> list[range]:
        """The rows of a tensor (count, ...) that a shard has, in its order."""
        if not self.is_cut(name):
            return [range(count)]
        return self.processes.rows(self.entities, self.roles, shard)

    def whole_shape(self, name: str, x: Tensor) -> tuple[int, ...]:
        return (self.roles * self.entities, *x.shape[1:]) if self.is_cut(name) else tuple(x.shape)


WHOLE = Layout()


class _Piece(NamedTuple):
    """Rows start ... stop - 1 of a tensor, which `shard` writes from its own row `here` on."""

    name: str
    start: int
    stop: int
    shard: int
    here: int


@dataclass
class Checkpoint:
    """Tensors by name, and what else continues a run (JSON): position, settings, graph."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def save(self, path: Path, layout: Layout = WHOLE) -> None:
        """Writes the file, each process its rows; returns when all of it is there.

        Raises:
            InputError: in every process, when the disk is full; the old checkpoint then stays.
        """
        processes = layout.processes
        shapes = {name: layout.whole_shape(name, x) for name, x in self.tensors.items()}
        pieces = [piece for name in shapes for piece in _pieces(name, shapes[name], layout)]
        sums = torch.zeros(len(pieces), dtype=torch.int64)
        for i, piece in enumerate(pieces):
            if piece.shard == processes.shard:
                sums[i] = _crc32(self._rows(piece), shapes[piece.name], piece.start)
        listed: dict[str, list[list[int]]] = {name: [] for name in shapes}
        for piece, crc in zip(pieces, processes.all_reduce_sum(sums).tolist(), strict=True):
            listed[piece.name].append([piece.start, piece.stop, crc])
        text = json.dumps({"format": FORMAT, "crc32": listed, **self.state})
        metadata = {"metasd": text, "crc32": str(zlib.crc32(text.encode()))}
        header, places, size = _header(self.tensors, shapes, metadata)
        begin = processes.all_reduce_max(
            len(header) if processes.is_main else 0
        )  # the first one's state is written

        def write(temporary: Path) -> None:
            with _all_or_none(processes):
                if processes.is_main:
                    with temporary.open("wb") as file:
                        file.write(header)
                        file.truncate(begin + size)
            with _all_or_none(processes), temporary.open("rb+") as file:
                for piece in pieces:
                    if piece.shard == processes.shard and processes.replica == 0:
                        data = self._rows(piece).numpy()
                        row = data.nbytes // (piece.stop - piece.start)
                        file.seek(begin + places[piece.name] + piece.start * row)
                        file.write(data.data)

        try:
            if processes.is_main:
                write_atomically(path, write)
            else:
                write(temporary_path(path))
        except OSError as error:
            kept = (
                "the checkpoint before it is kept" if path.exists() else "there is none before it"
            )
            raise InputError(f"{path}: could not be written ({error}); {kept}") from None
        processes.barrier()

    def _rows(self, piece: _Piece) -> Tensor:
        tensor = self.tensors[piece.name]
        rows = tensor if tensor.dim() else tensor[None]
        return rows[piece.here : piece.here + piece.stop - piece.start].cpu().contiguous()

    @staticmethod
    def load(
        path: Path, only: tuple[str, ...] | None = None, layout: Layout = WHOLE
    ) -> "Checkpoint":
        """Reads a checkpoint, or those of its tensors that `only` names (where it has them)."""
        if not path.exists():
            raise InputError(f"{path}: there is no checkpoint")
        try:
            check_regular(path)
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if str(zlib.crc32(metadata["metasd"].encode())) != metadata["crc32"]:
                    raise ValueError("the checksum of its state is wrong")
                state = json.loads(metadata["metasd"])
                if state.get("format") != FORMAT:
                    raise InputError(
                        f"{path}: format {state.get('format')}; this version reads {FORMAT}"
                    )
                sums = state.pop("crc32")
                names = [name for name in sums if only is None or name in only]
                tensors = {name: _read(file, name, sums[name], layout) for name in names}
        except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
            raise InputError(f"{path}: damaged or not a checkpoint of metasd ({error})") from None
        return Checkpoint(tensors, state)


def _pieces(name: str, shape: tuple[int, ...], layout: Layout) -> Iterator[_Piece]:
    for shard in range(layout.processes.shards if layout.is_cut(name) else 1):
        here = 0
        for rows in layout.rows(name, shape[0] if shape else 1, shard):
            for start in range(rows.start, rows.stop, _PIECE):
                stop = min(start + _PIECE, rows.stop)
                yield _Piece(name, start, stop, shard, here)
                here += stop - start


def _header(
    tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """The beginning of a safetensors file; where behind it the tensors lie, and how much in all."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    places, at = {}, 0
    for name in sorted(tensors, key=lambda name: -tensors[name].itemsize):
        places[name], size = at, math.prod(shapes[name]) * tensors[name].itemsize
        entries[name] = {
            "dtype": _DTYPES[tensors[name].dtype],
            "shape": shapes[name],
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places, at


@contextmanager
def _all_or_none(processes: ProcessGrid) -> Iterator[None]:
    """What every process does on the disk: if one fails, all do."""
    found: OSError | None = None
    try:
        yield
    except OSError as error:
        found = error
    if processes.all_reduce_max(found is not None):
        raise found or OSError("another process could not write its part")


def _read(file: Any, name: str, sums: list[list[int]], layout: Layout) -> Tensor:
    """This process's rows of a tensor, copied: training must not run on a mapped file."""
    part = file.get_slice(name)
    shape = tuple(part.get_shape())
    wanted = layout.rows(name, shape[0] if shape else 1, layout.processes.shard)
    if shape and wanted[-1].stop > shape[0]:
        raise ValueError(f"{name} has {shape[0]} rows; {wanted[-1].stop} are wanted")
    dtype = next(dtype for dtype, known in _DTYPES.items() if known == part.get_dtype())
    out, place = torch.empty((sum(map(len, wanted)), *shape[1:]), dtype=dtype), 0
    for rows in wanted:
        for start, stop, crc in sorted(sums):
            first, last = max(start, rows.start), min(stop, rows.stop)
            if first >= last:
                continue
            found = part[start:stop] if shape else file.get_tensor(name)[None]
            if _crc32(found, shape, start) != crc:
                raise ValueError(f"the checksum of {name} is wrong")
            out[place : place + last - first] = found[first - start : last - start]
            place += last - first
    return out if shape else out[0]


def _crc32(rows: Tensor, shape: tuple[int, ...], start: int) -> int:
    """Of type, shape, place and bytes: a header that was changed is noticed, too."""
    data = rows.contiguous().numpy()
    return zlib.crc32(data.data, zlib.crc32(f"{data.dtype} {shape} {start}".encode()))


_MASKS = ("entity_mask", "relation_mask")
_SEPARATE = ("separate_entities", "separate_relations")
MODEL_TENSORS = ("entities", "relations", *_MASKS, *_SEPARATE)


def model_tensors(model: Model) -> dict[str, Tensor]:
    tensors = {"entities": model.entities, "relations": model.relations}
    for names, pair in ((_MASKS, model.masks), (_SEPARATE, model.separate)):
        tensors |= dict(zip(names, pair or (), strict=False))
    return tensors


def restore_model(
    checkpoint: Checkpoint,
    config: Config,
    entities: int,
    relations: int,
    processes: ProcessGrid = SINGLE_PROCESS,
) -> Model:
    """The model of a checkpoint, its shapes checked against vocabulary and configuration."""
    scoring = Scoring.named(config.model.name)(config.model.rank)
    block = processes.block(entities)
    shapes = {
        "entities": (scoring.entity_roles * (block.stop - block.start), scoring.entity_width),
        "relations": (2 * relations, scoring.relation_width),
    }
    if _SEPARATE[0] in checkpoint.tensors:
        shapes |= dict(zip(_SEPARATE, shapes.values(), strict=True))
    for name, shape in shapes.items():
        table = checkpoint.tensors.get(name)
        if table is None or tuple(table.shape) != shape or table.dtype != torch.float32:
            got = "nothing" if table is None else f"{table.dtype} {tuple(table.shape)}"
            raise InputError(
                f"the checkpoint is of another graph or configuration: {name} should be float32 "
                f"{shape}, and it holds {got}"
            )

    def pair(names: tuple[str, str]) -> tuple[Tensor, Tensor] | None:
        first, second = (checkpoint.tensors.get(name) for name in names)
        return None if first is None or second is None else (first, second)

    return Model(
        scoring,
        checkpoint.tensors["entities"],
        checkpoint.tensors["relations"],
        pair(_MASKS),
        config.compact.weight_format,
        pair(_SEPARATE),
        processes,
        entities,
        config.compact.relation_format,
    )
