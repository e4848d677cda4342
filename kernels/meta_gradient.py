"""The meta gradient: the quiz loss's gradient in the source, through the inner step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metasd import _C

from ._checks import check_distillation, check_mask, check_streaming, check_table, check_weight
from ._collectives import Sums, combined, refuse_group
from ._operations import fp32_kernel, operation
from ._sampling import EXACT, Sampling, check_sampling, sampled
from ._stream import DEFAULT_SCORE_MEMORY, Scores, joined, operand, product_dtype, stream
from ._whole import engine, left, right, run_whole
from .apply_mask import apply_mask
from .entity_cross_entropy import check_pruned, log_probabilities, probabilities


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
    sampling: Sampling = EXACT,
    multiplicity: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The quiz loss's gradient in the source's queries and entities (MetaSD, step 2).

    Let v be the quiz loss's gradient at the temporary pruned model `P' = P - inner_lr * mask * g`,
    where g is the gradient of `inner_distillation`. The quiz loss reaches the source only through
    the teacher inside g, so its derivative along the source is `-inner_lr * d<v, g>`. In closed
    form, per row,

        dz_s = inner_lr / tau^2 [wf p_s (zdot - <p_s, zdot>) + wb p_p (zdot - <p_p, zdot>)]
        zdot = dq_pruned @ (mask * entities).T + q_pruned @ (mask * dentities).T

    Args:
        q_source, q_pruned: queries of both models, fp32 or fp64 (B, d).
        dq_pruned: derivative of q_pruned along v (B, d).
        entities: the source's table (N, d); the pruned model scores `mask * entities`, or
            `pruned`.
        dentities: v's entity part (N, d), masked inside.
        mask, temperature, forward_weight, backward_weight, pruned, precision, score_memory, group,
            sampling, multiplicity: as in `inner_distillation`.
        inner_lr: learning rate of the inner step.

    Returns:
        (gradient of q_source (B, d), gradient of the source's entities (N, d)), means over rows.

    Raises:
        ValueError: a temperature or weight that has no meaning.

    Source: MetaSD (Findings of EMNLP 2022), whose double backward through the inner step this is.
    """
    check_table("entities", entities)
    check_table("q_source", q_source, like=entities)
    check_table("q_pruned", q_pruned, q_source.shape[0], like=entities)
    check_table("dq_pruned", dq_pruned, q_source.shape[0], like=entities)
    check_table("dentities", dentities, entities.shape[0], like=entities)
    check_mask(mask, entities)
    check_pruned(pruned, entities)
    check_weight(multiplicity, entities, "multiplicity")
    check_distillation(temperature, forward_weight, backward_weight)
    check_streaming(precision, score_memory)
    check_sampling(sampling)
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
        sampling.threshold,
        sampling.draw,
        multiplicity,
    )
    return grad_source, grad_entities


class Arguments(NamedTuple):
    """The arguments of `metasd::meta_gradient`."""

    q_source: Tensor
    q_pruned: Tensor
    dq_pruned: Tensor
    entities: Tensor
    dentities: Tensor
    mask: Tensor | None
    pruned: Tensor | None
    temperature: float
    forward_weight: float
    backward_weight: float
    inner_lr: float
    precision: str
    score_memory: int
    group: str = ""
    threshold: float = 0.0
    draw: Sequence[int] = ()
    multiplicity: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.q_source.shape[0]

    @property
    def scored(self) -> tuple[Tensor, Tensor | None]:
        """The pruned model's table, and the mask under which it is scored."""
        return (self.entities, self.mask) if self.pruned is None else (self.pruned, None)


_SCHEMA = (
    "(Tensor q_source, Tensor q_pruned, Tensor dq_pruned, Tensor entities, Tensor dentities, "
    "Tensor? mask, Tensor? pruned, float temperature, float forward_weight, "
    "float backward_weight, float inner_lr, str precision, int score_memory, str group='', "
    "float threshold=0.0, int[] draw=[], Tensor? multiplicity=None) "
    "-> (Tensor, Tensor)"
)
"""(dq_s, dE)."""


