"""Cross entropy of 1-N (1vsAll) scores: loss and gradients in one streamed pass."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metasd import _C

from ._checks import (
    check_index,
    check_mask,
    check_range,
    check_streaming,
    check_table,
    check_weight,
)
from ._collectives import Sums, combined, refuse_group, target_weights
from ._operations import fp32_kernel, operation
from ._sampling import EXACT, Sampling, check_sampling, sampled
from ._shared import SharedQueries
from ._stream import DEFAULT_SCORE_MEMORY, Scores, operand, product_dtype, stream
from ._whole import engine, left, right, run_whole
from .apply_mask import apply_mask


def entity_cross_entropy(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    pruned: Tensor | None = None,
    precision: str = "auto",
    score_memory: int = DEFAULT_SCORE_MEMORY,
    group: str = "",
    sampling: Sampling = EXACT,
    multiplicity: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy of `queries @ (mask * entities).T` against `targets`, differentiable once.

    Args:
        queries: fp32 or fp64 (B, d).
        entities: (N, d) in the same dtype.
        targets: int64 (B,) in 0 .. N - 1.
        mask: packed int32 words of `entities` (see `pack_mask`), or None for all ones. The gradient
            is zero where the mask is.
        weight: (N,) in the tables' dtype; row i counts `weight[targets[i]]`. The sum is divided by
            B (not by the sum of weights).
        pruned: the table (N, d) to score instead of `mask * entities` where it is more than a mask
            (rounded weights); its gradient goes to `entities` (straight through).
        precision: of the products, for fp32 tables: `auto | fp32 | tf32 | bf16`.
        score_memory: bytes that score blocks may take.
        group: the process group (see `register_group`) whose processes hold one block of rows of
            `entities` each, in fp32, and the same queries. `targets` are then this block's row
            numbers, outside 0 .. N - 1 where another process has the target. Every process gets the
            loss over all blocks, its own block's gradient, and its own block's share of the
            gradient of the queries, which is their sum.
        sampling: keeps few entries of the gradient in the scores, so that the gradients are right
            on average (see `Sampling`); the loss stays exact. GPUs keep all.
        multiplicity: (N,) in the tables' dtype, positive: in every sum over entities row i counts
            `multiplicity[i]` times. Where the rows are a sample of the entities, the inverse of the
            probability of row i makes the softmax an estimate of that over all of them (log-Q
            correction). On a GPU the operation is then its definition in plain torch.

    Returns:
        The loss, a scalar (0 for an empty batch).

    Raises:
        ValueError: a target is out of range.
        RuntimeError: a second derivative.

    Equivalent to: `F.cross_entropy(queries @ (mask * entities).T, targets, reduction="none")`,
    times `weight[targets]`, summed and divided by B; with a multiplicity, `z.logsumexp` is
    `(z + multiplicity.log()).logsumexp`.
    """
    return entity_cross_entropy_gradients(
        queries,
        entities,
        targets,
        mask,
        weight,
        pruned=pruned,
        precision=precision,
        score_memory=score_memory,
        group=group,
        sampling=sampling,
        multiplicity=multiplicity,
    )[0]


