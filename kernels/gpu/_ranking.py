"""What the ranking kernels share: scores, NaN, and known answers as one bit per score.

A score has the same bits wherever the tile that makes it lies: its sum over the width is taken in
the same order.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return"

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._checks import check_known_values
from .._ranking import NAN
from .._stream import blocks
from ._launch import cdiv, is_recording, launch, product_precision
from ._operands import query_operand
from ._scores import Scores


def table_scores(queries: Tensor, entities: Tensor, mask: Tensor | None, precision: str) -> Scores:
    """Scores against tables as they lie: nothing reads them again, so no copy would pay."""
    precision = product_precision(precision)
    return Scores(precision, entities, query_operand(queries, precision), mask)


def refuse_nan(counts: Tensor) -> None:
    if not is_recording() and bool(counts.any()):
        raise ValueError(NAN)


def check_known(indptr: Tensor | None, indices: Tensor | None, entities: int) -> None:
    if not is_recording():
        check_known_values(indptr, indices, entities)


def row_blocks(scores: Scores, bytes_per_row: int, score_memory: int) -> Iterator[slice]:
    """Blocks of rows whose partials, and one bit a score, take about `score_memory` bytes."""
    least = scores.tile.b
    bytes_per_row += 4 * cdiv(scores.entities, 32)
    height = score_memory // max(bytes_per_row, 1) // least * least
    return blocks(scores.rows, max(height, least))


def known_bits(
    part: Scores, at: slice, indptr: Tensor | None, indices: Tensor | None
) -> Tensor | None:
    """The known answers of rows `at` as bits: int32 (ceil(N / 32), rows), or None if there are
    none."""
    if indptr is None or indices is None:
        return None
    bits = torch.zeros((cdiv(part.entities, 32), part.rows), dtype=torch.int32, device=part.device)
    launch(
        _known_bits_kernel,
        (part.rows,),
        indptr[at.start :],
        indices,
        bits,
        part.rows,
        BLOCK=128,
        warps=4,
        stages=1,
    )
    return bits


@triton.jit
def _known_bits_kernel(indptr, indices, bits, rows, BLOCK: tl.constexpr):
    """Sets bit n % 32 of bits[n // 32, row]. Atomic, but of integers: any order gives the same
    bits."""
    row = tl.program_id(0)
    last = tl.load(indptr + row + 1)
    for first in range(tl.load(indptr + row), last, BLOCK):
        i = first + tl.arange(0, BLOCK)
        n = tl.load(indices + i, i < last, 0)
        bit = tl.full((BLOCK,), 1, tl.int32) << (n % 32).to(tl.int32)
        tl.atomic_or(bits + n // 32 * rows + row, bit, i < last)


@triton.jit
def candidates(known, entity, row, entities, rows, first_entity, BLOCK_N: tl.constexpr):
    """Which (entity, row) of a tile exist and are not known, boolean."""
    inside = (entity < entities)[:, None] & (row < rows)[None, :]
    if known is not None:
        word = first_entity // 32 + tl.arange(0, BLOCK_N // 32)
        bits = tl.load(
            known + word.to(tl.int64)[:, None] * rows + row[None, :],
            (word < (entities + 31) // 32)[:, None] & (row < rows)[None, :],
            0,
        )
        out = (bits[:, None, :] >> tl.arange(0, 32)[None, :, None]) & 1
        inside &= out.reshape(entity.shape[0], row.shape[0]) == 0
    return inside
