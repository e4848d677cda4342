"""Weight formats and columns of a compact model that is to take so many bytes (`compact.size`).

Bytes are those of both tables as they are stored: codes, a scale per row, the numbers of the
columns that are left. Labels and known triples are apart.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from metasd.compressed.description import readable_bytes
from metasd.compressed.table import CODES, code_bytes
from metasd.config import SIZED, Config
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.models.base import Scoring

FORMAT, RELATION_FORMAT = "compact.weight_format", "compact.relation_format"
GRANULARITY, FRACTION = "prune.granularity", "prune.fraction"
_WORTH = {"int8": 1.1, "int4": 1.0, "int3": 0.74, "int2": 0.45, "ternary": 0.4}
"""What an entity's column in a weight format is worth, so that more columns in fewer bits are taken
only where they are worth it: studies/codex-s.
"""

_RELATION_WORTH = {"int8": 1.0, "int4": 0.98, "int3": 0.88, "int2": 0.7}
"""By what the relations' format multiplies that."""


class Choice(NamedTuple):
    """Weight formats, the coordinates that are kept, and the bytes of both tables."""

    weight_format: str
    relation_format: str
    coordinates: int
    bytes: int


def source_bytes(graph: Graph, scoring: Scoring) -> int:
    """Of the source's tables, fp32."""
    entities = scoring.entity_roles * graph.num_entities * scoring.entity_width
    return 4 * (entities + 2 * graph.num_relations * scoring.relation_width)


def limit(graph: Graph, config: Config) -> int:
    """The most bytes that `compact.size` leaves the compact model's tables."""
    assert config.compact.size is not None
    share, most = config.compact.size_limit
    scoring = Scoring.named(config.model.name)(config.model.rank)
    return most or math.floor(share * source_bytes(graph, scoring))


def compact_bytes(graph: Graph, scoring: Scoring, choice: tuple[str, str, int]) -> int:
    """Of both tables in these weight formats, with so many coordinates left."""
    entity_format, relation_format, coordinates = choice
    total = 0
    for rows, width, weight_format in (
        (scoring.entity_roles * graph.num_entities, scoring.entity_width, entity_format),
        (2 * graph.num_relations, scoring.relation_width, relation_format),
    ):
        stored = width * coordinates // scoring.rank
        columns = 4 * stored if coordinates < scoring.rank else 0
        total += rows * (code_bytes(stored, weight_format) + 4) + columns
    return total


def stored_bytes(graph: Graph, config: Config) -> int | None:
    """Of the compact model's tables, as they will be stored; None where that shows only then."""
    dense, prune = config.train.objective == "dense", config.prune
    columns = prune.granularity == "column" or prune.fraction == 0
    if dense or not columns or config.compact.weight_format not in CODES:
        return None
    scoring = Scoring.named(config.model.name)(config.model.rank)
    kept = scoring.rank - math.ceil(prune.fraction * scoring.rank)
    formats = (config.compact.weight_format, config.compact.relation_format)
    return compact_bytes(graph, scoring, (*formats, kept))


def sized(graph: Graph, config: Config) -> Config:
    """The config with the weight formats and columns that make the most of `compact.size`.

    Settings that are not in `tune.settings` are given, and stay; afterwards none of them is in it.

    Raises:
        InputError: nothing is as small as that.
    """
    wanted = [key for key in SIZED if key in config.tune.settings]
    left = {"tune.settings": [key for key in config.tune.settings if key not in SIZED]}
    if config.compact.size is None:
        return config.override(left)
    _check(config)
    most = limit(graph, config)
    choices = list(_choices(graph, config))
    fitting = [choice for choice in choices if choice.bytes <= most]
    if not fitting:
        least = min(choice.bytes for choice in choices)
        raise InputError(
            f"compact.size = {config.compact.size} leaves {readable_bytes(most)} for the compact "
            f"model's tables of {graph.name} at rank {config.model.rank}; the smallest that these "
            f"settings allow takes {readable_bytes(least)}"
        )
    best = max(fitting, key=_worth)
    found = {
        FORMAT: best.weight_format,
        RELATION_FORMAT: best.relation_format,
        GRANULARITY: "column",
        FRACTION: _fraction(best.coordinates, config.model.rank),
    }
    if found[FRACTION] == 0:
        found[GRANULARITY] = config.prune.granularity
    return config.override({**{key: found[key] for key in wanted}, **left})


def _check(config: Config) -> None:
    """InputError where `compact.size` and another setting that is given exclude each other."""
    values, open_ = config.flat(), config.tune.settings
    columns = values[GRANULARITY] == "column" or GRANULARITY in open_
    if not columns and FRACTION not in open_:
        columns = values[FRACTION] == 0
    for key, fits, needed in (
        ("train.objective", values["train.objective"] != "dense", "a compact model"),
        ("compact.weights", values["compact.weights"] == "separate", "compact.weights = separate"),
        (FORMAT, values[FORMAT] in CODES, f"a {FORMAT} of few bits"),
        ("prune.schedule", values["prune.schedule"] == "constant", "prune.schedule = constant"),
        (GRANULARITY, columns, f"{GRANULARITY} = column"),
    ):
        if not fits:
            raise InputError(f"compact.size needs {needed}; got {key} = {values[key]}")


def _choices(graph: Graph, config: Config) -> Iterator[Choice]:
    """What the given settings leave open; of coordinates, as many as fit, or the fewest."""
    scoring, most = Scoring.named(config.model.name)(config.model.rank), limit(graph, config)
    open_, rank = config.tune.settings, scoring.rank
    formats = [*_WORTH] if FORMAT in open_ else [config.compact.weight_format]
    relations = [*_RELATION_WORTH] if RELATION_FORMAT in open_ else [config.compact.relation_format]
    counts = range(1, rank + 1)
    if FRACTION not in open_:
        kept = rank
        if GRANULARITY in open_ or config.prune.granularity == "column":
            kept -= math.ceil(config.prune.fraction * rank)
        counts = range(kept, kept + 1)
    elif scoring.matrix_relations:
        counts = range(rank, rank + 1)
    for weight_format in formats:
        for relation_format in relations:
            pair = (weight_format, relation_format)
            sizes = {count: compact_bytes(graph, scoring, (*pair, count)) for count in counts}
            best = max((n for n in counts if sizes[n] <= most), default=counts[0])
            yield Choice(*pair, best, sizes[best])


def _worth(choice: Choice) -> float:
    relations = _RELATION_WORTH[choice.relation_format]
    return choice.coordinates * _WORTH[choice.weight_format] * relations


def _fraction(kept: int, rank: int) -> float:
    """A share of the coordinates whose removal leaves exactly so many, safe from rounding."""
    return round(max(rank - kept - 0.5, 0) / rank, 6)
