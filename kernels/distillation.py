"""Two models that teach each other over all entities: steps 1 and 3 of MetaSD in closed form.

With a, b the softmaxes of two models at temperature tau, `K(a, b) = wf KL(a || b) + wb KL(b || a)`,
mean over rows (MetaSD, Findings of EMNLP 2022).
"""

from functools import partial

import torch
from torch import Tensor

from metasd import _C

from ._checks import (
    check_distillation,
    check_index,
    check_mask,
    check_range,
    check_streaming,
    check_table,
    check_weight,
)
from ._fused import address, is_fused, left, right, run_phases
from ._group import Sums, combined, refuse_group, target_weights
from ._stream import DEFAULT_SCORE_MEMORY, Scores, operand, product_dtype, stream
from .entity_cross_entropy import check_pruned, cross_entropy_of, mean_cross_entropy
from .topk_mask import apply_mask


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
) -> tuple[Tensor, Tensor, Tensor]:
    """The pruned student's loss `CE(z_p) + K(p_s, p_p)` and its gradients (MetaSD, step 1).

    Args:
        q_source, q_pruned: queries of both models, fp32 or fp64 (B, d).
        entities: the source's table (N, d); the student scores `mask * entities`, or `pruned`.
        mask: packed int32 words of `entities`, or None for all ones.
        targets: int64 (B,).
        weight: per entity (N,), of the cross entropy: row i counts `weight[targets[i]]`.
        pruned, precision, score_memory, group: as in `entity_cross_entropy`.

    Returns:
        (loss, gradient of q_pruned (B, d), gradient of the pruned entities (N, d), zero where the
        mask is).
    """
    _check(q_source, q_pruned, entities, mask, targets, weight, pruned)
    check_distillation(temperature, forward_weight, backward_weight)
    check_streaming(precision, score_memory)
    _, loss, _, grad_pruned, grad_entities = _distillation(
        q_source,
        q_pruned,
        entities,
        mask,
        pruned,
        targets,
        weight,
        temperature,
        forward_weight,
        backward_weight,
        False,
        precision,
        score_memory,
        group,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Both losses `CE(z_a) + K(a, stop(b))` and their gradients (MetaSD, step 3).

    Arguments as in `inner_distillation`.

    Returns:
        (loss_source, loss_pruned, gradient of q_source (B, d), gradient of q_pruned (B, d),
        gradient of the shared entities (N, d): the source's, plus the pruned model's where the
        mask is one).
    """
    _check(q_source, q_pruned, entities, mask, targets, weight, pruned)
    check_distillation(temperature, forward_weight, backward_weight)
    check_streaming(precision, score_memory)
    loss_source, loss_pruned, grad_source, grad_pruned, grad_entities = _distillation(
        q_source,
        q_pruned,
        entities,
        mask,
        pruned,
        targets,
        weight,
        temperature,
        forward_weight,
        backward_weight,
        True,
        precision,
        score_memory,
        group,
    )
    return loss_source, loss_pruned, grad_source, grad_pruned, grad_entities


def _check(
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    pruned: Tensor | None,
) -> None:
    check_table("entities", entities)
    check_table("q_source", q_source, like=entities)
    check_table("q_pruned", q_pruned, q_source.shape[0], like=entities)
    check_mask(mask, entities)
    check_index("targets", targets, q_source.shape[0], like=entities)
    check_weight(weight, entities)
    check_pruned(pruned, entities)


def _reference(
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    temperature: float,
    forward_weight: float,
    backward_weight: float,
    mutual: bool,
    precision: str,
    score_memory: int,
    group: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(loss_s, loss_p, dq_s, dq_p, dE); in step 1 dE is the student's, and dq_s is empty."""
    refuse_group(group, entities.dtype)
    check_range("targets", targets, entities.shape[0])
    table = apply_mask(entities, mask) if pruned is None else pruned
    z_s, z_p = q_source @ entities.T, q_pruned @ table.T
    log_s, log_p = (z_s / temperature).log_softmax(1), (z_p / temperature).log_softmax(1)
    p_s, p_p = log_s.exp(), log_p.exp()
    kl_sp = (p_s * (log_s - log_p)).sum(1, keepdim=True)
    kl_ps = (p_p * (log_p - log_s)).sum(1, keepdim=True)
    scale = 1 / max(len(targets), 1)
    by_log, by_difference = forward_weight, backward_weight
    if not mutual:  # the student is the second argument of K: its two terms change roles
        by_log, by_difference = backward_weight, forward_weight
    loss_p, g_p = cross_entropy_of(z_p.log_softmax(1), targets, weight)
    loss_p = loss_p + (by_log * kl_ps + by_difference * kl_sp).sum() * scale
    g_p = g_p + (by_log * p_p * (log_p - log_s - kl_ps) + by_difference * (p_p - p_s)) * (
        scale / temperature
    )
    student = g_p @ table, apply_mask(g_p.T @ q_pruned, mask)
    if not mutual:
        nothing = torch.zeros_like(loss_p)
        return nothing, loss_p, q_source.new_zeros(0), *student
    loss_s, g_s = cross_entropy_of(z_s.log_softmax(1), targets, weight)
    loss_s = loss_s + (by_log * kl_sp + by_difference * kl_ps).sum() * scale
    g_s = g_s + (by_log * p_s * (log_s - log_p - kl_sp) + by_difference * (p_s - p_p)) * (
        scale / temperature
    )
    return loss_s, loss_p, g_s @ entities, student[0], g_s.T @ q_source + student[1]


def sums(temperature: float) -> Sums:
    """Of a row's statistics after the maxima of source and student: sums of exp(z - maximum) of
    both; of e = exp((z - maximum) / tau); of e_s (z_s - z_p) / tau and of e_p (z_p - z_s) / tau.
    """
    soft = 1 / temperature
    return [(0, 1.0), (1, 1.0), (0, soft), (1, soft), (0, soft), (1, soft)]


_distillation = torch.library.custom_op("metasd::distillation", mutates_args=())(_reference)


@_distillation.register_kernel("cpu")
def _cpu(
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    temperature: float,
    forward_weight: float,
    backward_weight: float,
    mutual: bool,
    precision: str,
    score_memory: int,
    group: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if entities.dtype != torch.float32:
        return _reference(
            q_source,
            q_pruned,
            entities,
            mask,
            pruned,
            targets,
            weight,
            temperature,
            forward_weight,
            backward_weight,
            mutual,
            precision,
            score_memory,
            group,
        )
    row_weight = target_weights(targets, weight, entities.shape[0], group)
    dtype = product_dtype(precision)
    table = entities if pruned is None else pruned
    table_mask = mask if pruned is None else None
    grad_source = torch.empty_like(q_source) if mutual else entities.new_empty(0)
    grad_pruned, grad_entities = torch.empty_like(q_pruned), torch.empty_like(entities)
    batch = q_source.shape[0]
    statistics = torch.tensor([-torch.inf] * 2 + [0.0] * 8).repeat(batch, 1)
    by_log, by_difference = forward_weight, backward_weight
    if not mutual:
        by_log, by_difference = backward_weight, forward_weight

    def row_pass(z: list[Tensor], at: slice, columns: slice, phase: int) -> None:
        _C.distillation(
            z[0].data_ptr(),
            z[1].data_ptr(),
            dtype == torch.bfloat16,
            z[0].shape[0],
            z[0].shape[1],
            z[0].shape[1],
            columns.start,
            targets[at].data_ptr(),
            0 if row_weight is None else row_weight[at].data_ptr(),
            1 / batch,
            temperature,
            by_difference,
            by_log,
            mutual,
            statistics[at].data_ptr(),
            phase,
            torch.get_num_threads(),
        )

    between = None
    if group:
        between = partial(combined, statistics.T, [*sums(temperature), None, None], group)

    def fused(phase: int) -> None:
        _C.fused_distillation(
            [left(q_source, grad_source if mutual else None), left(q_pruned, grad_pruned)],
            [
                right(entities, None, grad_entities if mutual else None),
                right(table, table_mask, grad_entities, mask, add=mutual),
            ],
            batch,
            entities.shape[0],
            entities.shape[1],
            targets.data_ptr(),
            address(row_weight),
            1 / batch,
            statistics.data_ptr(),
            phase,
            torch.get_num_threads(),
            temperature,
            by_difference,
            by_log,
        )

    if is_fused(q_source, entities, precision):
        run_phases(fused, between)
    else:
        source = Scores(
            operand("queries", q_source, None, dtype), operand("entities", entities, None, dtype)
        )
        grad_kept = grad_entities
        if mutual:
            source.grad_left, source.grad_right = grad_source, grad_entities
            grad_kept = torch.empty_like(entities)
        student = Scores(
            operand("student_queries", q_pruned, None, dtype),
            operand("student_entities", table, table_mask, dtype),
            grad_pruned,
            grad_kept,
            mask,
        )
        stream([source, student], row_pass, score_memory, between)
        if mutual:
            grad_entities += grad_kept
    max_s, max_p, sum_s, sum_p, sum_st, sum_pt, moment_s, moment_p, y_s, y_p = statistics.unbind(1)
    shift = (max_s - max_p) / temperature + sum_st.log() - sum_pt.log()
    kl_sp = (moment_s / sum_st - shift).sum() / max(batch, 1)
    kl_ps = (moment_p / sum_pt + shift).sum() / max(batch, 1)
    loss_p = (
        mean_cross_entropy(max_p, sum_p, y_p, row_weight) + by_log * kl_ps + by_difference * kl_sp
    )
    loss_s = torch.zeros_like(loss_p)
    if mutual:
        loss_s = (
            mean_cross_entropy(max_s, sum_s, y_s, row_weight)
            + by_log * kl_sp
            + by_difference * kl_ps
        )
    return loss_s, loss_p, grad_source, grad_pruned, grad_entities


@_distillation.register_fake
def _fake(
    q_source: Tensor,
    q_pruned: Tensor,
    entities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    temperature: float,
    forward_weight: float,
    backward_weight: float,
    mutual: bool,
    precision: str,
    score_memory: int,
    group: str = "",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        q_source.new_empty(()),
        q_source.new_empty(()),
        torch.empty_like(q_source) if mutual else q_source.new_empty(0),
        torch.empty_like(q_pruned),
        torch.empty_like(entities),
    )
