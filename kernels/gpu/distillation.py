"""Distillation between two models over all entities, on a GPU (see `_loss`)."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

from typing import Any

import torch
import triton
import triton.language as tl

from ..distillation import Arguments, Results, sums
from ._launch import product_precision
from ._loss import Loss, Side, row_weights, stream, two_models
from ._operands import table_operand
from ._tiles import (
    exp,
    partial_place,
    score_tiles,
    store_scores,
    strips,
    tile_kernel,
    tile_place,
)


def distillation(*arguments: Any) -> Results:
    """`metasd::distillation` for fp32 tables."""
    a = Arguments(*arguments)
    row_weight = row_weights(a.targets, a.weight, a.entities.shape[0], a.group)
    precision = product_precision(a.precision)
    scores = two_models(a.q_source, a.q_pruned, a.entities, a.mask, a.pruned, precision)
    table = scores.table
    if a.pruned is None and a.mask is not None:  # the tiles mask it in registers, the library not
        table = table_operand(a.entities, a.mask, precision)
    assert scores.source is not None
    assert scores.q_source is not None
    pruned = Side(a.q_pruned, scores.q_pruned, table, a.mask)
    source = Side(a.q_source, scores.q_source, scores.source, None) if a.mutual else None
    rows = a.batch
    stats = stream(
        _DISTILLATION,
        scores,
        [pruned] if source is None else [pruned, source],
        a.targets,
        row_weight,
        (1 / a.temperature, *a.exchange, 1 / max(rows, 1)),
        a.score_memory,
        sums(a.temperature),
        a.group,
        TAU=int(a.temperature) if a.temperature in (1, 2, 3, 4) else 0,
        MUTUAL=a.mutual,
    )
    loss = stats[9].sum() / max(rows, 1)
    if source is None:
        nothing = a.q_source.new_empty(0)
        return torch.zeros_like(loss), loss, nothing, pruned.grad_queries, pruned.grad_table
    return (
        stats[10].sum() / max(rows, 1),
        loss,
        source.grad_queries,
        pruned.grad_queries,
        source.grad_table.add_(pruned.grad_table),
    )


@triton.jit
def exp_whole(x, e, TAU: tl.constexpr):
    """exp(x) from e = exp(x / TAU): for a small whole TAU by products, half of the exponentials."""
    if TAU == 0:
        return exp(x)
    power = e
    for _ in tl.static_range(1, TAU):
        power *= e
    return power


@tile_kernel
def _distillation_statistics_kernel(
    operands,
    parameters,
    partial,
    entities,
    rows,
    width,
    table_stride,
    query_stride,
    query_part,
    TAU: tl.constexpr,
    MUTUAL: tl.constexpr,
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """partial (8, blocks, rows): maxima of source and pruned model; sums of exp(z - maximum); sums
    of e = exp((z - maximum) / tau); sums of e_s (z_s - z_p) / tau and of e_p (z_p - z_s) / tau.
    """
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
    z_s, z_p, _ = score_tiles(
        operands,
        entities,
        rows,
        width,
        table_stride,
        query_stride,
        query_part,
        entity,
        row,
        MODELS,
        PRECISION,
        ALIGNMENT,
        BLOCK_N,
        BLOCK_B,
        BLOCK_K,
    )
    at, step = partial_place(partial, first_entity, entities, rows, BLOCK_N)
    inverse_tau = parameters[0]
    z_s, z_p, real = strips(z_s), strips(z_p), (entity < entities)[:, None]
    for i in tl.static_range(len(z_s)):
        part = first_row + i * z_s[0].shape[1] + tl.arange(0, z_s[0].shape[1])
        valid = part < rows
        for pruned in tl.static_range(2):
            z = z_p[i] if pruned else z_s[i]
            other = z_s[i] if pruned else z_p[i]
            to, top = at + pruned * step + part, tl.max(z, 0)
            tl.store(to, top, valid)
            e = tl.where(real, exp((z - top[None, :]) * inverse_tau), 0.0)
            tl.store(to + 4 * step, tl.sum(e, 0), valid)
            tl.store(to + 6 * step, tl.sum(e * (z - other), 0) * inverse_tau, valid)
            if MUTUAL or pruned:
                e = tl.where(real, exp_whole(z - top[None, :], e, TAU), 0.0)
                tl.store(to + 2 * step, tl.sum(e, 0), valid)


@triton.jit
def _distillation_combine_kernel(
    partial,
    target_scores,
    weight,
    parameters,
    stats,
    stride,
    blocks,
    rows,
    TAU: tl.constexpr,
    MUTUAL: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """stats (11, rows): maxima of source and pruned model; 1 / sums at temperature 1, and at tau;
    the shift in log(p_p / p_s) = (b - a) / tau + shift, where a and b are scores less their maxima;
    KL(p_s || p_p), KL(p_p || p_s); losses of the pruned model and, if MUTUAL, of the source.
    """
    inverse_tau, by_log, by_difference, _ = parameters
    row = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    valid = row < rows
    step = tl.cast(blocks, tl.int64) * rows
    top_s = tl.full((BLOCK_B,), float("-inf"), tl.float32)
    top_p = tl.full((BLOCK_B,), float("-inf"), tl.float32)
    sum_s = tl.zeros((BLOCK_B,), tl.float32)
    sum_p = tl.zeros((BLOCK_B,), tl.float32)
    soft_s = tl.zeros((BLOCK_B,), tl.float32)
    soft_p = tl.zeros((BLOCK_B,), tl.float32)
    moment_s = tl.zeros((BLOCK_B,), tl.float32)
    moment_p = tl.zeros((BLOCK_B,), tl.float32)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        inside = (block < blocks)[:, None] & valid[None, :]
        at = partial + block[:, None].to(tl.int64) * rows + row[None, :]
        tops = tl.load(at, inside, float("-inf"))
        new = tl.maximum(top_s, tl.max(tops, 0))
        old, share = exp((top_s - new) * inverse_tau), exp((tops - new[None, :]) * inverse_tau)
        soft_s = soft_s * old + tl.sum(tl.load(at + 4 * step, inside, 0.0) * share, 0)
        moment_s = moment_s * old + tl.sum(tl.load(at + 6 * step, inside, 0.0) * share, 0)
        if MUTUAL:
            share = exp(tops - new[None, :])
            total = tl.sum(tl.load(at + 2 * step, inside, 0.0) * share, 0)
            sum_s = sum_s * exp(top_s - new) + total
        top_s = new
        tops = tl.load(at + step, inside, float("-inf"))
        new = tl.maximum(top_p, tl.max(tops, 0))
        old, share = exp((top_p - new) * inverse_tau), exp((tops - new[None, :]) * inverse_tau)
        soft_p = soft_p * old + tl.sum(tl.load(at + 5 * step, inside, 0.0) * share, 0)
        moment_p = moment_p * old + tl.sum(tl.load(at + 7 * step, inside, 0.0) * share, 0)
        share = exp(tops - new[None, :])
        sum_p = sum_p * exp(top_p - new) + tl.sum(tl.load(at + 3 * step, inside, 0.0) * share, 0)
        top_p = new
    shift = tl.log(soft_s) - tl.log(soft_p)
    apart = (top_s - top_p) * inverse_tau + shift
    kl_sp, kl_ps = moment_s / soft_s - apart, moment_p / soft_p + apart
    factor = tl.full((BLOCK_B,), 1.0, tl.float32)
    if weight is not None:
        factor = tl.load(weight + row, valid, 0.0)
    loss = factor * (tl.log(sum_p) + (top_p - tl.load(target_scores + row, valid, 0.0)))
    stat = stats + row
    tl.store(stat + 9 * stride, loss + by_log * kl_ps + by_difference * kl_sp, valid)
    if MUTUAL:
        loss = factor * (tl.log(sum_s) + (top_s - tl.load(target_scores + rows + row, valid, 0.0)))
        tl.store(stat + 10 * stride, loss + by_log * kl_sp + by_difference * kl_ps, valid)
    tl.store(stat, top_s, valid)
    tl.store(stat + stride, top_p, valid)
    tl.store(stat + 2 * stride, 1 / sum_s, valid)
    tl.store(stat + 3 * stride, 1 / sum_p, valid)
    tl.store(stat + 4 * stride, 1 / soft_s, valid)
    tl.store(stat + 5 * stride, 1 / soft_p, valid)
    tl.store(stat + 6 * stride, shift, valid)
    tl.store(stat + 7 * stride, kl_sp, valid)
    tl.store(stat + 8 * stride, kl_ps, valid)


@tile_kernel
def _distillation_gradient_kernel(
    operands,
    targets,
    weight,
    stats,
    parameters,
    g,
    stats_stride,
    g_stride,
    first,
    entities,
    rows,
    width,
    table_stride,
    query_stride,
    query_part,
    TAU: tl.constexpr,
    MUTUAL: tl.constexpr,
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """g: (rows, entities) of the pruned model and, if MUTUAL, of the source."""
    inverse_tau, by_log, by_difference, scale = parameters
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
    z_s, z_p, _ = score_tiles(
        operands,
        entities,
        rows,
        width,
        table_stride,
        query_stride,
        query_part,
        entity,
        row,
        MODELS,
        PRECISION,
        ALIGNMENT,
        BLOCK_N,
        BLOCK_B,
        BLOCK_K,
    )
    z_s, z_p, step = strips(z_s), strips(z_p), stats_stride
    by_log *= scale * inverse_tau
    by_difference *= scale * inverse_tau
    for i in tl.static_range(len(z_s)):
        part = first_row + i * z_s[0].shape[1] + tl.arange(0, z_s[0].shape[1])
        valid, stat = part < rows, stats + part
        factor = tl.full((z_s[0].shape[1],), scale, tl.float32)
        if weight is not None:
            factor *= tl.load(weight + part, valid, 0.0)
        target = tl.load(targets + part, valid, -1) - first
        a = z_s[i] - tl.load(stat, valid, 0.0)[None, :]
        b = z_p[i] - tl.load(stat + step, valid, 0.0)[None, :]
        p_s = exp(a * inverse_tau) * tl.load(stat + 4 * step, valid, 0.0)[None, :]
        e = exp(b * inverse_tau)
        p_p = e * tl.load(stat + 5 * step, valid, 0.0)[None, :]
        value = exp_whole(b, e, TAU) * (factor * tl.load(stat + 3 * step, valid, 0.0))[None, :]
        value += (p_p - p_s) * by_difference
        ratio = (b - a) * inverse_tau + tl.load(stat + 6 * step, valid, 0.0)[None, :]
        value += p_p * (ratio - tl.load(stat + 8 * step, valid, 0.0)[None, :]) * by_log
        hit = entity[:, None] == target[None, :]
        value = tl.where(hit, value - factor[None, :], value)
        store_scores(g[0], value, entity, part, entities, rows, g_stride, True)
        if MUTUAL:
            value = exp_whole(a, exp(a * inverse_tau), TAU)
            value *= (factor * tl.load(stat + 2 * step, valid, 0.0))[None, :]
            value -= (p_p - p_s) * by_difference
            ratio = (b - a) * inverse_tau + tl.load(stat + 6 * step, valid, 0.0)[None, :]
            value -= p_s * (ratio + tl.load(stat + 7 * step, valid, 0.0)[None, :]) * by_log
            value = tl.where(hit, value - factor[None, :], value)
            store_scores(g[1], value, entity, part, entities, rows, g_stride, True)


_DISTILLATION = Loss(
    _distillation_statistics_kernel,
    _distillation_combine_kernel,
    _distillation_gradient_kernel,
    partials=8,
    kept=11,
)
