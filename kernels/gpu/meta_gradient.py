"""The meta gradient on a GPU (see `_loss`)."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..meta_gradient import Arguments, sums
from ._launch import product_precision
from ._loss import Loss, Side, stream, two_models
from ._operands import query_operand, table_operand
from ._tiles import (
    exp,
    partial_place,
    score_tiles,
    store_scores,
    strips,
    tile_kernel,
    tile_place,
)


def meta_gradient(*arguments: Any) -> tuple[Tensor, Tensor]:
    """`metasd::meta_gradient` for fp32 tables."""
    a = Arguments(*arguments)
    precision = product_precision(a.precision)
    scores = two_models(a.q_source, a.q_pruned, a.entities, a.mask, a.pruned, precision)
    scores.q_tangent = query_operand(a.dq_pruned, precision)
    scores.direction, scores.mask = table_operand(a.dentities, None, precision), a.mask
    assert scores.source is not None
    assert scores.q_source is not None
    side = Side(a.q_source, scores.q_source, scores.source, None)
    scale = a.inner_lr / a.temperature**2 / max(scores.rows, 1)
    stream(
        _META,
        scores,
        [side],
        None,
        None,
        (1 / a.temperature, scale * a.forward_weight, scale * a.backward_weight),
        a.score_memory,
        sums(a.temperature),
        a.group,
    )
    return side.grad_queries, side.grad_table


@tile_kernel
def _meta_statistics_kernel(
    operands,
    parameters,
    partial,
    entities,
    rows,
    width,
    table_stride,
    query_stride,
    query_part,
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """partial (6, blocks, rows): maxima of source and pruned model; sums of e = exp((z - maximum) /
    tau); sums of e * zdot.
    """
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
    z_s, z_p, zdot = score_tiles(
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
    z_s, z_p, zdot, inverse_tau = strips(z_s), strips(z_p), strips(zdot), parameters[0]
    real = (entity < entities)[:, None]
    for i in tl.static_range(len(z_s)):
        part = first_row + i * z_s[0].shape[1] + tl.arange(0, z_s[0].shape[1])
        valid = part < rows
        for pruned in tl.static_range(2):
            z = z_p[i] if pruned else z_s[i]
            to, top = at + pruned * step + part, tl.max(z, 0)
            tl.store(to, top, valid)
            e = tl.where(real, exp((z - top[None, :]) * inverse_tau), 0.0)
            tl.store(to + 2 * step, tl.sum(e, 0), valid)
            tl.store(to + 4 * step, tl.sum(e * zdot[i], 0), valid)


@triton.jit
def _meta_combine_kernel(
    partial,
    target_scores,
    weight,
    parameters,
    stats,
    stride,
    blocks,
    rows,
    BLOCKS: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """stats (6, rows): maxima of source and pruned model, 1 / sums, means of zdot."""
    inverse_tau = parameters[0]
    row = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    valid = row < rows
    step = tl.cast(blocks, tl.int64) * rows
    for model in tl.static_range(2):
        top = tl.full((BLOCK_B,), float("-inf"), tl.float32)
        soft = tl.zeros((BLOCK_B,), tl.float32)
        moment = tl.zeros((BLOCK_B,), tl.float32)
        for first in range(0, blocks, BLOCKS):
            block = first + tl.arange(0, BLOCKS)
            inside = (block < blocks)[:, None] & valid[None, :]
            at = partial + model * step + block[:, None].to(tl.int64) * rows + row[None, :]
            tops = tl.load(at, inside, float("-inf"))
            new = tl.maximum(top, tl.max(tops, 0))
            old, share = exp((top - new) * inverse_tau), exp((tops - new[None, :]) * inverse_tau)
            soft = soft * old + tl.sum(tl.load(at + 2 * step, inside, 0.0) * share, 0)
            moment = moment * old + tl.sum(tl.load(at + 4 * step, inside, 0.0) * share, 0)
            top = new
        stat = stats + model * stride + row
        tl.store(stat, top, valid)
        tl.store(stat + 2 * stride, 1 / soft, valid)
        tl.store(stat + 4 * stride, moment / soft, valid)


@tile_kernel
def _meta_gradient_kernel(
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
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """g (rows, entities) = forward p_s (zdot - <p_s, zdot>) + backward p_p (zdot - <p_p, zdot>)."""
    inverse_tau, forward, backward = parameters
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
    z_s, z_p, zdot = score_tiles(
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
    z_s, z_p, zdot, step = strips(z_s), strips(z_p), strips(zdot), stats_stride
    for i in tl.static_range(len(z_s)):
        part = first_row + i * z_s[0].shape[1] + tl.arange(0, z_s[0].shape[1])
        valid = part < rows
        value = tl.zeros(z_s[0].shape, tl.float32)
        for pruned in tl.static_range(2):
            z = z_p[i] if pruned else z_s[i]
            stat = stats + pruned * step + part
            e = exp((z - tl.load(stat, valid, 0.0)[None, :]) * inverse_tau)
            factor = tl.load(stat + 2 * step, valid, 0.0) * (backward if pruned else forward)
            value += e * factor[None, :] * (zdot[i] - tl.load(stat + 4 * step, valid, 0.0)[None, :])
        store_scores(g[0], value, entity, part, entities, rows, g_stride, True)


_META = Loss(
    _meta_statistics_kernel, _meta_combine_kernel, _meta_gradient_kernel, partials=6, kept=6
)
