"""RESCAL (Nickel et al., ICML 2011): h R t with a full matrix R for every relation."""

from torch import Tensor

from .base import Penalty, Scoring


class RESCAL(Scoring):
    name = "rescal"

    @property
    def relation_width(self) -> int:
        return self.rank * self.rank

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        return (head[:, None] @ self._matrix(relation))[:, 0]

    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        return (head[:, :, None] * tail[:, None, :]).flatten(1)

    def dura(self, head: Tensor, relation: Tensor, tail: Tensor, scale: float = 1.0) -> Penalty:
        matrix = self._matrix(relation)
        forward = self.query(head, relation)
        backward = (matrix @ tail[:, :, None])[:, :, 0]
        ends = head.square().sum() + tail.square().sum()
        products = forward.square().sum() + backward.square().sum()
        outer = self.relation_query(head, forward) + self.relation_query(backward, tail)
        return scale * (0.5 * ends + 1.5 * products), (
            scale * (head + 3 * (matrix @ forward[:, :, None])[:, :, 0]),
            3 * scale * outer,
            scale * (tail + 3 * (backward[:, None] @ matrix)[:, 0]),
        )

    def _matrix(self, relation: Tensor) -> Tensor:
        return relation.view(-1, self.rank, self.rank)
