"""A knowledge-graph model: tables, masks, and the two models that share them."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metasd import kernels

from .errors import InputError
from .models import Scoring
from .sharding import ALONE, Shards


@dataclass
class Model:
    """Entity and relation tables of a source model, and the masks that make the pruned one.

    `entities` fp32 (roles * N, d) and `relations` fp32 (2R, w), inverse relations in the second
    half. `masks` are packed words (see `kernels.pack_mask`) of both tables, or None while nothing
    is pruned. `values` is what the pruned model sees of the kept weights (see `prune.values`), and
    `own` are the weights that it has for itself, entities and relations, or None: the source's.
    Of several processes (`shards`) each has the rows of its own block of `entities_in_all`.
    """

    scoring: Scoring
    entities: Tensor
    relations: Tensor
    masks: tuple[Tensor, Tensor] | None = None
    values: str = "fp32"
    own: tuple[Tensor, Tensor] | None = None
    shards: Shards = ALONE
    entities_in_all: int | None = None
    _pruned: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    @staticmethod
    def create(
        scoring: Scoring,
        num_entities: int,
        num_relations: int,
        seed: int,
        values: str = "fp32",
        shards: Shards = ALONE,
    ) -> "Model":
        """Small random tables: normal with a standard deviation of 1e-3, from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        roles = scoring.entity_roles
        rows = shards.rows(num_entities, roles)
        return Model(
            scoring,
            _random_rows(roles * num_entities, scoring.entity_width, rows, generator),
            torch.randn(2 * num_relations, scoring.relation_width, generator=generator) * 1e-3,
            values=values,
            shards=shards,
            entities_in_all=num_entities,
        )

    @property
    def device(self) -> torch.device:
        return self.entities.device

    def to(self, device: torch.device | str) -> "Model":
        """The same model on a device; tables that are there already are shared."""

        def pair(tensors: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
            return None if tensors is None else (tensors[0].to(device), tensors[1].to(device))

        return Model(
            self.scoring,
            self.entities.to(device),
            self.relations.to(device),
            pair(self.masks),
            self.values,
            pair(self.own),
            self.shards,
            self.entities_in_all,
        )

    @property
    def num_entities(self) -> int:
        """Entities of the graph, in all blocks."""
        if self.entities_in_all is not None:
            return self.entities_in_all
        return self.entities.shape[0] // self.scoring.entity_roles

    @property
    def num_relations(self) -> int:
        """Relations of the graph, without inverses."""
        return self.relations.shape[0] // 2

    @property
    def tail_offset(self) -> int:
        """The row of the block's first entity as a tail."""
        roles = self.scoring.entity_roles
        return self.entities.shape[0] // roles * (roles - 1)

    def candidates(self, table: Tensor) -> Tensor:
        """The rows of an entity table (or of its mask) that are scored as tails, (N, ...)."""
        return table[self.tail_offset :]

    def tables(self, pruned: bool) -> tuple[Tensor, Tensor]:
        """(entities, relations) that a model scores with; the pruned ones have exact zeros.

        Of several shards each has its own block of the entities.
        """
        if not pruned:
            return self.entities, self.relations
        if self._pruned is None and self.values == "fp32":
            self._pruned = self.weights(pruned=True)
        elif self._pruned is None:
            (entities, relations), (entity_mask, relation_mask) = self.underlying, self._masks()
            self._pruned = (
                kernels.quantize_rows(entities, entity_mask, self.values),
                kernels.quantize_rows(relations, relation_mask, "int8"),  # they are few
            )
        return self._pruned

    @property
    def underlying(self) -> tuple[Tensor, Tensor]:
        """The tables that the pruned model's masks lie over."""
        return self.own or (self.entities, self.relations)

    def weights(self, pruned: bool) -> tuple[Tensor, Tensor]:
        """The tables before `values` rounds them."""
        if not pruned:
            return self.entities, self.relations
        (entities, relations), (entity_mask, relation_mask) = self.underlying, self._masks()
        return kernels.apply_mask(entities, entity_mask), kernels.apply_mask(
            relations, relation_mask
        )

    def _masks(self) -> tuple[Tensor, Tensor]:
        if self.masks is None:
            raise InputError(
                "this model has no pruned part: its train.objective is dense, or it stopped within "
                "prune.warmup_epochs"
            )
        return self.masks

    def changed(self) -> None:
        """To be called after the tables or masks were written: forgets the pruned tables."""
        self._pruned = None

    def queries(self, heads: Tensor, relations: Tensor, pruned: bool) -> Tensor:
        """(B, d), from ids int64 (B,); of several shards all ask at once."""
        entity_table, relation_table = self.tables(pruned)
        rows = self.shards.route(heads, self.num_entities).gather(entity_table, None)
        mine = self.scoring.query(rows, relation_table[self.shards.mine(relations)])
        return self.shards.shared(mine, len(heads))

    def density(self) -> float:
        """Share of the weights that the mask keeps (1.0 without a mask)."""
        if self.masks is None:
            return 1.0
        entities, relations = (
            torch.tensor([int(kernels.unpack_mask(mask, table.shape[1]).sum()), table.numel()])
            for mask, table in zip(self.masks, (self.entities, self.relations), strict=True)
        )
        kept, total = map(int, self.shards.over_shards(entities) + relations)
        return kept / total


_ROWS_AT_A_TIME = 1 << 12


def _random_rows(count: int, width: int, wanted: list[range], generator: torch.Generator) -> Tensor:
    """Some ranges of the rows of a random table (count, width), which is never held whole.

    PyTorch makes such numbers 16 at a time if there are 16: only then do parts make up a whole.
    """
    out, place = torch.empty(sum(map(len, wanted)), width), 0
    parts = max(count // _ROWS_AT_A_TIME, 1)
    for i in range(parts):
        first, last = i * _ROWS_AT_A_TIME, (i + 1) * _ROWS_AT_A_TIME if i + 1 < parts else count
        made = torch.randn(last - first, width, generator=generator) * 1e-3
        for rows in wanted:
            part = made[max(rows.start - first, 0) : max(rows.stop - first, 0)]
            out[place : place + len(part)] = part
            place += len(part)
    return out


def check_fraction(model: Model, prune_fraction: float, granularity: str) -> None:
    """InputError if masks of this granularity would keep nothing."""
    entities, relations = model.entities, model.relations
    total, what = {
        "weight": (entities.numel() + relations.numel(), "weights"),
        "row": (min(entities.shape[1], relations.shape[1]), "weights of a row"),
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
    entities, relations = model.underlying
    roles = entities.chunk(model.scoring.entity_roles)  # blocks of heads, then blocks of tails
    *entity_masks, relation_mask = kernels.topk_mask(
        [*roles, relations],
        prune_fraction,
        granularity,
        group=model.shards.group,
        sharded=[True] * len(roles) + [False],
    )
    return torch.cat(entity_masks), relation_mask


def _column_masks(model: Model, prune_fraction: float) -> tuple[Tensor, Tensor]:
    """Whole coordinates, the same in both tables: the largest by mean |e|^2 * mean |r|^2."""
    scoring = model.scoring
    if scoring.relation_width != scoring.entity_width:
        raise InputError(
            f"prune.granularity = column needs relations that act coordinate by coordinate; "
            f"{scoring.name} has {scoring.relation_width} numbers a relation"
        )
    entities, relations = model.underlying
    squares = model.shards.over_shards(scoring.squares(entities).sum(0, dtype=torch.float64))
    energy = squares * scoring.squares(relations).mean(0)
    keep = scoring.rank - math.ceil(prune_fraction * scoring.rank)
    kept = torch.zeros(scoring.rank, dtype=torch.bool, device=model.device)
    kept[energy.argsort(descending=True, stable=True)[:keep]] = True
    columns = kept.repeat(scoring.entity_width // scoring.rank)
    words = kernels.pack_mask(columns[None])
    return (
        words.repeat(model.entities.shape[0], 1),
        words.repeat(model.relations.shape[0], 1),
    )
