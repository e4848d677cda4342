"""A run and its folder: configuration, history, metrics, checkpoints, vocabulary."""

import json
import os
import secrets
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metasd.compressed.answers import Answers, Query
from metasd.compressed.description import metric_lines
from metasd.compressed.model import CompressedModel
from metasd.compressed.storage import is_compressed
from metasd.config import Config
from metasd.data.comparison import check_same, with_labels_of
from metasd.data.filter_index import KnownAnswers
from metasd.data.graph import Graph
from metasd.data.load import load_source
from metasd.data.saved import save_graph
from metasd.data.vocabulary import Vocabulary, load_vocabulary
from metasd.errors import InputError
from metasd.files import as_path, new_folder, read_file, read_json, read_json_lines, write_text
from metasd.models.model import Model

from .checkpoint import MODEL_TENSORS, WHOLE, Checkpoint, Layout, restore_model


class RunFolder:
    """The names inside a run folder, and how they are written."""

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path, "a run folder")
        self.config = self.path / "config.yaml"
        self.graph = self.path / "graph.json"
        self.warm_start = self.path / "warm_start.json"
        self.triples = self.path / "graph"  # of a graph made in memory
        self.tuning = self.path / "tuning.jsonl"
        self.history = self.path / "history.jsonl"
        self.metrics = self.path / "metrics.json"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.safetensors"
        self.best = self.checkpoints / "best.safetensors"
        self.best_source = self.checkpoints / "best_source.safetensors"
        self.events = self.path / "events"
        self.teachers = self.path / "teachers"  # runs of other seeds, see distill.teachers
        self.id = self.path / "id"  # of this run and no other; also in its checkpoints

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

    def create(
        self, graph: Graph, config: Config, warm_start: dict[str, Any] | None = None
    ) -> None:
        """Makes the folder with configuration and vocabulary, all at once or not at all.

        A path that already has something in it is never written to. `warm_start`: what
        `WarmStart.record` says, of a run that continues from another one.
        """
        with new_folder(self.path) as path:
            new = RunFolder(path)
            new.checkpoints.mkdir(parents=True)
            config.save(new.config)
            graph.save_vocabulary(new.path)
            if graph.source is None:
                save_graph(graph, new.triples)
            write_text(new.graph, json.dumps(graph.description, indent=1) + "\n")
            write_text(new.id, secrets.token_hex(16) + "\n")
            if warm_start is not None:
                write_text(new.warm_start, json.dumps(warm_start, indent=1) + "\n")

    def run_id(self) -> str | None:
        """What tells this run from others; None of a run of an earlier version."""
        try:
            return read_file(self.id).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{self.id}: {error.strerror}") from None

    def load_checkpoint(
        self, path: Path, only: tuple[str, ...] | None = None, layout: Layout = WHOLE
    ) -> Checkpoint:
        """A checkpoint of this folder; one that another run wrote is refused."""
        checkpoint, mine = Checkpoint.load(path, only, layout), self.run_id()
        if mine is not None and checkpoint.state.get("run") != mine:
            raise InputError(f"{path}: a checkpoint of another run")
        return checkpoint

    def require(self, wanted: str = "not a run folder") -> None:
        """InputError, which says what was `wanted`, unless this is a run folder."""
        if not self.path.exists():
            raise InputError(f"{self.path}: {wanted} (it does not exist)")
        if is_compressed(self.path):
            raise InputError(f"{self.path}: {wanted} (it is a compressed model)")
        if not self.config.is_file():
            raise InputError(f"{self.path}: {wanted} (it has no config.yaml)")

    def read_history(self) -> list[dict[str, Any]]:
        """The complete lines: a line cut short by a kill is dropped (its epoch is run again)."""
        return read_json_lines(self.history)

    def truncate_history(self, epochs: int) -> None:
        """Drops what was written after the checkpoint that training continues from."""
        kept = [record for record in self.read_history() if record["epoch"] <= epochs]
        write_text(self.history, "".join(json.dumps(record) + "\n" for record in kept))

    def append_history(self, record: dict[str, Any]) -> None:
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_warm_start(self) -> dict[str, Any] | None:
        """What the run continued from, if it began with a warm start."""
        if not self.warm_start.exists():
            return None
        try:
            record = read_json(self.warm_start)
            return {"path": str(record["path"]), **record}
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{self.warm_start}: damaged") from None

    def load_graph(self, data_dir: str | Path | None = None, moved: str | None = None) -> Graph:
        """The graph that the run was trained on; another one under its name is refused.

        `moved`: its name or path, if that is no longer what it was.
        """
        graph = self.find_graph(data_dir, moved)
        self.check_graph(graph)
        return graph

    def find_graph(self, data_dir: str | Path | None = None, moved: str | None = None) -> Graph:
        """What is now where the run's graph was, or where it has moved: see `load_graph`."""
        description = self.graph_description()
        if description["source"] is None and moved is None:
            raise InputError(
                f"{self.path} was trained on a graph made in memory ({description['name']}), which "
                "cannot be loaded again: pass it as `graph`"
            )
        try:
            return load_source(description["source"] or {}, description["name"], data_dir, moved)
        except InputError as error:
            hint = "" if moved else f"; say by --graph where the graph of {self.path} is now"
            raise InputError(f"{error}{hint}") from None

    def check_graph(self, graph: Graph) -> None:
        """InputError, which says what differs, unless the run was trained on this graph."""
        description = self.graph_description()
        if graph.digest != description["digest"]:
            check_same(graph, description, load_vocabulary(self.path), self.path)

    def graph_description(self) -> dict[str, Any]:
        """The graph's `description`; its source is what `load_source` takes, or None."""
        try:
            stored = read_json(self.graph)
            name, digest, source = (stored[key] for key in ("name", "digest", "source"))
            if source is None and self.triples.exists():
                source = {"name_or_path": str(self.triples.resolve())}
            return {
                "name": str(name),
                "digest": str(digest),
                "source": source and dict(source),
                "triples": {split: int(n) for split, n in stored.get("triples", {}).items()},
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{self.graph}: missing or damaged") from None


def free_run_dir(graph: Graph) -> Path:
    """The first `runs/<graph>-<n>` that does not exist."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in graph.name)
    n = 1
    while (path := Path("runs") / f"{name}-{n}").exists():
        n += 1
    return path


NEITHER = "neither a run folder nor a model folder"
NO_COMPACT_MODEL = "there is no compact model yet (still in warm-up); the source answers"


@dataclass(repr=False)
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
    history: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    _uncompressed: dict[bool, CompressedModel] = field(
        default_factory=dict, init=False, compare=False
    )  # the source under True, the compact model under False
    _known: KnownAnswers | None = field(default=None, init=False, compare=False)

    def __repr__(self) -> str:
        model = self.model
        graph = self.metrics.get("protocol", {}).get("graph", "a graph")
        compact = "no compact model"
        if model.masks is not None:
            compact = f"compact model {model.weight_format}, density {model.density():.3f}"
        lines = [
            f"Run {self.path} on {graph}: {model.num_entities:,} entities, "
            f"{model.num_relations:,} relations",
            f"  {model.scoring.name}, rank {model.scoring.rank}; {compact}",
            f"  {len(self.history)} of {self.config.train.epochs} epochs",
            *metric_lines(self.metrics),
        ]
        return "\n".join(lines)

    @staticmethod
    def load(path: str | Path) -> "Run":
        """Reads a run folder; InputError if it is not one, or is damaged."""
        folder = RunFolder(path)
        folder.require()
        config = Config.load(folder.config)
        vocabulary = load_vocabulary(folder.path)
        found = folder.best if folder.best.exists() else folder.last
        checkpoint = folder.load_checkpoint(found, MODEL_TENSORS)
        model = restore_model(checkpoint, config, vocabulary.num_entities, vocabulary.num_relations)
        metrics: dict[str, Any] = {}
        if folder.metrics.exists():
            try:
                metrics = read_json(folder.metrics)
            except InputError:
                raise InputError(f"{folder.metrics}: damaged") from None
        return Run(folder.path, config, vocabulary, model, folder.read_history(), metrics)

    def graph(self, data_dir: str | Path | None = None, moved: str | None = None) -> Graph:
        """The graph that the run was trained on, read again from where it came or moved to."""
        return RunFolder(self.path).load_graph(data_dir, moved)

    @property
    def within_warmup(self) -> bool:
        """The run stopped before it had the compact model that it was to have."""
        return self.model.masks is None and self.config.train.objective != "dense"

    def answering(
        self, *, source: bool = False, known: bool = True, graph: Graph | None = None
    ) -> CompressedModel:
        """The run's model, uncompressed (fp32), with the interface of a compressed one.

        It is made once, and so is its index of known triples: for weights that change no more.

        Args:
            source: the source answers, even where there is a compact model. It also answers, with
                a warning, for a run that stopped before it had a compact model.
            known: False indexes no triples, and needs no graph.
            graph: where the known triples come from, such as a later state of the run's graph with
                the same labels; by default the run's graph, read again (see `Run.graph`).

        Raises:
            InputError: the graph cannot be found or has other labels, or the model has the entities
                of one shard only.
        """
        if self.model.processes.shards > 1:
            raise InputError(
                "this model has the entities of one shard: predict from its run folder, in one "
                "process"
            )
        if self.within_warmup and not source:
            warnings.warn(f"{self.path}: {NO_COMPACT_MODEL}", stacklevel=3)
        source = source or self.model.masks is None
        if source not in self._uncompressed:
            self._uncompressed[source] = self._view(source)
        return replace(
            self._uncompressed[source], known=self._known_answers(graph) if known else None
        )

    def _view(self, source: bool) -> CompressedModel:
        view, scoring = self.model.source if source else self.model.compact, self.model.scoring
        tables = (view.entities.cpu().numpy(), view.relations.cpu().numpy())
        return CompressedModel.of_tables(scoring.name, scoring.rank, *tables, self.vocabulary)

    def _known_answers(self, graph: Graph | None) -> KnownAnswers:
        """The index of the known triples of the graph, made once."""
        if self._known is None or graph is not None:
            if graph is None:
                trained_on = self.vocabulary
                graph = trained_on if isinstance(trained_on, Graph) else self.graph()
            self._known = with_labels_of(graph, self.vocabulary, self.path).packed_known()
        return self._known

    def _marking(self, source: bool) -> CompressedModel:
        """`answering`, without known triples where their graph cannot be found."""
        try:
            return self.answering(source=source)
        except InputError:
            return self.answering(source=source, known=False)

    def predict(
        self,
        head: str | None = None,
        relation: str | None = None,
        tail: str | None = None,
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        typed: bool = False,
        keep_known: bool = False,
        source: bool = False,
    ) -> list[tuple[str, float]]:
        """The k best completions of one triple: [(label, score), ...]; see `answers`."""
        query = Query(head, "" if relation is None else relation, tail)
        found = self.answers(
            [query], k, candidates=candidates, typed=typed, keep_known=keep_known, source=source
        )
        return [(answer.label, answer.score) for answer in found[0]]

    def answers(
        self,
        queries: Sequence[tuple[str | None, str, str | None]],
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        typed: bool = False,
        keep_known: bool = False,
        source: bool = False,
    ) -> list[Answers]:
        """The answers of the compact model or of the source; see `CompressedModel.answers`.

        Where nothing is left out (candidates, keep_known), the graph is needed only to mark known
        answers: they are not marked if it cannot be found.
        """
        only_marks = keep_known or candidates is not None
        model = self._marking(source) if only_marks else self.answering(source=source)
        return model.answers(queries, k, candidates=candidates, typed=typed, keep_known=keep_known)

    def score(
        self,
        triples: Sequence[tuple[str, str, str]] | npt.NDArray[Any],
        *,
        source: bool = False,
    ) -> npt.NDArray[np.float32]:
        """The scores of triples, fp32 (n,); see `CompressedModel.score`."""
        return self.answering(source=source, known=False).score(triples)

    def embedding(self, label: str, *, source: bool = False) -> npt.NDArray[np.float32]:
        """An entity's row, fp32; see `CompressedModel.embedding`."""
        return self.answering(source=source, known=False).embedding(label)

    def neighbors(
        self, label: str, k: int = 10, *, source: bool = False
    ) -> list[tuple[str, float]]:
        """The entities with the most similar rows; see `CompressedModel.neighbors`."""
        return self.answering(source=source, known=False).neighbors(label, k)
