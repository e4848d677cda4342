"""CUDA kernels of the operations in Triton: one tile routine under all 1-N products.

A module has the name of its operation. `register` makes the kernels known to torch by that name;
Triton is imported by the first call, so `metasd.kernels` imports where there is no Triton and no
GPU. Kernels take fp32 tensors; other dtypes are left to the references. Under Triton's interpreter
(TRITON_INTERPRET=1 before Triton is imported) they run on a CPU.
"""

from importlib import import_module
from typing import Any

from .._operations import OPERATIONS, Function, fp32_only, reference

_FP32 = (
    "adagrad_rows",
    "apply_mask",
    "apply_mask_out",
    "complex_product",
    "distillation",
    "entity_cross_entropy",
    "masked_rows",
    "meta_gradient",
    "quantize_rows",
    "rank_targets",
    "scatter_rows",
    "score_entities",
    "score_triples",
    "topk_entities",
)
_ANY_DTYPE = ("code_scores", "sparse_scores", "topk_mask")
_LOSSES = ("distillation", "entity_cross_entropy", "meta_gradient")
"""Whose kernels know neither a multiplicity of rows nor weights of queries."""

_MODULES = {"apply_mask_out": "apply_mask"}
"""Of kernels whose module has another name."""


def kernel(name: str) -> Function:
    """The kernel of `metasd::<name>`, whose module the first call imports."""
    module = _MODULES.get(name, name)

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f".{module}", __name__), name)(*arguments)

    return call


def kernels() -> dict[str, Function]:
    """What is registered for `cuda`, by the operation's name."""
    chosen = {name: fp32_only(name, kernel(name)) for name in _FP32}
    chosen |= {name: _unless_counted(name, chosen[name]) for name in _LOSSES}
    return chosen | {name: kernel(name) for name in _ANY_DTYPE}


def _unless_counted(name: str, chosen: Function) -> Function:
    """`chosen`, or the definition where a multiplicity is given, or an argument after it."""
    places = [argument.name for argument in OPERATIONS[name]._opoverload._schema.arguments]
    at = places.index("multiplicity")

    def call(*arguments: Any) -> Any:
        counted = any(argument is not None for argument in arguments[at:])
        return (reference(name) if counted else chosen)(*arguments[: None if counted else at])

    return call


def register() -> None:
    for name, function in kernels().items():
        OPERATIONS[name].register_kernel("cuda")(function)
