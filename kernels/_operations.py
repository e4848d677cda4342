"""Registration of operations under `metasd::` in `torch.library`.

An operation has one schema, a reference in plain torch for every device and dtype, and kernels that
its backends register by its name: torch chooses by the device of the arguments. So an operation
imports no backend, and a kernel knows the operation by its name alone.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef

Function = Callable[..., Any]

OPERATIONS: dict[str, CustomOpDef] = {}
_references: dict[str, Function] = {}


def operation(
    name: str, reference: Function, mutates_args: Sequence[str] = (), schema: str | None = None
) -> CustomOpDef:
    """Defines `metasd::<name>`, computed by `reference` where no kernel is registered.

    Args:
        mutates_args: names of arguments that are written into.
        schema: arguments and results in torch's notation; by default those of `reference`.
    """
    _references[name] = reference
    OPERATIONS[name] = torch.library.custom_op(
        f"metasd::{name}", reference, mutates_args=mutates_args, schema=schema
    )
    return OPERATIONS[name]


def reference(name: str) -> Function:
    """What `metasd::<name>` is by definition, in plain torch."""
    return _references[name]


def fp32_only(name: str, kernel: Function) -> Function:
    """`kernel` where the first argument (or the first of a list) is fp32, else the reference."""
    reference = _references[name]

    @functools.wraps(kernel)
    def choose(*arguments: Any) -> Any:
        first = arguments[0]
        dtype = (first[0] if isinstance(first, list) else first).dtype
        return (kernel if dtype == torch.float32 else reference)(*arguments)

    return choose


def fp32_kernel(name: str, device: str) -> Callable[[Function], Function]:
    """Registers a kernel of `metasd::<name>` for fp32 tensors on `device`, `cpu` or `cuda`."""

    def register(kernel: Function) -> Function:
        OPERATIONS[name].register_kernel(device)(fp32_only(name, kernel))
        return kernel

    return register
