"""What learns in a run: the model, its step, and the order of its batches."""

import math
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from metasd import _C
from metasd.config import Config
from metasd.data.batches import Epoch, Order, QueryOrder, entity_weights, split_quiz
from metasd.data.graph import Graph
from metasd.distributed import SINGLE_PROCESS, ProcessGrid
from metasd.environment import training_device
from metasd.errors import InputError
from metasd.models.base import Scoring
from metasd.models.masks import check_fraction, draw_masks
from metasd.models.model import Model

from . import candidates, sampling, schedule
from .checkpoint import Checkpoint, Layout, restore_model
from .parts import Batch
from .warm_start import WarmStart, check_sources, take_source

_TIMED, _TIMED_SECONDS = 10, 2.0
"""Steps that are timed, and after how many seconds no other begins."""


class Learner:
    """A model on a graph, with all that a step of it needs. It writes nothing.

    A `rough` one takes its shortcuts in every epoch, also where a run does not
    (`schedule.is_exact`): good enough to compare settings.
    """

    def __init__(
        self,
        graph: Graph,
        config: Config,
        processes: ProcessGrid = SINGLE_PROCESS,
        *,
        rough: bool = False,
    ) -> None:
        self._rough = rough
        self.graph, self.config, self.processes = graph, config, processes
        if graph.num_entities < processes.shards:
            raise InputError(
                f"{graph.num_entities} entities are too few for {processes.shards} shards"
            )
        if len(graph.train) < 2:
            raise InputError(
                f"{graph.name} has {len(graph.train)} train triples; at least 2 are needed"
            )
        self.device = training_device(config.train.device)
        quiz = config.distill
        held_out = quiz.quiz_held_out and config.train.objective == "metasd"
        self.triples, self.quiz = split_quiz(
            graph, quiz.quiz_fraction, config.train.seed, self.device, held_out=held_out
        )
        scoring = Scoring.named(config.model.name)(config.model.rank)
        self.layout = Layout(processes, graph.num_entities, scoring.entity_roles)
        self.model = Model.create(
            scoring,
            graph.num_entities,
            graph.num_relations,
            config.train.seed,
            config.compact.weight_format,
            processes,
            config.compact.relation_format,
        ).to(self.device)
        if config.train.objective != "dense":
            check_fraction(self.model, config.prune.fraction, config.prune.granularity)
        self.start_step()
        _C.keep_freed_memory()  # a step frees and allocates the same blocks over and over

    def start_step(self) -> None:
        weights = None
        if self.config.train.entity_weights:
            block = self.processes.block(self.graph.num_entities)
            weights = entity_weights(self.graph)[block].to(self.device)
        self.step = candidates.step_of(self.model, self.config, weights)
        asked = self.config.train.triples_per_query
        if asked == "auto" and len(self.triples) > sampling.MOST_SORTED:
            self.step.triples_per_query = 1

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.triples) / self.config.train.batch_size)

    def begin(self, start: WarmStart | None = None) -> None:
        """Takes over the source of `compact.source`, or the rows of a warm start."""
        if start is not None:
            start.fill(self.model, self.config, self.graph)
        check_sources(self.config, self.graph)
        if self.config.compact.source is not None:
            take_source(self.model, self.step, self.config, self.graph, self.layout)

    def restored(self, checkpoint: Checkpoint) -> Model:
        graph = self.graph
        return restore_model(
            checkpoint, self.config, graph.num_entities, graph.num_relations, self.processes
        )

    def update_masks(self, epoch: int) -> None:
        """Unties weights that are to be separate, and draws the masks where they are due."""
        prune = self.config.prune
        phase = schedule.phase(self.config, epoch)
        if phase is schedule.Phase.SOURCE:
            return
        if phase is schedule.Phase.SEPARATE and self.model.separate is None:
            self.step.untie_weights()
        if schedule.is_mask_due(self.config, epoch) or self.model.masks is None:
            fraction = schedule.prune_fraction(self.config, epoch)
            self.model.masks = draw_masks(self.model, fraction, prune.granularity)
            self.model.changed()

    def batches(self, epoch: int) -> Callable[[int], tuple[Batch, Batch | None]]:
        """The epoch's batches by step; the order is a function of seed and epoch alone."""
        settings, step = self.config.train, self.step
        exact = self._is_exact(epoch)
        generator = torch.Generator().manual_seed((settings.seed << 24) + epoch + 1)
        count = len(self.triples)
        order: Order | QueryOrder = Order(count, generator)
        if step.triples_per_query > 1 and not exact:
            order = QueryOrder(self.triples.queries(), step.triples_per_query, generator)
        triples = Epoch(self.triples, order, count, settings.batch_size)

        def batch(of: Epoch, at: int) -> Batch:
            return step.batch(*of.columns(at), sampling.key(settings.seed, epoch, at), exact=exact)

        if settings.objective != "metasd":
            return lambda at: (batch(triples, at), None)
        quiz_size = min(self.config.distill.quiz_batch_size or settings.batch_size, len(self.quiz))
        length = self.steps_per_epoch * quiz_size
        quiz = Epoch(self.quiz, Order(len(self.quiz), generator), length, quiz_size)
        return lambda at: (batch(triples, at), batch(quiz, at))

    def _is_exact(self, epoch: int) -> bool:
        return not self._rough and schedule.is_exact(self.config, epoch)

    def steps(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Trains the steps of an epoch at the rates that they have in a run; yields losses."""
        self.update_masks(epoch)
        phase, batches = schedule.phase(self.config, epoch), self.batches(epoch)
        for step in range(self.steps_per_epoch):
            done = epoch + step / self.steps_per_epoch
            self.step.set_lr_factor(schedule.lr_factor(self.config, epoch, done))
            yield self.step(phase, *batches(step))

    def seconds(self, first: int, epochs: float) -> float:
        """About the time of so many epochs from `first` on, whose steps do the same but for
        `schedule.is_exact`: from a few that it trains.
        """
        exact = min(epochs, 1.0) if self._is_exact(first) else 0.0
        found = 0.0
        if exact:
            found += exact * self.steps_per_epoch * self._seconds_per_step(first)
        if epochs > exact:
            others = self._seconds_per_step(first + 1 if exact else first)
            found += (epochs - exact) * self.steps_per_epoch * others
        return found

    def _seconds_per_step(self, epoch: int) -> float:
        """The median time of some of an epoch's steps, which it trains: those of a second or so."""
        times: list[float] = []
        start = last = time.perf_counter()
        for losses in self.steps(epoch):
            float(next(iter(losses.values())))  # waits for a GPU
            now = time.perf_counter()
            times.append(now - last)
            last = now
            if len(times) > _TIMED or now - start > _TIMED_SECONDS:
                break
        return statistics.median(times[1:] or times)  # the first one warms up
