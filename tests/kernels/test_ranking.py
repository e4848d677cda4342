import importlib
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from ranking_cases import DTYPES, Problem, csr, problem

SHAPES = [(1, 1), (1, 37), (3, 16), (17, 250)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "none", "random"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score_memory", [1, 1 << 20])
def test_counts_are_those_of_every_candidate_in_turn(
    shape: tuple[int, int], kind: str, dtype: torch.dtype, score_memory: int
) -> None:
    p = problem(*shape, kind=kind, dtype=dtype)
    assert p.ranked(score_memory=score_memory) == p.counts()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", kc.few(kc.MASKS, "none", "random"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score_memory", [1, 1 << 20])
def test_best_are_those_of_a_stable_sort(
    shape: tuple[int, int], kind: str, dtype: torch.dtype, score_memory: int
) -> None:
    p = problem(*shape, kind=kind, dtype=dtype)
    for k in {1, min(10, shape[1]), shape[1]}:
        assert p.found(k, score_memory=score_memory) == p.best(k)


@pytest.mark.parametrize("dtype", kc.few(DTYPES, torch.float32), ids=str)
@pytest.mark.parametrize("score_memory", kc.few([1, 1 << 20, 1 << 30], 1))
def test_three_row_blocks_and_three_entity_blocks_rank_like_one(
    dtype: torch.dtype, score_memory: int
) -> None:
    p = problem(130, 2503, kind="random", dtype=dtype)
    assert p.ranked(score_memory=score_memory) == p.counts()
    for k in (1, 10, 2503):
        assert p.found(k, score_memory=score_memory) == p.best(k)


@pytest.mark.parametrize("precision", ["bf16", "auto", "tf32"])
def test_every_precision_ranks_scores_that_it_can_hold(precision: str) -> None:
    p = problem(17, 250, kind="random")
    assert p.ranked(precision=precision) == p.counts()
    assert p.found(20, precision=precision) == p.best(20)


@pytest.mark.slow
def test_a_few_of_many_in_bf16_blocks() -> None:
    p = problem(70, 2503)
    assert p.ranked(precision="bf16", score_memory=1) == p.counts()
    assert p.found(7, precision="bf16", score_memory=1) == p.best(7)


special = st.sampled_from(
    [-torch.inf, -2.0, -1.0, -0.0, 0.0, 2.0**-140, 2.0**-139, 1.0, 2.0, torch.inf]
)


@st.composite
def special_problems(draw: st.DrawFn) -> Problem:
    """Width 1, so that infinite scores are possible."""
    entities = draw(st.lists(special, min_size=1, max_size=40))
    queries = draw(st.lists(st.sampled_from([-1.0, 1.0, 0.5]), min_size=1, max_size=3))
    one = st.integers(0, len(entities) - 1)
    out = st.lists(one, unique=True, max_size=len(entities))
    dtype = draw(st.sampled_from(DTYPES))
    return Problem(
        torch.tensor(queries, dtype=dtype)[:, None],
        torch.tensor(entities, dtype=dtype)[:, None],
        torch.tensor([draw(one) for _ in queries]),
        [draw(out) for _ in queries],
    )


@pytest.mark.slow
@given(p=special_problems())
@settings(max_examples=150, deadline=None)
def test_infinite_and_tied_scores_rank_like_any_other(p: Problem) -> None:
    greater, equal = p.ranked()
    assert (greater, equal) == p.counts()
    for g, e, target, out in zip(greater, equal, p.targets.tolist(), p.left_out, strict=True):
        assert g >= 0
        assert e >= 0
        assert g + e <= len(p.entities) - len({*out, target})