def entity_cross_entropy_gradients(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    pruned: Tensor | None = None,
    precision: str = "auto",
    score_memory: int = DEFAULT_SCORE_MEMORY,
    group: str = "",
    sampling: Sampling = EXACT,
    multiplicity: Tensor | None = None,
    query_of: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`entity_cross_entropy` as (loss, gradient of queries (B, d), gradient of entities (N, d)).

    Args:
        query_of: int64 (B,), for targets that share queries: the row of `queries` (Q, d) that each
            target belongs to; None: row i. The same as `entity_cross_entropy(queries[query_of],
            ...)`, but a CPU scores every query once.
    """
    check_table("entities", entities)
    check_table("queries", queries, like=entities)
    check_index("targets", targets, None if query_of is not None else len(queries), like=entities)
    check_mask(mask, entities)
    check_weight(weight, entities)
    check_weight(multiplicity, entities, "multiplicity")
    check_pruned(pruned, entities)
    check_streaming(precision, score_memory)
    check_sampling(sampling)

    def run(
        queries: Tensor, targets: Tensor, threshold: float, row_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _entity_cross_entropy(  # type: ignore[no-any-return]
            queries,
            entities,
            targets,
            mask,
            pruned,
            weight,
            precision,
            score_memory,
            group,
            threshold,
            sampling.draw,
            multiplicity,
            row_weight,
        )

    if query_of is None:
        return run(queries, targets, sampling.threshold)
    shared = SharedQueries(query_of, targets, queries, entities, weight, group)
    if queries.device.type != "cpu":
        loss, grad_rows, grad_entities = run(queries[query_of], targets, sampling.threshold)
        return loss, shared.summed(grad_rows), grad_entities
    loss, grad_queries, grad_entities = run(
        queries, shared.no_targets, shared.threshold(sampling), shared.weight
    )
    table, table_mask = (entities, mask) if pruned is None else (pruned, None)
    loss += shared.add_targets(queries, table, table_mask, grad_queries, grad_entities, mask)
    return loss, grad_queries, grad_entities


def check_pruned(pruned: Tensor | None, entities: Tensor) -> None:
    if pruned is not None:
        check_table("pruned", pruned, entities.shape[0], like=entities)


def _reference(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    weight: Tensor | None,
    precision: str,
    score_memory: int,
    group: str = "",
    threshold: float = 0.0,
    draw: Sequence[int] = (),
    multiplicity: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    refuse_group(group, entities.dtype)
    table = apply_mask(entities, mask) if pruned is None else pruned
    loss, g = cross_entropy_of(queries @ table.T, targets, weight, multiplicity, row_weight)
    g = sampled(g, threshold / max(len(targets), 1), threshold, draw)
    return loss, g @ table, apply_mask(g.T @ queries, mask)


def log_probabilities(z: Tensor, multiplicity: Tensor | None) -> Tensor:
    """Of one of the entities that each row of a table counts as, (B, N)."""
    if multiplicity is None:
        return z.log_softmax(dim=1)
    return z - (z + multiplicity.log()).logsumexp(dim=1, keepdim=True)


def probabilities(log_p: Tensor, multiplicity: Tensor | None) -> Tensor:
    """Of all the entities that each row counts as: they sum to 1."""
    return log_p.exp() if multiplicity is None else log_p.exp() * multiplicity


def cross_entropy_of(
    z: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    multiplicity: Tensor | None,
    row_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Mean weighted cross entropy of scores (B, N), and its gradient in them.

    With a row weight, (B,), targets are left out of both: it is the mean of the logarithms of the
    softmax's sums.
    """
    log_p = log_probabilities(z, multiplicity)
    g, scale = probabilities(log_p, multiplicity), 1 / max(len(z), 1)
    if row_weight is not None:
        logarithms = z[:, 0] - log_p[:, 0]
        return (row_weight * logarithms).sum() * scale, g * (row_weight * scale)[:, None]
    check_range("targets", targets, z.shape[1])
    rows = torch.arange(len(targets), device=targets.device)
    w = log_p.new_ones(len(targets)) if weight is None else weight[targets]
    g[rows, targets] -= 1
    return -(w * log_p[rows, targets]).sum() * scale, g * (w * scale)[:, None]


SUMS: Sums = [(0, 1.0), None]
"""Statistics per row: maximum; sum of exp(z - maximum); the target's score."""

_SCHEMA = (
    "(Tensor queries, Tensor entities, Tensor targets, Tensor? mask, Tensor? pruned, "
    "Tensor? weight, str precision, int score_memory, str group='', float threshold=0.0, "
    "int[] draw=[], Tensor? multiplicity=None, Tensor? row_weight=None) -> (Tensor, Tensor, Tensor)"
)
"""(loss, dq, dE). With a weight per row, targets are left out: see `SharedQueries`."""

_entity_cross_entropy = operation("entity_cross_entropy", _reference, schema=_SCHEMA)


@fp32_kernel("entity_cross_entropy", "cpu")
def _cpu(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    weight: Tensor | None,
    precision: str,
    score_memory: int,
    group: str = "",
    threshold: float = 0.0,
    draw: Sequence[int] = (),
    multiplicity: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    if row_weight is None:
        row_weight = target_weights(targets, weight, entities.shape[0], group)
    dtype = product_dtype(precision)
    table = entities if pruned is None else pruned
    grad_queries, grad_entities = torch.empty_like(queries), torch.empty_like(entities)
    table_mask = mask if pruned is None else None
    batch = queries.shape[0]
    statistics = torch.tensor([-torch.inf, 0.0, 0.0]).repeat(batch, 1)

    def row_pass(z: list[Tensor], at: slice, columns: slice, phase: int) -> None:
        _C.cross_entropy(
            z[0].data_ptr(),
            dtype == torch.bfloat16,
            z[0].shape[0],
            z[0].shape[1],
            z[0].shape[1],
            columns.start,
            targets[at].data_ptr(),
            0 if row_weight is None else row_weight[at].data_ptr(),
            0 if multiplicity is None else multiplicity[columns].data_ptr(),
            1 / batch,
            statistics[at].data_ptr(),
            phase,
            torch.get_num_threads(),
        )

    between = None
    if group:
        between = partial(combined, statistics.T, SUMS, group)

    if name := engine(queries, entities, precision, threshold):
        run_whole(
            f"{name}_cross_entropy",
            [left(queries, grad_queries)],
            [right(table, table_mask, grad_entities, mask)],
            (batch, *entities.shape),
            statistics,
            1 / batch,
            targets=targets,
            weight=row_weight,
            multiplicity=multiplicity,
            precision=precision,
            score_memory=score_memory,
            sampling=Sampling(threshold, *draw),
            between=between,
        )
    else:
        scores = Scores(
            operand("queries", queries, None, dtype),
            operand("entities", table, table_mask, dtype),
            grad_queries,
            grad_entities,
            mask,
        )
        stream([scores], row_pass, score_memory, between)
    maximum, total, target = statistics.unbind(1)
    loss = mean_cross_entropy(maximum, total, target, row_weight)
    return loss, grad_queries, grad_entities


def mean_cross_entropy(
    maximum: Tensor, total: Tensor, target: Tensor, row_weight: Tensor | None
) -> Tensor:
    """The loss from statistics per row: max, sum of exp(z - max), target score, each (B,)."""
    losses = total.log() + (maximum - target)
    if row_weight is not None:
        losses = losses * row_weight
    return losses.sum() / max(len(losses), 1)


@_entity_cross_entropy.register_fake
def _fake(
    queries: Tensor,
    entities: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    weight: Tensor | None,
    precision: str,
    score_memory: int,
    group: str = "",
    threshold: float = 0.0,
    draw: Sequence[int] = (),
    multiplicity: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return queries.new_empty(()), torch.empty_like(queries), torch.empty_like(entities)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad: Tensor | None, grad_of_dqueries: Tensor | None, grad_of_dentities: Tensor | None
) -> tuple[Tensor | None, ...]:
    if grad_of_dqueries is not None or grad_of_dentities is not None:
        raise RuntimeError(
            "metasd::entity_cross_entropy is differentiable once: its gradients are closed forms "
            "that carry no graph"
        )
    if grad is None:
        return (None,) * 13
    grad_queries, grad_entities = ctx.saved_tensors
    return grad * grad_queries, grad * grad_entities, *(None,) * 11


_entity_cross_entropy.register_autograd(_backward, setup_context=_setup)
