"""A knowledge-graph model: its tables and masks, and the two models that score with them."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from metasd import kernels
from metasd.distributed import SINGLE_PROCESS, ProcessGrid
from metasd.errors import InputError

from .base import Scoring

Tables = tuple[Tensor, Tensor]
"""Of entities and of relations; or the masks of both."""


@dataclass
class Model:
    """Everything that a run trains; `source` and `compact` are the two models made of it.

    Attributes:
        entities: the source's table, fp32 (roles * N, d).
        relations: likewise, fp32 (2R, w), inverse relations in the second half.
        masks: packed words (see `kernels.pack_mask`) of both tables: the weights of the compact
            model; None while there is no compact model.
        weight_format: the levels that the compact model's entities are rounded to.
        relation_format: likewise its relations, unless its entities are not rounded at all.
        separate: entities and relations that the compact model trains for itself; None while its
            weights are the source's.
        processes: of a distributed run; each process holds the rows of its block of the
            `total_entities`.
    """

    scoring: Scoring
    entities: Tensor
    relations: Tensor
    masks: Tables | None = None
    weight_format: str = "fp32"
    separate: Tables | None = None
    processes: ProcessGrid = SINGLE_PROCESS
    total_entities: int | None = None
    relation_format: str = "int8"
    _compact: "ModelView | None" = field(default=None, repr=False)

    @staticmethod
    def create(
        scoring: Scoring,
        num_entities: int,
        num_relations: int,
        seed: int,
        weight_format: str = "fp32",
        processes: ProcessGrid = SINGLE_PROCESS,
        relation_format: str = "int8",
    ) -> "Model":
        """Small random tables: normal with a standard deviation of 1e-3, from `seed`."""
        generator = torch.Generator().manual_seed(seed)
        roles = scoring.entity_roles
        rows = processes.rows(num_entities, roles)
        return Model(
            scoring,
            _random_rows(roles * num_entities, scoring.entity_width, rows, generator),
            torch.randn(2 * num_relations, scoring.relation_width, generator=generator) * 1e-3,
            weight_format=weight_format,
            processes=processes,
            total_entities=num_entities,
            relation_format=relation_format,
        )

    def to(self, device: torch.device | str) -> "Model":
        """The same model on a device; tables that are there already are shared."""

        def moved(tables: Tables | None) -> Tables | None:
            return None if tables is None else (tables[0].to(device), tables[1].to(device))

        return Model(
            self.scoring,
            self.entities.to(device),
            self.relations.to(device),
            moved(self.masks),
            self.weight_format,
            moved(self.separate),
            self.processes,
            self.total_entities,
            self.relation_format,
        )

    @property
    def source(self) -> "ModelView":
        """The dense model."""
        return ModelView(self, (self.entities, self.relations), None, "fp32")

    @property
    def compact(self) -> "ModelView":
        """The model that a user ships: masked, rounded or both.

        Raises:
            InputError: there is none (yet).
        """
        if self.masks is None:
            raise InputError(
                "this model has no compact part: its train.objective is dense, or it stopped "
                "within compact.warmup_epochs"
            )
        if self._compact is None:
            self._compact = ModelView(self, self.compact_weights, self.masks, self.weight_format)
        return self._compact

    @property
    def views(self) -> dict[str, "ModelView"]:
        """The models that there are, by name: source and perhaps compact."""
        if self.masks is None:
            return {"source": self.source}
        return {"source": self.source, "compact": self.compact}

    @property
    def compact_weights(self) -> Tables:
        """The tables that the compact model's masks lie over: its own, or the source's."""
        return self.separate or (self.entities, self.relations)

    def changed(self) -> None:
        """To be called after tables or masks were written: drops the compact model's copies."""
        self._compact = None

    @property
    def device(self) -> torch.device:
        return self.entities.device

    @property
    def num_entities(self) -> int:
        """Entities of the graph, in all blocks."""
        if self.total_entities is not None:
            return self.total_entities
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

    def density(self) -> float:
        """Share of the weights that the mask keeps (1.0 without a mask)."""
        if self.masks is None:
            return 1.0
        entities, relations = (
            torch.tensor([int(kernels.unpack_mask(mask, table.shape[1]).sum()), table.numel()])
            for mask, table in zip(self.masks, (self.entities, self.relations), strict=True)
        )
        kept, total = map(int, self.processes.all_reduce_sum(entities) + relations)
        return kept / total


@dataclass(frozen=True)
class ModelView:
    """One of the two models: the tables that it trains, and those that it scores with.

    Attributes:
        model: what it is a view of.
        weights: the tables that an optimiser moves, before masks and rounding.
        masks: of both, or None for all ones.
        weight_format: what kept weights are rounded to.
    """

    model: Model = field(repr=False)
    weights: Tables = field(repr=False)
    masks: Tables | None = field(repr=False)
    weight_format: str

    @property
    def entities(self) -> Tensor:
        """The table that the model scores with, fp32 (roles * N, d); masked weights are zero."""
        return self._tables[0]

    @property
    def relations(self) -> Tensor:
        """Likewise, fp32 (2R, w)."""
        return self._tables[1]

    @cached_property
    def _tables(self) -> Tables:
        if self.masks is None or self.weight_format == "fp32":
            return self.masked
        entities, relations = self.weights
        return (
            kernels.quantize_rows(entities, self.masks[0], self.weight_format),
            kernels.quantize_rows(relations, self.masks[1], self.model.relation_format),
        )

    @property
    def masked(self) -> Tables:
        """The tables before rounding."""
        if self.masks is None:
            return self.weights
        (entities, relations), (entity_mask, relation_mask) = self.weights, self.masks
        return (
            kernels.apply_mask(entities, entity_mask),
            kernels.apply_mask(relations, relation_mask),
        )

    @property
    def num_entities(self) -> int:
        return self.model.num_entities

    @property
    def num_relations(self) -> int:
        """Relations of the graph, without inverses."""
        return self.model.num_relations

    def queries(self, heads: Tensor, relations: Tensor) -> Tensor:
        """Queries (B, d) of ids int64 (B,), inverse relations included.

        In a distributed run every process of the grid calls this with the same ids.
        """
        processes = self.model.processes
        rows = processes.row_index(heads, self.num_entities).gather(self.entities, None)
        own = self.model.scoring.query(rows, self.relations[processes.shard_slice(relations)])
        return processes.all_gather(own, len(heads))


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
