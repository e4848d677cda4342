"""The operations of metasd on plain tensors: masks, 1-N scores, losses in closed form, ranking.

Installed as `metasd.kernels`. Kernels know tensors, never models, graphs or configurations. Every
operation has one schema in the `metasd::` namespace of `torch.library`, a plain-torch reference
(any device, fp32 and fp64), a CPU kernel that streams score blocks or keeps them in the caches, a
CUDA kernel (`gpu`) and a fake for `torch.compile`. A module has the name of its operation; names
with an underscore are what operations share.
"""

if __name__ == "kernels":
    raise ImportError(
        "this package is metasd.kernels: `pip install .`, then `from metasd import kernels`"
    )

from ._collectives import (
    CollectiveError,
    all_gather,
    all_reduce_max,
    all_reduce_sum,
    collective_errors,
    register_group,
)
from ._sampling import EXACT, Sampling
from ._stream import DEFAULT_SCORE_MEMORY, block_shape, product_dtype
from ._whole import uses_amx
from .adagrad_rows import adagrad_rows
from .apply_mask import apply_mask
from .code_scores import code_scores
from .complex_product import complex_product
from .distillation import inner_distillation, mutual_distillation
from .dura import dura
from .entity_cross_entropy import entity_cross_entropy, entity_cross_entropy_gradients
from .gpu import register
from .masked_rows import masked_rows
from .meta_gradient import meta_gradient
from .pack_mask import pack_mask, unpack_mask
from .quantize_rows import quantize_rows
from .rank_targets import rank_targets
from .scatter_rows import scatter_rows
from .score_entities import score_entities
from .score_triples import score_triples
from .sparse_scores import sparse_scores
from .topk_entities import topk_entities
from .topk_mask import topk_mask

register()

__all__ = [
    "DEFAULT_SCORE_MEMORY",
    "EXACT",
    "CollectiveError",
    "Sampling",
    "adagrad_rows",
    "all_gather",
    "all_reduce_max",
    "all_reduce_sum",
    "apply_mask",
    "block_shape",
    "code_scores",
    "collective_errors",
    "complex_product",
    "dura",
    "entity_cross_entropy",
    "entity_cross_entropy_gradients",
    "inner_distillation",
    "masked_rows",
    "meta_gradient",
    "mutual_distillation",
    "pack_mask",
    "product_dtype",
    "quantize_rows",
    "rank_targets",
    "register_group",
    "scatter_rows",
    "score_entities",
    "score_triples",
    "sparse_scores",
    "topk_entities",
    "topk_mask",
    "unpack_mask",
    "uses_amx",
]
