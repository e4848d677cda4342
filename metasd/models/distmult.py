"""DistMult (Yang et al., ICLR 2015): sum of h r t. Symmetric in head and tail."""

from torch import Tensor

from .base import Scoring


class DistMult(Scoring):
    name = "distmult"

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        return head * relation

    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        return head * tail
