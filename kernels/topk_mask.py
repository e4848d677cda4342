"""Magnitude masks: which weights the pruned model keeps, packed 32 to a word."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metasd import _C

from . import gpu
from ._checks import check_mask, check_table, is_plain, shape_of
from ._stream import cast_rows

_NAN = "a mask of NaN weights has no meaning: the tables hold NaN"

Largest = Callable[[Tensor, int], Tensor]
"""Of magnitudes (rows, columns), which are the `keep` largest in their row: bool."""


def topk_mask(
    tables: Sequence[Tensor], prune_fraction: float = 0.9, granularity: str = "weight"
) -> list[Tensor]:
    """The mask of the weights largest in magnitude, over all tables together.

    Args:
        tables: fp32 or fp64 tensors (rows, columns), contiguous.
        prune_fraction: share p of the weights to drop, in 0 .. 1. Exactly
            `total - ceil(p * total)` weights are kept; among equal magnitudes the one with the
            lower row-major index in the earlier table.
        granularity: `weight`, one threshold for all tables; or `row`, where every row of every
            table keeps its own `columns - ceil(p * columns)` largest.

    Returns:
        One int32 tensor (rows, ceil(columns / 32)) per table: bit j of word w is column 32 w + j.

    Raises:
        ValueError: a weight is NaN, a fraction or granularity that does not exist.

    Equivalent to a stable descending sort of the joined magnitudes; done by selection (fp32).
    """
    if isinstance(tables, Tensor):  # type: ignore[unreachable]
        raise TypeError("tables must be a sequence of tensors; got one tensor")
    tables = list(tables)
    if not tables:
        raise ValueError("tables must hold at least one tensor; got none")
    for i, table in enumerate(tables):
        check_table(f"tables[{i}]", table)
        if table.dtype != tables[0].dtype or table.device != tables[0].device:
            raise TypeError(f"tables must share dtype and device; tables[{i}] is {table.dtype}")
    if not 0 <= prune_fraction <= 1:
        raise ValueError(f"prune_fraction must lie in 0 .. 1; got {prune_fraction}")
    if granularity not in ("weight", "row"):
        raise ValueError(f"granularity must be weight or row; got {granularity!r}")
    masks: list[Tensor] = _topk_mask(tables, prune_fraction, granularity == "row")
    return masks


def _kept(total: int, prune_fraction: float) -> int:
    return total - math.ceil(prune_fraction * total)


def _reference(tables: list[Tensor], prune_fraction: float, per_row: bool) -> list[Tensor]:
    if any(bool(table.isnan().any()) for table in tables):
        raise ValueError(_NAN)
    return _masks_of(tables, prune_fraction, per_row, _largest_by_sort)


def _masks_of(
    tables: list[Tensor], prune_fraction: float, per_row: bool, largest: Largest
) -> list[Tensor]:
    if per_row:
        return [pack_mask(largest(t.abs(), _kept(t.shape[1], prune_fraction))) for t in tables]
    flat = torch.cat([table.abs().flatten() for table in tables])
    kept = largest(flat[None], _kept(flat.numel(), prune_fraction))[0]
    parts = torch.split(kept, [table.numel() for table in tables])
    return [pack_mask(p.view(t.shape)) for p, t in zip(parts, tables, strict=True)]


def _largest_by_sort(magnitudes: Tensor, keep: int) -> Tensor:
    order = magnitudes.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    return torch.zeros_like(magnitudes, dtype=torch.bool).scatter_(1, order, True)


def _largest_by_threshold(magnitudes: Tensor, keep: int) -> Tensor:
    """The same by selection, on a GPU several times faster and without the sort's memory."""
    if keep == 0 or magnitudes.numel() == 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    chosen = magnitudes.topk(keep, dim=1, sorted=False).values
    threshold = chosen.amin(dim=1, keepdim=True)
    above, equal = magnitudes > threshold, magnitudes == threshold
    ties = keep - above.sum(dim=1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=1) <= ties))


_topk_mask = torch.library.custom_op("metasd::topk_mask", mutates_args=())(_reference)


@_topk_mask.register_kernel("cpu")
def _cpu(tables: list[Tensor], prune_fraction: float, per_row: bool) -> list[Tensor]:
    if tables[0].dtype != torch.float32:
        return _reference(tables, prune_fraction, per_row)
    threads = torch.get_num_threads()
    masks = [_empty_mask(table) for table in tables]
    handles = [_handle(t, m) for t, m in zip(tables, masks, strict=True)]
    if per_row:
        sound = all(
            _C.topk_mask_rows(handle, _kept(handle[3], prune_fraction), threads)
            for handle in handles
        )
    else:
        total = sum(table.numel() for table in tables)
        sound = _C.topk_mask(handles, _kept(total, prune_fraction), threads)
    if not sound:
        raise ValueError(_NAN)
    return masks


