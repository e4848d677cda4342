"""Operations on tables in blocks, one per process, against one process that holds all of them.

Every process answers the same questions about its blocks as one alone does about the tables.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import gpu_cases
import kernel_cases as kc
import mask_cases as tm
import processes
import ranking_cases as tr
from metasd import kernels
from metasd.kernels import _collectives
from metasd.kernels.topk_mask import _reference_in_group

Share = tuple[float, ...]
Answers = dict[str, Any]

WHOLE: Share = (1.0,)
FEW: dict[int, list[Share]] = {2: [(0.3, 0.7)]}
ALL: dict[int, list[Share]] = {
    2: [(0.3, 0.7), (0.0, 1.0), (1.0, 0.0), (0.01, 0.99)],
    3: [(0.1, 0.55, 0.35), (0.5, 0.0, 0.5), (0.0, 1.0, 0.0)],
    4: [(0.05, 0.0, 0.9, 0.05), (0.25, 0.25, 0.25, 0.25)],
}
"""Of a table's rows, every process's, by the number of processes."""

SHARDED = [True, False, True]
"""Heads, relations, tails: those that every process has lie between the others."""


def block(rows: int, share: Share, rank: int) -> slice:
    return slice(round(rows * sum(share[:rank])), round(rows * sum(share[: rank + 1])))


TORCH = "weight in plain torch"
"""What a GPU's tables go through."""


def own_blocks(tables: Sequence[Tensor], share: Share, rank: int) -> list[Tensor]:
    return [
        table[block(len(table), share, rank)].clone() if sharded else table
        for table, sharded in zip(tables, SHARDED, strict=True)
    ]


def answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ValueError as error:
        return str(error)


def mask_answers(group: str, share: Share, fills: Iterable[str] = tm.FILLS) -> Answers:
    """Masks, or an error's text, by what was asked. Processes may have different threads."""
    rank, _ = _collectives.processes(group)
    answers: Answers = {}

    def ask(name: str, whole: list[Tensor], fraction: float) -> None:
        tables = own_blocks(whole, share, rank)
        place: Any = {"group": group, "sharded": SHARDED}
        for granularity in ("weight", "row") if fraction == 0.5 else ("weight",):
            answers[f"{name}, {fraction}, {granularity}"] = answer(
                partial(kernels.topk_mask, tables, fraction, granularity, **place)
            )
        answers[f"{name}, {fraction}, {TORCH}"] = answer(
            partial(_reference_in_group, tables, fraction, False, **place)
        )

    with kc.threads(1 + rank % 2):
        for place in range(3):
            whole = tm.tables_of([(20, 33), (6, 70), (20, 64)], "infinities")
            whole[place][5, 4] = torch.nan
            ask(f"NaN in table {place}", whole, 0.5)
        for fill in fills:
            for fraction in (0.0, 0.5, 0.9, 1.0):
                ask(fill, tm.tables_of([(20, 33), (6, 70), (20, 64)], fill), fraction)
        ask("no rows", [torch.zeros(0, 3), torch.zeros(0, 40), torch.zeros(0, 2)], 0.5)
    return answers


def ranking_answers(group: str, share: Share) -> Answers:
    """Counts and the best, or an error's text, by what was asked."""
    answers: Answers = {}
    for dtype in tr.DTYPES:
        answers |= {f"{name}, {dtype}": x for name, x in _small(group, share, dtype).items()}
    for memory in (1, 1 << 18, 1 << 22):  # which makes row blocks of other heights in other blocks
        p = tr.problem(130, 2503, kind="random")
        answers |= ask(f"{memory} bytes of many", p, 700, group, share, memory)
    return answers


def gpu_answers(group: str, share: Share) -> Answers:
    """The same of the GPU's kernels, under Triton's interpreter, and their losses."""
    with pytest.MonkeyPatch.context() as patch:
        gpu_cases.interpret(patch)
        return _small(group, share, torch.float32) | {"losses": loss_answers(group, share)}


def loss_answers(group: str, share: Share) -> list[Tensor]:
    """Losses, gradients of the queries summed over the group, and those of the own block."""
    rank, _ = _collectives.processes(group)
    c = kc.case(7, 301, 33, weighted=True)
    at = block(301, share, rank)
    e, v = c.entities[at].clone(), c.dentities[at].clone()
    mask = None if c.mask is None else c.mask[at].clone()
    targets, there = c.targets - at.start, bool((c.targets[0] - at.start) in range(len(e)))
    weight = None if c.weight is None else c.weight[at].clone()
    given: Any = {"weight": weight, "group": group, "score_memory": 1 << 16, "precision": "fp32"}
    q = c.q_pruned
    loss, dq, de = kernels.entity_cross_entropy_gradients(q, e, targets, mask, **given)
    found, summed, own = [loss], [dq], [de]
    loss, dq, de = kernels.inner_distillation(c.q_source, q, e, mask, targets, **given)
    found, summed, own = [*found, loss], [*summed, dq], [*own, de]
    losses_and = kernels.mutual_distillation(c.q_source, q, e, mask, targets, **given)
    found, summed, own = (
        [*found, *losses_and[:2]],
        [*summed, *losses_and[2:4]],
        [*own, losses_and[4]],
    )
    given.pop("weight")
    dq, de = kernels.meta_gradient(c.q_source, q, c.dq_pruned, e, v, mask, **given)
    lost = targets + (301 if there else 0)  # the first query's target lies in no block
    refused = answer(partial(kernels.entity_cross_entropy, q, e, lost, mask, group=group))
    assert not group or "must lie in the block of one process" in refused
    return [*found, *(_collectives.all_reduce_sum(x, group) for x in [*summed, dq]), *own, de]


