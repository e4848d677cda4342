"""How the source should have taught: the quiz loss's gradient through the student's inner step."""

from functools import partial

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_distillation, check_mask, check_streaming, check_table
from ._fused import is_fused, left, right, run_phases
from ._group import Sums, combined, refuse_group
from ._stream import DEFAULT_SCORE_MEMORY, Scores, joined, operand, product_dtype, stream
from .entity_cross_entropy import check_pruned
from .topk_mask import apply_mask


def meta_gradient(
    q_source: Tensor,
    q_pruned: Tensor,
    dq_pruned: Tensor,
    entities: Tensor,
    dentities: Tensor,
    mask: Tensor | None,
    temperature: float = 3.0,
    forward_weight: float = 3.0,
    backward_weight: float = 1.0,
    inner_lr: float = 0.1,
    *,
    pruned: Tensor | None = None,
    precision: str = "auto",
    score_memory: int = DEFAULT_SCORE_MEMORY,
    group: str = "",
) -> tuple[Tensor, Tensor]:
    """The quiz loss's gradient in the source's queries and entities (MetaSD, step 2).

    Let v be the quiz loss's gradient at the stepped student `P' = P - inner_lr * mask * g`, where
    g is the gradient of `inner_distillation`. The quiz loss reaches the source only through the
    teacher inside g, so its derivative along the source is `-inner_lr * d<v, g>`. In closed form,
    per row,

        dz_s = inner_lr / tau^2 [wf p_s (zdot - <p_s, zdot>) + wb p_p (zdot - <p_p, zdot>)]
        zdot = dq_pruned @ (mask * entities).T + q_pruned @ (mask * dentities).T

    Args:
        q_source, q_pruned: queries of both models (B, d).
        dq_pruned: derivative of q_pruned along v (B, d).
        entities: the source's table (N, d); the student scores `mask * entities`, or `pruned`.
        dentities: v's entity part (N, d), masked inside.
        mask, pruned, precision, score_memory, group: as in `inner_distillation`.

    Returns:
        (gradient of q_source (B, d), gradient of the source's entities (N, d)) of the row mean.
    """
    check_table("entities", entities)
    check_table("q_source", q_source, like=entities)
    check_table("q_pruned", q_pruned, q_source.shape[0], like=entities)
    check_table("dq_pruned", dq_pruned, q_source.shape[0], like=entities)
    check_table("dentities", dentities, entities.shape[0], like=entities)
    check_mask(mask, entities)
    check_pruned(pruned, entities)
    check_distillation(temperature, forward_weight, backward_weight)
    check_streaming(precision, score_memory)
    grad_source, grad_entities = _meta_gradient(
        q_source,
        q_pruned,
        dq_pruned,
        entities,
        dentities,
        mask,
        pruned,
        temperature,
        forward_weight,
        backward_weight,
        inner_lr,
        precision,
        score_memory,
        group,
    )
    return grad_source, grad_entities


def _reference(
    q_source: Tensor,
    q_pruned: Tensor,
    dq_pruned: Tensor,
    entities: Tensor,
    dentities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    temperature: float,
    forward_weight: float,
    backward_weight: float,
    inner_lr: float,
    precision: str,
    score_memory: int,
    group: str = "",
) -> tuple[Tensor, Tensor]:
    refuse_group(group, entities.dtype)
    table = apply_mask(entities, mask) if pruned is None else pruned
    zdot = dq_pruned @ table.T + q_pruned @ apply_mask(dentities, mask).T
    p_s = (q_source @ entities.T / temperature).softmax(1)
    p_p = (q_pruned @ table.T / temperature).softmax(1)
    g = forward_weight * p_s * (zdot - (p_s * zdot).sum(1, keepdim=True))
    g = g + backward_weight * p_p * (zdot - (p_p * zdot).sum(1, keepdim=True))
    g = g * (inner_lr / temperature**2 / max(len(q_source), 1))
    return g @ entities, g.T @ q_source


def sums(temperature: float) -> Sums:
    """Of a row's statistics after the maxima of source and student: sums of
    e = exp((z - maximum) / tau) of both; of e_s zdot and of e_p zdot.
    """
    return [(0, 1 / temperature), (1, 1 / temperature)] * 2


_meta_gradient = torch.library.custom_op("metasd::meta_gradient", mutates_args=())(_reference)


@_meta_gradient.register_kernel("cpu")
def _cpu(
    q_source: Tensor,
    q_pruned: Tensor,
    dq_pruned: Tensor,
    entities: Tensor,
    dentities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    temperature: float,
    forward_weight: float,
    backward_weight: float,
    inner_lr: float,
    precision: str,
    score_memory: int,
    group: str = "",
) -> tuple[Tensor, Tensor]:
    if entities.dtype != torch.float32:
        return _reference(
            q_source,
            q_pruned,
            dq_pruned,
            entities,
            dentities,
            mask,
            pruned,
            temperature,
            forward_weight,
            backward_weight,
            inner_lr,
            precision,
            score_memory,
            group,
        )
    dtype = product_dtype(precision)
    student = (entities, mask) if pruned is None else (pruned, None)
    batch, width = q_source.shape
    grad_source, grad_entities = torch.empty_like(q_source), torch.empty_like(entities)
    statistics = torch.tensor([-torch.inf] * 2 + [0.0] * 4).repeat(batch, 1)

    def row_pass(z: list[Tensor], at: slice, columns: slice, phase: int) -> None:
        _C.meta(
            z[0].data_ptr(),
            z[1].data_ptr(),
            z[2].data_ptr(),
            dtype == torch.bfloat16,
            z[0].shape[0],
            z[0].shape[1],
            z[0].shape[1],
            inner_lr / temperature**2 / batch,
            temperature,
            forward_weight,
            backward_weight,
            statistics[at].data_ptr(),
            phase,
            torch.get_num_threads(),
        )

    between = None
    if group:
        between = partial(combined, statistics.T, sums(temperature), group)

    def fused(phase: int) -> None:
        _C.fused_meta(
            [left(q_source, grad_source), left(q_pruned), left(dq_pruned)],
            [right(entities, None, grad_entities), right(*student), right(dentities, mask)],
            batch,
            entities.shape[0],
            entities.shape[1],
            inner_lr / temperature**2 / batch,
            statistics.data_ptr(),
            phase,
            torch.get_num_threads(),
            temperature,
            forward_weight,
            backward_weight,
        )

    if is_fused(q_source, entities, precision):
        run_phases(fused, between)
    else:
        source = Scores(
            operand("queries", q_source, None, dtype),
            operand("entities", entities, None, dtype),
            grad_source,
            grad_entities,
        )
        # [dq | q] @ [table | v].T is zdot in one product; its halves serve the student's scores.
        queries = joined("student_queries", [(dq_pruned, None), (q_pruned, None)], dtype)
        tables = joined("student_entities", [student, (dentities, mask)], dtype)
        pruned_scores = Scores(queries[:, width:], tables[:, :width])
        all_scores = [source, pruned_scores, Scores(queries, tables)]
        stream(all_scores, row_pass, score_memory, between)
    return grad_source, grad_entities


@_meta_gradient.register_fake
def _fake(
    q_source: Tensor,
    q_pruned: Tensor,
    dq_pruned: Tensor,
    entities: Tensor,
    dentities: Tensor,
    mask: Tensor | None,
    pruned: Tensor | None,
    temperature: float,
    forward_weight: float,
    backward_weight: float,
    inner_lr: float,
    precision: str,
    score_memory: int,
    group: str = "",
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q_source), torch.empty_like(entities)
