"""What a bilinear scoring function has to say about itself; everything else is shared."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from metasd import kernels
from metasd.errors import InputError, nearest

Penalty = tuple[Tensor, tuple[Tensor, Tensor, Tensor]]
"""A regulariser's value and its gradients with respect to the head, relation and tail rows."""


class Scoring(ABC):
    """A score that is linear in head, relation and tail: `score(h, r, t) = query(h, r) . t`.

    A new model is a subclass with a `name` and the two queries; once it is imported,
    `model.name` finds it. Rows are (B, width) tensors of any float dtype, and `query` must be
    bilinear: the meta step differentiates it by the product rule.
    """

    name: ClassVar[str]
    entity_roles: ClassVar[int] = 1
    """Rows per entity. With 2, row i of the table is entity i as a head, row N + i as a tail."""

    parts: ClassVar[int] = 1
    """Numbers per coordinate of an entity: rows are (parts, rank), ComplEx's [real | imaginary]."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    @staticmethod
    def named(name: str) -> type["Scoring"]:
        found: dict[str, type[Scoring]] = {}
        pending = Scoring.__subclasses__()
        for subclass in pending:
            found[subclass.name] = subclass
            pending.extend(subclass.__subclasses__())
        if name not in found:
            raise InputError(
                f"model.name must be one of {', '.join(sorted(found))}; got {name!r}"
                + nearest(name, found)
            )
        return found[name]

    @property
    def entity_width(self) -> int:
        return self.parts * self.rank

    @property
    def relation_width(self) -> int:
        return self.entity_width

    @abstractmethod
    def query(self, head: Tensor, relation: Tensor) -> Tensor:
        """(B, entity width): the vector whose product with a tail row is the score."""

    @abstractmethod
    def relation_query(self, head: Tensor, tail: Tensor) -> Tensor:
        """(B, relation width): the vector whose product with a relation row is the score."""

    def squares(self, rows: Tensor) -> Tensor:
        """Squared modulus of every coordinate, (B, rank)."""
        return self._coordinates(rows).square().sum(1)

    def dura(self, head: Tensor, relation: Tensor, tail: Tensor, scale: float = 1.0) -> Penalty:
        """`scale` times the sum over the batch of 0.5 (|h|^2 + |t|^2) + 1.5 (|h r|^2 + |r t|^2).

        DURA (NeurIPS 2020). Here a relation acts on each coordinate by itself, so
        |h r|^2 = |h|^2 |r|^2.
        """
        return kernels.dura(head, relation, tail, self.parts, scale)

    def n3(self, head: Tensor, relation: Tensor, tail: Tensor, scale: float = 1.0) -> Penalty:
        """`scale` times the sum over the batch of |h|^3 + |r|^3 + |t|^3 (ICML 2018)."""
        rows = (head, relation, tail)
        moduli = [self.squares(x).sqrt_() for x in rows]
        value = scale * torch.stack([modulus.pow(3).sum() for modulus in moduli]).sum()
        head, relation, tail = (
            (self._coordinates(x) * (3 * scale * modulus)[:, None]).view_as(x)
            for x, modulus in zip(rows, moduli, strict=True)
        )
        return value, (head, relation, tail)

    def _coordinates(self, rows: Tensor) -> Tensor:
        """(B, parts, rank)."""
        return rows.view(len(rows), rows.shape[1] // self.rank, self.rank)
