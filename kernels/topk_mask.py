"""Magnitude masks: which weights a pruned model keeps, packed 32 to a word."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from metasd import _C

from ._checks import check_table
from ._collectives import all_gather, all_reduce_sum, any_process, processes
from ._operations import fp32_kernel, operation
from ._stream import blocks
from .pack_mask import pack_mask

NAN = "a mask of NaN weights has no meaning: the tables hold NaN"

Largest = Callable[[Tensor, int], Tensor]
"""Of magnitudes (rows, columns), which are the `keep` largest in their row: bool."""

Count = Callable[[int, int, int], tuple[Tensor, bool]]
"""Of (low, shift, bins), how many magnitudes of every share of a table lie in each bin, which is
2^shift of their bits wide, from `low` on: int64 (tables, shares, bins); and whether there is a NaN.
"""

_DIGITS = ((20, 2048), (10, 1024), (0, 1024))
"""The digits of a magnitude's 31 bits, highest first: where each starts, and its values."""

_MAGNITUDE_BITS = 0x7FFFFFFF
"""All bits of a float but its sign; also above every magnitude, since NaN is an error."""

_CHUNK = 1 << 24
"""Weights that plain torch looks at together: its temporaries take some 20 bytes each."""


def topk_mask(
    tables: Sequence[Tensor],
    prune_fraction: float = 0.9,
    granularity: str = "weight",
    *,
    group: str = "",
    sharded: Sequence[bool] | None = None,
) -> list[Tensor]:
    """The mask of the weights largest in magnitude, over all tables together.

    Args:
        tables: fp32 or fp64 tensors (rows, columns), contiguous.
        prune_fraction: fraction p of the weights to drop, in 0 .. 1. Exactly
            `total - ceil(p * total)` weights are kept; among equal magnitudes the one with the
            lower row-major index in the earlier table.
        granularity: `weight`, one threshold for all tables; or `row`, where every row of every
            table keeps its own `columns - ceil(p * columns)` largest.
        group: the process group (see `register_group`) whose processes hold the tables together,
            in fp32.
        sharded: for each table whether this is one process's block of its rows, in the order of
            the processes, or all of it, the same in every process. Needed within a group.

    Returns:
        One int32 tensor (rows, ceil(columns / 32)) per table: bit j of word w is column 32 w + j.
        Within a group the rows of the whole tables' masks that belong to these blocks.

    Raises:
        ValueError: a weight is NaN, in any process; a fraction or granularity that does not exist.

    Equivalent to: a stable descending sort of all magnitudes joined, of which the first are kept;
    fp32 tables take a selection instead. Source: magnitude pruning as in MetaSD (EMNLP 2022).
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
    if group:
        return _in_group(tables, prune_fraction, granularity == "row", group, sharded)
    masks: list[Tensor] = _topk_mask(tables, prune_fraction, granularity == "row")
    return masks


def _in_group(
    tables: list[Tensor],
    prune_fraction: float,
    per_row: bool,
    group: str,
    sharded: Sequence[bool] | None,
) -> list[Tensor]:
    if tables[0].dtype != torch.float32:
        raise TypeError(f"tables must be float32 within a group; got {tables[0].dtype}")
    if sharded is None or len(sharded) != len(tables):
        got = sharded if sharded is None else len(sharded)
        raise ValueError(f"sharded must hold a bool for each of {len(tables)} tables; got {got}")
    masks: list[Tensor] = _topk_mask_in_group(tables, prune_fraction, per_row, group, list(sharded))
    return masks


def kept_of(total: int, prune_fraction: float) -> int:
    return total - math.ceil(prune_fraction * total)


def _reference(tables: list[Tensor], prune_fraction: float, per_row: bool) -> list[Tensor]:
    if any(bool(table.isnan().any()) for table in tables):
        raise ValueError(NAN)
    return masks_of(tables, prune_fraction, per_row, _largest_by_sort)


def masks_of(
    tables: list[Tensor], prune_fraction: float, per_row: bool, largest: Largest
) -> list[Tensor]:
    if per_row:
        return [pack_mask(largest(t.abs(), kept_of(t.shape[1], prune_fraction))) for t in tables]
    flat = torch.cat([table.abs().flatten() for table in tables])
    kept = largest(flat[None], kept_of(flat.numel(), prune_fraction))[0]
    parts = torch.split(kept, [table.numel() for table in tables])
    return [pack_mask(p.view(t.shape)) for p, t in zip(parts, tables, strict=True)]


def _largest_by_sort(magnitudes: Tensor, keep: int) -> Tensor:
    order = magnitudes.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    return torch.zeros_like(magnitudes, dtype=torch.bool).scatter_(1, order, True)


_topk_mask = operation("topk_mask", _reference)


@fp32_kernel("topk_mask", "cpu")
def _cpu(tables: list[Tensor], prune_fraction: float, per_row: bool) -> list[Tensor]:
    threads = torch.get_num_threads()
    masks = [empty_mask(table) for table in tables]
    handles = [handle_of(t, m) for t, m in zip(tables, masks, strict=True)]
    if per_row:
        sound = all(
            _C.topk_mask_rows(handle, kept_of(handle[3], prune_fraction), threads)
            for handle in handles
        )
    else:
        total = sum(table.numel() for table in tables)
        sound = _C.topk_mask(handles, kept_of(total, prune_fraction), threads)
    if not sound:
        raise ValueError(NAN)
    return masks


@_topk_mask.register_fake
def _fake(tables: list[Tensor], prune_fraction: float, per_row: bool) -> list[Tensor]:
    return [empty_mask(table) for table in tables]


def _reference_in_group(
    tables: list[Tensor], prune_fraction: float, per_row: bool, group: str, sharded: list[bool]
) -> list[Tensor]:
    if per_row:
        return _rows_in_group(tables, prune_fraction, group)

    def count(low: int, shift: int, bins: int) -> tuple[Tensor, bool]:
        counts = [_bins_of(table, low, shift, bins) for table in tables]
        nan = any(bool(table.amax().isnan()) for table in tables if table.numel())
        return torch.stack(counts)[:, None], nan

    threshold, ties = _select(count, prune_fraction, group, sharded, tables[0].device)
    return [_mask_above(t, threshold, own) for t, own in zip(tables, ties[:, 0], strict=True)]


def _rows_in_group(tables: list[Tensor], prune_fraction: float, group: str) -> list[Tensor]:
    masks: list[Tensor] | None
    try:
        masks = _topk_mask(tables, prune_fraction, True)
    except ValueError:  # not raised before the others know
        masks = None
    if any_process(masks is None, group, tables[0].device) or masks is None:
        raise ValueError(NAN)
    return masks


def _select(
    count: Count, prune_fraction: float, group: str, sharded: list[bool], device: torch.device
) -> tuple[int, Tensor]:
    """The smallest magnitude that all processes together keep, as bits, digit by digit; and how
    many of those equal to it fall to every share here: int64 (tables, shares), any number below 1
    for none.
    """
    rank, _ = processes(group)
    parted = torch.tensor(sharded, device=device)
    once = parted | (rank == 0)  # a table that all have is counted by the first of them
    threshold, wanted = 0, -1
    for shift, bins in _DIGITS:
        counts, nan = count(threshold, shift, bins)
        own = pad(counts.sum(1).mul(once[:, None]).sum(0), (0, 1), value=nan)
        *found, nans = all_reduce_sum(own, group).tolist()
        if nans:
            raise ValueError(NAN)
        if wanted < 0:
            wanted = kept_of(sum(found), prune_fraction)
        if wanted == 0:
            return _MAGNITUDE_BITS, torch.zeros_like(counts[..., 0])
        digit = bins - 1
        while found[digit] < wanted:
            wanted -= found[digit]
            digit -= 1
        threshold += digit << shift
    equal = counts[..., digit]
    equal_everywhere = all_gather(equal.sum(1) * once, group)
    of_tables = equal_everywhere.sum(0)
    before = of_tables.cumsum(0) - of_tables + equal_everywhere[:rank].sum(0) * parted
    return threshold, wanted - before[:, None] - (equal.cumsum(1) - equal)


def _magnitude_bits(weights: Tensor) -> Tensor:
    return weights.view(torch.int32) & _MAGNITUDE_BITS


def _bins_of(table: Tensor, low: int, shift: int, bins: int) -> Tensor:
    counts = torch.zeros(bins, dtype=torch.int64, device=table.device)
    for part in torch.split(table.view(-1), _CHUNK):
        bin_of = (_magnitude_bits(part) - low) >> shift
        inside = bin_of[(bin_of >= 0) & (bin_of < bins)]
        counts += torch.bincount(inside, minlength=bins)
    return counts


def _mask_above(table: Tensor, threshold: int, ties: Tensor) -> Tensor:
    """The mask of magnitudes above the threshold, and of the first `ties` that equal it."""
    mask = empty_mask(table)
    for rows in blocks(table.shape[0], max(_CHUNK // table.shape[1], 1)):
        bits = _magnitude_bits(table[rows])
        equal = bits == threshold
        first = equal.view(-1).cumsum(0).view_as(bits) <= ties
        mask[rows] = pack_mask((bits > threshold) | (equal & first))
        ties = ties - equal.sum()
    return mask


_topk_mask_in_group = operation("topk_mask_in_group", _reference_in_group)


@fp32_kernel("topk_mask_in_group", "cpu")
def _cpu_in_group(
    tables: list[Tensor], prune_fraction: float, per_row: bool, group: str, sharded: list[bool]
) -> list[Tensor]:
    if per_row:
        return _rows_in_group(tables, prune_fraction, group)
    threads = torch.get_num_threads()
    masks = [empty_mask(table) for table in tables]
    handles = [handle_of(t, m) for t, m in zip(tables, masks, strict=True)]

    def count(low: int, shift: int, bins: int) -> tuple[Tensor, bool]:
        counts = torch.zeros(len(tables), threads, bins, dtype=torch.int64)
        sound = [
            _C.count_magnitudes(handle, low, shift, bins, own.data_ptr(), threads)
            for handle, own in zip(handles, counts, strict=True)
        ]
        return counts, not all(sound)

    threshold, ties = _select(count, prune_fraction, group, sharded, tables[0].device)
    for handle, own in zip(handles, ties.contiguous(), strict=True):
        _C.threshold_mask(handle, threshold, own.data_ptr(), threads)
    return masks


@_topk_mask_in_group.register_fake
def _fake_in_group(
    tables: list[Tensor], prune_fraction: float, per_row: bool, group: str, sharded: list[bool]
) -> list[Tensor]:
    return [empty_mask(table) for table in tables]


def handle_of(table: Tensor, mask: Tensor) -> tuple[int, int, int, int, int]:
    """A table and its mask as `_C` takes them."""
    rows, columns = table.shape
    return table.data_ptr(), mask.data_ptr(), rows, columns, columns


def empty_mask(table: Tensor) -> Tensor:
    return table.new_empty((table.shape[0], (table.shape[1] + 31) // 32), dtype=torch.int32)
