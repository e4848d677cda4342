"""Argument checks of the public operations; errors state what was given and what was wanted."""

import math

import torch
from torch import Tensor, float32, float64, int32, int64

PRECISIONS = ("auto", "fp32", "tf32", "bf16")


def shape_of(x: Tensor) -> str:
    return str(tuple(x.shape))


def check_table(name: str, x: Tensor, rows: int | None = None, like: Tensor | None = None) -> None:
    """A two-dimensional fp32 or fp64 tensor with contiguous rows; as wide, as precise as `like`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}")
    if x.dtype not in (float32, float64):
        raise TypeError(f"{name} must be float32 or float64; got {x.dtype}")
    if x.dim() != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must be (rows, columns) with columns > 0; got {shape_of(x)}")
    if rows is not None and x.shape[0] != rows:
        raise ValueError(f"{name} must have {rows} rows; got {shape_of(x)}")
    if like is not None:
        if x.shape[1] != like.shape[1]:
            raise ValueError(
                f"{name} must be ({rows if rows is not None else 'N'}, {like.shape[1]}) to match "
                f"{shape_of(like)}; got {shape_of(x)}"
            )
        if x.dtype != like.dtype or x.device != like.device:
            raise TypeError(
                f"{name} must be {like.dtype} on {like.device}; got {x.dtype} on {x.device}"
            )
    if x.numel() and not x.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous; got strides {tuple(x.stride())} (call .contiguous())"
        )


def check_mask(mask: Tensor | None, table: Tensor) -> None:
    """Packed mask words for `table`: int32 (rows, ceil(columns / 32)) on the same device."""
    if mask is None:
        return
    wanted = (table.shape[0], (table.shape[1] + 31) // 32)
    if not isinstance(mask, Tensor) or mask.dtype != int32:
        raise TypeError(
            "mask must be packed int32 words (see pack_mask); got "
            + (str(mask.dtype) if isinstance(mask, Tensor) else type(mask).__name__)
        )
    if tuple(mask.shape) != wanted:
        raise ValueError(
            f"mask must be {wanted} for a table {shape_of(table)}; got {shape_of(mask)}"
        )
    if mask.device != table.device or not mask.is_contiguous():
        raise ValueError(
            f"mask must be contiguous on {table.device}; "
            f"got strides {tuple(mask.stride())} on {mask.device}"
        )


def check_index(name: str, index: Tensor, rows: int | None = None, *, like: Tensor) -> None:
    """int64 (rows,) on the device of `like`.

    What the numbers are, `check_range` asks, inside the operations: a compiled graph knows no
    values while it is traced.
    """
    if not isinstance(index, Tensor) or index.dtype != int64:
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise TypeError(f"{name} must be an int64 tensor; got {got}")
    if index.dim() != 1 or (rows is not None and index.shape[0] != rows):
        wanted = "B" if rows is None else rows
        raise ValueError(f"{name} must be ({wanted},); got {shape_of(index)}")
    if index.device != like.device:
        raise ValueError(f"{name} must lie on {like.device}, as the tables do; got {index.device}")
    if not index.is_contiguous():
        raise ValueError(f"{name} must be contiguous; got strides {tuple(index.stride())}")


def check_range(name: str, index: Tensor, size: int) -> None:
    """Every number in 0 .. size - 1."""
    low, high = extremes(index)
    if low < 0 or high >= size:
        raise ValueError(f"{name} must lie in 0 .. {size - 1}; got {low if low < 0 else high}")


def in_range(index: Tensor, size: int) -> bool:
    low, high = extremes(index)
    return low >= 0 and high < size


def extremes(index: Tensor) -> tuple[int, int]:
    """The lowest and the highest number, in one wait for a GPU; (0, -1) if there are none."""
    if not index.numel():
        return 0, -1
    low, high = torch.stack(index.aminmax()).tolist()
    return low, high


def check_weight(weight: Tensor | None, entities: Tensor, name: str = "weight") -> None:
    """A number per entity (N,), in the tables' dtype and on their device."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(weight).__name__}")
    if tuple(weight.shape) != (entities.shape[0],):
        raise ValueError(
            f"{name} must be ({entities.shape[0]},), one per entity; got {shape_of(weight)}"
        )
    if weight.dtype != entities.dtype or weight.device != entities.device:
        raise TypeError(
            f"{name} must be {entities.dtype} on {entities.device}; "
            f"got {weight.dtype} on {weight.device}"
        )


def check_k(k: int, entities: int) -> None:
    if not 1 <= k <= entities:
        raise ValueError(f"k must lie in 1 .. {entities}, the number of entities; got {k}")


def check_first(first: int, group: str) -> None:
    """The first row of a block; without a group the table is whole."""
    if first < 0 or (first > 0 and not group):
        wanted = "not negative" if group else "0 without a group"
        raise ValueError(f"first must be {wanted}; got {first}")


def check_streaming(precision: str, score_memory: int) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if score_memory <= 0:
        raise ValueError(f"score_memory must be a positive number of bytes; got {score_memory}")


def check_distillation(temperature: float, forward_weight: float, backward_weight: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite; got {temperature}")
    if not (0 <= forward_weight < math.inf and 0 <= backward_weight < math.inf):
        raise ValueError(
            "forward_weight and backward_weight must be finite and not negative; "
            f"got {forward_weight} and {backward_weight}"
        )


def check_known(
    known: tuple[Tensor, Tensor] | None, queries: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """CSR rows of known answers: (indptr int64 (B + 1,), indices int64), or (None, None)."""
    if known is None:
        return None, None
    if isinstance(known, Tensor) or len(known) != 2:
        raise TypeError("known must be a pair of tensors (indptr, indices)")
    indptr, indices = known
    check_index("known indices", indices, like=queries)
    check_index("known indptr", indptr, queries.shape[0] + 1, like=queries)
    return indptr, indices


def check_known_values(indptr: Tensor | None, indices: Tensor | None, size: int) -> None:
    """Row starts that rise over all indices; indices in 0 .. size - 1, none twice in a row."""
    if indptr is None or indices is None:
        return
    count = indices.shape[0]
    check_range("known indices", indices, size)
    if int(indptr[0]) != 0 or int(indptr[-1]) != count or bool((indptr.diff() < 0).any()):
        raise ValueError(f"known indptr must rise from 0 to {count}, the number of indices")
    rows = torch.repeat_interleave(indptr.diff(), output_size=count)
    places = rows * size + indices
    if bool((places.diff() <= 0).any()) and bool((places.sort().values.diff() == 0).any()):
        raise ValueError("known indices must not repeat within a row")


def is_recorded(*tensors: Tensor) -> bool:
    """Whether autograd records what is computed from one of these."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