def _reference(*arguments: Any) -> tuple[Tensor, Tensor]:
    a = Arguments(*arguments)
    refuse_group(a.group, a.entities.dtype)
    table = apply_mask(a.entities, a.mask) if a.pruned is None else a.pruned
    zdot = a.dq_pruned @ table.T + a.q_pruned @ apply_mask(a.dentities, a.mask).T
    p_s, p_p = (
        probabilities(log_probabilities(z / a.temperature, a.multiplicity), a.multiplicity)
        for z in (a.q_source @ a.entities.T, a.q_pruned @ table.T)
    )
    g = a.forward_weight * p_s * (zdot - (p_s * zdot).sum(1, keepdim=True))
    g = g + a.backward_weight * p_p * (zdot - (p_p * zdot).sum(1, keepdim=True))
    scale = a.inner_lr / a.temperature**2 / max(a.batch, 1)
    spread_s, spread_p = (_deviation(p, zdot) for p in (p_s, p_p))
    span = scale * (a.forward_weight * spread_s + a.backward_weight * spread_p)
    g = sampled(g * scale, a.threshold * span, a.threshold, a.draw)
    return g @ a.entities, g.T @ a.q_source


def _deviation(p: Tensor, x: Tensor) -> Tensor:
    mean = (p * x).sum(1, keepdim=True)
    return (p * (x - mean).square()).sum(1, keepdim=True).sqrt()


def sums(temperature: float) -> Sums:
    """The statistics per row after the maxima of source and pruned model: sums of
    e = exp((z - maximum) / tau) of both; of e_s zdot and of e_p zdot.
    """
    return [(0, 1 / temperature), (1, 1 / temperature)] * 2


_meta_gradient = operation("meta_gradient", _reference, schema=_SCHEMA)


@fp32_kernel("meta_gradient", "cpu")
def _cpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    a = Arguments(*arguments)
    gradients = torch.empty_like(a.q_source), torch.empty_like(a.entities)
    statistics = torch.tensor([-torch.inf] * 2 + [0.0] * 6).repeat(a.batch, 1)
    between = None
    if a.group:
        soft = 1 / a.temperature  # of the sums of e zdot^2, which only sampling needs
        all_sums = [*sums(a.temperature), (0, soft), (1, soft)]
        between = partial(combined, statistics.T, all_sums, a.group)
    if name := engine(a.q_source, a.entities, a.precision, a.threshold):
        grad_source, grad_entities = gradients
        run_whole(
            f"{name}_meta",
            [left(a.q_source, grad_source), left(a.q_pruned), left(a.dq_pruned)],
            [right(a.entities, None, grad_entities), right(*a.scored), right(a.dentities, a.mask)],
            (a.batch, *a.entities.shape),
            statistics,
            a.inner_lr / a.temperature**2 / a.batch,
            parameters=(a.temperature, a.forward_weight, a.backward_weight),
            multiplicity=a.multiplicity,
            precision=a.precision,
            score_memory=a.score_memory,
            sampling=Sampling(a.threshold, *a.draw),
            between=between,
        )
    else:
        _stream_scores(a, statistics, gradients, between)
    return gradients


def _stream_scores(
    a: Arguments,
    statistics: Tensor,
    gradients: tuple[Tensor, Tensor],
    between: Callable[[], None] | None,
) -> None:
    dtype, width = product_dtype(a.precision), a.entities.shape[1]

    def row_pass(z: list[Tensor], at: slice, columns: slice, phase: int) -> None:
        _C.meta(
            z[0].data_ptr(),
            z[1].data_ptr(),
            z[2].data_ptr(),
            dtype == torch.bfloat16,
            z[0].shape[0],
            z[0].shape[1],
            z[0].shape[1],
            0 if a.multiplicity is None else a.multiplicity[columns].data_ptr(),
            a.inner_lr / a.temperature**2 / a.batch,
            a.temperature,
            a.forward_weight,
            a.backward_weight,
            statistics[at].data_ptr(),
            phase,
            torch.get_num_threads(),
        )

    source = Scores(
        operand("queries", a.q_source, None, dtype),
        operand("entities", a.entities, None, dtype),
        *gradients,
    )
    # [dq | q] @ [table | v].T is zdot in one product; its halves serve the pruned model's scores.
    queries = joined("pruned_queries", [(a.dq_pruned, None), (a.q_pruned, None)], dtype)
    tables = joined("pruned_entities", [a.scored, (a.dentities, a.mask)], dtype)
    pruned = Scores(queries[:, width:], tables[:, :width])
    stream([source, pruned, Scores(queries, tables)], row_pass, a.score_memory, between)


@_meta_gradient.register_fake
def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    a = Arguments(*arguments)
    return torch.empty_like(a.q_source), torch.empty_like(a.entities)
