"""One MetaSD step over ever more entities: time per triple and entity, memory beyond the tables."""

from typing import Any

from bench_step import metasd_step
from measure import Contender, Options, compare

SIZES = (10_000, 100_000, 1_000_000, 4_000_000)
QUICK = (1_000, 4_000)


def test_scaling(benchmark: Any, record: Any, quick: bool) -> None:
    shape = {"relations": 474, "rank": 32, "batch": 1000, "quiz": 1000, "precision": "auto"}
    contenders = {
        f"{entities:,} entities": Contender(
            metasd_step, {"entities": entities}, repeats=2 if entities > 500_000 else 5, warmup=1
        )
        for entities in (QUICK if quick else SIZES)
    }
    figures = compare(contenders, shape, quick)
    for name, found in figures["contenders"].items():
        entities = contenders[name].options["entities"]
        found["entities"] = entities
        found["table_bytes"] = 4 * (entities + shape["relations"]) * 2 * shape["rank"]
        found["seconds_per_score"] = found["seconds"] / (shape["batch"] * entities)
    record("scaling", figures)
    step = metasd_step(Options(**shape, entities=QUICK[0]))
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
