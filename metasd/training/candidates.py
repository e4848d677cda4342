"""Training on candidates: a step gathers the few rows that it touches, and trains those alone.

The candidates of a step are the answers of its batch (and quiz), and entities drawn from all others
uniformly and without replacement. Every loss is over them, by the operations that are otherwise
over all entities. An answer counts as itself; one of k entities that were drawn from n counts as
n / k in every sum of a softmax. So each sum has the expectation of that over all entities, whatever
the batch (stratified sampling, known as log-Q correction: Bengio & Senecal, 2008). Other known
answers of a query count like any entity, as they do over all of them.

Neither time nor memory of a step depends on the number of entities: the rows of heads and of
candidates make up a small model, on which `Step` does what it always does, and Adagrad writes those
rows. What is drawn is a function of seed, epoch and step; of several processes, each takes those of
its block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metasd import kernels
from metasd.data.sorting import IntArray, distinct
from metasd.models.model import Model, Tables

from . import sampling
from .parts import Batch, Gradients
from .schedule import Phase
from .step import Step

if TYPE_CHECKING:
    from metasd.config import Config

AUTO_FROM = 100_000
"""Entities from which `train.candidates = auto` trains on candidates."""

_AUTO = 4
"""Candidates per triple of a batch, with `auto`."""

_DRAWN = 4
"""A quarter of the candidates are drawn at least, however many answers there are."""


def wanted(config: "Config", entities: int) -> int | None:
    """Candidates of a step by `train.candidates`; None: all entities are."""
    count, batch = config.train.candidates, config.train.batch_size
    if count == "auto":
        count = _AUTO * batch if entities >= max(AUTO_FROM, 2 * _AUTO * batch) else "all"
    return None if count == "all" or int(count) >= entities else int(count)


def scored(config: "Config", entities: int) -> int:
    """The most entities that a step scores, for an estimate."""
    count = wanted(config, entities)
    if count is None:
        return entities
    batch = config.train.batch_size
    quiz = config.distill.quiz_batch_size or batch
    answers = batch + (quiz if config.train.objective == "metasd" else 0)
    return min(max(count, answers + _drawn_at_least(count)), entities)


def _drawn_at_least(count: int) -> int:
    return -(-count // _DRAWN)


def draw(answers: IntArray, entities: int, count: int, key: int) -> IntArray:
    """`count` of the entities 0 .. entities - 1 that are no answers, uniformly, none of them twice.

    Args:
        answers: rising.
    """
    left = entities - len(answers)
    generator = np.random.Generator(np.random.Philox(key=key))
    places = generator.choice(left, min(count, left), replace=False, shuffle=False)
    places.sort()
    before = answers - np.arange(len(answers))  # how many others lie before an answer
    drawn: IntArray = places + np.searchsorted(before, places, side="right")
    return drawn


@dataclass
class RowsModel(Model):
    """Some rows of a model's tables: those of `heads` that are no candidates, then candidates."""

    heads: int = 0

    @property
    def tail_offset(self) -> int:
        return self.heads


