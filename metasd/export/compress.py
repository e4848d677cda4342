"""Compression: from a trained model, or plain tables, to a compressed model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from metasd.compressed.description import codec_name, readable_bytes
from metasd.compressed.labels import Labels
from metasd.compressed.model import CompressedModel
from metasd.compressed.table import CODES, NUMBERS, Array, Floats, Table
from metasd.data.comparison import with_labels_of
from metasd.data.graph import Graph
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError
from metasd.models import Scoring
from metasd.models.model import Model
from metasd.training.run import Run, RunFolder

from .encode import DENSE, FORMATS, check_formats, encode

_METRICS = ("mrr", "mr", "hits@1", "hits@3", "hits@10", "ranks", "pessimistic", "tie_rate")


@dataclass(frozen=True)
class _Codec:
    """How a table is encoded.

    Attributes:
        levels: those that its model was trained with, if other ones.
        relation_format: of relations, where the weight format is one of codes.
    """

    codec: str
    weight_format: str
    levels: str = ""
    relation_format: str = "int8"

    def encode(self, weights: Floats) -> Table:
        return encode(weights, self.codec, self.weight_format, self.levels)

    @property
    def of_relations(self) -> _Codec:
        """The same in their own format, of 8 bits unless trained otherwise: relations are few."""
        if self.weight_format not in CODES:
            return self
        own = "int8" if self.codec == "sparse" else self.relation_format
        return _Codec(own if self.codec in CODES else self.codec, own)


def compress(
    model: Model | Run,
    codec: str = "auto",
    weight_format: str = "auto",
    *,
    source: bool = False,
    graph: Graph | None = None,
    vocabulary: Vocabulary | None = None,
    known: bool = True,
) -> CompressedModel:
    """Compresses the tables that a trained model scores with.

    Args:
        model: a model, or a run, whose labels, metrics and protocol go with it.
        codec: one of `encode.FORMATS`; auto: sparse or column where most weights are zero, else the
            codec of the weight format that the model was trained with, or int8.
        weight_format: of `sparse` fp32, fp16, bf16 or int8; of `column` also int4, int3, int2 or
            ternary; auto: fp16, or the weight format that the model was trained with.
        source: the source's tables, even where there is a compact model.
        graph: its triples are kept so that answers leave them out. For a run it is needed only if
            it is not where the run found it.
        vocabulary: the labels of a model without a run or graph; without it, ids are labels.
        known: False keeps no triples, and needs no graph.

    Raises:
        InputError: a codec that does not fit, or a graph that cannot be found.
    """
    if not isinstance(model, Run | Model):
        raise TypeError(f"model must be a Run or its model; got {type(model).__name__}")
    about: dict[str, Any] = {}
    if isinstance(model, Run):
        run = model
        model, vocabulary = run.model, run.vocabulary
        if not source and model.masks is None and run.config.train.objective != "dense":
            raise InputError(
                f"{run.path} has no compact model yet: it stopped within compact.warmup_epochs "
                f"({run.config.warmup_epochs}); --source (source=True) takes its source"
            )
        about = _about_run(run)
        if known and graph is None:
            graph = run.graph()
    if model.processes.shards > 1:
        raise InputError(
            "this model holds the entities of one shard: compress its run folder, in one process"
        )
    view = model.source if source or model.masks is None else model.compact
    chosen = _choose(_array(view.entities), codec, weight_format, view.weight_format)
    if chosen.levels:
        chosen = replace(chosen, relation_format=model.relation_format)
    found = view.masked if chosen.levels else (view.entities, view.relations)
    tables = [_array(table) for table in found]
    about |= {"model": "source" if view.masks is None else "compact"}
    return _assemble(
        model.scoring.name,
        model.scoring.rank,
        tables[0],
        tables[1],
        chosen,
        vocabulary or graph,
        graph if known else None,
        about,
    )


def compress_tables(
    scoring: str,
    rank: int,
    entities: Floats,
    relations: Floats,
    codec: str = "auto",
    weight_format: str = "auto",
    *,
    vocabulary: Vocabulary | None = None,
    graph: Graph | None = None,
    about: dict[str, Any] | None = None,
) -> CompressedModel:
    """Compresses tables as they are.

    Args:
        scoring: name of the scoring function.
        rank: coordinates per entity.
        entities: fp32 (roles * N, width).
        relations: fp32 (2R, width), inverse relations second.
        codec, weight_format: as in `compress`.
        vocabulary: the labels, if not those of the graph; without both, ids are labels.
        graph: its triples are kept so that answers leave them out.
        about: where the tables come from (JSON).

    Raises:
        InputError: tables that fit neither labels nor codec.
    """
    chosen = _choose(entities, codec, weight_format, "fp32")
    return _assemble(
        scoring,
        rank,
        entities,
        relations,
        chosen,
        vocabulary or graph,
        graph,
        about or {},
    )


def _assemble(
    scoring: str,
    rank: int,
    entities: Floats,
    relations: Floats,
    codec: _Codec,
    vocabulary: Vocabulary | None,
    graph: Graph | None,
    about: dict[str, Any],
) -> CompressedModel:
    """The compressed model of fp32 tables, with labels and the triples of a graph.

    Args:
        entities: (roles * N, width), and `relations` (2R, width).
        codec: of the entities; see `_Codec.of_relations`.
        vocabulary: the labels; None: ids are labels.
        graph: its triples are kept; None: no triples.
        about: becomes `CompressedModel.about`, beside the name and digest of the graph.

    Raises:
        InputError: other numbers of entities or relations, or weights that the codec cannot hold.
    """
    num_entities = len(entities) // Scoring.named(scoring).entity_roles
    num_relations = len(relations) // 2
    if vocabulary is None:
        ids = [str(i) for i in range(max(num_entities, num_relations))]
        vocabulary = Vocabulary(entities=ids[:num_entities], relations=ids[:num_relations])
    have = (vocabulary.num_entities, vocabulary.num_relations)
    if have != (num_entities, num_relations):
        raise InputError(
            f"the tables are of {num_entities} entities and {num_relations} relations; "
            f"there are labels of {have[0]} and {have[1]}"
        )
    kept = None
    if graph is not None:
        kept = with_labels_of(graph, vocabulary, "the model").packed_known()
        about = {"graph": graph.description, **about}
    table = codec.encode(entities)
    table.check_width()
    return CompressedModel(
        scoring,
        rank,
        table,
        codec.of_relations.encode(relations),
        Labels.of(vocabulary.entities, vocabulary.entity_labels, "entity"),
        Labels.of(vocabulary.relations, vocabulary.relation_labels, "relation"),
        kept,
        about=about,
    )


def _array(table: Tensor) -> Floats:
    found: Floats = table.detach().cpu().numpy()
    return found


def _choose(entities: Array, codec: str, weight_format: str, trained: str) -> _Codec:
    """The codec of the entity table.

    Args:
        entities: fp32, rounded already.
        codec, weight_format: as given to `compress`; auto is resolved.
        trained: the weight format that the model was trained with, fp32 for none.
    """
    check_formats(codec, weight_format)
    own = "int8" if trained == "fp32" else trained
    if codec == "auto":
        density = np.count_nonzero(entities) / entities.size
        columns = np.count_nonzero(entities.any(axis=0)) / entities.shape[1]
        zeroless = own in ("int3", "int2")
        enough = 0.99 if zeroless else CODES[own] / 16  # a weight of its own takes two bytes
        if columns < (0.9 if trained == "fp32" else 1) and density > enough * columns:
            codec = "column"
        elif density < (0.4 if zeroless else min(0.4, enough)):
            codec = "sparse"
        else:
            codec = "int4" if zeroless and density < 0.99 else own
        if weight_format not in ("auto", *FORMATS[codec]):
            codec = weight_format
    if weight_format == "auto":
        if codec in DENSE:
            weight_format = codec
        elif trained == "fp32":
            weight_format = "fp16"
        else:
            weight_format = own if codec == "column" else "int8"
    fits = weight_format == own or (codec == "sparse" and weight_format == "int8")
    fits |= codec == weight_format == "int4" and own in ("int3", "int2")
    return _Codec(codec, weight_format, trained if fits and trained != "fp32" else "")


def size_notes(small: CompressedModel, model: Model | Run | None, source: bool) -> list[str]:
    """One line for each smaller codec that keeps as much as the one that was asked for.

    Args:
        small: what `compress` made of `model`.
        model: the model or run; None: tables of another program.
        source: as given to `compress`.
    """
    table, notes = small.entities, []
    name = codec_name(table)
    if table.codec == "sparse":
        dense = table.rows * table.width * np.dtype(NUMBERS[table.weight_format]).itemsize
        dense += 4 * table.rows * (table.weight_format in CODES)
        if dense < table.nbytes:
            notes.append(
                f"{name} takes {readable_bytes(table.nbytes)} for the entities; all weights as "
                f"{table.weight_format} take {readable_bytes(dense)}: "
                f"--codec {table.weight_format} is smaller"
            )
    model = model.model if isinstance(model, Run) else model
    if model is None or source or model.masks is None or model.weight_format == "fp32":
        return notes
    own = compress(model, known=False).entities
    if own.nbytes < table.nbytes:
        notes.append(
            f"the model was trained in {model.weight_format}: {name} takes "
            f"{readable_bytes(table.nbytes)} for the entities; --codec auto takes "
            f"{readable_bytes(own.nbytes)} ({codec_name(own)}) and adds no rounding"
        )
    return notes


def _about_run(run: Run) -> dict[str, Any]:
    metrics = {
        split: {
            name: {key: found[key] for key in _METRICS if key in found}
            for name, found in run.metrics[split].items()
        }
        for split in ("valid", "test")
        if split in run.metrics
    }
    return {
        "graph": RunFolder(run.path).graph_description(),
        "metrics": metrics,
        "protocol": run.metrics.get("protocol", {}),
        "training": run.config.flat(),
    }