@pytest.mark.slow
@given(p=special_problems(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_best_of_infinite_and_tied_scores(p: Problem, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(p.entities)))
    assert p.found(k) == p.best(k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_entities_tie_wherever_they_stand(dtype: torch.dtype) -> None:
    row = kc.whole_numbers(1, 37).to(dtype)  # exact: a product's rounding is the library's affair
    entities, query = row.repeat(3000, 1), kc.whole_numbers(2, 37, 1).to(dtype)
    greater, equal = kernels.rank_targets(
        query, entities, torch.tensor([0, 2999]), score_memory=1 << 14
    )
    assert greater.tolist() == [0, 0]
    assert equal.tolist() == [2999, 2999]
    assert kernels.topk_entities(query, entities, 4)[1].tolist() == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_known_answers_may_be_absent_empty_or_everything(dtype: torch.dtype) -> None:
    p = problem(3, 10, dtype=dtype)
    nothing = csr([[], [], []])
    rank = [
        kernels.rank_targets(p.queries, p.entities, p.targets, known) for known in (None, nothing)
    ]
    best = [kernels.topk_entities(p.queries, p.entities, 4, known) for known in (None, nothing)]
    assert kc.same_bits(*rank)
    assert kc.same_bits(*best)
    all_known = csr([list(range(10))] * 3)
    greater, equal = kernels.rank_targets(p.queries, p.entities, p.targets, all_known)
    assert not greater.any()
    assert not equal.any()
    scores, indices = kernels.topk_entities(p.queries, p.entities, 4, all_known)
    assert scores.eq(-torch.inf).all()
    assert indices.eq(-1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("entities", [0, 5])
def test_no_queries_give_no_rows(dtype: torch.dtype, entities: int) -> None:
    q, e = torch.zeros(0, 4, dtype=dtype), torch.zeros(entities, 4, dtype=dtype)
    none = torch.zeros(0, dtype=torch.int64)
    assert [x.shape for x in kernels.rank_targets(q, e, none, csr([]))] == [(0,), (0,)]
    if entities:
        found = kernels.topk_entities(q, e, 2, csr([]))
        assert [x.shape for x in found] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("precision", kc.few(["fp32", "bf16"], "fp32"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("where", ["query", "entity", "target", "known", "infinity times zero"])
@pytest.mark.parametrize("score_memory", [1, 1 << 20])
def test_nan_scores_are_refused(
    where: str, dtype: torch.dtype, precision: str, score_memory: int
) -> None:
    p = problem(70, 1100, dtype=dtype)
    p.left_out[69] = [1001]
    p.targets[69] = 77
    if where == "query":
        p.queries[69] = torch.nan
    elif where == "infinity times zero":
        p.queries[69], p.entities[1099] = 0, torch.inf
    else:
        p.entities[{"entity": 1099, "target": 77, "known": 1001}[where], 0] = torch.nan
    for call in (p.ranked, lambda **options: p.found(3, **options)):
        with pytest.raises(ValueError, match="scores hold NaN"):
            call(precision=precision, score_memory=score_memory)


def test_threads_do_not_change_a_count() -> None:
    p = problem(33, 515)
    results = []
    for count in (1, 2, 3, 5):
        with kc.threads(count):
            results.append((p.ranked(score_memory=1), p.found(9, score_memory=1)))
    assert all(result == results[0] for result in results)


def test_every_result_is_written() -> None:
    p = problem(17, 250)
    with kc.new_memory_is_nan():
        assert p.ranked() == p.counts()
        assert p.found(250) == p.best(250)


def test_inputs_are_left_as_they_were() -> None:
    p = problem(17, 250)
    before = p.queries.clone(), p.entities.clone(), p.targets.clone()
    p.ranked()
    p.found(5)
    assert kc.same_bits((p.queries, p.entities, p.targets), before)


def test_parameters_can_be_ranked_and_gradients_are_refused() -> None:
    p = problem(3, 20)
    p.entities.requires_grad_()
    assert p.ranked() == p.counts()
    with pytest.raises(RuntimeError, match="no autograd formula"):
        kernels.topk_entities(p.queries, p.entities, 2)[0].sum().backward()


def numbers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


both: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"queries": torch.zeros(3, 39)}, ValueError, "queries must be (N, 40) to match (6, 40)"),
    ({"queries": torch.zeros(40, 3).T}, ValueError, "queries must be contiguous"),
    ({"entities": torch.zeros(6, 40).bfloat16()}, TypeError, "entities must be float32 or float64"),
    ({"mask": torch.zeros(6, 1, dtype=torch.int32)}, ValueError, "mask must be (6, 2) for a table"),
    ({"precision": "fp64"}, ValueError, "must be one of auto, fp32, tf32, bf16; got 'fp64'"),
    ({"score_memory": 0}, ValueError, "score_memory must be a positive number of bytes; got 0"),
    (
        {"known": (numbers(0, 1, 2), numbers(0, 1))},
        ValueError,
        "known indptr must be (4,); got (3,)",
    ),
    (
        {"known": (numbers(0, 1, 2, 2).int(), numbers(0, 1))},
        TypeError,
        "known indptr must be an int64",
    ),
    (
        {"known": (numbers(0, 1, 2, 2), [0, 1])},
        TypeError,
        "known indices must be an int64 tensor; got list",
    ),
    (
        {"known": (numbers(0, 1, 2, 2), numbers(0, 6))},
        ValueError,
        "known indices must lie in 0 .. 5; got 6",
    ),
    (
        {"known": (numbers(0, 1, 2, 2), numbers(0, -1))},
        ValueError,
        "known indices must lie in 0 .. 5; got -1",
    ),
    (
        {"known": (numbers(0, 2, 1, 2), numbers(0, 1))},
        ValueError,
        "known indptr must rise from 0 to 2",
    ),
    (
        {"known": (numbers(1, 1, 2, 2), numbers(0, 1))},
        ValueError,
        "known indptr must rise from 0 to 2",
    ),
    (
        {"known": (numbers(0, 1, 1, 1), numbers(0, 1))},
        ValueError,
        "known indptr must rise from 0 to 2",
    ),
    (
        {"known": (numbers(0, 1, 9, 2), numbers(0, 1))},
        ValueError,
        "known indptr must rise from 0 to 2",
    ),
    (
        {"known": (numbers(0, -7, 2, 2), numbers(0, 1))},
        ValueError,
        "known indptr must rise from 0 to 2",
    ),
    (
        {"known": (numbers(0, 3, 3, 3), numbers(4, 1, 4))},
        ValueError,
        "must not repeat within a row",
    ),
]
only_rank: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"targets": numbers(0, 1, 6)}, ValueError, "targets must lie in 0 .. 5; got 6"),
    ({"targets": numbers(0, 1, -1)}, ValueError, "targets must lie in 0 .. 5; got -1"),
    ({"targets": numbers(0, 1)}, ValueError, "targets must be (3,); got (2,)"),
    ({"targets": torch.zeros(3)}, TypeError, "targets must be an int64 tensor; got torch.float32"),
]
only_topk: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"k": 0}, ValueError, "k must lie in 1 .. 6, the number of entities; got 0"),
    ({"k": 7}, ValueError, "k must lie in 1 .. 6, the number of entities; got 7"),
    ({"k": -(2**40)}, ValueError, "k must lie in 1 .. 6"),
    ({"entities": torch.zeros(0, 40), "mask": None}, ValueError, "k must lie in 1 .. 0"),
]


