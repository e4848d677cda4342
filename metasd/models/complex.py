"""ComplEx (Trouillon et al., ICML 2016): Re(sum of h r conj(t)) over complex coordinates."""

import torch
from torch import Tensor

from .base import Scoring


class ComplEx(Scoring):
    name = "complex"
    complex_coordinates = True

    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        (a, b), (c, d) = head.chunk(2, dim=1), relation.chunk(2, dim=1)
        return torch.cat([a * c - b * d, a * d + b * c], dim=1)

    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        (a, b), (c, d) = head.chunk(2, dim=1), tail.chunk(2, dim=1)
        return torch.cat([a * c + b * d, a * d - b * c], dim=1)
