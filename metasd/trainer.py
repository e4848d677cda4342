"""The trainer: epochs of steps, masks, validation, checkpoints, and how a run is resumed."""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasd import _C

from .batches import Epoch, Order, Triples
from .checkpoint import MODEL_TENSORS, Checkpoint, Layout, model_tensors, restore_model
from .config import Config, preset
from .environment import versions
from .errors import Diverged, InputError, about
from .evaluation import evaluate
from .events import Events
from .files import lock, write_text
from .graph import Graph, as_graph
from .model import Model, check_fraction, draw_masks
from .models import Scoring
from .progress import Progress
from .run import Run, RunFolder
from .sharding import ALONE, Shards
from .signals import Signals
from .step import Batch, Step


class Interrupted(Exception):
    """Training was asked to stop; a checkpoint holds everything up to the last whole step."""


def train(
    graph: Graph | str | os.PathLike[str],
    config: Config | Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    *,
    shards: Shards = ALONE,
) -> Run:
    """Trains a source and a pruned model on a graph and evaluates both.

    Args:
        graph: the graph, or its name or path (see `load_graph`).
        config: every setting, or those that differ from the preset `student`, by dotted key.
        run_dir: the run folder, which must not exist yet; by default the first free
            `runs/<graph>-<n>`.
        shards: this process's place among several (`sharding.start`), all of which call this.

    Returns:
        The finished run; its model is the best one by `eval.metric` on valid, of several processes
        each with its own block of entities.

    Raises:
        InputError: the folder exists, the graph is too small, a loss became NaN, the disk is full.
        Interrupted: SIGINT or SIGTERM; `resume` continues to the same weights.
    """
    if not isinstance(config, Config):
        config = preset().override(config or {})
    graph = as_graph(graph)
    folder = RunFolder(run_dir if run_dir is not None else free_run_dir(graph))
    folder.check_new()
    trainer = Trainer(graph, config, folder, shards)  # all have looked before one makes it
    trainer.begin()
    if shards.first:
        folder.create(graph, config)
    with _alone_in(folder, shards):
        return trainer.run()


def resume(
    run_dir: str | Path,
    settings: Sequence[str] = (),
    graph: Graph | str | None = None,
    data_dir: str | Path | None = None,
    *,
    shards: Shards = ALONE,
) -> Run:
    """Continues a run from its last checkpoint, to the same weights as if it had never stopped.

    Args:
        settings: `key=value` changes to `train.epochs`, `train.max_steps`, `eval.every`,
            `eval.patience`, `checkpoint.*`; everything else makes the weights what they are.
        graph: the run's graph, or its new name or path; needed only if it cannot be loaded again
            as it was.
        shards: as in `train`; their number may be another than before.
    """
    folder = RunFolder(run_dir)
    folder.require()
    stored = Config.load(folder.config)
    config = stored.override(settings)
    frozen = _frozen(stored)
    if changed := [k for k, v in config.flat().items() if k in frozen and v != frozen[k]]:
        if changed == ["train.epochs"]:
            raise InputError(
                "train.epochs cannot change within this run: train.decay or prune.warmup_epochs is "
                "a share of it; start a new one"
            )
        raise InputError(f"{', '.join(changed)} cannot change within a run; start a new one")
    if isinstance(graph, Graph):
        folder.check_graph(graph)
    else:
        graph = folder.load_graph(data_dir, graph)
    with _alone_in(folder, shards):
        trainer = Trainer(graph, config, folder, shards)
        if folder.last.exists() or folder.best.exists() or folder.metrics.exists():
            trainer.restore(Checkpoint.load(folder.last, layout=trainer.layout))
            if trainer.position.best is not None:  # the last evaluation needs it: look now
                Checkpoint.load(folder.best, MODEL_TENSORS, trainer.layout)
        else:  # stopped before the first checkpoint: anew
            trainer.begin()
            if shards.first:
                folder.truncate_history(0)
        if settings and shards.first:
            config.save(folder.config)
        return trainer.run()


def check_source(config: Config, graph: Graph) -> None:
    """Raises InputError where the run that `prune.source` names is none for this one."""
    if config.prune.source is None:
        return
    folder = RunFolder(config.prune.source)
    folder.require()
    with about("prune.source"):
        folder.check_graph(graph)
    if (theirs := Config.load(folder.config).model) != (ours := config.model):
        raise InputError(
            f"{folder.path} (prune.source) is {theirs.name} of rank {theirs.rank}; "
            f"this run is {ours.name} of rank {ours.rank}"
        )


def _alone_in(folder: RunFolder, shards: Shards) -> AbstractContextManager[None]:
    return lock(folder.path) if shards.first else nullcontext()


