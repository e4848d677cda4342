"""ComplEx (Trouillon et al., ICML 2016): Re(sum of h r conj(t)) over complex coordinates."""

from torch import Tensor

from metasd import kernels

from .base import Scoring


class ComplEx(Scoring):
    name = "complex"
    parts = 2

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        return kernels.complex_product(head, relation)

    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        return kernels.complex_product(head, tail, conjugate=True)