def _small(group: str, share: Share, dtype: torch.dtype) -> Answers:
    answers: Answers = {}
    for row in (0, 249):
        p = tr.problem(17, 250, dtype=dtype)
        p.entities[row, 0] = torch.nan
        answers |= ask(f"NaN in entity {row}", p, 3, group, share)
    p = tr.problem(17, 250, kind="random", dtype=dtype)
    for k in (1, 10, 250, 251):
        answers |= ask("masked", p, k, group, share)
    p.left_out[4] = [7, 250]
    answers |= ask("no such answer", p, 1, group, share)
    p.targets[3], p.left_out[4] = 250, [7]
    answers |= ask("no such target", p, 1, group, share)
    return answers | ask("no queries", tr.problem(0, 250, dtype=dtype), 4, group, share)


def ask(
    name: str, p: tr.Problem, k: int, group: str, share: Share, memory: int = 1 << 20
) -> Answers:
    rank, _ = _collectives.processes(group)
    at = block(len(p.entities), share, rank)
    mask = None if p.mask is None else p.mask[at].clone()
    tables = p.queries, p.entities[at].clone()
    place: Any = {"score_memory": memory, "group": group, "first": at.start}
    answers: Answers = {}
    for which, known in (("unknown", tr.csr(p.left_out)), ("all", None)):
        answers[f"{name}, ranks among {which}"] = answer(
            partial(kernels.rank_targets, *tables, p.targets, known, mask, **place)
        )
        answers[f"{name}, {k} best of {which}"] = answer(
            partial(kernels.topk_entities, *tables, k, known, mask, **place)
        )
    return answers


def sound_answers(group: str) -> Answers:
    """Operations under a group's name as PyTorch's own checks and compiler see them."""
    rank, size = _collectives.processes(group)
    p = tr.problem(3, 20)
    share = tuple(1 / size for _ in range(size))
    at = block(20, share, rank)
    known, mask = tr.csr(p.left_out), None
    rest = (*known, mask, "fp32", 1, group, at.start)
    q, e, operations = p.queries, p.entities[at].clone(), torch.ops.metasd
    torch.library.opcheck(operations.rank_targets.default, (q, e, p.targets, *rest))
    torch.library.opcheck(operations.topk_entities.default, (q, e, 12, *rest))
    for per_row in (False, True):
        torch.library.opcheck(
            operations.topk_mask_in_group.default, ([e, q], 0.6, per_row, group, [True, False])
        )

    def run(e: Tensor) -> list[Tensor]:
        (mask,) = kernels.topk_mask([2 * e], 0.6, group=group, sharded=[True])
        ranks = kernels.rank_targets(q, e, p.targets, known, mask, group=group, first=at.start)
        return [mask, *ranks]

    return {
        "compiled": kc.same_bits(kc.compiled(run)(e), run(e)),
        "blocks in another order": answer(
            lambda: kernels.topk_entities(q, e, 1, group=group, first=20 - at.stop)
        ),
    }


def few_mask_answers(group: str, share: Share) -> Answers:
    return mask_answers(group, share, ["few magnitudes"])


def few_ranking_answers(group: str, share: Share) -> Answers:
    return _small(group, share, torch.float32)


def work(group: str, all_shares: bool) -> dict[int, dict[str, list[Answers]]]:
    """What this process answers as one of the first two, three and four, by its share."""
    rank, _ = _collectives.processes(group)
    masks = mask_answers if all_shares else few_mask_answers
    ranking = ranking_answers if all_shares else few_ranking_answers
    answers = {}
    for size, shares in (ALL if all_shares else FEW).items():
        first = dist.new_group(range(size))
        if rank >= size:
            continue
        name = _collectives.register_group(first)
        answers[size] = {
            "masks": [masks(name, share) for share in shares],
            "ranking": [ranking(name, share) for share in shares if size < 4],
            "losses": [loss_answers(name, share) for share in shares if 0.0 not in share],
            "gpu": [gpu_answers(name, share) for share in shares[:1] if size == 3],
            "soundness": [sound_answers(name)] if size == 2 and all_shares else [],
        }
    return answers


@cache
def everyones(all_shares: bool) -> list[dict[int, dict[str, list[Answers]]]]:
    """What every process answers; they are started once for all tests."""
    return processes.run(work, max(ALL if all_shares else FEW), all_shares)