class TouchedRows:
    """The rows of a model's block that a step reads and writes.

    Attributes:
        index: rows of the entity table, int64 (heads + candidates,), none of them twice.
        heads: how many of them, the first ones, are heads alone.
        first: the number of the first candidate among those of all blocks.
        multiplicity: how many entities each candidate counts as, fp32.
    """

    def __init__(
        self, model: Model, heads: Sequence[Tensor], tails: Sequence[Tensor], count: int, key: int
    ) -> None:
        self._model, block = model, model.processes.block(model.num_entities)
        answers = _unique(tails)
        others = max(count - len(answers), _drawn_at_least(count))
        drawn = draw(answers, model.num_entities, others, key)
        candidates = np.concatenate([answers, drawn])
        counts = np.ones(len(candidates), np.float32)
        counts[len(answers) :] = (model.num_entities - len(answers)) / max(len(drawn), 1)
        order = candidates.argsort()
        here = _within(block, candidates[order])
        candidates = candidates[order][here] - block.start + model.tail_offset
        alone = _unique(heads)
        alone = alone[_within(block, alone)] - block.start
        alone = alone[~np.isin(alone, candidates)]
        index = np.concatenate([alone, candidates])
        places = index.argsort()
        self.heads, self.first = len(alone), here.start
        self.index, self.multiplicity, self._order, self._sorted = (
            torch.from_numpy(x).to(model.device)
            for x in (index, counts[order][here], places, index[places])
        )

    def gather(self) -> RowsModel:
        """The small model; its relations are those of the whole one."""
        model = self._model

        def rows(tables: Tables | None) -> Tables | None:
            return None if tables is None else (self.rows(tables[0]), tables[1])

        masks = model.masks
        return RowsModel(
            model.scoring,
            self.rows(model.entities),
            model.relations,
            None if masks is None else (masks[0][self.index], masks[1]),
            model.weight_format,
            rows(model.separate),
            model.processes,
            model.num_entities,
            heads=self.heads,
        )

    def rows(self, table: Tensor) -> Tensor:
        return kernels.masked_rows(table, None, self.index)

    def renumbered(self, batch: Batch) -> Batch:
        """A batch whose rows are those of the small model."""
        offset = self._model.tail_offset
        targets = batch.targets
        here = (targets >= 0) & (targets < self._model.entities.shape[0] - offset)
        places = self._places(torch.where(here, targets, 0) + offset) - self.heads
        return batch._replace(
            heads=batch.heads.renumbered(self._places),
            tails=batch.tails.renumbered(self._places),
            targets=torch.where(here, places, -1),
        )

    def _places(self, rows: Tensor) -> Tensor:
        at = torch.searchsorted(self._sorted, rows)
        return self._order[at.clamp_(max=len(self._order) - 1)]


def _unique(columns: Sequence[Tensor]) -> IntArray:
    return distinct(torch.cat(list(columns)).cpu().numpy())


def _within(block: slice, entities: IntArray) -> slice:
    """Where those of a block lie among rising entities."""
    first, last = np.searchsorted(entities, [block.start, block.stop])
    return slice(int(first), int(last))


class CandidateStep(Step):
    """A step on candidates: `Step`, on the rows that it touches."""

    def __init__(
        self, model: Model, config: "Config", entity_weights: Tensor | None, count: int
    ) -> None:
        super().__init__(model, config, entity_weights)
        self.threshold = sampling.threshold(config, count, model.device)  # of the scored rows
        self._count = count
        self._touched: TouchedRows | None = None

    def __call__(self, phase: Phase, batch: Batch, quiz: Batch | None) -> dict[str, Tensor]:
        model, weights, first = self.model, self.entity_weights, self.first_entity
        teachers = self.teachers
        batches = [batch] if quiz is None else [batch, quiz]
        key = sampling.key(batch.key, "candidates")
        heads, tails = ([b.ends[i] for b in batches] for i in (0, 1))
        touched = TouchedRows(model, heads, tails, self._count, key)
        self._touched, self.model = touched, touched.gather()
        self.teachers = [(touched.rows(table), relations) for table, relations in teachers]
        self.multiplicity = touched.multiplicity.to(model.entities.dtype)
        self.first_entity = touched.first
        if weights is not None:
            candidates = touched.index[touched.heads :] - model.tail_offset
            self.entity_weights = weights[candidates]
        try:
            return super().__call__(
                phase,
                touched.renumbered(batch),
                None if quiz is None else touched.renumbered(quiz),
            )
        finally:
            self.model, self.entity_weights, self.first_entity = model, weights, first
            self.teachers = teachers
            self.multiplicity = self._touched = None
            model.changed()

    def _apply(self, optimizer: torch.optim.Optimizer, gradients: Gradients, batch: Batch) -> None:
        if self._touched is None:
            super()._apply(optimizer, gradients, batch)
            return
        self._sum(gradients, batch)
        group = optimizer.param_groups[0]
        entities, relations = group["params"]
        own = self.model.separate if optimizer is self.compact_optimizer else None
        rows = self.model.entities if own is None else own[0]
        sums = optimizer.state[entities]["sum"]
        kernels.adagrad_rows(
            rows, entities, sums, self._touched.index, gradients.entities, group["lr"]
        )
        relations.grad = gradients.relations
        optimizer.step()  # of the relations alone
        relations.grad = None
        self.model.changed()


def step_of(model: Model, config: "Config", entity_weights: Tensor | None) -> Step:
    """The step that `train.candidates` asks for."""
    count = wanted(config, model.num_entities)
    if count is None:
        return Step(model, config, entity_weights)
    return CandidateStep(model, config, entity_weights, count)
