"""A run and its folder: configuration, history, metrics, checkpoints, vocabulary."""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metasd.compressed.model import CompressedModel
from metasd.config import Config
from metasd.data.graph import Graph
from metasd.data.load import load_source
from metasd.data.saved import save_graph
from metasd.data.vocabulary import Vocabulary, load_vocabulary
from metasd.errors import InputError, error_context
from metasd.files import write_text
from metasd.models.model import Model

from .checkpoint import MODEL_TENSORS, Checkpoint, restore_model


class RunFolder:
    """The names inside a run folder, and how they are written."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.graph = self.path / "graph.json"
        self.triples = self.path / "graph"  # of a graph made in memory
        self.history = self.path / "history.jsonl"
        self.metrics = self.path / "metrics.json"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.safetensors"
        self.best = self.checkpoints / "best.safetensors"
        self.events = self.path / "events"

    def check_new(self) -> None:
        """InputError if `create` could not make the folder: to be asked before any work is done."""
        if not self.path.name:
            raise InputError(f'a run folder needs a name of its own; got "{self.path}"')
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(
                f"{self.path} already exists; continue it with `metasd resume {self.path}`, "
                "or give another --run"
            )
        above = next(path for path in self.path.absolute().parents if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            why = "may not be written to" if above.is_dir() else "is not a folder"
            raise InputError(f"{self.path}: cannot be made ({above} {why})")

    def create(self, graph: Graph, config: Config) -> None:
        """Makes the folder with configuration and vocabulary, all at once or not at all.

        A path that already has something in it is never written to.
        """
        new = RunFolder(self.path.with_name(f".{self.path.name}.new{os.getpid()}"))
        try:
            new.checkpoints.mkdir(parents=True)
            config.save(new.config)
            graph.save_vocabulary(new.path)
            if graph.source is None:
                save_graph(graph, new.triples)
            description = {"name": graph.name, "digest": graph.digest, "source": graph.source}
            write_text(new.graph, json.dumps(description, indent=1) + "\n")
            new.path.replace(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be made ({error.strerror})") from None
        finally:
            shutil.rmtree(new.path, ignore_errors=True)

    def require(self) -> None:
        if not self.path.exists():
            raise InputError(f"{self.path}: not a run folder (it does not exist)")
        if not self.config.is_file():
            raise InputError(f"{self.path}: not a run folder (it has no config.yaml)")

    def read_history(self) -> list[dict[str, Any]]:
        """The complete lines: a line cut short by a kill is dropped (its epoch is run again)."""
        if not self.history.exists():
            return []
        records = []
        for line in self.history.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def truncate_history(self, epochs: int) -> None:
        """Drops what was written after the checkpoint that training continues from."""
        kept = [record for record in self.read_history() if record["epoch"] <= epochs]
        write_text(self.history, "".join(json.dumps(record) + "\n" for record in kept))

    def append_history(self, record: dict[str, Any]) -> None:
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def load_graph(self, data_dir: str | Path | None = None, moved: str | None = None) -> Graph:
        """The graph that the run was trained on; another one under its name is refused.

        `moved`: its name or path, if that is no longer what it was.
        """
        description = self.graph_description()
        if description["source"] is None and moved is None:
            raise InputError(
                f"{self.path} was trained on a graph made in memory ({description['name']}), which "
                "cannot be loaded again: pass it as `graph`"
            )
        try:
            graph = load_source(description["source"] or {}, description["name"], data_dir, moved)
        except InputError as error:
            hint = "" if moved else f"; say by --graph where the graph of {self.path} is now"
            raise InputError(f"{error}{hint}") from None
        self.check_graph(graph)
        return graph

    def check_graph(self, graph: Graph) -> None:
        description = self.graph_description()
        if graph.digest != description["digest"]:
            raise InputError(
                f"{self.path} was trained on another graph: {graph.name} has digest "
                f"{graph.digest[:12]}, {description['name']} had {description['digest'][:12]}"
            )

    def graph_description(self) -> dict[str, Any]:
        """The graph's name and digest, and its source: what `load_source` takes, or None."""
        try:
            stored = json.loads(self.graph.read_text(encoding="utf-8"))
            name, digest, source = (stored[key] for key in ("name", "digest", "source"))
            if source is None and self.triples.exists():
                source = {"name_or_path": str(self.triples.resolve())}
            return {"name": str(name), "digest": str(digest), "source": source and dict(source)}
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{self.graph}: missing or damaged") from None


def free_run_dir(graph: Graph) -> Path:
    """The first `runs/<graph>-<n>` that does not exist."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in graph.name)
    n = 1
    while (path := Path("runs") / f"{name}-{n}").exists():
        n += 1
    return path


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


@dataclass
class Run:
    """A finished or interrupted run: its model is the best one so far.

    Attributes:
        path: the run folder.
        history: one dict per epoch, as in history.jsonl.
        metrics: as in metrics.json; empty while the run is not finished.
    """

    path: Path
    config: Config
    vocabulary: Vocabulary
    model: Model
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    metrics: dict[str, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def load(path: str | Path) -> "Run":
        """Reads a run folder; InputError if it is not one, or is damaged."""
        folder = RunFolder(path)
        folder.require()
        config = Config.load(folder.config)
        vocabulary = load_vocabulary(folder.path)
        found = folder.best if folder.best.exists() else folder.last
        checkpoint = Checkpoint.load(found, MODEL_TENSORS)
        model = restore_model(checkpoint, config, vocabulary.num_entities, vocabulary.num_relations)
        metrics: dict[str, Any] = {}
        if folder.metrics.exists():
            try:
                metrics = json.loads(folder.metrics.read_text(encoding="utf-8"))
            except ValueError:
                raise InputError(f"{folder.metrics}: damaged") from None
        return Run(folder.path, config, vocabulary, model, folder.read_history(), metrics)

    def graph(self, data_dir: str | Path | None = None, moved: str | None = None) -> Graph:
        """The graph that the run was trained on, read again from where it came or moved to."""
        return RunFolder(self.path).load_graph(data_dir, moved)

    def answering(
        self, *, source: bool = False, keep_known: bool = False, graph: Graph | None = None
    ) -> CompressedModel:
        """The run's model, uncompressed (fp32), with the questions and answers of a compressed one.

        Args:
            source: the source answers, even where there is a compact model.
            keep_known: index no triples: answers may be known ones.
            graph: where the known triples come from; by default read again (see `Run.graph`).
        """
        if self.model.processes.shards > 1:
            raise InputError(
                "this model has the entities of one shard: predict from its run folder, in one "
                "process"
            )
        view = self.model.source if source or self.model.masks is None else self.model.compact
        if not keep_known and graph is None:
            graph = self.graph()
        triples = None
        if not keep_known and graph is not None:
            triples = np.concatenate([graph.train, graph.valid, graph.test])
        scoring = self.model.scoring
        tables = (view.entities.cpu().numpy(), view.relations.cpu().numpy())
        return CompressedModel.of_tables(
            scoring.name, scoring.rank, *tables, self.vocabulary, triples
        )

    def predict(
        self,
        head: str | None = None,
        relation: str | None = None,
        tail: str | None = None,
        k: int = 10,
        *,
        source: bool = False,
        keep_known: bool = False,
    ) -> list[tuple[str, float]]:
        """The k best completions of one triple: [(label, score), ...], known triples left out.

        Arguments as in `answering` and `CompressedModel.predict`.
        """
        model = self.answering(source=source, keep_known=keep_known)
        return model.predict(head, relation, tail, k, keep_known=keep_known)
