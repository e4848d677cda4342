"""The trainer: epochs of steps, masks, validation, checkpoints, and how a run is resumed."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metasd import _C
from metasd.config import Config
from metasd.data.batches import Epoch, Order, entity_weights, split_quiz
from metasd.data.graph import Graph
from metasd.data.load import as_graph
from metasd.distributed import SINGLE_PROCESS, ProcessGrid
from metasd.environment import peak_memory, training_device, versions
from metasd.errors import Diverged, InputError, error_context
from metasd.evaluation import evaluate
from metasd.files import lock, write_text
from metasd.models.base import Scoring
from metasd.models.masks import check_fraction, draw_masks
from metasd.models.model import Model, ModelView

from . import schedule
from .checkpoint import MODEL_TENSORS, Checkpoint, Layout, model_tensors, restore_model
from .progress import Progress
from .run import Run, RunFolder
from .step import Batch, Step
from .stop_signal import Signals
from .tensorboard import Events


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint holds everything up to the last whole step."""


def train(
    graph: Graph | str | os.PathLike[str],
    config: Config | Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    *,
    processes: ProcessGrid = SINGLE_PROCESS,
) -> Run:
    """Trains a source and a compact model on a graph and evaluates both.

    Args:
        graph: the graph, or its name or path (see `load_graph`).
        config: every setting, or those that differ from `Config()`, by dotted key.
        run_dir: the run folder, which must not exist yet; by default the first free
            `runs/<graph>-<n>`.
        processes: this process's place among several (`distributed.start`), all of which call this.

    Returns:
        The finished run; its model is the best one by `eval.metric` on valid, of several processes
        each with its own block of entities.

    Raises:
        InputError: the folder exists, the graph is too small, a loss became NaN, the disk is full.
        Interrupted: SIGINT or SIGTERM; `resume` continues to the same weights.
    """
    if not isinstance(config, Config):
        config = Config().override(config or {})
    graph = as_graph(graph)
    folder = RunFolder(run_dir if run_dir is not None else free_run_dir(graph))
    folder.check_new()
    trainer = Trainer(graph, config, folder, processes)  # all have looked before one makes it
    trainer.begin()
    if processes.is_main:
        folder.create(graph, config)
    with _alone_in(folder, processes):
        return trainer.run()


def resume(
    run_dir: str | Path,
    settings: Sequence[str] = (),
    graph: Graph | str | None = None,
    data_dir: str | Path | None = None,
    *,
    processes: ProcessGrid = SINGLE_PROCESS,
) -> Run:
    """Continues a run from its last checkpoint, to the same weights as if it had never stopped.

    Args:
        settings: `key=value` changes to `train.epochs`, `train.max_steps`, `eval.every`,
            `eval.patience`, `checkpoint.*`; everything else makes the weights what they are.
        graph: the run's graph, or its new name or path; needed only if it cannot be loaded again
            as it was.
        processes: as in `train`; their number may be another than before.
    """
    folder = RunFolder(run_dir)
    folder.require()
    stored = Config.load(folder.config)
    config = stored.override(settings)
    frozen = _frozen(stored)
    if changed := [k for k, v in config.flat().items() if k in frozen and v != frozen[k]]:
        if changed == ["train.epochs"]:
            raise InputError(
                "train.epochs cannot change within this run: train.decay or compact.warmup_epochs is "
                "a share of it; start a new one"
            )
        raise InputError(f"{', '.join(changed)} cannot change within a run; start a new one")
    if isinstance(graph, Graph):
        folder.check_graph(graph)
    else:
        graph = folder.load_graph(data_dir, graph)
    with _alone_in(folder, processes):
        trainer = Trainer(graph, config, folder, processes)
        if folder.last.exists() or folder.best.exists() or folder.metrics.exists():
            trainer.restore(Checkpoint.load(folder.last, layout=trainer.layout))
            if trainer.position.best is not None:  # the last evaluation needs it: look now
                Checkpoint.load(folder.best, MODEL_TENSORS, trainer.layout)
        else:  # stopped before the first checkpoint: anew
            trainer.begin()
            if processes.is_main:
                folder.truncate_history(0)
        if settings and processes.is_main:
            config.save(folder.config)
        return trainer.run()


