"""The type of a bilinear scoring function: what a model says about itself; all else is shared."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from metasd.errors import InputError, nearest

Rows = Any
"""Rows of a table: a numpy array or a torch tensor, float, (B, width)."""


class Scoring(ABC):
    """A score that is linear in head, relation and tail: `score(h, r, t) = query(h, r) . t`.

    A new scoring function is a subclass with a `name` and the two queries. They are written with
    operators that numpy arrays and torch tensors share, so the same class trains, compresses and
    answers. Once the class is defined, `model.name` finds it. `query` must be bilinear: the meta
    step differentiates it by the product rule.
    """

    name: ClassVar[str]
    entity_roles: ClassVar[int] = 1
    """Rows per entity. With 2, row i of the table is entity i as a head, row N + i as a tail."""

    parts: ClassVar[int] = 1
    """Numbers per coordinate of an entity: rows are (parts, rank), ComplEx's [real | imaginary]."""

    matrix_relations: ClassVar[bool] = False
    """Whether a relation is a (rank, rank) matrix; else it acts on each coordinate by itself."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    @staticmethod
    def named(name: str) -> type["Scoring"]:
        """The subclass of this name.

        Raises:
            InputError: there is none; the nearest name is offered.
        """
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
        """Numbers in a row of the entity table."""
        return self.parts * self.rank

    @property
    def relation_width(self) -> int:
        """Numbers in a row of the relation table."""
        return self.rank * self.rank if self.matrix_relations else self.entity_width

    @abstractmethod
    def query(self, head: Rows, relation: Rows) -> Rows:
        """(B, entity width): the vector whose product with a tail row is the score."""

    @abstractmethod
    def relation_query(self, head: Rows, tail: Rows) -> Rows:
        """(B, relation width): the vector whose product with a relation row is the score."""

    def head_query(self, relation: Rows, tail: Rows) -> Rows:
        """(B, entity width): the vector whose product with a head row is the score.

        numpy arrays only. It follows from `query`, which is linear in the head; the scoring
        functions of this package give it in closed form, which is faster.
        """
        rows = np.empty((len(tail), self.entity_width), np.float32)
        unit = np.eye(self.entity_width, dtype=np.float32)
        for i, (one, other) in enumerate(zip(relation, tail, strict=True)):
            rows[i] = self.query(unit, np.repeat(one[None], len(unit), 0)) @ other
        return rows