def answers_of(size: int, all_shares: bool = True) -> list[dict[str, list[Answers]]]:
    return [answers[size] for answers in everyones(all_shares)[:size]]


@cache
def whole(ask_all: Callable[[str, Share], Answers]) -> Answers:
    return ask_all("", WHOLE)


def same(got: Any, wanted: Any) -> bool:
    if isinstance(got, str) or isinstance(wanted, str):
        return bool(got == wanted)
    return kc.same_bits(got, wanted)


def assert_same(got: Answers, wanted: Answers, where: str) -> None:
    assert got.keys() == wanted.keys()
    wrong = [name for name, value in got.items() if not same(value, wanted[name])]
    assert not wrong, f"{where}: {wrong}"


def assert_masks(shares: dict[int, list[Share]], size: int) -> None:
    alone = whole(mask_answers if shares is ALL else few_mask_answers)
    for rank, answers in enumerate(answers_of(size, shares is ALL)):
        for share, got in zip(shares[size], answers["masks"], strict=True):
            wanted = {
                name: x if isinstance(x, str) else own_blocks(x, share, rank)
                for name in got
                for x in [alone[name.replace(TORCH, "weight")]]
            }
            assert_same(got, wanted, f"process {rank} of {share}")


def assert_ranks(shares: dict[int, list[Share]], size: int) -> None:
    alone = whole(ranking_answers if shares is ALL else few_ranking_answers)
    for rank, answers in enumerate(answers_of(size, shares is ALL)):
        for share, got in zip(shares[size], answers["ranking"], strict=True):
            assert_same(got, alone, f"process {rank} of {share}")


def assert_losses(shares: dict[int, list[Share]], device: str) -> None:
    exact = loss_answers("", WHOLE)
    for size in shares:
        uneven = [share for share in shares[size] if 0.0 not in share]
        for rank, answers in enumerate(answers_of(size, shares is ALL)):
            for share, got in zip(uneven, answers[device], strict=False):
                got = got["losses"] if device == "gpu" else got
                at = block(301, share, rank)
                wanted = [x[at] if len(x.shape) and len(x) == 301 else x for x in exact]
                kc.assert_close(got, wanted, 5e-6, 1e-7)


def test_two_processes_answer_as_one_does() -> None:
    assert_masks(FEW, 2)
    assert_ranks(FEW, 2)
    assert_losses(FEW, "losses")


@pytest.mark.slow
@pytest.mark.parametrize("size", ALL)
def test_masks_are_those_of_the_whole_tables(size: int) -> None:
    assert_masks(ALL, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_process_ranks_as_one_does(size: int) -> None:
    assert_ranks(ALL, size)


@pytest.mark.slow
def test_gpus_rank_as_one_process_does() -> None:
    pytest.importorskip("triton")
    wanted = _small("", WHOLE, torch.float32)
    for rank, answers in enumerate(answers_of(3)):
        ranked = {name: x for name, x in answers["gpu"][0].items() if name != "losses"}
        assert_same(ranked, wanted, f"process {rank}")


@pytest.mark.slow
@pytest.mark.parametrize("device", ["losses", "gpu"])
def test_losses_are_those_of_all_entities(device: str) -> None:
    if device == "gpu":
        pytest.importorskip("triton")
    assert_losses(ALL, device)


@pytest.mark.slow
def test_operations_are_sound_within_a_group() -> None:
    for answers in answers_of(2):
        found = answers["soundness"][0]
        assert found["compiled"]
        assert "must follow each other" in found["blocks in another order"]


def hang_or_fail(group: str) -> None:
    rank, _ = _collectives.processes(group)
    if rank == 1:
        raise KeyError("of process 1")
    _collectives.all_reduce_sum(torch.zeros(1), group)


def test_a_process_that_fails_is_heard_of() -> None:
    with pytest.raises(AssertionError, match="KeyError: 'of process 1'"):
        processes.run(hang_or_fail, 2)


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (torch.zeros(2, 3), {}, ValueError, "sharded must hold a bool for each of 1 tables; got N"),
        (torch.zeros(2, 3), {"sharded": [True] * 2}, ValueError, "for each of 1 tables; got 2"),
        (torch.zeros(2, 3).double(), {"sharded": [True]}, TypeError, "must be float32 within a gr"),
    ],
)
def test_bad_input_is_named(
    table: Tensor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kernels.topk_mask([table], group="others", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": 3}, "first must be 0 without a group; got 3"),
        ({"first": -1, "group": "others"}, "first must be not negative; got -1"),
    ],
)
def test_bad_places_are_named(options: dict[str, Any], message: str) -> None:
    q, e = torch.zeros(2, 3), torch.zeros(5, 3)
    with pytest.raises(ValueError, match=message):
        kernels.rank_targets(q, e, torch.zeros(2, dtype=torch.int64), **options)
    with pytest.raises(ValueError, match=message):
        kernels.topk_entities(q, e, 1, **options)
