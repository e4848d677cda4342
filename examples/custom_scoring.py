"""A scoring function of your own, from training to predictions of the compressed model.

    python examples/custom_scoring.py [--epochs 20]

SimplE (Kazemi and Poole, NeurIPS 2018): an entity is two vectors, one as a head and one as a tail,
a relation is two as well, one per direction. The rows here are the halves side by side.
"""

import argparse
import tempfile
from pathlib import Path

import metasd


class SimplE(metasd.Scoring):
    """score(h, r, t) = <h_head, r_forward, t_tail> + <h_tail, r_backward, t_head>.

    Rows are (B, 2 * rank): torch tensors in training, numpy arrays in a compressed model. What is
    written with operators, indexing and reshape works on both.
    """

    name = "simple"
    parts = 2

    def query(self, head, relation):
        """The vector whose product with a tail's row is the score."""
        return self._swapped(head * relation)

    def relation_query(self, head, tail):
        """The vector whose product with a relation's row is the score."""
        return head * self._swapped(tail)

    def _swapped(self, rows):
        """(B, 2 * rank): the halves of every row, the second first."""
        halves = rows.reshape(len(rows), 2, -1)
        return halves[:, [1, 0]].reshape(rows.shape)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    epochs = parser.parse_args().epochs

    graph = metasd.load_graph("families:200")
    settings = {"model.name": "simple", "model.rank": 32, "train.epochs": epochs}
    with tempfile.TemporaryDirectory() as folder:
        run = metasd.train(graph, settings, run_dir=Path(folder, "run"))
        print(f"compact: test MRR {run.metrics['test']['compact']['mrr']:.3f}")
        metasd.compress(run).save_pretrained(Path(folder, "model"))
        model = metasd.CompressedModel.from_pretrained(Path(folder, "model"))
        for label, score in model.predict(head=graph.entities[0], relation="parent_of", k=3):
            print(f"{graph.entities[0]} parent_of {label} (score {score:.2f})")


if __name__ == "__main__":
    main()
