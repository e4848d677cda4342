"""Every codec: what goes in comes out, scores are those of a dense table, damage is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compressed_cases import CODECS, ENGINES, weights
from metasd import _C
from metasd.compressed import Table
from metasd.compressed.table import from_arrays
from metasd.errors import InputError
from metasd.export.encode import encode

SHAPES = [
    *((1, 1), (17, 33), (50, 129)),
    *(
        pytest.param(shape, marks=pytest.mark.slow)
        for shape in ((2, 3), (33, 64), (401, 250), (120, 1500))
    ),
]
HALF_STEP = {"fp32": 0, "fp16": 2**-11, "bf16": 2**-8, "int8": 0.65 / 127}


@pytest.fixture(params=ENGINES)
def isa(request: pytest.FixtureRequest) -> Any:
    before = _C.engine_isa()
    assert _C.select_engine(request.param)
    yield request.param
    assert _C.select_engine(before)


def wide(rows: int = 40, seed: int = 3) -> Table:
    return encode(weights("sparse", 0.3, rows, 90, seed), "sparse", "fp16")


@pytest.mark.parametrize(("codec", "weight_format", "density"), CODECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoded_rows_are_the_weights_to_rounding(
    isa: str, codec: str, weight_format: str, density: float, shape: tuple[int, int]
) -> None:
    dense = weights(codec, density, *shape)
    table = encode(dense, codec, weight_format)
    got = table.dense()
    assert got.dtype == np.float32
    assert got.shape == shape
    assert not got[dense == 0].any()
    if weight_format in ("int4", "int3", "int2", "ternary"):
        levels = {"int4": 7, "int3": 4, "int2": 2, "ternary": 1}[weight_format]
        assert all(len(np.unique(np.abs(row[row != 0]))) <= levels for row in got)
        assert np.square(got - dense).sum() <= 0.35 * np.square(dense).sum()
    else:
        scale = np.abs(dense).max(1, keepdims=True) if "int" in weight_format else np.abs(dense)
        assert (
            np.abs(got - dense)
            <= HALF_STEP[weight_format] * scale + 1e-7 * (weight_format == "fp16")
        ).all()
    index = np.array([shape[0] - 1, 0, shape[0] - 1])
    assert np.array_equal(table.decode(index), got[index])
    again = from_arrays(table.description, table.arrays)
    assert np.array_equal(again.dense(), got)


@pytest.mark.parametrize(("codec", "weight_format", "density"), CODECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "queries", [1, 5, 37, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4, 16, 70))]
)
def test_scores_are_those_of_the_decoded_rows(
    isa: str, codec: str, weight_format: str, density: float, shape: tuple[int, int], queries: int
) -> None:
    table = encode(weights(codec, density, *shape), codec, weight_format)
    asked = np.random.default_rng(1).standard_normal((queries, shape[1])).astype(np.float32)
    wanted = asked.astype(np.float64) @ table.dense().astype(np.float64).T
    bound = 3e-5 * np.abs(asked).max() * np.abs(table.dense()).sum(1).max() + 1e-6
    for threads in (1, 3):
        assert np.abs(table.scores(asked, threads=threads) - wanted).max() <= bound
    got = table.scores(asked)
    k = min(7, shape[0])
    scores, places, total = table.best(asked, k, temperature=2.0, threads=2)
    order = np.argsort(-got, axis=1, kind="stable")[:, :k]
    assert np.array_equal(places, order)
    assert np.array_equal(scores, np.take_along_axis(got, order, axis=1))
    top = wanted.max(1)
    mass = top / 2 + np.log(np.exp((wanted - top[:, None]) / 2).sum(1))
    assert np.abs(total - mass).max() <= bound + 1e-5 * np.abs(mass).max()


@pytest.mark.parametrize("codec", ["sparse", "int8", "int4", "int3", "int2", "ternary"])
def test_engines_agree_bit_for_bit_on_whole_numbers(codec: str) -> None:
    random = np.random.default_rng(5)
    dense = random.integers(-1, 2, (300, 77)).astype(np.float32)
    if codec in ("int3", "int2"):
        dense = 2 * random.integers(-2, 2, (300, 77)).astype(np.float32) + 1
    asked = random.integers(-127, 128, (9, 77)).astype(np.float32)
    table = encode(dense, codec, "fp32" if codec == "sparse" else "")
    before, found = _C.engine_isa(), []
    for name in ENGINES:
        _C.select_engine(name)
        found.append((table.scores(asked), *table.best(asked, 20)[:2]))
    _C.select_engine(before)
    for other in found[1:]:
        for got, wanted in zip(other, found[0], strict=True):
            assert np.abs(got - wanted).max() <= 1e-3 * (got.dtype == np.float32)


def test_one_query_is_scored_like_many(isa: str) -> None:
    asked = np.random.default_rng(1).standard_normal((40, 90)).astype(np.float32)
    for codec in ("sparse", "int8", "int4"):
        table = encode(weights("sparse", 0.3, 100, 90), codec)
        alone = np.concatenate([table.scores(query[None]) for query in asked])
        assert np.abs(table.scores(asked) - alone).max() < 1e-5


def test_ties_go_to_the_lower_place_and_k_may_be_larger_than_the_table() -> None:
    table = encode(np.ones((100, 5), np.float32), "sparse", "fp32")
    asked = np.ones((3, 5), np.float32)
    for threads in (1, 2, 5):
        scores, places, _ = table.best(asked, 1000, threads=threads)
        assert scores.shape == (3, 100)
        assert np.array_equal(places, np.tile(np.arange(100), (3, 1)))
        assert table.best(asked, 4, threads=threads)[1].tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize("queries", [1, 20])
def test_known_places_and_chosen_rows(queries: int) -> None:
    table = wide(200)
    random = np.random.default_rng(0)
    asked = random.standard_normal((queries, 90)).astype(np.float32)
    rows = np.sort(random.permutation(150)[:70])
    known = [np.sort(random.permutation(70)[: i % 70]) for i in range(0, 10 * queries, 10)]
    known[-1] = np.arange(70)
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in known])])
    scores, places, total = table.best(
        asked, 70, 40, rows=rows, known=(indptr, np.concatenate(known)), threads=2
    )
    everything = table.scores(asked, 40)[:, rows]
    for query, left_out in enumerate(known):
        order = np.argsort(-everything[query], kind="stable")
        wanted = order[~np.isin(order, left_out)]
        assert places[query, : len(wanted)].tolist() == wanted.tolist()
        assert (places[query, len(wanted) :] == -1).all()
        assert (scores[query, len(wanted) :] == -np.inf).all()
    mass = np.log(np.exp(everything.astype(np.float64)).sum(1))
    assert np.abs(total - mass).max() < 1e-4


def test_empty_queries_have_empty_answers() -> None:
    table = wide()
    none = np.empty((0, 90), np.float32)
    assert table.best(none, 5)[0].shape == (0, 5)
    assert table.scores(none).shape == (0, 40)
    asked = np.ones((2, 90), np.float32)
    assert table.best(asked, 5, rows=np.empty(0, np.int64))[1].shape == (2, 0)
    assert table.decode(np.empty(0, np.int64)).shape == (0, 90)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.decode([40]), r"index must be in 0 \.\.\. 39"),
        (lambda t: t.scores(np.ones((1, 89), np.float32)), r"queries must be float32 \(B, 90\)"),
        (lambda t: t.scores(np.ones((1, 90))), "float64"),
        (lambda t: t.scores(np.ones((1, 90), np.float32), 1, 40), "rows must be in"),
        (lambda t: t.best(np.ones((1, 90), np.float32), 1, rows=np.array([40])), "rows must be in"),
        (lambda t: t.best(np.ones((1, 90), np.float32), 1, rows=np.array([-1])), "rows must be in"),
        (lambda t: t.scores(np.full((1, 90), np.inf, np.float32)), "overflows"),
        (lambda t: t.scores(np.full((1, 90), 3e38, np.float32)), "overflow"),
    ],
)
def test_mistakes_are_reported(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(wide())


def changed(table: Table, name: str, place: Any, value: Any) -> dict[str, Any]:
    array = table.arrays[name].copy()
    array[place] = value
    return {**table.arrays, name: array}


@pytest.mark.parametrize(
    ("codec", "weight_format", "density", "name", "place", "value", "message"),
    [
        ("sparse", "fp16", 0.1, "indptr", 0, 1, "row 0"),
        ("sparse", "fp16", 0.1, "indptr", 3, 2**32 - 1, "row 2"),
        ("sparse", "fp16", 0.1, "indptr", 3, 0, "row 2"),
        ("sparse", "fp16", 0.1, "indptr", -1, 7, "indptr ends at 7"),
        ("sparse", "fp16", 0.1, "columns", slice(0, 3), 255, "row 0"),
        ("sparse", "fp16", 0.1, "values", 5, np.nan, "row"),
        ("sparse", "bf16", 0.1, "values", 5, 0x7F80, "row"),
        ("sparse", "fp32", 0.1, "values", -1, np.inf, "row"),
        ("sparse", "int8", 0.1, "scale", 4, np.nan, "row 4"),
        ("sparse", "int8", 0.1, "scale", 4, -1, "row 4"),
        ("sparse", "fp16", 0.5, "columns", (2, 0), 0, "row 2"),
        ("sparse", "fp16", 0.5, "columns", (2, -1), 255, "row 2"),
        ("sparse", "fp16", 0.0005, "columns", 0, 65535, "row"),
        ("column", "fp16", 0.5, "columns", 0, 2**31, "columns must rise"),
        ("column", "fp16", 0.5, "columns", 3, 0, "columns must rise"),
        ("ternary", "ternary", 1, "values", (3, 0), 3, "row 3"),
        ("int4", "int4", 1, "scale", 0, np.inf, "row 0"),
    ],
)
def test_damage_is_found_before_it_is_used(
    isa: str,
    codec: str,
    weight_format: str,
    density: float,
    name: str,
    place: Any,
    value: Any,
    message: str,
) -> None:
    table = encode(weights(codec, density, 40, 1003, 1), codec, weight_format)
    if density == 0.5 and codec == "sparse":
        assert table.columns == "bits"
    with pytest.raises(InputError, match=message):
        from_arrays(table.description, changed(table, name, place, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "gzip"}, "unknown codec"),
        ({"rows": 41}, "indptr must be"),
        ({"rows": 2**70}, "rows must be a whole number"),
        ({"rows": -1}, "rows must be"),
        ({"rows": 2.0}, "rows must be"),
        ({"rows": True}, "rows must be"),
        ({"width": 2**28}, "too large"),
        ({"width": 50}, "row"),
        ({"weight_format": "int4"}, "stores weights as fp32, fp16, bf16 or int8; got 'int4'"),
        ({"weight_format": "fp32"}, "values must be float32"),
        ({"columns": "index16"}, "columns must be uint16"),
        ({"columns": "all"}, "stores the columns of weights as .* got 'all'"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    table = wide()
    table = replace(table, arrays=dict(table.arrays))
    if table.columns != "delta8":
        table = encode(weights("sparse", 0.1, 40, 90), "sparse", "fp16")
    with pytest.raises(InputError, match=message):
        from_arrays({**table.description, **change}, table.arrays)


def test_missing_arrays_are_named() -> None:
    table = wide()
    for name in table.arrays:
        rest = {key: array for key, array in table.arrays.items() if key != name}
        with pytest.raises(InputError, match=f"{name} is missing"):
            from_arrays(table.description, rest)
    with pytest.raises(InputError, match="needs codec"):
        from_arrays({}, {})
