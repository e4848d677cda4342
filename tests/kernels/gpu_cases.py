"""Moving inputs to the device of the GPU tests, and results back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import kernel_cases as kc
from metasd import kernels
from metasd.kernels._operations import OPERATIONS


def interpret(patch: pytest.MonkeyPatch) -> None:
    """Runs the operations' GPU implementations on CPU tensors; TRITON_INTERPRET is set."""
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: interpreter._LangPatchScope) -> None:
        patch_tensor(tensor, scope)  # its own __index__ fails with numpy 2.4
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch.setattr(interpreter, "_patch_lang_tensor", patched)
    for name, function in kernels.gpu.kernels().items():
        if name != "topk_mask":  # which is CUDA, not Triton
            functions = OPERATIONS[name]._backend_fns
            patch.setitem(functions, "cpu" if "cpu" in functions else None, function)


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