def check_source(config: Config, graph: Graph) -> None:
    """Raises InputError where the run that `compact.source` names is none for this one."""
    if config.compact.source is None:
        return
    folder = RunFolder(config.compact.source)
    folder.require()
    with error_context("compact.source"):
        folder.check_graph(graph)
    if (theirs := Config.load(folder.config).model) != (ours := config.model):
        raise InputError(
            f"{folder.path} (compact.source) is {theirs.name} of rank {theirs.rank}; "
            f"this run is {ours.name} of rank {ours.rank}"
        )


def _alone_in(folder: RunFolder, processes: ProcessGrid) -> AbstractContextManager[None]:
    return lock(folder.path) if processes.is_main else nullcontext()


def free_run_dir(graph: Graph) -> Path:
    """The first `runs/<graph>-<n>` that does not exist."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in graph.name)
    n = 1
    while (path := Path("runs") / f"{name}-{n}").exists():
        n += 1
    return path


def _frozen(config: Config) -> dict[str, Any]:
    """The settings that change the weights after a given number of steps."""
    by_share = config.train.decay > 0 or 0 < config.compact.warmup_epochs < 1
    free = _FREE[by_share:]
    return {
        key: value
        for key, value in config.flat().items()
        if key not in free and not key.startswith("checkpoint.")
    }


_SAVE, _STOP = 1, 2  # what a process may wish for: all do what the most urgent wish is

_LOOK_SECONDS = 0.2
"""A GPU is not waited for more often."""

_FREE = ("train.epochs", "train.max_steps", "eval.every", "eval.patience")
"""What may change within a run; the first, unless other settings are shares of it."""


@dataclass
class Position:
    """How far a run has come: what a checkpoint holds beside tensors."""

    epoch: int = 0  # finished epochs
    step: int = 0  # steps done of the next one
    total_steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # losses of the epoch so far
    seconds: float = 0.0  # of the epoch so far
    best: float | None = None
    best_epoch: int = 0
    without_gain: int = 0  # validations since the best
    stopped: bool = False


class Trainer:
    """One run: model, data order, position. `run()` trains from wherever the position is."""

    def __init__(
        self,
        graph: Graph,
        config: Config,
        folder: RunFolder,
        processes: ProcessGrid = SINGLE_PROCESS,
    ) -> None:
        self.graph, self.config, self.folder, self.processes = graph, config, folder, processes
        if processes is not SINGLE_PROCESS:
            processes.check_same("settings", json.dumps(config.flat()))
            processes.check_same("run folder", os.fspath(folder.path))
            processes.check_same("graph", graph.digest)
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
        ).to(self.device)
        if config.train.objective != "dense":
            check_fraction(self.model, config.prune.fraction, config.prune.granularity)
        self.position = Position()
        self._start_step()
        _C.keep_freed_memory()  # a step frees and allocates the same blocks over and over

    def _start_step(self) -> None:
        weights = None
        if self.config.train.entity_weights:
            block = self.processes.block(self.graph.num_entities)
            weights = entity_weights(self.graph)[block].to(self.device)
        self.step = Step(self.model, self.config, weights)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.triples) / self.config.train.batch_size)

    def begin(self) -> None:
        """Takes over the best source of `compact.source`, with the last state of its optimiser."""
        if self.config.compact.source is None:
            return
        folder = RunFolder(self.config.compact.source)
        check_source(self.config, self.graph)
        checkpoint = Checkpoint.load(folder.last, layout=self.layout)
        best = checkpoint
        if folder.best.exists():
            best = Checkpoint.load(folder.best, MODEL_TENSORS, self.layout)
        source = self._restored(best)
        self.model.entities.copy_(source.entities)
        self.model.relations.copy_(source.relations)
        for key, tensor in self._optimizer_tensors().items():
            if key.startswith("adagrad."):
                tensor.copy_(checkpoint.tensors[key])

    def _restored(self, checkpoint: Checkpoint) -> Model:
        graph = self.graph
        return restore_model(
            checkpoint, self.config, graph.num_entities, graph.num_relations, self.processes
        )

    # The loop

    def run(self) -> Run:
        self.known = self.graph.known()
        position = self.position
        if self.processes.is_main:
            self.folder.truncate_history(position.epoch)
            self._events = Events(self.folder.events, position.epoch)
        self.processes.barrier()
        quiet = not self.processes.is_main
        with (
            Progress(self.config.train.epochs, position.epoch, quiet) as progress,
            Signals() as signals,
        ):
            self._progress, self._signals = progress, signals
            while not position.stopped:
                self._epoch()
            return self._finish()

    def _epoch(self) -> None:
        position, settings = self.position, self.config.train
        phase = schedule.phase(self.config, position.epoch)
        if position.step == 0:
            self.update_masks()
        self._looked = time.perf_counter()
        batches = self.batches(position.epoch)
        self._progress.epoch(position.epoch, self.steps_per_epoch, position.step)
        unseen: list[dict[str, Tensor]] = []  # losses that have not been looked at
        last_save = time.monotonic()
        limit = settings.max_steps or sys.maxsize
        for step in range(position.step, self.steps_per_epoch):
            if position.total_steps >= limit:
                break
            late = time.monotonic() - last_save > 60 * self.config.checkpoint.minutes
            wish = self.processes.all_reduce_max(
                _STOP if self._signals.received else _SAVE if late else 0
            )
            if wish:
                self._look(unseen)
                self._save(self.folder.last)
                last_save, self._looked = time.monotonic(), time.perf_counter()
                if wish == _STOP:
                    raise Interrupted(f"stopped in epoch {position.epoch + 1}, step {step}")
            self.step.set_lr_factor(
                schedule.lr_factor(self.config, position.epoch, self._epochs_done)
            )
            unseen.append(self.step(phase, *batches(step)))
            position.step, position.total_steps = step + 1, position.total_steps + 1
            if time.perf_counter() - self._looked > _LOOK_SECONDS:
                self._look(unseen)
        self._look(unseen)
        self._end_epoch()

    def _look(self, unseen: list[dict[str, Tensor]]) -> None:
        """Waits for the steps since the last look; takes their time and their losses."""
        position = self.position
        if not unseen:
            return
        rows = torch.stack([torch.stack(list(losses.values())) for losses in unseen]).tolist()
        now = time.perf_counter()
        position.seconds += now - self._looked
        self._looked = now
        for i, row in enumerate(rows, 1):
            losses = dict(zip(unseen[0], row, strict=True))
            for name, loss in losses.items():
                if not math.isfinite(loss):
                    step = position.step - len(unseen) + i
                    raise self._diverged(f"the {name} loss", f", step {step}")
                position.sums[name] = position.sums.get(name, 0.0) + loss
        speed = self.config.train.batch_size * position.step / position.seconds
        self._progress.step(losses, len(unseen), speed)
        unseen.clear()

    def _end_epoch(self) -> None:
        position, settings = self.position, self.config.train
        steps = position.step
        rows = min(steps * settings.batch_size, len(self.triples))
        record: dict[str, Any] = {
            "epoch": position.epoch + 1,
            **{f"loss/{name}": total / max(steps, 1) for name, total in position.sums.items()},
            "seconds": position.seconds,
            "steps": steps,
            "triples_per_second": rows / position.seconds if position.seconds else 0.0,
            "peak_memory_bytes": self.processes.all_reduce_max(peak_memory(self.device)),
            "prune_fraction": schedule.prune_fraction(self.config, position.epoch),
        }
        position.epoch, position.step, position.sums, position.seconds = (
            position.epoch + 1,
            0,
            {},
            0.0,
        )
        position.stopped = position.epoch >= settings.epochs or position.total_steps >= (
            settings.max_steps or sys.maxsize
        )
        tables = (self.model.entities, self.model.relations)
        if self.processes.all_reduce_max(not all(bool(table.isfinite().all()) for table in tables)):
            raise self._diverged("a weight")
        if position.epoch % self.config.eval.every == 0 or position.stopped:
            self._validate(record)
        if self.processes.is_main:
            self.folder.append_history(record)
        if position.epoch % self.config.checkpoint.every == 0 or position.stopped:
            self._save(self.folder.last)
        self._progress.end_epoch(record)
        if self.processes.is_main:
            self._events.add(record)

    def _validate(self, record: dict[str, Any]) -> None:
        """Adds valid metrics to the record; keeps the best model; counts towards the patience."""
        position, settings = self.position, self.config.eval
        if len(self.graph.valid):
            for name, view in self.model.views.items():
                found = self._evaluate("valid", view, f"valid {name}")
                record[f"valid/{name}"] = {
                    k: found[k] for k in ("mrr", "mr", "hits@1", "hits@3", "hits@10")
                }
            model, _, metric = self._chosen_by().partition(".")
            score = float(record[f"valid/{model}"][metric])
        else:
            score = float(position.epoch)  # nothing to choose by: the last model is the best
        unfinished = schedule.unfinished_epochs(self.config)
        if position.epoch <= unfinished and not position.stopped:
            return  # still denser than the configured model
        early = position.best_epoch <= unfinished  # of a run that had been stopped there
        if position.best is None or early or score > position.best:
            position.best, position.best_epoch, position.without_gain = score, position.epoch, 0
            best = Checkpoint(model_tensors(self.model), self._state())
            best.save(self.folder.best, self.layout)
        else:
            position.without_gain += 1
            if settings.patience and position.without_gain >= settings.patience:
                position.stopped = True

    def _chosen_by(self) -> str:
        """`eval.metric`, of the source as long as there is no other model."""
        wanted = self.config.eval.metric
        return wanted if self.model.masks else wanted.replace("compact.", "source.")

    def _finish(self) -> Run:
        """Evaluates the best model on valid and test, both models, and writes metrics.json."""
        best = Checkpoint.load(self.folder.best, MODEL_TENSORS, self.layout)
        self.model = self._restored(best).to(self.device)
        metrics: dict[str, Any] = {}
        for split in ("valid", "test"):
            if len(self.graph.split(split)):
                if self.processes.all_reduce_max(self._signals.received):
                    raise Interrupted("stopped before the evaluation")
                metrics[split] = {
                    name: self._evaluate(split, view, f"{split} {name}")
                    for name, view in self.model.views.items()
                }
        metrics["protocol"] = {
            "filter": ["train", "valid", "test"],
            "ties": "realistic rank: the mean of the optimistic and the pessimistic one",
            "sides": "head and tail, averaged over queries",
            "candidates": "all entities",
            "precision": "fp32",
            "graph": self.graph.name,
            "graph_sha256": self.graph.digest,
            "unseen": self.graph.unseen,
            "seed": self.config.train.seed,
            "epochs": self.position.epoch,
            "best_epoch": self.position.best_epoch,
            "chosen_by": f"valid {self._chosen_by()}" if len(self.graph.valid) else "last epoch",
            "density": self.model.density(),
            "versions": versions(),
        }
        if self.processes.is_main:
            write_text(self.folder.metrics, json.dumps(metrics, indent=1) + "\n")
        history = self.folder.read_history()
        return Run(self.folder.path, self.config, self.graph, self.model, history, metrics)

    def _evaluate(self, split: str, view: ModelView, label: str) -> dict[str, Any]:
        with self._progress.task(label, 2 * len(self.graph.split(split))) as advance:
            return evaluate(
                view,
                self.graph,
                split,
                score_memory=self.config.train.score_memory,
                known=self.known,
                progress=advance,
            )

    # Masks and data

    @property
    def _epochs_done(self) -> float:
        return self.position.total_steps / self.steps_per_epoch

    def update_masks(self) -> None:
        """Unties the weights where they are to be separate, and draws the masks where they are due."""
        epoch, prune = self.position.epoch, self.config.prune
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
        generator = torch.Generator().manual_seed((settings.seed << 24) + epoch + 1)
        count = len(self.triples)
        triples = Epoch(self.triples, Order(count, generator), count, settings.batch_size)
        if settings.objective != "metasd":
            return lambda at: (step.batch(*triples.batch(at)), None)
        quiz_size = min(self.config.distill.quiz_batch_size or settings.batch_size, len(self.quiz))
        length = self.steps_per_epoch * quiz_size
        quiz = Epoch(self.quiz, Order(len(self.quiz), generator), length, quiz_size)
        return lambda at: (step.batch(*triples.batch(at)), step.batch(*quiz.batch(at)))

    # Checkpoints

    def _state(self) -> dict[str, Any]:
        return {
            "position": asdict(self.position),
            "settings": _frozen(self.config),
            "graph": self.graph.digest,
        }

    def _save(self, path: Path) -> None:
        tensors = model_tensors(self.model) | self._optimizer_tensors()
        Checkpoint(tensors, self._state()).save(path, self.layout)

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, optimizer in self._optimizers():
            for table, parameter in zip(
                ("entities", "relations"), optimizer.param_groups[0]["params"], strict=True
            ):
                state = optimizer.state[parameter]
                tensors[f"{name}.{table}.sum"] = state["sum"]
                tensors[f"{name}.{table}.step"] = state["step"]
        return tensors

    def _optimizers(self) -> Iterator[tuple[str, torch.optim.Optimizer]]:
        yield "adagrad", self.step.optimizer
        yield "meta_adagrad", self.step.meta_optimizer
        if self.step.compact_optimizer:
            yield "compact_adagrad", self.step.compact_optimizer

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts model, optimisers and position back; a checkpoint of another run is refused."""
        state = checkpoint.state
        if state.get("graph") != self.graph.digest:
            raise InputError(f"{self.folder.last}: a checkpoint of another graph")
        settings, wanted = state.get("settings", {}), _frozen(self.config)
        wanted.pop("compact.source")  # what was taken over is in the checkpoint
        if other := [k for k in wanted if settings.get(k) != wanted[k]]:
            raise InputError(
                f"{self.folder.last}: a checkpoint of another configuration ({', '.join(other)})"
            )
        self.model = self._restored(checkpoint).to(self.device)
        self._start_step()
        try:
            for key, tensor in self._optimizer_tensors().items():
                tensor.copy_(checkpoint.tensors[key])
            self.position = Position(**state["position"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{self.folder.last}: incomplete ({error})") from None
        position, settings = self.position, self.config.train
        if position.epoch > settings.epochs:
            raise InputError(
                f"train.epochs = {settings.epochs}, but {self.folder.path} has "
                f"{position.epoch} already"
            )
        position.stopped = (
            position.epoch >= settings.epochs
            or position.total_steps >= (settings.max_steps or sys.maxsize)
            or (
                position.stopped
                and bool(self.config.eval.patience)
                and position.without_gain >= self.config.eval.patience
            )
        )

    def _diverged(self, what: str, where: str = "") -> Diverged:
        kept = (
            f"the last good checkpoint is {self.folder.last}"
            if self.folder.last.exists()
            else ("no checkpoint had been written yet")
        )
        return Diverged(
            f"{what} is not a finite number any more (epoch {self.position.epoch + 1}{where}); "
            f"{kept}. Try a smaller train.lr or distill.inner_lr, a larger regularizer.weight, or "
            "train.precision=fp32"
        )