@pytest.mark.parametrize(
    ("changes", "error", "message"), both + only_rank, ids=lambda x: str(x)[:50]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rank_names_bad_input(
    changes: dict[str, Any], error: type[Exception], message: str, dtype: torch.dtype
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        kernels.rank_targets(
            **(arguments(changes, dtype) | {"targets": numbers(0, 5, 2)} | changes)
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"), both + only_topk, ids=lambda x: str(x)[:50]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_topk_names_bad_input(
    changes: dict[str, Any], error: type[Exception], message: str, dtype: torch.dtype
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        kernels.topk_entities(**(arguments(changes, dtype) | {"k": 2} | changes))


def arguments(changes: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Sound arguments in `dtype`, or in fp32 where a changed table is."""
    if "queries" in changes or "entities" in changes:
        dtype = torch.float32
    return {
        "queries": torch.zeros(3, 40, dtype=dtype),
        "entities": torch.zeros(6, 40, dtype=dtype),
        "known": (numbers(0, 1, 2, 2), numbers(0, 5)),
        "mask": torch.zeros(6, 2, dtype=torch.int32),
    }


def test_known_answers_need_not_be_sorted() -> None:
    p = problem(4, 30)
    p.left_out = [[9, 3, 27, 1], [], [29, 0], [5]]
    assert p.ranked() == p.counts()
    assert p.found(6) == p.best(6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operations_are_sound(dtype: torch.dtype) -> None:
    p = problem(3, 20, kind="random", dtype=dtype)
    for known in (csr(p.left_out), (None, None)):
        rest = (*known, p.mask, "fp32", 1)
        rank = (p.queries, p.entities, p.targets, *rest)
        torch.library.opcheck(torch.ops.metasd.rank_targets.default, rank)
        topk = (p.queries, p.entities, 4, *rest)
        torch.library.opcheck(torch.ops.metasd.topk_entities.default, topk)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_ranking_traces_as_one_graph(backend: str) -> None:
    p = problem(5, 20)
    known = csr(p.left_out)

    def run(q: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        return (
            *kernels.rank_targets(2 * q, e, p.targets, known),
            *kernels.topk_entities(2 * q, e, 4, known),
        )

    wanted = run(p.queries, p.entities)
    assert kc.same_bits(kc.compiled(run, backend)(p.queries, p.entities), wanted)


def test_a_target_whose_score_has_other_bits_in_another_product_is_ranked_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries, entities = kc.table(40, 16), kc.table(3000, 16, 1)
    entities[1500:] = entities[:1500]  # every target has its equal
    targets = torch.arange(40) * 70
    wanted = kernels.rank_targets(queries, entities, targets)
    assert int(wanted[1].min()) == 1
    module = importlib.import_module("metasd.kernels.rank_targets")
    likely = module._likely_scores
    calls = []

    def other(left: Tensor, right: Tensor) -> Tensor:
        calls.append(len(left))
        return likely(left, right) * (1 + 1e-6)  # type: ignore[no-any-return]

    for guess in (likely, other):
        monkeypatch.setattr(module, "_likely_scores", guess)
        found = kernels.rank_targets(queries, entities, targets, score_memory=1 << 16)
        assert kc.same_bits(found, wanted)
    assert sum(calls) == 40
