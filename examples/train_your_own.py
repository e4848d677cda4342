"""Train on a folder of triples, compress the model, save it, load it again, and ask it.

    python examples/train_your_own.py [FOLDER] [--epochs 24]

FOLDER holds train.txt and perhaps valid.txt and test.txt, or is one file of triples, such as
`head<TAB>relation<TAB>tail` per line. Without it, a graph of towns and roads is written first.
"""

import argparse
import tempfile
from pathlib import Path

import metasd


def write_roads(file: Path, side: int = 12) -> None:
    """Towns on a grid: every town knows its neighbours in four directions."""
    steps = {"north_of": (0, 1), "south_of": (0, -1), "east_of": (1, 0), "west_of": (-1, 0)}
    lines = []
    for x in range(side):
        for y in range(side):
            for relation, (dx, dy) in steps.items():
                to_x, to_y = x - dx, y - dy
                if 0 <= to_x < side and 0 <= to_y < side:
                    lines.append(f"town_{x}_{y}\t{relation}\ttown_{to_x}_{to_y}\n")
    file.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("graph", nargs="?", type=Path)
    parser.add_argument("--epochs", type=int, default=24)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = arguments.graph
        if path is None:
            path = Path(folder, "roads.tsv")
            write_roads(path)
        graph = metasd.load_graph(path, split_ratios=(0.9, 0.05, 0.05))
        print(graph)

        # The default preset: a dense source model first, then a compact one from its weights.
        settings = {"model.rank": 32, "train.epochs": arguments.epochs, "train.batch_size": 200}
        run = metasd.train(graph, settings, run_dir=Path(folder, "run"))
        for name in ("source", "compact"):
            print(f"{name}: test MRR {run.metrics['test'][name]['mrr']:.3f}")

        metasd.compress(run).save_pretrained(Path(folder, "model"))
        model = metasd.CompressedModel.from_pretrained(Path(folder, "model"))
        head, relation, _ = graph.test[0]
        question = {"head": graph.entities[head], "relation": graph.relations[relation]}
        for label, score in model.predict(**question, k=3, keep_known=True):
            print(f"{question['head']} {question['relation']} {label} (score {score:.2f})")


if __name__ == "__main__":
    main()
