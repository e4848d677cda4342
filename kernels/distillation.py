"""Distillation between two models over all entities: steps 1 and 3 of MetaSD in closed form.

With a, b the softmaxes of two models at temperature tau, `K(a, b) = wf KL(a || b) + wb KL(b || a)`,
mean over rows (Li et al., MetaSD, Findings of EMNLP 2022).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metasd import _C

from ._checks import (
    check_distillation,
    check_index,
    check_mask,
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
from .entity_cross_entropy import (
    check_pruned,
    cross_entropy_of,
    log_probabilities,
    mean_cross_entropy,
    probabilities,
)

Results = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""(loss_s, loss_p, dq_s, dq_p, dE); in step 1 dE is the pruned model's, loss_s 0, dq_s empty."""


def inner_distillation(
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    targets: Tensor,
    temperature: float = 3.0,
    forward_weight: float = 3.0,
    backward_weight: float = 1.0,
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
    """The pruned model's loss `CE(z_p) + K(p_s, p_p)` and its gradients (MetaSD, step 1).

    Args:
        q_source, q_pruned: queries of both models, fp32 or fp64 (B, d).
        entities: the source's table (N, d) in the same dtype; the pruned model scores
            `mask * entities`, or `pruned`.
        mask: packed int32 words of `entities` (see `pack_mask`), or None for all ones.
        targets: int64 (B,) in 0 .. N - 1.
        temperature: tau, positive.
        forward_weight, backward_weight: wf and wb of K, not negative.
        weight: (N,) in the tables' dtype, of the cross entropy: row i counts `weight[targets[i]]`.
        pruned, precision, score_memory, group, sampling, multiplicity: as in
            `entity_cross_entropy`.
        query_of: as in `entity_cross_entropy_gradients`; the queries of both models are then
            (Q, d), and K counts a query as often as it has targets.

    Returns:
        (loss, gradient of q_pruned (B, d), gradient of the pruned entities (N, d), zero where the
        mask is). They carry no graph.

    Raises:
        ValueError: a target is out of range; a temperature or weight that has no meaning.

    Equivalent to: with `z_p = q_pruned @ (mask * entities).T`, `s = (q_source @ entities.T / tau)
    .log_softmax(1)`, `p = (z_p / tau).log_softmax(1)` and `kl = partial(F.kl_div,
    reduction="batchmean", log_target=True)`: `F.cross_entropy(z_p, targets) + wf * kl(p, s) + wb *
    kl(s, p)` and its gradients by autograd.
    """
    _, loss, _, grad_pruned, grad_entities = _losses_of(
        False,
        q_source,
        q_pruned,
        entities,
        mask,
        pruned,
        targets,
        weight,
        (temperature, forward_weight, backward_weight),
        precision,
        score_memory,
        group,
        sampling,
        multiplicity,
        query_of,
    )
    return loss, grad_pruned, grad_entities


def mutual_distillation(
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    targets: Tensor,
    temperature: float = 3.0,
    forward_weight: float = 3.0,
    backward_weight: float = 1.0,
    weight: Tensor | None = None,
    *,
    pruned: Tensor | None = None,
    precision: str = "auto",
    score_memory: int = DEFAULT_SCORE_MEMORY,
    group: str = "",
    sampling: Sampling = EXACT,
    multiplicity: Tensor | None = None,
    query_of: Tensor | None = None,
) -> Results:
    """Both losses `CE(z_a) + K(a, stop(b))` and their gradients (MetaSD, step 3).

    Arguments and errors as in `inner_distillation`. The model that receives the gradient is the
    first argument of K.

    Returns:
        (loss_source, loss_pruned, gradient of q_source (B, d), gradient of q_pruned (B, d),
        gradient of the shared entities (N, d): the source's, plus the pruned model's where the
        mask is one). They carry no graph.
    """
    return _losses_of(
        True,
        q_source,
        q_pruned,
        entities,
        mask,
        pruned,
        targets,
        weight,
        (temperature, forward_weight, backward_weight),
        precision,
        score_memory,
        group,
        sampling,
        multiplicity,
        query_of,
    )


def _losses_of(
    mutual: bool,
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    exchange: tuple[float, float, float],
    precision: str,
    score_memory: int,
    group: str,
    sampling: Sampling,
    multiplicity: Tensor | None,
    query_of: Tensor | None,
) -> Results:
    """Step 1 or 3, its arguments checked first; queries have a target each, or several."""
    check_table("entities", entities)
    check_table("q_source", q_source, like=entities)
    check_table("q_pruned", q_pruned, q_source.shape[0], like=entities)
    check_mask(mask, entities)
    check_index("targets", targets, None if query_of is not None else len(q_source), like=entities)
    check_weight(weight, entities)
    check_weight(multiplicity, entities, "multiplicity")
    check_pruned(pruned, entities)
    check_distillation(*exchange)
    check_streaming(precision, score_memory)
    check_sampling(sampling)

    def run(
        q_source: Tensor, q_pruned: Tensor, targets: Tensor, threshold: float, *of_rows: Tensor
    ) -> Results:
        return _distillation(  # type: ignore[no-any-return]
            q_source,
            q_pruned,
            entities,
            mask,
            pruned,
            targets,
            weight,
            *exchange,
            mutual,
            precision,
            score_memory,
            group,
            threshold,
            sampling.draw,
            multiplicity,
            *of_rows,
        )

    if query_of is None:
        return run(q_source, q_pruned, targets, sampling.threshold)
    shared = SharedQueries(query_of, targets, q_source, entities, weight, group)
    if q_source.device.type != "cpu":
        rows = q_source[query_of], q_pruned[query_of]
        loss_s, loss_p, dq_s, dq_p, de = run(*rows, targets, sampling.threshold)
        return loss_s, loss_p, shared.summed(dq_s) if mutual else dq_s, shared.summed(dq_p), de
    loss_s, loss_p, dq_s, dq_p, de = run(
        q_source,
        q_pruned,
        shared.no_targets,
        shared.threshold(sampling),
        shared.weight,
        shared.count,
    )
    scored = (entities, mask) if pruned is None else (pruned, None)
    loss_p += shared.add_targets(q_pruned, *scored, dq_p, de, mask)
    if mutual:
        loss_s += shared.add_targets(q_source, entities, None, dq_s, de, None)
    return loss_s, loss_p, dq_s, dq_p, de


class Arguments(NamedTuple):
    """The arguments of `metasd::distillation`."""

    q_source: Tensor
    q_pruned: Tensor
    entities: Tensor
    mask: Tensor | None
    pruned: Tensor | None
    targets: Tensor
    weight: Tensor | None
    temperature: float
    forward_weight: float
    backward_weight: float
    mutual: bool
    precision: str
    score_memory: int
    group: str = ""
    threshold: float = 0.0
    draw: Sequence[int] = ()
    multiplicity: Tensor | None = None
    row_weight: Tensor | None = None
    row_count: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.q_source.shape[0]

    @property
    def exchange(self) -> tuple[float, float]:
        """Weights in the pruned model's K, of the terms with a logarithm and with a difference.

        In step 1 the pruned model is the second argument of K: its two terms change roles.
        """
        if self.mutual:
            return self.forward_weight, self.backward_weight
        return self.backward_weight, self.forward_weight

    @property
    def scored(self) -> tuple[Tensor, Tensor | None]:
        """The pruned model's table, and the mask under which it is scored."""
        return (self.entities, self.mask) if self.pruned is None else (self.pruned, None)


_SCHEMA = (
    "(Tensor q_source, Tensor q_pruned, Tensor entities, Tensor? mask, Tensor? pruned, "
    "Tensor targets, Tensor? weight, float temperature, float forward_weight, "
    "float backward_weight, bool mutual, str precision, int score_memory, str group='', "
    "float threshold=0.0, int[] draw=[], Tensor? multiplicity=None, Tensor? row_weight=None, "
    "Tensor? row_count=None) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
"""With a weight and a count per row, targets are left out: see `SharedQueries`."""


def _reference(*arguments: Any) -> Results:
    a = Arguments(*arguments)
    refuse_group(a.group, a.entities.dtype)
    table = apply_mask(a.entities, a.mask) if a.pruned is None else a.pruned
    z_s, z_p = a.q_source @ a.entities.T, a.q_pruned @ table.T
    log_s, log_p = (log_probabilities(z / a.temperature, a.multiplicity) for z in (z_s, z_p))
    p_s, p_p = (probabilities(x, a.multiplicity) for x in (log_s, log_p))
    kl_sp = (p_s * (log_s - log_p)).sum(1, keepdim=True)
    kl_ps = (p_p * (log_p - log_s)).sum(1, keepdim=True)
    mean = 1 / max(a.batch, 1)
    scale = mean if a.row_count is None else mean * a.row_count[:, None]
    by_log, by_difference = a.exchange
    loss_p, g_p = _cross_entropy(z_p, a)
    loss_p = loss_p + ((by_log * kl_ps + by_difference * kl_sp) * scale).sum()
    g_p = g_p + (by_log * p_p * (log_p - log_s - kl_ps) + by_difference * (p_p - p_s)) * (
        scale / a.temperature
    )
    limit = a.threshold * mean
    g_p = sampled(g_p, limit, a.threshold, a.draw, score=1)
    dq_p, de = g_p @ table, apply_mask(g_p.T @ a.q_pruned, a.mask)
    if not a.mutual:
        return torch.zeros_like(loss_p), loss_p, a.q_source.new_zeros(0), dq_p, de
    loss_s, g_s = _cross_entropy(z_s, a)
    loss_s = loss_s + ((by_log * kl_sp + by_difference * kl_ps) * scale).sum()
    g_s = g_s + (by_log * p_s * (log_s - log_p - kl_sp) + by_difference * (p_s - p_p)) * (
        scale / a.temperature
    )
    g_s = sampled(g_s, limit, a.threshold, a.draw)
    return loss_s, loss_p, g_s @ a.entities, dq_p, g_s.T @ a.q_source + de


def _cross_entropy(z: Tensor, a: Arguments) -> tuple[Tensor, Tensor]:
    return cross_entropy_of(z, a.targets, a.weight, a.multiplicity, a.row_weight)


def sums(temperature: float) -> Sums:
    """The statistics per row after the maxima of source and pruned model: sums of
    exp(z - maximum) of both; of e = exp((z - maximum) / tau); of e_s (z_s - z_p) / tau and of
    e_p (z_p - z_s) / tau.
    """
    soft = 1 / temperature
    return [(0, 1.0), (1, 1.0), (0, soft), (1, soft), (0, soft), (1, soft)]


_distillation = operation("distillation", _reference, schema=_SCHEMA)


@fp32_kernel("distillation", "cpu")
def _cpu(*arguments: Any) -> Results:
    a = Arguments(*arguments)
    row_weight = a.row_weight
    if row_weight is None:
        row_weight = target_weights(a.targets, a.weight, a.entities.shape[0], a.group)
    statistics = torch.tensor([-torch.inf] * 2 + [0.0] * 8).repeat(a.batch, 1)
    between = None
    if a.group:
        between = partial(combined, statistics.T, [*sums(a.temperature), None, None], a.group)
    gradients = (
        torch.empty_like(a.q_source) if a.mutual else a.entities.new_empty(0),
        torch.empty_like(a.q_pruned),
        torch.empty_like(a.entities),
    )
    if name := engine(a.q_source, a.entities, a.precision, a.threshold):
        _run_whole(f"{name}_distillation", a, row_weight, statistics, gradients, between)
    else:
        _stream_scores(a, row_weight, statistics, gradients, between)
    return *_losses(a, row_weight, statistics), *gradients


Gradients = tuple[Tensor, Tensor, Tensor]
"""Of the source's queries (empty in step 1), of the pruned model's, of the entities."""


def _run_whole(
    loss: str,
    a: Arguments,
    row_weight: Tensor | None,
    statistics: Tensor,
    gradients: Gradients,
    between: Callable[[], None] | None,
) -> None:
    grad_source, grad_pruned, grad_entities = gradients
    by_log, by_difference = a.exchange
    run_whole(
        loss,
        [left(a.q_source, grad_source if a.mutual else None), left(a.q_pruned, grad_pruned)],
        [
            right(a.entities, None, grad_entities if a.mutual else None),
            right(*a.scored, grad_entities, a.mask, add=a.mutual),
        ],
        (a.batch, *a.entities.shape),
        statistics,
        1 / a.batch,
        parameters=(a.temperature, by_difference, by_log),
        targets=a.targets,
        weight=row_weight,
        count=a.row_count,
        multiplicity=a.multiplicity,
        precision=a.precision,
        score_memory=a.score_memory,
        sampling=Sampling(a.threshold, *a.draw),
        between=between,
    )


def _stream_scores(
    a: Arguments,
    row_weight: Tensor | None,
    statistics: Tensor,
    gradients: Gradients,
    between: Callable[[], None] | None,
) -> None:
    dtype = product_dtype(a.precision)
    grad_source, grad_pruned, grad_entities = gradients
    table, table_mask = a.scored
    by_log, by_difference = a.exchange

    def row_pass(z: list[Tensor], at: slice, columns: slice, phase: int) -> None:
        _C.distillation(
            z[0].data_ptr(),
            z[1].data_ptr(),
            dtype == torch.bfloat16,
            z[0].shape[0],
            z[0].shape[1],
            z[0].shape[1],
            columns.start,
            a.targets[at].data_ptr(),
            0 if row_weight is None else row_weight[at].data_ptr(),
            0 if a.row_count is None else a.row_count[at].data_ptr(),
            0 if a.multiplicity is None else a.multiplicity[columns].data_ptr(),
            1 / a.batch,
            a.temperature,
            by_difference,
            by_log,
            a.mutual,
            statistics[at].data_ptr(),
            phase,
            torch.get_num_threads(),
        )

    source = Scores(
        operand("queries", a.q_source, None, dtype), operand("entities", a.entities, None, dtype)
    )
    grad_kept = grad_entities
    if a.mutual:
        source.grad_left, source.grad_right = grad_source, grad_entities
        grad_kept = torch.empty_like(a.entities)
    pruned = Scores(
        operand("pruned_queries", a.q_pruned, None, dtype),
        operand("pruned_entities", table, table_mask, dtype),
        grad_pruned,
        grad_kept,
        a.mask,
    )
    stream([source, pruned], row_pass, a.score_memory, between)
    if a.mutual:
        grad_entities += grad_kept


def _losses(a: Arguments, row_weight: Tensor | None, statistics: Tensor) -> tuple[Tensor, Tensor]:
    """(loss_s, loss_p) from statistics per row."""
    max_s, max_p, sum_s, sum_p, sum_st, sum_pt, moment_s, moment_p, y_s, y_p = statistics.unbind(1)
    by_log, by_difference = a.exchange
    shift = (max_s - max_p) / a.temperature + sum_st.log() - sum_pt.log()
    count = torch.ones_like(shift) if a.row_count is None else a.row_count
    kl_sp = count @ (moment_s / sum_st - shift) / max(a.batch, 1)
    kl_ps = count @ (moment_p / sum_pt + shift) / max(a.batch, 1)
    loss_p = (
        mean_cross_entropy(max_p, sum_p, y_p, row_weight) + by_log * kl_ps + by_difference * kl_sp
    )
    if not a.mutual:
        return torch.zeros_like(loss_p), loss_p
    loss_s = (
        mean_cross_entropy(max_s, sum_s, y_s, row_weight) + by_log * kl_sp + by_difference * kl_ps
    )
    return loss_s, loss_p


@_distillation.register_fake
def _fake(*arguments: Any) -> Results:
    a = Arguments(*arguments)
    return (
        a.q_source.new_empty(()),
        a.q_source.new_empty(()),
        torch.empty_like(a.q_source) if a.mutual else a.q_source.new_empty(0),
        torch.empty_like(a.q_pruned),
        torch.empty_like(a.entities),
    )
