"""What a MetaSD step over many GPUs should cost, from counts of bytes and operations.

Not measured: the traffic formula is held against measured traffic in docs/scaling.md, everything
else is arithmetic on published figures of one machine and on shares of its peaks that are assumed.
"""

from dataclasses import dataclass

PRODUCTS = 32
"""Of 2 B N d operations each: source step 4, inner step 6, quiz 4, meta gradient 10, mutual step 8.
Scores are made twice, for the statistics and for the gradient, since none are kept."""

TABLE_BYTES = 30
"""Of memory for each number of the table: fp32 weight, two Adagrad sums, three gradients at a time;
bf16 copies of the source's and the compact model's table and of the derivative's."""

KEPT_BYTES = 12
"""Of these, weight and Adagrad sums; the rest is only needed for rows that a step touches."""

PASS_BYTES = 132
"""Read and written for each number of the table in a step: three optimiser steps of 20, gradients
and the temporary compact model 36, bf16 copies 36."""

SCORE_BYTES = 36
"""Read and written for each score in a step: six gradients of 6."""

SHARED, RETURNED, GATHERED, SCATTERED = 7, 6, 11, 10
"""Exchanges in a step: of queries (B, d) and of their gradients; of rows (B / shards, d)."""

STATISTICS = 36
"""Numbers that are summed for each query in a step: 4, 11, 4, 6 and 11 in the five losses."""

RELATION_SUMS = 5
"""Times that a gradient of all relations is summed over the shards in a step."""

COLLECTIVES = 75


@dataclass(frozen=True)
class Graph:
    name: str
    entities: int
    relations: int
    triples: int


GRAPHS = (
    Graph("ogbl-wikikg2", 2_500_604, 535, 16_109_182),
    Graph("Wikidata5M", 4_594_485, 822, 20_614_279),
    Graph("Freebase", 86_054_151, 14_824, 338_586_276),
)


@dataclass(frozen=True)
class Machine:
    """A GPU: peaks of its data sheet (bytes/s, operations/s), and the share that is assumed."""

    memory: float = 80e9
    operations: float = 989e12  # bf16, H100 SXM
    bandwidth: float = 3.35e12
    near: float = 450e9  # to the GPUs of the same eight, one direction
    far: float = 50e9  # beyond them: 400 Gb/s each
    latency: float = 30e-6  # of a collective
    share: float = 0.5


def traffic(shards: int, batch: int, width: int, relations: int) -> float:
    """Bytes that each of the processes sends in a step; `relations` without inverses."""
    others = (shards - 1) / shards
    rows = SHARED + RETURNED + (GATHERED + SCATTERED) / shards
    sums = STATISTICS * batch + RELATION_SUMS * 2 * relations * width
    return 4 * others * (rows * batch * width + 2 * sums)


@dataclass(frozen=True)
class Step:
    """Of one GPU: bytes of memory and of traffic, and seconds by what they go to."""

    memory: float
    traffic: float
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def limit(self) -> str:
        return max(self.seconds, key=self.seconds.__getitem__)


def step(
    graph: Graph,
    shards: int,
    batch: int,
    width: int,
    candidates: int | None = None,
    machine: Machine = Machine(),
) -> Step:
    """`candidates`: how many entities are scored; heads of batch and quiz are read besides them."""
    numbers = graph.entities / shards * width
    scored = graph.entities if candidates is None else candidates
    touched = numbers if candidates is None else (candidates + 2 * batch) / shards * width
    scores = scored / shards * batch
    sent = traffic(shards, batch, width, graph.relations)
    wire = machine.near if shards <= 8 else machine.far
    return Step(
        KEPT_BYTES * numbers + (TABLE_BYTES - KEPT_BYTES) * touched + 24 * graph.triples + 2**28,
        sent,
        {
            "products": PRODUCTS * 2 * scores * width / (machine.share * machine.operations),
            "memory": (PASS_BYTES * touched + SCORE_BYTES * scores)
            / (machine.share * machine.bandwidth),
            "network": sent / (machine.share * wire),
            "latency": COLLECTIVES * machine.latency if shards > 1 else 0.0,
        },
    )
