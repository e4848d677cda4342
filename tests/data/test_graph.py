"""Graphs that people use, where they are at hand."""

import os
import time

import pytest

from metasd.data.load import load_graph
from metasd.errors import InputError

DATA = os.environ.get("METASD_DATA")


@pytest.mark.skipif(not DATA, reason="METASD_DATA is not set")
@pytest.mark.parametrize(
    ("name", "sizes", "unseen"),
    [
        ("fb237", (14541, 237, 272115, 17535, 20466), (9, 28)),
        ("wn18rr", (40943, 11, 86835, 3034, 3134), (210, 210)),
    ],
)
def test_real_graphs(name: str, sizes: tuple[int, ...], unseen: tuple[int, int]) -> None:
    for folder in (DATA or "").split(os.pathsep):
        try:
            start = time.perf_counter()
            graph = load_graph(name, folder)
        except InputError as error:
            if "no graph" not in str(error):
                raise
            continue
        known = graph.known()
        assert time.perf_counter() - start < 3
        lengths = (len(graph.train), len(graph.valid), len(graph.test))
        assert (graph.num_entities, graph.num_relations, *lengths) == sizes
        assert (graph.unseen["valid"], graph.unseen["test"]) == unseen
        head, relation, tail = graph.test[0].tolist()
        assert tail in known.answers(head, relation)
        assert head in known.answers(tail, relation + graph.num_relations)
        return
    pytest.skip(f"no {name} in METASD_DATA")
