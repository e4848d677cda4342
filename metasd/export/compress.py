"""From a trained model to a compressed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from metasd.compressed.known import KnownTriples
from metasd.compressed.labels import Labels
from metasd.compressed.model import CompressedModel
from metasd.compressed.table import CODES, Array, Floats, Table
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError
from metasd.models import Scoring

from .encode import encode

if TYPE_CHECKING:
    from torch import Tensor

    from metasd.data.graph import Graph
    from metasd.models.model import Model
    from metasd.training.run import Run

_METRICS = ("mrr", "mr", "hits@1", "hits@3", "hits@10", "ranks", "pessimistic", "tie_rate")


@dataclass(frozen=True)
class _Codec:
    """How a table is encoded: codec, values, and the grid of a model that was trained with one."""

    codec: str
    values: str
    grid: str = ""

    def encode(self, weights: Floats) -> Table:
        return encode(weights, self.codec, self.values, self.grid)


def compress(
    model: Model | Run,
    codec: str = "auto",
    values: str = "auto",
    *,
    source: bool = False,
    graph: Graph | None = None,
    vocabulary: Vocabulary | None = None,
    known: bool = True,
) -> CompressedModel:
    """Compresses the tables that a trained model scores with.

    Args:
        model: a model, or a run, whose labels, metrics and protocol go with it.
        codec: one of `CODECS`; auto: sparse or column where most weights are zero, else the
            codec of the values that the model was trained with, or int8.
        values: of `sparse` and `column`: fp32, fp16, bf16, int8 (`column`: int4, int3, int2,
            ternary too); auto: fp16, or the values that the model was trained with.
        source: the source's tables, even where there is a compact model.
        graph: its triples are kept so that answers leave them out. Of a run: if it is not where the
            run found it.
        vocabulary: the labels of a model without a run or graph; or else the ids are labels.
        known: False keeps no triples, and needs no graph.

    Raises:
        InputError: a codec that does not fit, or a graph that cannot be found.
    """
    about: dict[str, Any] = {}
    if not hasattr(model, "views"):
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
    model = cast("Model", model)
    if model.processes.shards > 1:
        raise InputError(
            "this model has the entities of one shard: compress its run folder, in one process"
        )
    view = model.source if source or model.masks is None else model.compact
    chosen = _choose(_array(view.entities), codec, values, view.weight_format)
    found = view.masked if chosen.grid else (view.entities, view.relations)
    tables = [_array(table) for table in found]
    about |= {"model": "source" if view.masks is None else "compact"}
    return assemble(
        model.scoring.name,
        model.scoring.rank,
        tables[0],
        tables[1],
        chosen,
        _of_relations(chosen),
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
    values: str = "auto",
    *,
    vocabulary: Vocabulary | None = None,
    graph: Graph | None = None,
    about: dict[str, Any] | None = None,
) -> CompressedModel:
    """Compresses tables as they are: fp32 (roles * N, width) and (2R, width), inverses second."""
    chosen = _choose(entities, codec, values, "fp32")
    return assemble(
        scoring,
        rank,
        entities,
        relations,
        chosen,
        _of_relations(chosen),
        vocabulary or graph,
        graph,
        about or {},
    )


def assemble(
    scoring: str,
    rank: int,
    entities: Floats,
    relations: Floats,
    entity_codec: _Codec,
    relation_codec: _Codec,
    vocabulary: Vocabulary | None,
    graph: Graph | None,
    about: dict[str, Any],
) -> CompressedModel:
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
        triples = np.concatenate([graph.train, graph.valid, graph.test])
        kept = KnownTriples.of(triples, num_entities, num_relations)
        about = {"graph": {"name": graph.name, "digest": graph.digest}, **about}
    table = entity_codec.encode(entities)
    table.check_width()
    return CompressedModel(
        scoring,
        rank,
        table,
        relation_codec.encode(relations),
        Labels.of(vocabulary.entities, vocabulary.entity_labels, "entity"),
        Labels.of(vocabulary.relations, {}, "relation"),
        kept,
        about=about,
    )


def _array(table: Tensor) -> Floats:
    found: Floats = table.detach().cpu().numpy()
    return found


def _choose(entities: Array, codec: str, values: str, trained: str) -> _Codec:
    """The codec of the entity table; `trained`: the values that it is rounded to already."""
    own = "int8" if trained == "fp32" else trained
    if codec == "auto":
        density = np.count_nonzero(entities) / entities.size
        columns = np.count_nonzero(entities.any(axis=0)) / entities.shape[1]
        zeroless = own in ("int3", "int2")
        if columns < (1 if zeroless else 0.9) and density > (0.99 if zeroless else 0.5) * columns:
            codec = "column"
        elif density < 0.4:
            codec = "sparse"
        else:
            codec = "int4" if zeroless and density < 0.99 else own
    if values == "auto":
        if codec in CODES:
            values = codec
        elif trained == "fp32":
            values = "fp16"
        else:
            values = own if codec == "column" else "int8"
    fits = values == own or (codec == "sparse" and values == "int8")
    fits |= codec == values == "int4" and own in ("int3", "int2")
    return _Codec(codec, values, trained if fits and trained != "fp32" else "")


def _of_relations(chosen: _Codec) -> _Codec:
    """The same, but never fewer than 8 bits: relations are few."""
    if chosen.values not in CODES:
        return chosen
    codec = "int8" if chosen.codec in CODES else chosen.codec
    return _Codec(codec, "int8")


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
        "metrics": metrics,
        "protocol": run.metrics.get("protocol", {}),
        "training": run.config.flat(),
    }
