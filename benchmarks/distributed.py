"""Time, memory and traffic of distributed training, over processes of this machine.

    python benchmarks/distributed.py [--graph PREPARED]   # writes benchmarks/results/sharding.json

Each case runs the trainer's own steps (objective metasd), on random triples in memory or on a
prepared graph, in 1 process with two threads and in 2 with one each. Traffic is what the loopback
device sent: what other programs send over it meanwhile is counted, too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metasd import distributed, load_graph, preset
from metasd.data.graph import Graph
from metasd.environment import measured_on, peak_memory
from metasd.training.run import RunFolder
from metasd.training.schedule import Phase
from metasd.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
SENT = Path("/sys/class/net/lo/statistics/tx_bytes")
RELATIONS, BATCH, RANK = 50, 1000, 32
ENTITIES = (125_000, 500_000, 4_000_000)


class Numbers(Sequence[str]):
    """Labels 0, 1, ... that take no memory."""

    def __init__(self, count: int) -> None:
        self.numbers = range(count)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, key: Any) -> Any:
        found = self.numbers[key]
        return str(found) if isinstance(found, int) else [str(number) for number in found]


def graph_of(entities: int) -> Graph:
    """Only as many triples as the measured steps need: memory is then that of the tables."""
    generator = np.random.Generator(np.random.PCG64(0))
    size = (100 * BATCH,)
    columns = [generator.integers(n, size=size) for n in (entities, RELATIONS, entities)]
    nothing = np.empty((0, 3), dtype=np.int64)
    return Graph(
        name=f"random:{entities}",
        entities=Numbers(entities),
        relations=[str(i) for i in range(RELATIONS)],
        train=np.stack(columns, axis=1),
        valid=nothing,
        test=nothing,
    )


def worker(case: dict[str, Any]) -> None:
    """Steps of this process among its peers; the first prints what they took."""
    torch.set_num_threads(case["threads"])
    processes = distributed.start()
    began = time.perf_counter()
    graph = load_graph(case["graph"]) if case["graph"] else graph_of(case["entities"])
    settings = {"model.rank": RANK, "train.batch_size": BATCH, "train.candidates": "all"}
    settings |= case["settings"]
    config = preset("metasd").override(settings)
    trainer = Trainer(graph, config, RunFolder("nothing is written"), processes)
    trainer.update_masks(trainer.state.epoch)
    batch = trainer.batches(0)
    loaded = time.perf_counter() - began
    trainer.step(Phase.SHARED, *batch(0))
    times, sent = [], []
    for step in range(1, case["steps"] + 1):
        processes.barrier()
        start, before = time.perf_counter(), int(SENT.read_text())
        trainer.step(Phase.SHARED, *batch(step))
        processes.barrier()
        times.append(time.perf_counter() - start)
        sent.append(int(SENT.read_text()) - before)
    peak = processes.all_reduce_max(peak_memory(torch.device("cpu")))
    distributed.stop()
    if processes.is_main:
        found = {"seconds": times, "sent_bytes": sent, "peak_bytes": peak, "load_seconds": loaded}
        found |= {"triples": len(graph.train), "relations": graph.num_relations}
        print(json.dumps(found))


def measured(case: dict[str, Any], processes: int) -> dict[str, Any]:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    case = {**case, "threads": 2 // processes}
    environment = os.environ | {"OMP_NUM_THREADS": str(case["threads"])}
    done = subprocess.run(
        [*command, __file__, "--worker", json.dumps(case)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["seconds"] = float(np.median(found["seconds"]))
    found["sent_bytes"] = float(np.median(found["sent_bytes"])) if processes > 1 else 0.0
    shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
    print(f"{case['entities']:,} entities, {processes} processes: {shown}", file=sys.stderr)
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments.add_argument("--entities", type=int, nargs="+", default=ENTITIES)
    arguments.add_argument("--graph", type=Path, help="a prepared graph, instead of --entities")
    arguments.add_argument("--steps", type=int, default=3)
    arguments.add_argument("--candidates", default="all", help="train.candidates")
    chosen = arguments.parse_args()
    if chosen.worker:
        worker(chosen.worker)
        return
    sizes = [load_graph(chosen.graph).num_entities] if chosen.graph else chosen.entities
    cases = []
    for entities in sizes:
        case = {
            "entities": entities,
            "graph": str(chosen.graph) if chosen.graph else None,
            "steps": chosen.steps,
            "settings": {"train.candidates": chosen.candidates},
        }
        found = {str(n): measured(case, n) for n in (1, 2)}
        name = load_graph(chosen.graph).name if chosen.graph else None
        cases.append({**case, "graph": name, **found})
    shape = {"rank": RANK, "batch": BATCH}
    result = {**measured_on(), "shape": shape, "cases": cases}
    name = "sharding-graph.json" if chosen.graph else "sharding.json"
    if chosen.candidates != "all":
        name = "sharding-candidates.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
