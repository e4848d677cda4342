"""1-N (1vsAll) scores on a GPU."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

import triton.language as tl
from torch import Tensor

from ._ranking import table_scores
from ._tiles import score_tiles, store_scores, tile_kernel, tile_place


def score_entities(
    queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str
) -> Tensor:
    """`metasd::score_entities` for fp32 tables."""
    scores = table_scores(queries, entities, mask, precision)
    out = queries.new_empty(scores.rows, scores.entities)
    scores.launch(_score_kernel, out, out.stride(0))
    return out


@tile_kernel
def _score_kernel(
    operands,
    out,
    stride,
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
    first_row, first_entity = tile_place(entities, rows, GROUP, BLOCK_N, BLOCK_B)
    row, entity = first_row + tl.arange(0, BLOCK_B), first_entity + tl.arange(0, BLOCK_N)
    _, z, _ = score_tiles(
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
    store_scores(out, z, entity, row, entities, rows, stride, False)
