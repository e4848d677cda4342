"""Models, tables and weights that the tests of compressed models start from."""

from typing import Any

import numpy as np

from metasd import _C
from metasd.data.graph import Graph
from metasd.models import Scoring
from metasd.models.masks import draw_masks
from metasd.models.model import Model

ENGINES = [
    name
    for name in ("amx", "avx512vnni", "avx512", "avx2", "portable")
    if _C.engine_supported(name)
]
CODECS = [
    ("sparse", "fp32", 0.1),
    ("sparse", "fp16", 0.1),
    ("sparse", "bf16", 0.02),
    ("sparse", "int8", 0.1),
    ("sparse", "fp16", 0.4),  # a bit mask is smallest
    ("sparse", "fp16", 0.001),  # 16-bit columns are
    ("column", "fp32", 0.5),
    ("column", "fp16", 0.5),
    ("column", "bf16", 0.5),
    ("column", "int8", 0.5),
    ("column", "int4", 0.5),
    ("column", "int3", 0.5),
    ("column", "int2", 0.5),
    ("column", "ternary", 0.5),
    ("int8", "int8", 1.0),
    ("int4", "int4", 1.0),
    ("int3", "int3", 1.0),
    ("int2", "int2", 1.0),
    ("ternary", "ternary", 1.0),
]
"""Codec, weight format, and the share of weights (of columns) that are not zero."""


def weights(codec: str, density: float, rows: int, width: int, seed: int = 0) -> Any:
    """Normal fp32 weights; of the codec column, whole columns are zero."""
    random = np.random.default_rng(seed)
    table = random.standard_normal((rows, width)).astype(np.float32)
    if codec == "column":
        return table * (random.random(width) < density)
    return table * (random.random((rows, width)) < density)


def trained(
    scoring: str, graph: Graph, granularity: str = "weight", weight_format: str = "fp32"
) -> Model:
    """Random tables with a mask that keeps a tenth, or a half of the columns."""
    model = Model.create(
        Scoring.named(scoring)(40), graph.num_entities, graph.num_relations, 0, weight_format
    )
    model.entities *= 1000
    model.relations *= 1000
    model.masks = draw_masks(model, 0.5 if granularity == "column" else 0.9, granularity)
    return model
