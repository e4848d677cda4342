"""The operations' GPU implementations: Triton kernels, one tile routine under all 1-N products.

`register` puts them behind the operations for device `cuda`; fp64 tables go through the references.
Triton is imported by the first call, so `metasd.kernels` imports where there is no Triton and no
GPU.

The functions here take fp32 tensors and the arguments of the operation of their name. Under
Triton's interpreter (TRITON_INTERPRET=1 before Triton is imported) they run on a CPU.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

_MODULES = {
    "apply_mask": "rows",
    "code_scores": "compressed",
    "complex_product": "rows",
    "complex_rows": "rows",
    "decoded_keys": "ranking",
    "distillation": "distill",
    "entity_cross_entropy": "cross_entropy",
    "masked_rows": "rows",
    "meta_gradient": "meta",
    "quantize_rows": "quantize",
    "rank_targets": "ranking",
    "scatter_rows": "rows",
    "score_entities": "ranking",
    "score_triples": "rows",
    "sparse_scores": "compressed",
    "topk_entities": "ranking",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def register() -> None:
    """Registers the functions above for `cuda`."""
    for name, (operation, reference) in operations().items():
        operation.register_kernel("cuda")(implementation(name, reference))


def operations() -> dict[str, tuple[Any, Any]]:
    """(operation, its reference) by name."""
    from ..complex_rows import _complex_product
    from ..complex_rows import _reference as complex_product
    from ..distillation import _distillation
    from ..distillation import _reference as distillation
    from ..entity_cross_entropy import _entity_cross_entropy
    from ..entity_cross_entropy import _reference as entity_cross_entropy
    from ..masked_rows import _masked_rows
    from ..masked_rows import _reference as masked_rows
    from ..meta_gradient import _meta_gradient
    from ..meta_gradient import _reference as meta_gradient
    from ..ranking import _rank_targets, _topk_entities, _topk_reference
    from ..ranking import _reference as rank_targets
    from ..score_entities import _reference as score_entities
    from ..score_entities import _reference_triples, _score_entities, _score_triples

    return {
        "complex_product": (_complex_product, complex_product),
        "distillation": (_distillation, distillation),
        "entity_cross_entropy": (_entity_cross_entropy, entity_cross_entropy),
        "masked_rows": (_masked_rows, masked_rows),
        "meta_gradient": (_meta_gradient, meta_gradient),
        "rank_targets": (_rank_targets, rank_targets),
        "score_entities": (_score_entities, score_entities),
        "score_triples": (_score_triples, _reference_triples),
        "topk_entities": (_topk_entities, _topk_reference),
    }


def implementation(name: str, reference: Any) -> Any:
    """The function of that name where the first argument is fp32, else the reference."""

    def call(first: Tensor, *rest: Any) -> Any:
        if first.dtype != torch.float32:
            return reference(first, *rest)
        return __getattr__(name)(first, *rest)

    return call
