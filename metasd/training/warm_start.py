"""What a run takes over from another one: a source of the same graph, or rows by label."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metasd.compressed import CompressedModel
from metasd.compressed.storage import is_compressed
from metasd.config import SIZED, Config
from metasd.data.graph import Graph
from metasd.data.restriction import places, restricted
from metasd.data.sorting import count_shared
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError, error_context
from metasd.files import as_path
from metasd.models.model import Model, Tables
from metasd.models.new_rows import fit_rows

from .checkpoint import MODEL_TENSORS, Layout, restore_model
from .run import NEITHER, Run, RunFolder
from .step import Step

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_EPOCHS = 0.15
"""Share of the old run's epochs."""
_LR, _COMPACT_LR = 3.0, 1.5
"""Times the old run's `train.lr` and `compact.lr`: see benchmarks/results/growth_settings.json."""


@dataclass(frozen=True, eq=False)
class WarmStart:
    """Tables that a run on another state of their graph starts from.

    Attributes:
        path: the run folder or model folder that they are of.
        old: the settings that they were trained with.
        entities: fp32 (roles * N, width), of the source or of a compressed model.
        relations: fp32 (2R, width), inverse relations second.
        vocabulary: the labels of N entities and R relations.
        continued: whether that run had itself continued from another one.
    """

    path: Path
    old: Config
    vocabulary: Vocabulary
    entities: Floats
    relations: Floats
    continued: bool = False

    @staticmethod
    def load(path: str | os.PathLike[str]) -> WarmStart:
        """The best source of a run, or the decoded tables of a compressed model.

        Raises:
            InputError: the folder is neither, or is damaged.
        """
        path = as_path(path, "a run or a compressed model")
        if not is_compressed(path):
            RunFolder(path).require(NEITHER)
            run = Run.load(path)
            source = run.model.source
            tables = (source.entities.numpy(), source.relations.numpy())
            continued = RunFolder(path).read_warm_start() is not None
            return WarmStart(path, run.config, run.vocabulary, *tables, continued)
        small = CompressedModel.from_pretrained(path)
        vocabulary = Vocabulary(
            entities=list(small.entity_labels), relations=list(small.relation_labels)
        )
        trained = small.about.get("training")
        with error_context(path):
            config = Config(**trained) if isinstance(trained, dict) else Config()
            config = config.override({"model.name": small.scoring, "model.rank": small.rank})
        protocol = small.about.get("protocol")
        continued = isinstance(protocol, dict) and "continued_from" in protocol
        return WarmStart(path, config, vocabulary, *small.dense(), continued)

    @cached_property
    def config(self) -> Config:
        """What a run from here does by default: few epochs at a high rate.

        Those of a run that was continued itself stay as they are.
        """
        old, settings = self.old, {}
        if self.continued:
            return old.override({"train.max_steps": None})
        share = old.warmup_epochs / old.train.epochs
        if old.has_separate_weights:
            share = share or Config().compact.warmup_epochs  # its source was that of another run
            settings["compact.lr"] = _COMPACT_LR * old.compact.lr
        epochs = max(round(_EPOCHS * old.train.epochs), 2)
        ramp = max(round(_EPOCHS * old.prune.ramp_epochs), 1)
        return old.override(
            {
                **settings,
                "tune.settings": [*SIZED] if old.compact.size else [],
                "train.lr": _LR * old.train.lr,
                "train.epochs": epochs,
                "train.max_steps": None,
                "compact.source": None,
                "compact.warmup_epochs": share,
                "prune.ramp_epochs": ramp,
            }
        )

    def record(self, graph: Graph) -> dict[str, Any]:
        """Where a run on this graph started: path, and labels that both have or one of them."""
        record: dict[str, Any] = {"path": str(self.path.absolute())}
        for name in ("entities", "relations"):
            theirs, ours = set(getattr(self.vocabulary, name)), set(getattr(graph, name))
            counts = (len(ours & theirs), len(ours - theirs), len(theirs - ours))
            record[name] = dict(zip(("kept", "new", "dropped"), counts, strict=True))
        return record

    def seen(self, graph: Graph) -> int:
        """Valid and test triples that the old run was trained on; 0 where its graph is gone."""
        try:
            old = RunFolder(self.path).load_graph()
        except InputError:
            return 0
        train, sizes = restricted(old, graph)[0].train, (graph.num_entities, graph.num_relations)
        return sum(count_shared(train, rows, *sizes) for rows in (graph.valid, graph.test))

    def check(self, config: Config, graph: Graph) -> None:
        """InputError where a run with this configuration on this graph cannot start from here."""
        theirs, ours = self.old.model, config.model
        if (theirs.name, theirs.rank) != (ours.name, ours.rank):
            raise InputError(
                f"{self.path} is {theirs.name} of rank {theirs.rank}; this run, which is to "
                f"continue from it, is {ours.name} of rank {ours.rank}"
            )
        if config.compact.source is not None:
            raise InputError(
                "a run starts from another graph's rows (--from, continue_from) or from "
                f"compact.source, not from both; got {self.path} and {config.compact.source}"
            )
        if not self.record(graph)["entities"]["kept"]:
            raise InputError(f"{self.path} and {graph.name} have no entity in common")

    def fill(self, model: Model, config: Config, graph: Graph) -> None:
        """Puts the rows of labels that both have into the source; fits those of new labels.

        Labels without train triples keep their random rows, and columns that a compressed model has
        left out their random numbers. The optimiser starts anew.

        Raises:
            InputError: see `check`, or a distributed run.
        """
        self.check(config, graph)
        if model.processes.shards > 1:
            raise InputError("a warm start (--from, continue_from) needs a single shard")
        roles = model.scoring.entity_roles
        entities, relations = (t.cpu().numpy().copy() for t in (model.entities, model.relations))
        kept = places(graph.entities, self.vocabulary.entity_to_id)
        kept_relations = places(graph.relations, self.vocabulary.relation_to_id)
        for into, table, place, blocks in (
            (entities, self.entities, kept, roles),
            (relations, self.relations, kept_relations, 2),
        ):
            there = place >= 0
            new, old = (x.reshape(blocks, -1, x.shape[1]) for x in (into, table))
            learned = old.any((0, 1))  # columns that a compressed model left out begin anew
            new[:, there] = np.where(learned, old[:, place[there]], new[:, there])
        fit_rows(
            model.scoring,
            entities,
            relations,
            kept < 0,
            kept_relations < 0,
            graph.train,
            config.train.seed,
        )
        model.entities.copy_(torch.from_numpy(entities))
        model.relations.copy_(torch.from_numpy(relations))
        model.changed()


