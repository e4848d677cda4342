"""Time and peak memory of one training step, one contender a process, as JSON.

    python benchmarks/measure_step.py metasd --entities 14541 --rank 128

Contenders: `metasd` (the package), `dense` (eager PyTorch with a double backward, see dense.py) and
`products` (only the matrix products that a MetaSD step is made of). Memory is what a step needs at
most above the tables, masks and optimiser states that it finds.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dense import DenseMetaSD, Settings
from metasd import _C, kernels
from metasd.config import Config
from metasd.model import Model
from metasd.models import Scoring
from metasd.step import Batch, Step

Shape = argparse.Namespace


def tables(shape: Shape) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        0.1 * torch.randn(shape.entities, 2 * shape.rank),
        0.1 * torch.randn(shape.relations, 2 * shape.rank),
    )


def triples(shape: Shape, rows: int) -> Tensor:
    limits = (shape.entities, shape.relations, shape.entities)
    return torch.stack([torch.randint(limit, (rows,)) for limit in limits], dim=1)


def metasd_step(shape: Shape) -> Callable[[], object]:
    """The package's step, as the trainer runs it."""
    _C.keep_freed_memory()
    entities, relations = tables(shape)
    config = Config().override(
        {
            "model.rank": shape.rank,
            "relation_prediction.weight": 4.0,
            "train.precision": shape.precision,
        }
    )
    masks = kernels.topk_mask([entities, relations], 0.9)
    model = Model(Scoring.named("complex")(shape.rank), entities, relations, (masks[0], masks[1]))
    step = Step(model, config)
    return lambda: step(Batch.of(triples(shape, shape.batch)), Batch.of(triples(shape, shape.quiz)))


def dense_step(shape: Shape) -> Callable[[], object]:
    entities, relations = tables(shape)
    model = DenseMetaSD(
        entities,
        relations,
        Settings(shape.rank, product_dtype=torch.bfloat16 if shape.precision == "bf16" else None),
        *(
            kernels.unpack_mask(mask, 2 * shape.rank)
            for mask in kernels.topk_mask([entities, relations], 0.9)
        ),
    )
    return lambda: model.step(triples(shape, shape.batch), triples(shape, shape.quiz))


def products_only(shape: Shape) -> Callable[[], object]:
    """Nineteen products of the batch and three of the quiz, into memory that is there already."""
    dtype = kernels.product_dtype(shape.precision)
    table = torch.randn(shape.entities, 2 * shape.rank).to(dtype)
    grad_table = torch.empty_like(table)

    def sizes(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        queries = torch.randn(rows, 2 * shape.rank).to(dtype)
        return queries, torch.empty_like(queries), torch.empty(rows, shape.entities, dtype=dtype)

    batch, quiz = sizes(shape.batch), sizes(shape.quiz)

    def run() -> None:
        for (queries, grad_queries, scores), forward, backward in ((batch, 9, 5), (quiz, 1, 1)):
            for _ in range(forward):
                torch.mm(queries, table.T, out=scores)
            for _ in range(backward):
                torch.mm(scores, table, out=grad_queries)
                torch.mm(scores.T, queries, out=grad_table)

    return run


CONTENDERS = {"metasd": metasd_step, "dense": dense_step, "products": products_only}


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS, or its high-water mark VmHWM (Linux)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(step: Callable[[], object], repeats: int, warmup: int = 2) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    held = resident("VmRSS")
    seconds = []
    for _ in range(warmup + repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[warmup:]),
        "peak_bytes": resident("VmHWM") - held,
    }


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("contender", choices=CONTENDERS)
    arguments.add_argument("--entities", type=int, default=14541)
    arguments.add_argument("--relations", type=int, default=474, help="inverses counted")
    arguments.add_argument("--rank", type=int, default=128)
    arguments.add_argument("--batch", type=int, default=1000)
    arguments.add_argument("--quiz", type=int, default=1000)
    arguments.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    arguments.add_argument("--repeats", type=int, default=5)
    return arguments


if __name__ == "__main__":
    shape = parser().parse_args()
    print(json.dumps(measure(CONTENDERS[shape.contender](shape), shape.repeats)))
