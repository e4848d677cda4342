"""Small folders of triples, as a user would write them."""

import random
from pathlib import Path

import numpy as np

from metasd.data.graph import Graph

Rows = list[tuple[str, str, str]]

TRAIN: Rows = [
    ("ada", "likes", "bo"),
    ("bo", "likes", "cy"),
    ("cy", "knows", "ada"),
    ("ada", "knows", "cy"),
]
VALID: Rows = [("bo", "likes", "ada")]
TEST: Rows = [("cy", "knows", "bo")]


def text_of(rows: Rows, end: str = "\n") -> bytes:
    return "".join("\t".join(row) + end for row in rows).encode()


def write_folder(folder: Path, train: Rows = TRAIN, valid: Rows = VALID, test: Rows = TEST) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        (folder / f"{name}.txt").write_bytes(text_of(rows))
    return folder


def rows_of(graph: Graph, split: str) -> set[tuple[str, str, str]]:
    return {
        (graph.entities[h], graph.relations[r], graph.entities[t])
        for h, r, t in graph.split(split).tolist()
    }


def random_rows(count: int, entities: int = 12, relations: int = 3) -> Rows:
    draw = random.Random(count)
    return [
        (
            f"e{draw.randrange(entities)}",
            f"r{draw.randrange(relations)}",
            f"e{draw.randrange(entities)}",
        )
        for _ in range(count)
    ]


def make_graph(train: list[list[int]], valid: list[list[int]], test: list[list[int]]) -> Graph:
    splits = [np.array(rows, dtype=np.int64).reshape(-1, 3) for rows in (train, valid, test)]
    return Graph(
        name="made",
        entities=[f"e{i}" for i in range(6)],
        relations=["r0", "r1", "r2"],
        train=splits[0],
        valid=splits[1],
        test=splits[2],
    )
