"""Launching kernels, and their block sizes from an explicit table.

No autotuner runs: what is launched depends only on the kernel, the precision, the width and the
architecture, so `python -m metasd.kernels.aot` can compile all of it without a GPU.
"""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .._checks import check_range, in_range


class Tile(NamedTuple):
    """Block sizes over entities, rows and width, and how a program is scheduled."""

    n: int
    b: int
    k: int
    warps: int
    stages: int

    @property
    def constants(self) -> dict[str, int]:
        return {"BLOCK_N": self.n, "BLOCK_B": self.b, "BLOCK_K": self.k}


Recorder = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]
_recorder: Recorder | None = None
_recorded_arch = 90


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int, stages: int, **constants: Any
) -> None:
    """Launches `kernel[grid](*arguments, **constants)` on the arguments' device.

    Raises:
        ValueError: a pointer is not aligned to its elements (any such alignment will do), or
            tensors lie on different devices.
    """
    tensors = [x for x in _flat(arguments) if isinstance(x, Tensor)]
    for x in tensors:
        if x.device != tensors[0].device:
            raise ValueError(f"tensors must lie on one device; got {tensors[0].device}, {x.device}")
        if x.data_ptr() % x.element_size():
            raise ValueError(f"a {x.dtype} tensor is misaligned: address {x.data_ptr():#x}")
    options = {"num_warps": warps, "num_stages": stages}
    if _recorder is not None:
        _recorder(kernel, arguments, constants | options)
    elif 0 not in grid:
        device = tensors[0].device
        with torch.cuda.device(device.index if device.type == "cuda" else -1):
            kernel[grid](*arguments, **constants, **options)


def _flat(arguments: tuple[Any, ...]) -> Iterator[Any]:
    for x in arguments:
        if isinstance(x, tuple):
            yield from _flat(x)
        else:
            yield x


@contextmanager
def recording(recorder: Recorder, arch: int) -> Iterator[None]:
    """Hands every launch to `recorder` instead, as on a device of architecture `arch` (80, 90).

    Tensors on the meta device will do: nothing is computed.
    """
    global _recorder, _recorded_arch
    _recorder, _recorded_arch = recorder, arch
    try:
        yield
    finally:
        _recorder = None


def is_recording() -> bool:
    return _recorder is not None


_checked: MutableMapping[Tensor, tuple[int, int]] = WeakTensorKeyDictionary()


def check_index_range(name: str, index: Tensor, size: int) -> None:
    """`check_range`, once for a tensor, and for all its views together, until PyTorch changes it.

    The one place where an operation waits for the device: it has to know that no index is out of
    range before it launches anything. A trainer whose batches are views of an epoch's indices waits
    once per epoch. (What writes behind PyTorch's back, through `.data` or shared memory, has to see
    to the range itself.)
    """
    if is_recording():
        return
    if index.is_inference():
        check_range(name, index, size)
        return
    whole = index if index._base is None or index._base.dim() != 1 else index._base
    if _checked.get(whole) == (whole._version, size):
        return
    if in_range(whole, size):
        _checked[whole] = whole._version, size
    else:
        check_range(name, index, size)


def architecture(device: torch.device) -> int:
    """80 for compute capability 8.0, 90 for 9.0; what is recorded for, or 90, off a GPU."""
    if device.type != "cuda":
        return _recorded_arch
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def product_precision(precision: str) -> str:
    """fp32, tf32 or bf16; `auto` is bf16, which tensor cores multiply at twice tf32's rate."""
    return "bf16" if precision == "auto" else precision


# From the compiler's reports (python -m metasd.kernels.aot), not from timings on a GPU.
# Accumulators take n * b / (32 * warps) registers a thread for each model, and 255 is the most a
# thread can have. mma, unlike wgmma, holds both operands in registers beside them.
_WGMMA = {
    (1, "bf16"): Tile(128, 128, 64, 8, 3),
    (1, "tf32"): Tile(128, 128, 32, 8, 3),
    (1, "fp32"): Tile(128, 64, 32, 8, 3),
    (2, "bf16"): Tile(128, 128, 64, 8, 3),
    (2, "tf32"): Tile(128, 64, 32, 8, 3),
    (2, "fp32"): Tile(128, 64, 32, 8, 3),
    (3, "bf16"): Tile(128, 128, 32, 8, 3),
    (3, "tf32"): Tile(128, 64, 32, 8, 3),
    (3, "fp32"): Tile(128, 64, 32, 8, 2),
}
_MMA = {
    (1, "bf16"): Tile(128, 64, 32, 8, 4),
    (1, "tf32"): Tile(128, 64, 32, 8, 3),
    (1, "fp32"): Tile(128, 64, 32, 8, 2),
    (2, "bf16"): Tile(128, 64, 32, 8, 4),
    (2, "tf32"): Tile(128, 64, 32, 8, 2),
    (2, "fp32"): Tile(128, 32, 32, 8, 2),
    (3, "bf16"): Tile(128, 32, 64, 8, 3),
    (3, "tf32"): Tile(128, 32, 32, 8, 3),
    (3, "fp32"): Tile(128, 32, 32, 8, 3),
}


def tile(models: int, precision: str, width: int, device: torch.device) -> Tile:
    """The tile of a kernel that holds `models` score tiles at once (see `_tiles.score_tiles`)."""
    arch = architecture(device)
    chosen = (_WGMMA if arch == 90 else _MMA)[models, precision]
    if arch not in (80, 87, 90, 100, 103):  # 99 KiB of shared memory instead of 163 or more
        chosen = chosen._replace(stages=2)
    return chosen._replace(k=32) if width <= 32 else chosen


GROUP = 8
"""Row blocks whose programs run together, so that the L2 cache holds what they share."""


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
