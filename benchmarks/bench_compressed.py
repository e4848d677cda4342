"""Compressed models: size, loading, and the ten best of all entities, against dense tables."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasd.compressed import CompressedModel
from metasd.compressed.labels import Labels
from metasd.compressed.table import Table
from metasd.data.filter_index import KnownAnswers
from metasd.export.encode import encode

ENTITIES, RELATIONS, RANK, TRIPLES = 40_943, 11, 512, 93_003  # WN18RR
KEEP, K = 0.1, 10

CODECS = {
    "sparse, fp16": ("sparse", "fp16"),
    "sparse, int8": ("sparse", "int8"),
    "int8": ("int8", "int8"),
    "int4": ("int4", "int4"),
    "int3": ("int3", "int3"),
    "ternary": ("ternary", "ternary"),
}
LOADING = """
import json, re, sys, time
from pathlib import Path
from metasd.compressed import CompressedModel, Query

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def load(path):
    start = time.perf_counter()
    model = CompressedModel.from_pretrained(path)
    question = Query(model.entity_labels[5], model.relation_labels[0])
    seconds = time.perf_counter() - start
    model.answers([question])
    return model, question, seconds

load(sys.argv[2])  # a tiny one: what code needs is no part of a model
before = resident()
model, question, first = load(sys.argv[1])
held = resident() - before
seconds = sorted(load(sys.argv[1])[2] for _ in range(9))[4]
start = time.perf_counter()
for _ in range(100):
    model.answers([question])
answer = (time.perf_counter() - start) / 100
assert "torch" not in sys.modules
print(json.dumps({"seconds": seconds, "resident_bytes": held, "answer_seconds": answer}))
"""


def pruned(rows: int, width: int, generator: torch.Generator) -> Tensor:
    """A table of which the tenth that is largest in magnitude is left."""
    table = torch.randn(rows, width, generator=generator)
    return torch.where(table.abs() > 1.6448536, table, 0.0)  # 10 % of a normal lie beyond


def encoded(table: Tensor, codec: tuple[str, str]) -> Table:
    if codec[0] == "int3":  # has no zero: its table is not pruned
        table = torch.where(table == 0, 1.0, table)
    return encode(table.numpy(), *codec)


def saved_model(table: Tensor, codec: tuple[str, str], folder: Path) -> CompressedModel:
    """A model of that table, with labels and known triples as long and as many as WN18RR's."""
    entities = len(table)
    relations = pruned(2 * RELATIONS, table.shape[1], torch.Generator().manual_seed(1))
    random = np.random.default_rng(0)
    triples = random.integers(0, (entities, RELATIONS, entities), (TRIPLES, 3))
    names = [f"{i:08d}" for i in range(entities)]
    human = {name: f"a_word_or_two_{i}.n.01"[-16:] for i, name in enumerate(names)}
    model = CompressedModel(
        "complex",
        table.shape[1] // 2,
        encoded(table, codec),
        encoded(relations, codec),
        Labels.of(names, human, "entity"),
        Labels.of([f"_relation_{i}" for i in range(RELATIONS)], {}, "relation"),
        KnownAnswers.of_triples(triples, entities, RELATIONS),
    )
    model.save_pretrained(folder)
    return model


def rivals(table: Tensor, coded: dict[str, Table], queries: Tensor) -> dict[str, Callable[[], Any]]:
    """Calls that give the K best of every query: a vector, if there is one query, or a matrix."""
    half, sparse = table.bfloat16(), table.to_sparse_csr()
    half_queries = queries.bfloat16()
    asked = queries.numpy()
    calls: dict[str, Callable[[], Any]] = {
        name: partial(table.best, asked, K) for name, table in coded.items()
    }
    if len(queries) == 1:
        calls["torch, dense fp32"] = lambda: (table @ queries[0]).topk(K)
        calls["torch, dense bf16"] = lambda: (half @ half_queries[0]).topk(K)
        calls["torch, sparse CSR"] = lambda: (sparse @ queries[0]).topk(K)
    else:
        calls["torch, dense fp32"] = lambda: (queries @ table.T).topk(K)
        calls["torch, dense bf16"] = lambda: (half_queries @ half.T).topk(K)
        calls["torch, sparse CSR"] = lambda: (sparse @ queries.T).topk(K, dim=0)
    return calls


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of contenders that take turns, so that a busy moment hits all of them.

    A turn is four calls, the first of which is not timed: a model is asked again and again, and
    what of its tables the caches hold stays there.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def test_compressed(benchmark: Any, record: Any, quick: bool, tmp_path: Path) -> None:
    entities, rank, rounds = (2_000, 32, 1) if quick else (ENTITIES, RANK, 15)
    generator = torch.Generator().manual_seed(0)
    table = pruned(entities, 2 * rank, generator)
    dense_bytes = 4 * 2 * rank * (entities + 2 * RELATIONS)
    coded, sizes, loading = {}, {}, {}
    saved_model(pruned(30, 8, generator), ("sparse", "fp16"), tmp_path / "tiny")
    for name, codec in CODECS.items():
        model = saved_model(table, codec, tmp_path / name)
        coded[name] = model.entities
        files = sum(path.stat().st_size for path in (tmp_path / name).iterdir())
        program = [
            sys.executable,
            "-P",
            "-c",
            LOADING,
            str(tmp_path / name),
            str(tmp_path / "tiny"),
        ]
        done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
        loading[name] = json.loads(done.stdout)
        sizes[name] = {
            "tables": model.nbytes,
            "folder": files,
            "times_smaller_tables": dense_bytes / model.nbytes,
            "times_smaller_folder": dense_bytes / files,
            "times_smaller_resident": dense_bytes / loading[name]["resident_bytes"],
        }
    figures: dict[str, Any] = {
        "shape": {"entities": entities, "relations": RELATIONS, "rank": rank, "kept": KEEP, "k": K},
        "dense_fp32_bytes": dense_bytes,
        "sizes": sizes,
        "loading": loading,
        "queries": {},
    }
    for count in (1, 64):
        queries = torch.randn(count, 2 * rank, generator=generator)
        seconds = in_turns(rivals(table, coded, queries), rounds if count == 1 else rounds // 3 + 1)
        figures["queries"][str(count)] = {
            name: {"seconds": value, "time_ratio": value / seconds["sparse, fp16"]}
            for name, value in seconds.items()
        }
    record("compressed", figures)
    one = np.ones((1, 2 * rank), np.float32)
    benchmark.pedantic(partial(coded["sparse, fp16"].best, one, K), rounds=5, warmup_rounds=1)
