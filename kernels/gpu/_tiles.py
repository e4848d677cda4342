"""The tile under every 1-N kernel: z.T = (mask * entities) @ queries.T, in registers.

The entity tile is the left operand, which the tensor cores of Hopper take from registers: there its
mask is applied, one 32-bit word loaded for 32 columns. What a kernel makes of the tile is its own.

The shift counts 0 .. 31 come from memory (`lanes`). The compiler moves what precedes an operand
into the operand's own layout only as far back as loads; at an arange it gives up, and every masked
tile then makes a round trip through shared memory (two barriers a step and 16 KiB for 128 x 64
bf16).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from triton import knobs

INTERPRETED: tl.constexpr = tl.constexpr(knobs.runtime.interpret)


_SIZES = (
    "entities",
    "rows",
    "width",
    "table_stride",
    "query_stride",
    "query_part",
    "first",
    "kept",
    "stride",
    "stats_stride",
    "g_stride",
)


def tile_kernel(function: Callable[..., Any]) -> Any:
    """`triton.jit` for what `Scores.launch` launches: compiled once for sizes of any value."""
    names = inspect.signature(function).parameters
    return triton.jit(function, do_not_specialize=[x for x in _SIZES if x in names])


@triton.jit
def score_tiles(
    operands,
    entities,
    rows,
    width,
    table_stride,
    query_stride,
    query_part,
    entity,
    row,
    MODELS: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Score tiles (z_source, z_pruned, zdot), fp32 (BLOCK_N, BLOCK_B); later ones only if asked.

    MODELS 1: z_pruned alone, from `pruned` under `mask`. MODELS 2: z_source from `source` too,
    and the pruned model's table is `source` under `mask` unless `pruned` is given, which is not
    masked.
    MODELS 3: zdot = pruned @ q_tangent.T + (mask * direction) @ q_pruned.T besides.

    Args:
        operands: pointers (source, pruned, direction, mask, q_source, q_pruned, q_tangent,
            lanes); what is not needed is None. Tables are (entities, width) fp32 or bf16; queries
            are (parts, rows, width) as `query_operand` makes them; lanes holds 0 .. 31, int32.
        width, table_stride: of a table's row, and from row to row, in units of ALIGNMENT elements:
            that is how the compiler knows what divides them.
        query_stride, query_part: from row to row of queries, and from part to part of fp32 ones, in
            units of 16. Queries hold zeros from the width up to the next row.
        entity (BLOCK_N,), row (BLOCK_B,): numbers of the tile's rows and columns. Past the end the
            last row is read in their place: the caller drops what comes of it.
    """
    source, pruned, direction, mask, q_source, q_pruned, q_tangent, lanes = operands
    width, table_stride = width * ALIGNMENT, tl.cast(table_stride, tl.int64) * ALIGNMENT
    query_stride, query_part = query_stride * 16, tl.cast(query_part, tl.int64) * 16
    entity = tl.minimum(entity, entities - 1).to(tl.int64)
    row = tl.minimum(row, rows - 1).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    word = tl.arange(0, BLOCK_K // 32)
    words = (width + 31) // 32
    lane = tl.load(lanes + tl.arange(0, 32))
    table_at = entity[:, None] * table_stride + k[None, :]
    query_at = row[None, :] * query_stride + k[:, None]
    word_at = entity[:, None] * words + word[None, :]
    z_source = tl.zeros((BLOCK_N, BLOCK_B), tl.float32)
    z_pruned = tl.zeros((BLOCK_N, BLOCK_B), tl.float32)
    zdot = tl.zeros((BLOCK_N, BLOCK_B), tl.float32)
    for start in range(0, width, BLOCK_K):
        inside, inside_query = start + k < width, start + k < query_stride
        if mask is not None:
            bits = tl.load(mask + start // 32 + word_at, (start // 32 + word < words)[None, :], 0)
        if MODELS >= 2:
            table = tl.load(source + start + table_at, inside[None, :], 0.0)
            query = _load_query(q_source + start + query_at, inside_query, query_part, PRECISION)
            z_source = _add_product(z_source, table, query, PRECISION)
        if pruned is not None:
            table = tl.load(pruned + start + table_at, inside[None, :], 0.0)
        if mask is not None and (MODELS == 1 or pruned is None):
            table = keep_columns(table, bits, lane)
        query = _load_query(q_pruned + start + query_at, inside_query, query_part, PRECISION)
        z_pruned = _add_product(z_pruned, table, query, PRECISION)
        if MODELS == 3:
            tangent = _load_query(q_tangent + start + query_at, inside_query, query_part, PRECISION)
            zdot = _add_product(zdot, table, tangent, PRECISION)
            table = tl.load(direction + start + table_at, inside[None, :], 0.0)
            if mask is not None:
                table = keep_columns(table, bits, lane)
            zdot = _add_product(zdot, table, query, PRECISION)
    return z_source, z_pruned, zdot


@triton.jit
def keep_columns(table, bits, lane):
    """`table` (n, 32 w) where its bit of `bits`, int32 words (n, w), is set; else exact zero."""
    kept = (bits[:, :, None] >> lane[None, None, :]) & 1
    return tl.where(kept.reshape(table.shape[0], table.shape[1]) != 0, table, 0.0)


@triton.jit
def _load_query(at, inside, part, PRECISION: tl.constexpr):
    """A query tile (BLOCK_K, BLOCK_B), as three bf16 parts where the precision is fp32."""
    first = tl.load(at, inside[:, None], 0.0)
    if PRECISION == "fp32":
        second = tl.load(at + part, inside[:, None], 0.0)
        third = tl.load(at + 2 * part, inside[:, None], 0.0)
        return first, second, third
    else:
        return first, first, first


@triton.jit
def _add_product(z, table, query, PRECISION: tl.constexpr):
    """z + table @ query on tensor cores.

    fp32 is the six largest of the nine products of bf16 parts, x = x1 + x2 + x3 with 8 significant
    bits each: what is left out is below 2^-25 of |table| |query|, half a rounding of fp32.
    """
    q1, q2, q3 = query
    if PRECISION == "bf16":
        return dot(table.to(tl.bfloat16), q1, z)
    elif PRECISION == "tf32":
        return tl.dot(round_to_tf32(table), q1, z, input_precision="tf32")
    else:
        t1, t2, t3 = split_fp32(table)
        z = dot(t3, q1, z)
        z = dot(t2, q2, z)
        z = dot(t1, q3, z)
        z = dot(t2, q1, z)
        z = dot(t1, q2, z)
        return dot(t1, q1, z)


@triton.jit
def dot(a, b, z):
    if INTERPRETED:  # the interpreter holds bf16 as integers and would multiply those
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, z)


@triton.jit
def split_fp32(x):
    """fp32 x as bf16 x1 + x2 + x3, exact but for x's last bit or where a part underflows."""
    first = x.to(tl.bfloat16)
    rest = x - first.to(tl.float32)
    second = rest.to(tl.bfloat16)
    return first, second, (rest - second.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def round_to_tf32(x):
    """Rounds to the nearest tf32 (ties away); the tensor cores by themselves cut bits off."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & ~0x1FFF).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)  # a NaN's bits might carry over


@triton.jit
def exp(x):
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def tile_place(entities, rows, GROUP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr):
    """(first row, first entity) of a program's tile.

    GROUP row blocks go through all entity blocks before the next: programs in flight together then
    share both query rows and entity rows in the L2 cache.
    """
    row_blocks, entity_blocks = tl.cdiv(rows, BLOCK_B), tl.cdiv(entities, BLOCK_N)
    program = tl.program_id(0)
    first = program // (GROUP * entity_blocks) * GROUP
    height = tl.minimum(row_blocks - first, GROUP)
    within = program % (GROUP * entity_blocks)
    return (first + within % height) * BLOCK_B, within // height * BLOCK_N


@triton.jit
def partial_place(partial, first_entity, entities, rows, BLOCK_N: tl.constexpr):
    """Where a tile's partials go in (k, blocks, rows): row 0 of the first, and the step to the
    next."""
    rows = tl.cast(rows, tl.int64)
    return partial + first_entity // BLOCK_N * rows, tl.cdiv(entities, BLOCK_N) * rows


@triton.jit
def strips(z):
    """A tile's columns in four strips, in eight if there are 128.

    With two models or more, what follows the products needs more registers than are left beside the
    accumulators, unless it is done strip by strip.
    """
    left, right = _halves(z)
    if z.shape[1] < 128:
        return _halves(left) + _halves(right)
    else:
        first, second = _halves(left)
        third, fourth = _halves(right)
        return _halves(first) + _halves(second) + _halves(third) + _halves(fourth)


@triton.jit
def _halves(z):
    return z.reshape(z.shape[0], 2, z.shape[1] // 2).permute(0, 2, 1).split()


@triton.jit
def store_scores(out, z, entity, row, entities, rows, stride, PADDED: tl.constexpr):
    """out[row, entity] = z (entity, row) in the precision of `out`, entities contiguous.

    PADDED: the stride is in units of 16 elements, and what follows a row up to the next such unit
    may be written too. Then stores are 16 bytes wide.
    """
    if PADDED:
        stride, entities = stride * 16, tl.cdiv(entities, 16) * 16
    inside = (entity < entities)[:, None] & (row < rows)[None, :]
    at = row.to(tl.int64)[None, :] * stride + entity[:, None]
    tl.store(out + at, z.to(out.dtype.element_ty), inside)


@tile_kernel
def target_score_kernel(
    operands,
    targets,
    target_scores,
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
    """target_scores (models, rows): the diagonal of a tile whose entities are the rows' targets."""
    tl.static_assert(BLOCK_N >= BLOCK_B)
    place, column = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_B)
    first_row = tl.program_id(0) * BLOCK_B
    row = first_row + column
    entity = tl.load(targets + first_row + place, first_row + place < rows, 0)
    z_source, z_pruned, _ = score_tiles(
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
    diagonal = (place[:, None] == column[None, :]) & (row < rows)[None, :]
    at = tl.broadcast_to((target_scores + row)[None, :], z_pruned.shape)
    tl.store(at, z_pruned, diagonal)
    if MODELS >= 2:
        tl.store(at + rows, z_source, diagonal)
