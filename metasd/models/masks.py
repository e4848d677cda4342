"""Which weights the compact model keeps: magnitude masks by weight, row or coordinate."""

import math

import torch
from torch import Tensor

from metasd import kernels
from metasd.errors import InputError

from .model import Model
from .regularizers import squares


def check_fraction(model: Model, prune_fraction: float, granularity: str) -> None:
    """InputError if masks of this granularity would keep nothing."""
    entities, relations = model.entities, model.relations
    total, what = {
        "weight": (entities.numel() + relations.numel(), "weights"),
        "row": (min(entities.shape[1], relations.shape[1]), "weights per row"),
        "column": (model.scoring.rank, "coordinates"),
    }[granularity]
    if math.ceil(prune_fraction * total) >= total:
        raise InputError(
            f"prune.fraction = {prune_fraction} with prune.granularity = {granularity} keeps none "
            f"of {total} {what}"
        )


def draw_masks(model: Model, prune_fraction: float, granularity: str) -> tuple[Tensor, Tensor]:
    """The magnitude masks of both tables, by `prune.granularity`: weight, row or column."""
    if granularity == "column":
        return _column_masks(model, prune_fraction)
    entities, relations = model.compact_weights
    roles = entities.chunk(model.scoring.entity_roles)  # blocks of heads, then blocks of tails
    *entity_masks, relation_mask = kernels.topk_mask(
        [*roles, relations],
        prune_fraction,
        granularity,
        group=model.processes.group,
        sharded=[True] * len(roles) + [False],
    )
    return torch.cat(entity_masks), relation_mask


def _column_masks(model: Model, prune_fraction: float) -> tuple[Tensor, Tensor]:
    """Whole coordinates, the same in both tables: the largest by mean |e|^2 * mean |r|^2."""
    scoring = model.scoring
    if scoring.matrix_relations:
        raise InputError(
            f"prune.granularity = column needs relations that act coordinate by coordinate; "
            f"{scoring.name} has {scoring.relation_width} numbers per relation"
        )
    entities, relations = model.compact_weights
    own = squares(scoring, entities).sum(0, dtype=torch.float64)
    energy = model.processes.all_reduce_sum(own) * squares(scoring, relations).mean(0)
    keep = scoring.rank - math.ceil(prune_fraction * scoring.rank)
    kept = torch.zeros(scoring.rank, dtype=torch.bool, device=model.device)
    kept[energy.argsort(descending=True, stable=True)[:keep]] = True
    columns = kept.repeat(scoring.entity_width // scoring.rank)
    words = kernels.pack_mask(columns[None])
    return (
        words.repeat(model.entities.shape[0], 1),
        words.repeat(model.relations.shape[0], 1),
    )
