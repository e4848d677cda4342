"""The trainer: epochs of steps, masks, validation, checkpoints, and how a run is resumed."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metasd.config import Config
from metasd.data.graph import Graph
from metasd.data.load import as_graph
from metasd.distributed import SINGLE_PROCESS, ProcessGrid
from metasd.environment import peak_memory, versions
from metasd.errors import Diverged, InputError
from metasd.evaluation import PROTOCOL, evaluate
from metasd.files import followed, lock, write_text
from metasd.models.model import ModelView, Tables

from . import schedule
from .checkpoint import MODEL_TENSORS, Checkpoint, TrainingState, frozen_settings, model_tensors
from .learner import Learner
from .progress import Progress
from .run import Run, RunFolder, free_run_dir
from .stop_signal import Interrupted, Signals
from .tensorboard import Events
from .tune import by_rules, settled
from .warm_start import WarmStart, best_source


def train(
    graph: Graph | str | os.PathLike[str],
    config: Config | Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    *,
    continue_from: str | Path | WarmStart | None = None,
    processes: ProcessGrid = SINGLE_PROCESS,
) -> Run:
    """Trains a source and a compact model on a graph and evaluates both.

    Args:
        graph: the graph, or its name or path (see `load_graph`).
        config: every setting, or those that differ from `Config()`, by dotted key; with
            `continue_from`, those that differ from `WarmStart.config`.
        run_dir: the run folder, which must not exist yet; by default the first free
            `runs/<graph>-<n>`.
        continue_from: a run or compressed model of an earlier state of the graph. Its source's rows
            are taken over by label; rows of new entities and relations are fitted to their triples.
        processes: this process's place among several (`distributed.start`), all of which call this.

    Returns:
        The finished run; its model is the best one by `eval.metric` on valid, of several processes
        each with its own block of entities.

    Raises:
        InputError: the folder exists, the graph is too small, a loss became NaN, the disk is full,
            or `continue_from` is of another scoring function or rank.
        Interrupted: SIGINT or SIGTERM; `resume` continues to the same weights.
    """
    start = continue_from
    if start is not None and not isinstance(start, WarmStart):
        start = WarmStart.load(start)
    if not isinstance(config, Config):
        config = (start.config if start else Config()).override(config or {})
    graph = as_graph(graph)
    config = by_rules(graph, config)
    folder = RunFolder(run_dir if run_dir is not None else free_run_dir(graph))
    folder.check_new()
    trainer = Trainer(graph, config, folder, processes)  # every process checks before one creates
    trainer.begin(start)
    if processes.is_main:
        folder.create(graph, config, start.record(graph) if start else None)
    with _alone_in(folder, processes):
        if config.tune.settings:
            del trainer  # its memory
            config = _settle(graph, config, folder, processes)
            trainer = Trainer(graph, config, folder, processes)
            trainer.begin(start)
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
    frozen = frozen_settings(stored)
    if changed := [k for k, v in config.flat().items() if k in frozen and v != frozen[k]]:
        if changed == ["train.epochs"]:
            raise InputError(
                "train.epochs cannot change within this run: train.decay or compact.warmup_epochs "
                "is a share of it; start a new one"
            )
        raise InputError(f"{', '.join(changed)} cannot change within a run; start a new one")
    if isinstance(graph, Graph):
        folder.check_graph(graph)
    else:
        graph = folder.load_graph(data_dir, graph)
    with _alone_in(folder, processes):
        if config.tune.settings:  # stopped while they were chosen
            config = _settle(graph, config, folder, processes)
        trainer = Trainer(graph, config, folder, processes)
        if folder.last.exists() or folder.best.exists() or folder.metrics.exists():
            trainer.restore(folder.load_checkpoint(folder.last, layout=trainer.layout))
            if trainer.state.best is not None:  # the last evaluation needs it: check it now
                folder.load_checkpoint(folder.best, MODEL_TENSORS, trainer.layout)
        else:  # stopped before the first checkpoint: anew
            origin = folder.read_warm_start()
            trainer.begin(WarmStart.load(origin["path"]) if origin else None)
            if processes.is_main:
                folder.truncate_history(0)
        if settings and processes.is_main:
            config.save(folder.config)
        return trainer.run()


def _settle(graph: Graph, config: Config, folder: RunFolder, processes: ProcessGrid) -> Config:
    """The config with nothing left to choose; several processes keep what the rules say."""
    if processes is SINGLE_PROCESS:
        config = settled(graph, config, folder.tuning)
    config = config.override({"tune.settings": []})
    if processes.is_main:
        config.save(folder.config)
    return config


def _alone_in(folder: RunFolder, processes: ProcessGrid) -> AbstractContextManager[None]:
    return lock(folder.path) if processes.is_main else nullcontext()


_SAVE, _STOP = 1, 2  # requests of a process; all processes follow the most urgent one

_NOT_FINITE = "is not a finite number any more"
_LARGEST_LOSS = 1e9
"""What is still learned from is below a million: cross entropies are of the size of log N."""

_SYNC_SECONDS = 0.2
"""A GPU is not waited for more often."""


class Trainer(Learner):
    """One run: a learner, its state and its folder. `run()` trains from wherever the state is."""

    def __init__(
        self,
        graph: Graph,
        config: Config,
        folder: RunFolder,
        processes: ProcessGrid = SINGLE_PROCESS,
    ) -> None:
        if processes is not SINGLE_PROCESS:
            processes.check_same("settings", json.dumps(config.flat()))
            processes.check_same("run folder", os.fspath(folder.path))
            processes.check_same("graph", graph.digest)
        super().__init__(graph, config, processes)
        self.folder, self.state = folder, TrainingState()
        self._frozen_source: dict[str, float] | None = None

    # The loop

    def run(self) -> Run:
        self.known = self.graph.known()
        state = self.state
        self.step.teachers = self._teachers()
        if self.processes.is_main:
            self.folder.truncate_history(state.epoch)
            self._events = Events(self.folder.events, state.epoch)
        self.processes.barrier()
        quiet = not self.processes.is_main
        with (
            Progress(self.config.train.epochs, state.epoch, quiet) as progress,
            Signals() as signals,
            followed(self.folder.path) as place,
        ):
            self._progress, self._signals, self._place = progress, signals, place
            while not state.stopped:
                self._epoch()
            return self._finish()

    def _teachers(self) -> list[Tables]:
        """The other sources that teach: those of named runs, or trained now, one per seed."""
        config, named = self.config, self.config.distill.teachers
        if not config.has_teacher:
            return []
        if isinstance(named, int):
            named = [self._other_source(config.train.seed + i) for i in range(1, named)]
        return [best_source(path, config, self.graph, self.layout) for path in named]

    def _other_source(self, seed: int) -> str:
        """The run of a source as this one's, of another seed, trained to its end."""
        folder = RunFolder(self.folder.teachers / f"seed-{seed}")
        if not folder.config.exists():
            settings = {
                "train.objective": "dense",
                "train.epochs": self.config.warmup_epochs,
                "train.seed": seed,
                "tune.settings": [],
                "compact.size": None,
                "distill.teachers": 1,
            }
            config = self.config.override(settings)
            if self.processes.is_main:
                print(f"a teacher of seed {seed} learns first", file=sys.stderr, flush=True)
            train(self.graph, config, folder.path, processes=self.processes)
        elif not folder.metrics.exists():
            resume(folder.path, graph=self.graph, processes=self.processes)
        return str(folder.path)

    def _epoch(self) -> None:
        state, settings = self.state, self.config.train
        phase = schedule.phase(self.config, state.epoch)
        if state.step == 0:
            if state.epoch == self.config.warmup_epochs:
                self._take_best_source()
            self.update_masks(state.epoch)
        self._last_sync = time.perf_counter()
        batches = self.batches(state.epoch)
        self._progress.epoch(state.epoch, self.steps_per_epoch, state.step)
        pending: list[dict[str, Tensor]] = []  # losses that nothing has waited for
        last_save = time.monotonic()
        limit = settings.max_steps or sys.maxsize
        for step in range(state.step, self.steps_per_epoch):
            if state.total_steps >= limit:
                break
            late = time.monotonic() - last_save > 60 * self.config.checkpoint.minutes
            request = self.processes.all_reduce_max(
                _STOP if self._signals.received else _SAVE if late else 0
            )
            if request:
                self._sync_losses(pending)
                self._save()
                last_save, self._last_sync = time.monotonic(), time.perf_counter()
                if request == _STOP:
                    raise Interrupted(f"stopped in epoch {state.epoch + 1}, step {step}")
            self.step.set_lr_factor(schedule.lr_factor(self.config, state.epoch, self._epochs_done))
            pending.append(self.step(phase, *batches(step)))
            state.step, state.total_steps = step + 1, state.total_steps + 1
            if time.perf_counter() - self._last_sync > _SYNC_SECONDS:
                self._sync_losses(pending)
        self._sync_losses(pending)
        self._end_epoch()

    def _sync_losses(self, pending: list[dict[str, Tensor]]) -> None:
        """Waits for the steps since the last call; adds up their time and their losses."""
        state = self.state
        if not pending:
            return
        rows = torch.stack([torch.stack(list(losses.values())) for losses in pending]).tolist()
        now = time.perf_counter()
        state.seconds += now - self._last_sync
        self._last_sync = now
        for i, row in enumerate(rows, 1):
            losses = dict(zip(pending[0], row, strict=True))
            for name, loss in losses.items():
                if not abs(loss) < _LARGEST_LOSS:
                    step = state.step - len(pending) + i
                    size = f"is {loss:.3g}" if math.isfinite(loss) else _NOT_FINITE
                    raise self._diverged(f"the {name} loss {size}", f", step {step}")
                state.sums[name] = state.sums.get(name, 0.0) + loss
        speed = self.config.train.batch_size * state.step / state.seconds
        self._progress.step(losses, len(pending), speed)
        pending.clear()

    def _follow(self) -> None:
        """Goes on in the run folder, wherever it has been moved."""
        if (path := self._place()) != self.folder.path:
            self.folder = RunFolder(path)
            if self.processes.is_main:
                self._events = Events(self.folder.events, self.state.epoch)
                print(f"\nnote: the run folder was moved to {path}", file=sys.stderr)

    def _end_epoch(self) -> None:
        self._follow()
        state, settings = self.state, self.config.train
        steps = state.step
        rows = min(steps * settings.batch_size, len(self.triples))
        record: dict[str, Any] = {
            "epoch": state.epoch + 1,
            **{f"loss/{name}": total / max(steps, 1) for name, total in state.sums.items()},
            "seconds": state.seconds,
            "steps": steps,
            "triples_per_second": rows / state.seconds if state.seconds else 0.0,
            "peak_memory_bytes": self.processes.all_reduce_max(peak_memory(self.device)),
            "prune_fraction": schedule.prune_fraction(self.config, state.epoch),
        }
        state.epoch, state.step, state.sums, state.seconds = state.epoch + 1, 0, {}, 0.0
        state.stopped = state.epoch >= settings.epochs or state.total_steps >= (
            settings.max_steps or sys.maxsize
        )
        if state.epoch == settings.epochs and self.model.masks is None:
            self.update_masks(state.epoch)  # all epochs were the source's: the other is a copy
        tables = (self.model.entities, self.model.relations)
        rows = 1 << 16  # at a time: the answer takes a byte per weight
        parts = (
            table[first : first + rows] for table in tables for first in range(0, len(table), rows)
        )
        if self.processes.all_reduce_max(not all(bool(part.isfinite().all()) for part in parts)):
            raise self._diverged(f"a weight {_NOT_FINITE}")
        due = state.epoch % self.config.eval.every == 0 or state.epoch == self.config.warmup_epochs
        if due or state.stopped:
            self._validate(record)
        if self.processes.is_main:
            self.folder.append_history(record)
        if state.epoch % self.config.checkpoint.every == 0 or state.stopped:
            self._save()
        self._progress.end_epoch(record)
        if self.processes.is_main:
            self._events.add(record)

    def _validate(self, record: dict[str, Any]) -> None:
        """Adds valid metrics to the record; keeps the best model; counts towards the patience."""
        state, settings = self.state, self.config.eval
        if len(self.graph.valid):
            for name, view in self.model.views.items():
                record[f"valid/{name}"] = self._valid_metrics(name, view)
            model, _, metric = self._chosen_by().partition(".")
            score = float(record[f"valid/{model}"][metric])
        else:
            score = float(state.epoch)  # nothing to choose by: the last model is the best
        alone = not self.model.masks and state.epoch <= self.config.warmup_epochs
        if alone and (state.best_source is None or score > state.best_source):
            state.best_source = score
            best = Checkpoint(model_tensors(self.model), self._state())
            best.save(self.folder.best_source, self.layout)
        unfinished = schedule.unfinished_epochs(self.config)
        if state.epoch <= unfinished and not state.stopped:
            return  # still denser than the configured model
        early = state.best_epoch <= unfinished  # of a run that had been stopped there
        if state.best is None or early or score > state.best:
            state.best, state.best_epoch, state.without_gain = score, state.epoch, 0
            best = Checkpoint(model_tensors(self.model), self._state())
            best.save(self.folder.best, self.layout)
        else:
            state.without_gain += 1
            if settings.patience and state.without_gain >= settings.patience:
                state.stopped = True

    def _take_best_source(self) -> None:
        """The compact model starts from the best source; the optimiser's state stays the last."""
        if self.state.best_source is not None:
            path = self.folder.best_source
            best = self.restored(self.folder.load_checkpoint(path, MODEL_TENSORS, self.layout))
            self.model.entities.copy_(best.entities)
            self.model.relations.copy_(best.relations)
            self.model.changed()

    def _valid_metrics(self, name: str, view: ModelView) -> dict[str, float]:
        """Of a source that does not change any more, what was found the last time."""
        if name == "source" and self._frozen_source is not None:
            return self._frozen_source
        found = self._evaluate("valid", view, f"valid {name}")
        kept = {key: found[key] for key in ("mrr", "mr", "hits@1", "hits@3", "hits@10")}
        if name == "source" and schedule.is_source_frozen(self.config, self.state.epoch):
            self._frozen_source = kept
        return kept

    def _chosen_by(self) -> str:
        """`eval.metric`, of the source as long as there is no other model."""
        wanted = self.config.eval.metric
        return wanted if self.model.masks else wanted.replace("compact.", "source.")

    def _finish(self) -> Run:
        """Evaluates the best model on valid and test, both models, and writes metrics.json."""
        self._follow()
        best = self.folder.load_checkpoint(self.folder.best, MODEL_TENSORS, self.layout)
        self.model = self.restored(best).to(self.device)
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
            **PROTOCOL,
            "graph": self.graph.name,
            "graph_sha256": self.graph.digest,
            "unseen": self.graph.unseen,
            "seed": self.config.train.seed,
            "sample": self.config.eval.sample,
            "epochs": self.state.epoch,
            "best_epoch": self.state.best_epoch,
            "chosen_by": f"valid {self._chosen_by()}" if len(self.graph.valid) else "last epoch",
            "density": self.model.density(),
            "versions": versions(),
        }
        if origin := self.folder.read_warm_start():
            metrics["protocol"]["continued_from"] = origin
        if self.processes.is_main:
            write_text(self.folder.metrics, json.dumps(metrics, indent=1) + "\n")
        history = self.folder.read_history()
        return Run(self.folder.path, self.config, self.graph, self.model, history, metrics)

    def _evaluate(self, split: str, view: ModelView, label: str) -> dict[str, Any]:
        sample = self.config.eval.sample
        count = len(self.graph.split(split))
        with self._progress.task(label, 2 * min(sample or count, count)) as advance:
            return evaluate(
                view,
                self.graph,
                split,
                score_memory=self.config.train.score_memory,
                known=self.known,
                sample=sample,
                progress=advance,
            )

    @property
    def _epochs_done(self) -> float:
        return self.state.total_steps / self.steps_per_epoch

    # Checkpoints

    def _state(self) -> dict[str, Any]:
        return {
            "state": asdict(self.state),
            "settings": frozen_settings(self.config),
            "graph": self.graph.digest,
            "run": self.folder.run_id(),
        }

    def _save(self) -> None:
        self._follow()
        tensors = model_tensors(self.model) | self.step.optimizer_tensors()
        Checkpoint(tensors, self._state()).save(self.folder.last, self.layout)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Puts model, optimisers and state back; a checkpoint of another run is refused."""
        stored = checkpoint.state
        if stored.get("graph") != self.graph.digest:
            raise InputError(f"{self.folder.last}: a checkpoint of another graph")
        settings, expected = stored.get("settings", {}), frozen_settings(self.config)
        expected.pop("compact.source")  # what was taken over is in the checkpoint
        if other := [k for k in expected if settings.get(k) != expected[k]]:
            raise InputError(
                f"{self.folder.last}: a checkpoint of another configuration ({', '.join(other)})"
            )
        self.model = self.restored(checkpoint).to(self.device)
        self.start_step()
        try:
            for key, tensor in self.step.optimizer_tensors().items():
                tensor.copy_(checkpoint.tensors[key])
            self.state = TrainingState(**stored["state"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{self.folder.last}: incomplete ({error})") from None
        state, settings = self.state, self.config.train
        if state.epoch > settings.epochs:
            raise InputError(
                f"train.epochs = {settings.epochs}, but {self.folder.path} has "
                f"{state.epoch} already"
            )
        state.stopped = (
            state.epoch >= settings.epochs
            or (state.best is not None and state.total_steps >= (settings.max_steps or sys.maxsize))
            or (
                state.stopped
                and bool(self.config.eval.patience)
                and state.without_gain >= self.config.eval.patience
            )
        )

    def _diverged(self, what: str, where: str = "") -> Diverged:
        kept = (
            f"the last good checkpoint is {self.folder.last}"
            if self.folder.last.exists()
            else ("no checkpoint had been written yet")
        )
        return Diverged(
            f"{what} (epoch {self.state.epoch + 1}{where}); "
            f"{kept}. Try a smaller train.lr or distill.inner_lr, a larger regularizer.weight, or "
            "train.precision=fp32"
        )
