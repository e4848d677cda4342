"""Score matrices streamed through bounded memory on a CPU: precision, block shapes, the stream.

Every loss here is a row-wise function of scores `z = left @ right.T` whose gradient `G` with
respect to `z` is row-wise too, and ends in the products `G @ right` and `G.T @ left`. `stream`
runs the products through the library and a compiled row pass over each block of scores in between.
"""

import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metasd import _C

DEFAULT_SCORE_MEMORY = 256 << 20
"""Bytes that score blocks may take together, unless an operation is given `score_memory`."""

_TILE_ROWS, _TILE_COLUMNS = 64, 1024  # the least block: below it products lose their speed


@functools.cache
def _bf16_is_fast() -> bool:
    """METASD_BF16=0 or 1 overrides what the processor says."""
    override = os.environ.get("METASD_BF16")
    return _C.bf16_products() if override is None else override != "0"


def product_dtype(precision: str) -> torch.dtype:
    """The dtype of a CPU product's operands: `auto` is bf16 where the processor does it fast.

    tf32 is a GPU format; on a CPU it means fp32.
    """
    if precision == "bf16" or (precision == "auto" and _bf16_is_fast()):
        return torch.bfloat16
    return torch.float32


def block_shape(
    rows: int, columns: int, matrices: int, itemsize: int, score_memory: int
) -> tuple[int, int]:
    """(rows, columns) of a score block so that `matrices` of them fit in `score_memory` bytes.

    Whole rows while at least a tile's height of them fits, else a tile's height and as many columns
    as fit; never less than one tile. Blocks are evened out, so that the last is not a sliver.
    """
    elements = score_memory // (matrices * itemsize)
    tile_rows = min(rows, _TILE_ROWS)
    if tile_rows * columns <= elements:
        return _even(rows, max(elements // max(columns, 1), tile_rows)), columns
    fitting = elements // max(tile_rows, 1) // _TILE_COLUMNS * _TILE_COLUMNS
    return tile_rows, _even(columns, max(fitting, _TILE_COLUMNS))


def _even(size: int, largest: int) -> int:
    if size <= largest:
        return size
    blocks = math.ceil(size / largest)
    return min(largest, math.ceil(size / blocks / 16) * 16)


def blocks(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, max(step, 1)):
        yield slice(start, min(start + step, size))


_buffers = threading.local()


def workspace(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A scratch tensor of this thread, reused by the next call of the same name.

    Fresh memory costs a page fault every 4 KiB, as much time as the passes that fill it.
    """
    size = math.prod(shape) * dtype.itemsize
    buffer: Tensor | None = getattr(_buffers, name, None)
    if buffer is None or buffer.numel() < size:
        buffer = torch.empty(size, dtype=torch.uint8)
        setattr(_buffers, name, buffer)
    return buffer[:size].view(dtype).view(shape)


def release_workspaces() -> None:
    """Gives this thread's scratch memory back."""
    vars(_buffers).clear()


def cast_rows(
    table: Tensor, mask: Tensor | None, out: Tensor, index: Tensor | None = None
) -> Tensor:
    """`out = (mask * table)[index]` in `out`'s dtype, fp32 or bf16; its rows may be strided."""
    _C.cast_rows(
        table.data_ptr(),
        out.data_ptr(),
        out.dtype == torch.bfloat16,
        0 if index is None else index.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        out.shape[0],
        table.shape[1],
        table.stride(0),
        out.stride(0),
        torch.get_num_threads(),
    )
    return out


def operand(name: str, table: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`mask * table` as a product takes it: the table itself where nothing has to change."""
    if mask is None and dtype == table.dtype:
        return table
    return cast_rows(table, mask, workspace(name, tuple(table.shape), dtype))


def joined(name: str, parts: list[tuple[Tensor, Tensor | None]], dtype: torch.dtype) -> Tensor:
    """Masked tables side by side: one product over the joint width instead of a sum of products."""
    width = sum(table.shape[1] for table, _ in parts)
    out = workspace(name, (parts[0][0].shape[0], width), dtype)
    start = 0
    for table, mask in parts:
        cast_rows(table, mask, out[:, start : start + table.shape[1]])
        start += table.shape[1]
    return out


@dataclass
class Scores:
    """One score matrix `left @ right.T`, and where its gradient goes (if it has one).

    `left` (B, k) and `right` (N, k) share the product dtype. `grad_left` (B, k) and `grad_right`
    (N, k) are fp32 and written whole; `grad_right` is masked by `mask`.
    """

    left: Tensor
    right: Tensor
    grad_left: Tensor | None = None
    grad_right: Tensor | None = None
    mask: Tensor | None = None


RowPass = Callable[[list[Tensor], slice, slice, int], None]
"""Called with the score blocks, their rows and columns, and the phase of `_C`."""


def stream(
    scores: list[Scores],
    row_pass: RowPass,
    score_memory: int,
    between: Callable[[], None] | None = None,
) -> None:
    """Runs `row_pass` over all blocks of the score matrices and collects their gradients.

    `between` is called when the statistics of all rows are there, before the first gradient.
    """
    rows, columns = scores[0].left.shape[0], scores[0].right.shape[0]
    dtype = scores[0].left.dtype
    height, width = block_shape(rows, columns, len(scores), dtype.itemsize, score_memory)
    buffers = [workspace(f"scores{i}", (height, width), dtype) for i in range(len(scores))]
    gradients = any(s.grad_left is not None for s in scores)

    def products(at: slice, entities: slice) -> list[Tensor]:
        shape = (at.stop - at.start, entities.stop - entities.start)
        outs = [b.view(-1)[: shape[0] * shape[1]].view(shape) for b in buffers]
        for s, z in zip(scores, outs, strict=True):
            torch.mm(s.left[at], s.right[entities].T, out=z)
        return outs

    for s in scores if rows == 0 or columns == 0 else []:
        if s.grad_left is not None and s.grad_right is not None:
            s.grad_left.zero_()
            s.grad_right.zero_()

    def visit(at: slice, phase: int) -> None:
        for entities in blocks(columns, width):
            z = products(at, entities)
            row_pass(z, at, entities, phase)
            if phase & _C.GRADIENT:
                _collect(scores, z, at, entities)

    phases = [_C.STATISTICS, _C.GRADIENT] if gradients else [_C.STATISTICS]
    if between is not None:
        for at in blocks(rows, height):
            visit(at, _C.STATISTICS)
        between()
        phases = phases[1:]
    elif gradients and width >= columns:
        phases = [_C.BOTH]
    for at in blocks(rows, height):
        for phase in phases:
            visit(at, phase)


def _collect(scores: list[Scores], gradients: list[Tensor], at: slice, entities: slice) -> None:
    """Adds a block's `G @ right` and `G.T @ left`; the first block of a row or column assigns."""
    for s, g in zip(scores, gradients, strict=True):
        if s.grad_left is None or s.grad_right is None:
            continue
        product(g, s.right[entities], s.grad_left[at], None, add=entities.start > 0)
        mask = None if s.mask is None else s.mask[entities]
        out = s.grad_right[entities]
        if g.dtype == torch.bfloat16:
            _transposed_product(s.left[at], g, out, mask, add=at.start > 0)
        else:
            product(g.T, s.left[at], out, mask, add=at.start > 0)


def _transposed_product(
    left: Tensor, g: Tensor, out: Tensor, mask: Tensor | None, add: bool
) -> None:
    """`out = mask * (g.T @ left)` or `out += ...` as (left.T @ g).T.

    With g on the right the library reads it as it lies, where g.T on the left is first rearranged:
    3.5 ms against 5.2 for 1000 x 14541 and width 256 on two cores, 0.6 of it spent again here.
    """
    result = workspace("product", (left.shape[1], g.shape[1]), g.dtype)
    torch.mm(left.T.contiguous(), g, out=result)
    _C.accumulate_transposed(
        out.data_ptr(),
        result.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        out.shape[0],
        out.shape[1],
        result.shape[1],
        add,
        torch.get_num_threads(),
    )


def product(a: Tensor, b: Tensor, out: Tensor, mask: Tensor | None, add: bool) -> None:
    """`out = mask * (a @ b)` or `out += ...` in fp32, from fp32 or bf16 operands."""
    if a.dtype == torch.float32 and not add:
        torch.mm(a, b, out=out)
        if mask is None:
            return
        result = out
    else:
        result = workspace("product", tuple(out.shape), a.dtype)
        torch.mm(a, b, out=result)
    _C.accumulate(
        out.data_ptr(),
        result.data_ptr(),
        a.dtype == torch.bfloat16,
        0 if mask is None else mask.data_ptr(),
        out.shape[0],
        out.shape[1],
        add,
        torch.get_num_threads(),
    )
