"""Scores straight from sparse rows, as compressed tables hold them."""

import torch
from torch import Tensor

from ._operations import operation


def sparse_scores(
    indptr: Tensor,
    columns: Tensor,
    values: Tensor,
    scale: Tensor | None,
    queries: Tensor,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    """Writes scores against sparse rows into `out`; arguments are not checked.

    Args:
        indptr: int64 (table rows + 1,): row i has values[indptr[i] : indptr[i + 1]].
        columns: per value its column, int32; or uint8, the gap to the one before less one.
        values: fp32, fp16, bf16 or int8.
        scale: fp32 (table rows,), or None.
        queries: fp32 (B, width).
        rows: int64 (count,) of rows to score, or None for 0 .. count - 1.
        first: added to every row number.
        out: fp32 (B, count).

    Equivalent to: `out.copy_(queries @ dense[first + rows].T)`.
    """
    _sparse_scores(indptr, columns, values, scale, queries, rows, first, out)


def _reference(
    indptr: Tensor,
    columns: Tensor,
    values: Tensor,
    scale: Tensor | None,
    queries: Tensor,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    at = first + (torch.arange(out.shape[1], device=out.device) if rows is None else rows)
    for place, (begin, end) in enumerate(
        zip(indptr[at].tolist(), indptr[at + 1].tolist(), strict=True)
    ):
        column = columns[begin:end].long()
        if columns.dtype == torch.uint8:
            column = (column + 1).cumsum(0) - 1
        out[:, place] = (queries[:, column].double() @ values[begin:end].double()).float()
    if scale is not None:
        out.mul_(scale[at])


_sparse_scores = operation("sparse_scores", _reference, mutates_args=("out",))


@_sparse_scores.register_fake
def _fake(
    indptr: Tensor,
    columns: Tensor,
    values: Tensor,
    scale: Tensor | None,
    queries: Tensor,
    rows: Tensor | None,
    first: int,
    out: Tensor,
) -> None:
    pass
