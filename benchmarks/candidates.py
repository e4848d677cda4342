"""Training on candidates against training on all entities: accuracy, time, memory.

python benchmarks/candidates.py accuracy GRAPH [--candidates all 2000] [--seeds 1] [--set key=value]
python benchmarks/candidates.py steps [--entities 100000 1000000] [--set key=value]
python benchmarks/candidates.py graph PREPARED [--set key=value]

`accuracy` trains and reports valid MRR after the last epoch (of a sample of the triples where they
are many; test is not read). `steps` times steps on random triples by the number of entities, each
in a process of its own, in turns; `graph` does so on a prepared graph. Results are added to
benchmarks/results/candidates.json, with the time on the clock and the processor time: on one thread
(OMP_NUM_THREADS=1) they are the same, unless the machine has other work.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed import graph_of

import metasd
from metasd import _C
from metasd.config import Config, preset
from metasd.data.graph import Graph
from metasd.environment import measured_on, peak_memory
from metasd.evaluation import evaluate
from metasd.files import write_text
from metasd.training.estimate import resident_memory
from metasd.training.learner import Learner

RESULTS = Path(__file__).with_name("results") / "candidates.json"
RANKED = 2000  # triples of valid
TURNS, STEPS, WARMUP = 3, 60, 20


def add(row: dict[str, Any]) -> None:
    row = {**row, **measured_on()}
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    write_text(RESULTS, json.dumps([*results, row], indent=1) + "\n")
    print(
        json.dumps({k: v for k, v in row.items() if k not in ("machine", "versions")}), flush=True
    )


def configured(settings: list[str]) -> Config:
    """Dense, unless the settings say something else."""
    wanted = dict(setting.split("=", 1) for setting in settings)
    base = preset("metasd" if wanted.get("train.objective") == "metasd" else "default")
    dense = {} if "train.objective" in wanted else {"train.objective": "dense"}
    return base.override({"tune.settings": [], **dense}).override(settings)


def accuracy(arguments: argparse.Namespace) -> None:
    graph = metasd.load_graph(arguments.graph)
    config = configured(arguments.set)
    chosen = np.random.Generator(np.random.PCG64(0)).permutation(len(graph.valid))[:RANKED]
    sample, known = replace(graph, valid=graph.valid[np.sort(chosen)]), graph.known()
    for seed in range(arguments.seeds):
        for candidates in arguments.candidates:
            settings = {"train.seed": seed, "train.candidates": candidates}
            learner = Learner(graph, config.override(settings))
            seconds, cpu, history = 0.0, 0.0, []
            for epoch in range(config.train.epochs):
                start, before = time.perf_counter(), time.process_time()
                for _ in learner.steps(epoch):
                    pass
                seconds += time.perf_counter() - start
                cpu += time.process_time() - before
                if (epoch + 1) % arguments.every == 0 or epoch + 1 == config.train.epochs:
                    mrr = {
                        name: float(evaluate(view, sample, "valid", known=known)["mrr"])
                        for name, view in learner.model.views.items()
                    }
                    history.append(
                        {
                            "epoch": epoch + 1,
                            "seconds": seconds,
                            "cpu_seconds": cpu,
                            "valid_mrr": mrr,
                        }
                    )
            add(
                {
                    "measured": "accuracy",
                    "graph": graph.name,
                    "settings": arguments.set,
                    "seed": seed,
                    "candidates": candidates,
                    "ranked": len(sample.valid),
                    "history": history,
                }
            )


def timed(graph: Graph, settings: list[str], count: int) -> dict[str, Any]:
    """Seconds of each of some steps, and the memory that they needed beyond tables and states."""
    _C.keep_freed_memory()
    learner = Learner(graph, configured(settings))
    tables = [learner.model.entities, *learner.step.optimizer_tensors().values()]
    held = sum(x.numel() * x.element_size() for x in tables)
    times, cpu = [], []
    last, before = time.perf_counter(), time.process_time()
    for losses in learner.steps(0):
        float(next(iter(losses.values())))
        now = time.perf_counter()
        times.append(now - last)
        cpu.append(time.process_time() - before)
        last, before = time.perf_counter(), time.process_time()
        if len(times) >= count:
            break
    return {
        "entities": graph.num_entities,
        "triples": len(graph.train),
        "steps_per_epoch": learner.steps_per_epoch,
        "step_seconds": times[WARMUP:],
        "cpu_seconds": cpu[WARMUP:],
        "table_bytes": held,
        "resident_bytes": resident_memory(),
        "peak_bytes": peak_memory(torch.device("cpu")),
    }


def in_process(entities: int, settings: list[str], count: int) -> dict[str, Any]:
    text = json.dumps([entities, settings, count])
    command = [sys.executable, __file__, "worker", text]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def steps(arguments: argparse.Namespace) -> None:
    runs: dict[int, list[dict[str, Any]]] = {n: [] for n in arguments.entities}
    for _ in range(TURNS):
        for entities in arguments.entities:
            runs[entities].append(in_process(entities, arguments.set, WARMUP + STEPS))
    for found in runs.values():
        medians = {
            key: statistics.median(seconds for run in found for seconds in run[key])
            for key in ("step_seconds", "cpu_seconds")
        }
        add({"measured": "steps", "settings": arguments.set, **found[0], **medians})


def prepared(arguments: argparse.Namespace) -> None:
    graph = metasd.load_graph(arguments.graph)
    loaded = resident_memory()
    found = timed(graph, arguments.set, arguments.steps)
    row = {
        **found,
        "step_seconds": statistics.median(found["step_seconds"]),
        "cpu_seconds": statistics.median(found["cpu_seconds"]),
        "mean_cpu_seconds": statistics.mean(found["cpu_seconds"]),
    }
    about = {"graph": graph.name, "settings": arguments.set, "loaded_bytes": loaded}
    add({"measured": "graph", **about, **row})


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        entities, settings, count = json.loads(sys.argv[2])
        print(json.dumps(timed(graph_of(entities), settings, count)))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("accuracy")
    command.add_argument("graph")
    command.add_argument("--candidates", nargs="+", default=["all", "2000"])
    command.add_argument("--seeds", type=int, default=1)
    command.add_argument("--every", type=int, default=1000, help="epochs between validations")
    command.set_defaults(run=accuracy)
    command = commands.add_parser("steps")
    command.add_argument("--entities", type=int, nargs="+", default=[10**5, 10**6, 4 * 10**6])
    command.set_defaults(run=steps)
    command = commands.add_parser("graph")
    command.add_argument("graph")
    command.add_argument("--steps", type=int, default=300)
    command.set_defaults(run=prepared)
    for command in commands.choices.values():
        command.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
