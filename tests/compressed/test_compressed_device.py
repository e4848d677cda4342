"""Compressed tables on a GPU against the CPU's engine; without a GPU under Triton's interpreter."""

import numpy as np
import pytest

import metasd
from compressed_cases import CODECS, trained, weights
from metasd.compressed import Query
from metasd.compressed.device import DeviceTable
from metasd.data.graph import Graph
from metasd.errors import InputError
from metasd.export.encode import encode

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def queries(count: int, width: int) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize(("codec", "weight_format", "density"), CODECS)
@pytest.mark.parametrize(
    "shape", [(17, 33), *(pytest.param(s, marks=pytest.mark.slow) for s in ((1, 1), (150, 300)))]
)
def test_scores_are_those_of_the_decoded_rows(
    codec: str, weight_format: str, density: float, shape: tuple[int, int], gpu: str
) -> None:
    table = encode(weights(codec, density, *shape), codec, weight_format)
    on_gpu = DeviceTable.of(table, gpu)
    dense = table.dense().astype(np.float64)
    for count in (1, 3, 17):
        q = queries(count, shape[1])
        exact = q @ dense.T
        bound = 2e-6 * (np.abs(q) @ np.abs(dense).T) + 1e-30
        assert (np.abs(on_gpu.scores(q) - exact) <= bound).all()
        part = on_gpu.scores(q, shape[0] // 3, shape[0] // 2)
        here = slice(shape[0] // 3, shape[0] // 3 + shape[0] // 2)
        assert (np.abs(part - exact[:, here]) <= bound[:, here]).all()
    assert on_gpu.scores(queries(0, shape[1])).shape == (0, shape[0])


@pytest.mark.parametrize(
    ("codec", "weight_format"),
    [pytest.param("sparse", "fp16", marks=pytest.mark.slow), ("column", "fp32")],
)
def test_the_best_are_those_of_the_engine(
    codec: str, weight_format: str, gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers, so that scores are exact and ties are many."""
    monkeypatch.setattr("metasd.compressed.device._SCORES", 1)  # blocks of 1024 rows
    random = np.random.default_rng(1)
    dense = np.rint(random.standard_normal((2500, 20))).astype(np.float32)
    table = encode(dense, codec, weight_format)
    on_gpu = DeviceTable.of(table, gpu)
    q = np.rint(queries(5, 20) * 2)
    known = [np.unique(random.integers(0, 2500, n)) for n in (0, 1, 900, 2000, 0)]
    csr = np.cumsum([0, *map(len, known)]), np.concatenate(known)
    for k in (1, 10, 2500):
        for asked in ({}, {"known": csr}, {"temperature": 3.0}):
            for one, other in zip(
                on_gpu.best(q, k, **asked), table.best(q, k, **asked), strict=True
            ):
                np.testing.assert_allclose(one, other, rtol=1e-5)
    rows = np.array([2499, 3, 77])
    for one, other in zip(on_gpu.best(q, 2, rows=rows), table.best(q, 2, rows=rows), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_scores_that_overflow_are_refused(gpu: str) -> None:
    table = DeviceTable.of(encode(np.full((3, 4), 1e30, np.float32), "sparse", "fp32"), gpu)
    with pytest.raises(InputError, match="overflow"):
        table.best(np.full((1, 4), 1e30, np.float32), 1)


def test_a_model_answers_alike_on_either_device(small_graph: Graph, gpu: str) -> None:
    small = metasd.compress(trained("complex", small_graph), "int8", graph=small_graph)
    head, relation = small_graph.entities[3], small_graph.relations[0]
    asked = [Query(head, relation), Query(None, relation, head)]
    for one, other in zip(small.to(gpu).answers(asked), small.answers(asked), strict=True):
        assert [a.label for a in one] == [a.label for a in other]
        np.testing.assert_allclose(
            [a.probability for a in one], [a.probability for a in other], rtol=1e-4
        )


def test_a_device_that_is_not_there_is_reported(small_graph: Graph) -> None:
    small = metasd.compress(trained("complex", small_graph), "int8", graph=small_graph)
    with pytest.raises(InputError, match=r"a device is cpu, cuda, .*; got 'nonsense'"):
        small.to("nonsense")
