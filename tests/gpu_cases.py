"""Moving inputs to the device of the GPU tests, and results back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import kernel_cases as kc


def to(c: kc.Case, device: str) -> kc.Case:
    tensors = {k: v.to(device) for k, v in vars(c).items() if isinstance(v, Tensor)}
    return replace(c, **tensors)


def run(name: str, c: kc.Case, device: str, **options: Any) -> list[Tensor]:
    """What the operation gives on `device`, on the CPU again."""
    return [x.cpu() for x in kc.LOSSES[name][0](to(c, device), **options)]


def assert_is_definition(
    name: str, c: kc.Case, device: str, relative: float, **options: Any
) -> None:
    """The operation's results are those of its definition in fp64, to `relative` of their norm."""
    got = run(name, c, device, **options)
    with kc.threads(1):
        wanted = kc.LOSSES[name][1](c.to(torch.float64))
    assert all(x.dtype == torch.float32 for x in got)
    kc.assert_close(got, wanted, relative, 1e-7)


def same_bits(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return kc.same_bits(a, b)
