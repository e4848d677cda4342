"""RESCAL (Nickel et al., ICML 2011): h R t with a full matrix R for every relation."""

from torch import Tensor

from .base import Scoring


class RESCAL(Scoring):
    name = "rescal"

    @property
    def relation_width(self) -> int:
        return self.rank * self.rank

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        return (head[:, None] @ self._matrix(relation))[:, 0]

    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        return (head[:, :, None] * tail[:, None, :]).flatten(1)

    def dura(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        backward = (self._matrix(relation) @ tail[:, :, None])[:, :, 0]
        forward = self.query(head, relation)
        ends = head.square().sum() + tail.square().sum()
        return 0.5 * ends + 1.5 * (forward.square().sum() + backward.square().sum())

    def _matrix(self, relation: Tensor) -> Tensor:
        return relation.view(-1, self.rank, self.rank)