def free_run_dir(graph: Graph) -> Path:
    """The first `runs/<graph>-<n>` that does not exist."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in graph.name)
    n = 1
    while (path := Path("runs") / f"{name}-{n}").exists():
        n += 1
    return path


def _frozen(config: Config) -> dict[str, Any]:
    """The settings that change the weights after a given number of steps."""
    by_share = config.train.decay > 0 or 0 < config.prune.warmup_epochs < 1
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
        self, graph: Graph, config: Config, folder: RunFolder, shards: Shards = ALONE
    ) -> None:
        self.graph, self.config, self.folder, self.shards = graph, config, folder, shards
        if shards is not ALONE:
            shards.check_same("settings", json.dumps(config.flat()))
            shards.check_same("run folder", os.fspath(folder.path))
            shards.check_same("graph", graph.digest)
        if graph.num_entities < shards.shards:
            raise InputError(
                f"{graph.num_entities} entities are too few for {shards.shards} shards"
            )
        if len(graph.train) < 2:
            raise InputError(
                f"{graph.name} has {len(graph.train)} train triples; at least 2 are needed"
            )
        self.device = training_device(config.train.device)
        self.triples, self.quiz = split_quiz(graph, config, self.device)
        scoring = Scoring.named(config.model.name)(config.model.rank)
        self.layout = Layout(shards, graph.num_entities, scoring.entity_roles)
        self.model = Model.create(
            scoring,
            graph.num_entities,
            graph.num_relations,
            config.train.seed,
            config.prune.values,
            shards,
        ).to(self.device)
        if config.train.objective != "dense":
            check_fraction(self.model, config.prune.fraction, config.prune.granularity)
        self.position = Position()
        self._start_step()
        _C.keep_freed_memory()  # a step frees and allocates the same blocks over and over

    def _start_step(self) -> None:
        weights = None
        if self.config.entity_weights:
            block = self.shards.block(self.graph.num_entities)
            weights = entity_weights(self.graph)[block].to(self.device)
        self.step = Step(self.model, self.config, weights)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.triples) / self.config.train.batch_size)

    def begin(self) -> None:
        """Takes over the best source of `prune.source`, with the last state of its optimiser."""
        if self.config.prune.source is None:
            return
        folder = RunFolder(self.config.prune.source)
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
            checkpoint, self.config, graph.num_entities, graph.num_relations, self.shards
        )

    # The loop

    def run(self) -> Run:
        self.known = self.graph.known()
        position = self.position
        if self.shards.first:
            self.folder.truncate_history(position.epoch)
            self._events = Events(self.folder.events, position.epoch)
        self.shards.wait()
        quiet = not self.shards.first
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
            wish = self.shards.most(_STOP if self._signals.received else _SAVE if late else 0)
            if wish:
                self._look(unseen)
                self._save(self.folder.last)
                last_save, self._looked = time.monotonic(), time.perf_counter()
                if wish == _STOP:
                    raise Interrupted(f"stopped in epoch {position.epoch + 1}, step {step}")
            self.step.set_rate(self._rate())
            unseen.append(self.step(*batches(step)))
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
            "peak_memory_bytes": self.shards.most(peak_memory(self.device)),
            "prune_fraction": self._fraction(position.epoch),
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
        if self.shards.most(not all(bool(table.isfinite().all()) for table in tables)):
            raise self._diverged("a weight")
        if position.epoch % self.config.eval.every == 0 or position.stopped:
            self._validate(record)
        if self.shards.first:
            self.folder.append_history(record)
        if position.epoch % self.config.checkpoint.every == 0 or position.stopped:
            self._save(self.folder.last)
        self._progress.end_epoch(record)
        if self.shards.first:
            self._events.add(record)

    def _validate(self, record: dict[str, Any]) -> None:
        """Adds valid metrics to the record; keeps the best model; counts towards the patience."""
        position, settings = self.position, self.config.eval
        if len(self.graph.valid):
            for name in self._models():
                found = self._evaluate("valid", name == "pruned", f"valid {name}")
                record[f"valid/{name}"] = {
                    k: found[k] for k in ("mrr", "mr", "hits@1", "hits@3", "hits@10")
                }
            model, _, metric = self._chosen_by().partition(".")
            score = float(record[f"valid/{model}"][metric])
        else:
            score = float(position.epoch)  # nothing to choose by: the last model is the best
        if position.epoch <= self._dense_epochs and not position.stopped:
            return  # still denser than the model that was asked for
        early = position.best_epoch <= self._dense_epochs  # of a run that had been stopped there
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
        return wanted if self.model.masks else wanted.replace("pruned.", "source.")

    def _finish(self) -> Run:
        """Evaluates the best model on valid and test, both models, and writes metrics.json."""
        best = Checkpoint.load(self.folder.best, MODEL_TENSORS, self.layout)
        self.model = self._restored(best).to(self.device)
        metrics: dict[str, Any] = {}
        for split in ("valid", "test"):
            if len(self.graph.split(split)):
                if self.shards.most(self._signals.received):
                    raise Interrupted("stopped before the evaluation")
                metrics[split] = {
                    name: self._evaluate(split, name == "pruned", f"{split} {name}")
                    for name in self._models()
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
        if self.shards.first:
            write_text(self.folder.metrics, json.dumps(metrics, indent=1) + "\n")
        history = self.folder.read_history()
        return Run(self.folder.path, self.config, self.graph, self.model, history, metrics)

    def _evaluate(self, split: str, pruned: bool, label: str) -> dict[str, Any]:
        with self._progress.task(label, 2 * len(self.graph.split(split))) as advance:
            return evaluate(
                self.model,
                self.graph,
                split,
                pruned,
                score_memory=self.config.train.score_memory,
                known=self.known,
                progress=advance,
            )

    def _models(self) -> tuple[str, ...]:
        return ("source", "pruned") if self.model.masks else ("source",)

    # Masks and data

    def _rate(self) -> float:
        """The share of its rate at which the source learns now, or a student its own weights."""
        start, end, decay = 0, self.config.train.epochs, self.config.train.decay
        if self.config.prune.weights == "own" and self.config.train.objective != "dense":
            warmup = self.config.warmup_epochs
            start, end = (0, warmup) if self.position.epoch < warmup else (warmup, end)
        left = 1 - (self.position.total_steps / self.steps_per_epoch - start) / (end - start)
        return left / decay if left < decay else 1.0

    @property
    def _dense_epochs(self) -> int:
        """Epochs before the model is the one that was asked for."""
        prune = self.config.prune
        if self.config.train.objective == "dense":
            return 0
        return self.config.warmup_epochs + (prune.ramp_epochs if prune.schedule == "cubic" else 0)

    def _fraction(self, epoch: int) -> float:
        """The share that is pruned during an epoch (0-based)."""
        prune = self.config.prune
        epoch -= self.config.warmup_epochs
        if self.config.train.objective == "dense" or epoch < 0:
            return 0.0
        if prune.schedule == "constant" or epoch >= prune.ramp_epochs:
            return prune.fraction
        return prune.fraction * (1 - (1 - epoch / prune.ramp_epochs) ** 3)

    def update_masks(self) -> None:
        epoch, prune, warmup = self.position.epoch, self.config.prune, self.config.warmup_epochs
        if self.config.train.objective == "dense" or epoch < warmup:
            return
        fraction = self._fraction(epoch)
        due = (epoch - warmup) % prune.every == 0
        due |= fraction != self._fraction(epoch - 1)
        if prune.weights == "own" and self.model.own is None:
            self.step.part()
        if due or self.model.masks is None:
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
        quiz_size = min(settings.quiz_batch_size or settings.batch_size, len(self.quiz))
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
        if self.step.own_optimizer:
            yield "own_adagrad", self.step.own_optimizer

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts model, optimisers and position back; a checkpoint of another run is refused."""
        state = checkpoint.state
        if state.get("graph") != self.graph.digest:
            raise InputError(f"{self.folder.last}: a checkpoint of another graph")
        settings, wanted = state.get("settings", {}), _frozen(self.config)
        wanted.pop("prune.source")  # what was taken over is in the checkpoint
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
            f"{kept}. Try a smaller train.lr or train.inner_lr, a larger regularizer.weight, or "
            "train.precision=fp32"
        )


