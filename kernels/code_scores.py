"""Scores straight from codes of few bits, as compressed tables hold them."""

import torch
from torch import Tensor

from ._operations import operation


def code_scores(
    codes: Tensor,
    scale: Tensor,
    queries: Tensor,
    bits: int,
    zero: float,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    """Writes scores against coded rows into `out`; arguments are not checked.

    A code of `bits` bits stands for `code - zero`, times the scale of its row. Columns are spread
    over planes: of n bytes per row, column `plane * n + k` is in byte k, and with 3 bits in the
    bytes k of three runs of n / 3 (see csrc/compressed_table.h).

    Args:
        codes: uint8 (table rows, bytes per row).
        scale: fp32 (table rows,).
        queries: fp32 (B, width).
        bits: per code: 8, 4, 3 or 2.
        zero: a whole number or a half.
        rows: int64 (count,) of rows to score, or None for 0 .. count - 1.
        first: added to every row number.
        out: fp32 (B, count).

    Equivalent to: `out.copy_(queries @ (scale[:, None] * (decoded - zero))[first + rows].T)`.
    """
    _code_scores(codes, scale, queries, bits, zero, rows, first, out)


def _reference(
    codes: Tensor,
    scale: Tensor,
    queries: Tensor,
    bits: int,
    zero: float,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    at = torch.arange(out.shape[1], device=out.device) if rows is None else rows
    stored = codes[first + at].int()
    if bits == 3:
        low, second, high = stored.tensor_split(3, dim=1)
        planes = [
            (((low, second)[i % 2] >> i // 2 * 2) & 3) | ((high >> i) & 1) << 2 for i in range(8)
        ]
    else:
        planes = [(stored >> bits * i) & ((1 << bits) - 1) for i in range(8 // bits)]
    decoded = torch.cat(planes, dim=1)[:, : queries.shape[1]].double() - zero
    decoded *= scale[first + at, None]
    out.copy_(queries.double() @ decoded.T)


_code_scores = operation("code_scores", _reference, mutates_args=("out",))


@_code_scores.register_fake
def _fake(
    codes: Tensor,
    scale: Tensor,
    queries: Tensor,
    bits: int,
    zero: float,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    pass