@_topk_mask.register_kernel("cuda")
def _cuda(tables: list[Tensor], prune_fraction: float, per_row: bool) -> list[Tensor]:
    """csrc/topk_mask.cu, without which (`_C.CUDA_ARCHS` empty), and for fp64, PyTorch's selection.

    Waits for the device once, at the end, to learn whether there was a NaN.
    """
    device = tables[0].device
    if tables[0].dtype != torch.float32 or not _C.CUDA_ARCHS:
        nan = torch.stack([table.isnan().any() for table in tables]).any()
        masks = _masks_of(tables, prune_fraction, per_row, _largest_by_threshold)
    else:
        masks = [_empty_mask(table) for table in tables]
        handles = [_handle(t, m) for t, m in zip(tables, masks, strict=True)]
        stream = torch.cuda.current_stream(device).cuda_stream
        if per_row:
            scratch = torch.zeros(1, dtype=torch.int64, device=device)
            for handle in handles:
                keep = _kept(handle[3], prune_fraction)
                _C.topk_mask_rows_cuda(handle, keep, scratch.data_ptr(), device.index, stream)
        else:
            size = _C.topk_mask_scratch(len(tables))
            scratch = torch.empty(size, dtype=torch.int64, device=device)
            keep = _kept(sum(table.numel() for table in tables), prune_fraction)
            _C.topk_mask_cuda(handles, keep, scratch.data_ptr(), device.index, stream)
        nan = scratch[0]
    if nan.item():
        raise ValueError(_NAN)
    return masks


@_topk_mask.register_fake
def _fake(tables: list[Tensor], prune_fraction: float, per_row: bool) -> list[Tensor]:
    return [_empty_mask(table) for table in tables]


def _handle(table: Tensor, mask: Tensor) -> tuple[int, int, int, int, int]:
    """What `_C` knows a table and its mask by."""
    rows, columns = table.shape
    return table.data_ptr(), mask.data_ptr(), rows, columns, columns


def _empty_mask(table: Tensor) -> Tensor:
    return table.new_empty((table.shape[0], (table.shape[1] + 31) // 32), dtype=torch.int32)


def pack_mask(kept: Tensor) -> Tensor:
    """Packs a boolean tensor (rows, columns) into int32 words (rows, ceil(columns / 32)).

    Bit j of word w is column 32 w + j, least significant first; padding bits are zero.
    """
    if kept.dtype != torch.bool or kept.dim() != 2:
        raise TypeError(f"kept must be bool (rows, columns); got {kept.dtype} {shape_of(kept)}")
    rows, columns = kept.shape
    words = (columns + 31) // 32
    padded = torch.nn.functional.pad(kept, (0, words * 32 - columns)).view(rows, words * 4, 8)
    bits = padded.to(torch.uint8) << torch.arange(8, dtype=torch.uint8, device=kept.device)
    octets = bits.sum(dim=2, dtype=torch.uint8)  # a word is four of them, lowest first
    return octets.view(-1).view(torch.int32).view(rows, words)


def unpack_mask(bits: Tensor, columns: int) -> Tensor:
    """The boolean tensor (rows, columns) that `pack_mask` packed."""
    if bits.dtype != torch.int32 or bits.dim() != 2:
        raise TypeError(f"bits must be int32 (rows, words); got {bits.dtype} {shape_of(bits)}")
    if bits.shape[1] != (columns + 31) // 32:
        raise ValueError(
            f"{columns} columns need {(columns + 31) // 32} words; got {shape_of(bits)}"
        )
    octets = bits.reshape(-1).view(torch.uint8)[:, None]
    lanes = (octets >> torch.arange(8, dtype=torch.uint8, device=bits.device)) & 1
    return lanes.view(bits.shape[0], bits.shape[1] * 32)[:, :columns].bool()


def apply_mask(table: Tensor, mask: Tensor | None, out: Tensor | None = None) -> Tensor:
    """`mask * table` with exact zeros, in the table's shape and dtype; `out` may be the table.

    Equivalent to: `torch.where(unpack_mask(mask, columns), table, 0)`.
    """
    check_table("table", table)
    check_mask(mask, table)
    if out is None:
        out = torch.empty_like(table)
    else:
        check_table("out", out, table.shape[0], like=table)
    if mask is None:
        return out.copy_(table)
    if is_plain(table, out):
        return cast_rows(table, mask, out)
    if is_plain(table, out, device="cuda"):
        return gpu.apply_mask(table, mask, out)  # type: ignore[no-any-return]
    return out.copy_(torch.where(unpack_mask(mask, table.shape[1]), table, 0.0))