def entity_weights(graph: Graph) -> Tensor:
    """Weights of the entities as answers, fp32 (N,): 0.1 + 0.9 * count / largest count in train.

    Scaled so that their mean over the answers of train is 1, as published code (and PyTorch's
    weighted mean) has it: else `regularizer.weight` would count several times as much.
    """
    counts = torch.from_numpy(graph.entity_counts.astype(np.float64))
    weights = 0.1 + 0.9 * counts / counts.max()
    return (weights * counts.sum() / (weights @ counts)).float()


def split_quiz(graph: Graph, config: Config, device: torch.device) -> tuple[Triples, Triples]:
    """Train and quiz, which is a seeded share of the train split, its rows sorted."""
    size = min(max(1, round(config.train.quiz_fraction * len(graph.train))), len(graph.train) - 1)
    generator = torch.Generator().manual_seed(config.train.seed << 24)
    order = Order(len(graph.train), generator)[: len(graph.train)]
    quiz, kept = graph.train[order[:size].sort().values.numpy()], graph.train
    if config.train.quiz_held_out and config.train.objective == "metasd":
        kept = graph.train[order[size:].sort().values.numpy()]
    return (
        Triples(kept, graph.num_relations, device),
        Triples(quiz, graph.num_relations, device),
    )


def training_device(name: str) -> torch.device:
    """The device of `train.device`; InputError if it is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("train.device = cuda, but PyTorch finds no CUDA device here")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of tensors on a GPU, else the process's resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
