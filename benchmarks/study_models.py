"""The compact models that studies end with: their metrics, by the package and by brute force.

python benchmarks/study_models.py fb15k-237 FB15k-237 [--data-dir DIR]
python benchmarks/study_models.py wn18rr WN18RR

Ranks the valid and the test triples of a graph with studies/NAME/model and writes their metrics,
with the bytes of the model's files, to studies/NAME/model.json.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import metasd
from metasd.compressed import CompressedModel
from metasd.data.graph import Graph
from metasd.environment import measured_on
from metasd.evaluation import evaluate
from metasd.files import write_text

STUDIES = Path(__file__).resolve().parent.parent / "studies"
METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
BATCH = 500


def brute_force(model: CompressedModel, graph: Graph, split: str) -> dict[str, float]:
    """The metrics of a ComplEx model by its definition: all scores of all entities, in numpy."""
    entities, relations = (_complex(x) for x in model.dense())
    known: dict[tuple[int, int], list[int]] = {}
    for triples in (graph.train, graph.valid, graph.test):
        for head, relation, tail in triples.tolist():
            known.setdefault((head, relation), []).append(tail)
            known.setdefault((tail, relation + graph.num_relations), []).append(head)
    h, r, t = graph.split(split).T
    given, asked = np.concatenate([h, t]), np.concatenate([r, r + graph.num_relations])
    answers, ranks = np.concatenate([t, h]), []
    for i in range(0, len(answers), BATCH):
        at = slice(i, i + BATCH)
        scores = ((entities[given[at]] * relations[asked[at]]) @ entities.conj().T).real
        for row, query in zip(
            scores, zip(given[at], asked[at], answers[at], strict=True), strict=True
        ):
            own = row[query[2]]
            row[known[query[0], query[1]]] = -np.inf
            ranks.append(1 + (row > own).sum() + (row == own).sum() / 2)
    rank = np.array(ranks)
    hits = {f"hits@{k}": float((rank <= k).mean()) for k in (1, 3, 10)}
    return {"mrr": float((1 / rank).mean()), **hits}


def _complex(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
    real, imaginary = np.split(rows, 2, axis=1)
    return real + 1j * imaginary


def measured(model: CompressedModel, graph: Graph) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split in ("valid", "test"):
        start = time.perf_counter()
        metrics = evaluate(model, graph, split)
        seconds = time.perf_counter() - start
        found[split] = {name: metrics[name] for name in METRICS}
        found[split] |= {"seconds": seconds, "brute force": brute_force(model, graph, split)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study")
    parser.add_argument("graph")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    folder = STUDIES / arguments.study / "model"
    model = metasd.CompressedModel.from_pretrained(folder)
    graph = metasd.load_graph(arguments.graph, arguments.data_dir)
    row = {
        "graph": graph.name,
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
        "bytes of tables": model.nbytes,
        **measured(model, graph),
        **measured_on(),
    }
    text = json.dumps(row, indent=1)
    write_text(STUDIES / arguments.study / "model.json", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
