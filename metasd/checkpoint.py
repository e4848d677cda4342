"""A training state as one safetensors file: written whole or not at all, never unpickled.

Its metadata hold `metasd` (JSON: state, and a CRC-32 of every tensor) and the `crc32` of that text.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import Config
from .errors import InputError
from .files import write_atomically
from .model import Model
from .models import Scoring

FORMAT = 1


@dataclass
class Checkpoint:
    """Tensors by name, and what else continues a run (JSON): position, settings, graph."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def save(self, path: Path) -> None:
        """Raises InputError when the disk is full; the old checkpoint then stays as it was."""
        sums = {name: _crc32(tensor) for name, tensor in self.tensors.items()}
        text = json.dumps({"format": FORMAT, "crc32": sums, **self.state})
        metadata = {"metasd": text, "crc32": str(zlib.crc32(text.encode()))}
        try:
            write_atomically(path, lambda temporary: save_file(self.tensors, temporary, metadata))
        except (OSError, SafetensorError) as error:
            kept = (
                "the checkpoint before it is kept" if path.exists() else "there is none before it"
            )
            raise InputError(f"{path}: could not be written ({error}); {kept}") from None

    @staticmethod
    def load(path: Path, only: tuple[str, ...] | None = None) -> "Checkpoint":
        """Reads a checkpoint, or those of its tensors that `only` names (where it has them)."""
        if not path.is_file():
            raise InputError(f"{path}: there is no checkpoint")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if str(zlib.crc32(metadata["metasd"].encode())) != metadata["crc32"]:
                    raise ValueError("the checksum of its state is wrong")
                state = json.loads(metadata["metasd"])
                sums = state.pop("crc32")
                names = [name for name in sums if only is None or name in only]
                # Copies: training must not run on a mapped file, nor at its alignment.
                tensors = {name: file.get_tensor(name).clone() for name in names}
            for name, tensor in tensors.items():
                if _crc32(tensor) != sums[name]:
                    raise ValueError(f"the checksum of {name} is wrong")
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise InputError(f"{path}: damaged or not a checkpoint of metasd ({error})") from None
        if state.get("format") != FORMAT:
            raise InputError(f"{path}: format {state.get('format')}; this version reads {FORMAT}")
        return Checkpoint(tensors, state)


def _crc32(tensor: Tensor) -> int:
    """Of type, shape and bytes: a header that was changed is noticed, too."""
    data = tensor.cpu().numpy()
    return zlib.crc32(data.data, zlib.crc32(f"{data.dtype} {data.shape}".encode()))


_MASKS = ("entity_mask", "relation_mask")
_OWN = ("own_entities", "own_relations")
MODEL_TENSORS = ("entities", "relations", *_MASKS, *_OWN)


def model_tensors(model: Model) -> dict[str, Tensor]:
    tensors = {"entities": model.entities, "relations": model.relations}
    for names, pair in ((_MASKS, model.masks), (_OWN, model.own)):
        tensors |= dict(zip(names, pair or (), strict=False))
    return tensors


def restore_model(checkpoint: Checkpoint, config: Config, entities: int, relations: int) -> Model:
    """The model of a checkpoint, its shapes checked against vocabulary and configuration."""
    scoring = Scoring.named(config.model.name)(config.model.rank)
    shapes = {
        "entities": (scoring.entity_roles * entities, scoring.entity_width),
        "relations": (2 * relations, scoring.relation_width),
    }
    if _OWN[0] in checkpoint.tensors:
        shapes |= dict(zip(_OWN, shapes.values(), strict=True))
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
        config.prune.values,
        pair(_OWN),
    )
