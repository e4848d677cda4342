"""The operations of metasd on plain tensors: masks, 1-N scores, losses in closed form, ranking.

Installed as `metasd.kernels`. Kernels know tensors, never models, graphs or configurations. Every
operation is registered in the `metasd::` namespace of `torch.library` with a plain-torch reference
(any device, fp32 and fp64), a CPU implementation that streams score blocks or, on processors with
bf16 tiles, keeps them in registers, a CUDA implementation (`gpu`) and a fake for `torch.compile`.
"""

if __name__ == "kernels":
    raise ImportError(
        "this package is metasd.kernels: `pip install .`, then `from metasd import kernels`"
    )

from . import gpu
from ._fused import uses_tiles
from ._group import GroupError, largest, reaching_others, register_group, summed
from ._stream import DEFAULT_SCORE_MEMORY, block_shape, product_dtype
from .complex_rows import complex_product
from .distillation import inner_distillation, mutual_distillation
from .dura import dura
from .entity_cross_entropy import entity_cross_entropy, entity_cross_entropy_gradients
from .masked_rows import masked_rows, scatter_rows
from .meta_gradient import meta_gradient
from .quantize import quantize_rows
from .ranking import rank_targets, topk_entities
from .score_entities import score_entities, score_triples
from .topk_mask import apply_mask, pack_mask, topk_mask, unpack_mask

gpu.register()

__all__ = [
    "DEFAULT_SCORE_MEMORY",
    "GroupError",
    "apply_mask",
    "block_shape",
    "complex_product",
    "dura",
    "entity_cross_entropy",
    "entity_cross_entropy_gradients",
    "inner_distillation",
    "largest",
    "masked_rows",
    "meta_gradient",
    "mutual_distillation",
    "pack_mask",
    "product_dtype",
    "quantize_rows",
    "rank_targets",
    "reaching_others",
    "register_group",
    "scatter_rows",
    "score_entities",
    "score_triples",
    "summed",
    "topk_entities",
    "topk_mask",
    "unpack_mask",
    "uses_tiles",
]
