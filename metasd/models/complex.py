"""ComplEx (Trouillon et al., ICML 2016): Re(sum of h r conj(t)) over complex coordinates."""

import torch
from torch import Tensor

from .base import Scoring


class ComplEx(Scoring):
    name = "complex"
    parts = 2

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        (a, b), (c, d) = self._parts(head), self._parts(relation)
        return torch.cat([a * c - b * d, a * d + b * c], dim=1)

    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        (a, b), (c, d) = self._parts(head), self._parts(tail)
        return torch.cat([a * c + b * d, a * d - b * c], dim=1)

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Real and imaginary parts (unbind: its gradient is one copy, where chunk's is five)."""
        return rows.view(-1, 2, self.rank).unbind(dim=1)