def take_source(model: Model, step: Step, config: Config, graph: Graph, layout: Layout) -> None:
    """Takes over the best source of `compact.source`, with the last state of its optimiser."""
    folder = RunFolder(str(config.compact.source))
    for into, table in zip(
        (model.entities, model.relations),
        best_source(folder.path, config, graph, layout),
        strict=True,
    ):
        into.copy_(table)
    checkpoint = folder.load_checkpoint(folder.last, layout=layout)
    for key, tensor in step.optimizer_tensors().items():
        if key.startswith("adagrad."):
            tensor.copy_(checkpoint.tensors[key])


def best_source(path: str | Path, config: Config, graph: Graph, layout: Layout) -> Tables:
    """The tables of the best source of a run that fits this one (see `check_sources`)."""
    folder = RunFolder(path)
    found = folder.best if folder.best.exists() else folder.last
    best = folder.load_checkpoint(found, MODEL_TENSORS, layout)
    counts = (graph.num_entities, graph.num_relations)
    source = restore_model(best, config, *counts, layout.processes)
    return source.entities, source.relations


def check_sources(config: Config, graph: Graph) -> None:
    """Raises InputError where a run that a setting names has no source for this one."""
    taken, taught = config.compact.source, config.distill.teachers
    named = [("compact.source", taken)] if taken is not None else []
    named += [] if isinstance(taught, int) else [("distill.teachers", path) for path in taught]
    for setting, path in named:
        folder = RunFolder(path)
        folder.require()
        with error_context(setting):
            folder.check_graph(graph)
        if (theirs := Config.load(folder.config).model) != (ours := config.model):
            raise InputError(
                f"{folder.path} ({setting}) is {theirs.name} of rank {theirs.rank}; "
                f"this run is {ours.name} of rank {ours.rank}"
            )
