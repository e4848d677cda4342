"""Scores, rankings and neighbors in ids, computed from the compressed tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from metasd import _C
from metasd.errors import InputError
from metasd.models import Scoring

from .storage import ModelParts
from .table import Floats, Integers, default_threads

_BATCH = 256  # triples scored at a time
_SCORED = 64  # queries whose scores of all entities are held


@dataclass(frozen=True, eq=False)
class Scorer(ModelParts):
    """What a compressed model computes, with integers for entities and relations.

    Attributes:
        threads: of the engine; 0: OMP_NUM_THREADS, or all cores. The others: see `ModelParts`.
    """

    threads: int = 0

    def __post_init__(self) -> None:
        rank, how = self.rank, self._scoring
        wanted = {
            "entities": (how.entity_roles * self.num_entities, how.entity_width),
            "relations": (2 * self.num_relations, how.relation_width),
        }
        for name, shape in wanted.items():
            table = getattr(self, name)
            if (table.rows, table.width) != shape:
                raise InputError(
                    f"{name} of {self.scoring}, rank {rank}, must be {shape}; "
                    f"got {(table.rows, table.width)}"
                )
        if not 1e-6 < self.temperature < 1e6:
            raise InputError(f"temperature must lie in 1e-6 ... 1e6; got {self.temperature}")

    @cached_property
    def _scoring(self) -> Scoring:
        return Scoring.named(self.scoring)(self.rank)

    @property
    def num_entities(self) -> int:
        return len(self.entity_labels)

    @property
    def num_relations(self) -> int:
        """Relations of the graph, without inverses."""
        return len(self.relation_labels)

    @property
    def tail_offset(self) -> int:
        """The row of entity 0 as a tail."""
        return self.entities.rows - self.num_entities

    @property
    def nbytes(self) -> int:
        """Bytes of both tables, without labels and known triples."""
        return self.entities.nbytes + self.relations.nbytes

    def dense(self) -> tuple[Floats, Floats]:
        """What the tables decode to: fp32 entities (roles * N, width), relations (2R, width)."""
        return self.entities.dense(), self.relations.dense()

    def queries(self, entities: npt.ArrayLike, relations: npt.ArrayLike) -> Floats:
        """Rows whose products with the rows of tails are scores.

        Args:
            entities: integers (B,), heads, or tails where the relation is an inverse one.
            relations: integers (B,) below 2R.

        Returns:
            fp32 (B, width).
        """
        rows = self.entities.decode(entities), self.relations.decode(relations)
        found: Floats = self._scoring.query(*rows)
        return found

    def best(
        self,
        given: Integers,
        relations: Integers,
        k: int,
        candidates: Integers | None = None,
        hidden: tuple[Integers, Integers] | None = None,
    ) -> tuple[Integers, Floats, Floats]:
        """The k entities that complete each triple best, as arrays.

        Args:
            given: int64 (B,) heads, or tails where the relation is an inverse one.
            relations: int64 (B,) below 2R; from R on they are inverse.
            k: answers per query, at most.
            candidates: int64 (n,), sorted and without duplicates; None: all entities.
            hidden: places among the candidates to leave out, CSR.

        Returns:
            entities int64 (B, k), -1 where no more are left; their scores fp32 (B, k); and fp32
            (B,) log sum exp(score / temperature) over the candidates.
        """
        scores, places, total = self.entities.best(
            self.queries(given, relations),
            k,
            self.tail_offset,
            self.num_entities,
            rows=candidates,
            known=hidden,
            temperature=self.temperature,
            threads=self.threads,
        )
        if candidates is not None and len(candidates):
            places = np.where(places >= 0, candidates[places], -1)
        return places, scores, total

    def score_ids(self, triples: Integers) -> Floats:
        """The scores of triples, fp32 (n,).

        Args:
            triples: int64 (n, 3) of head, relation (inverse ones too) and tail.

        Raises:
            InputError: another shape or type, or an id out of range.
        """
        limits = self.num_entities, 2 * self.num_relations, self.num_entities
        if triples.ndim != 2 or triples.shape[1] != 3 or triples.dtype.kind not in "iu":
            raise InputError(
                f"triples must be integers (n, 3); got {triples.dtype} {triples.shape}"
            )
        if ((triples < 0) | (triples >= limits)).any():
            raise InputError(f"triples must be ids below {limits}")
        out = np.empty(len(triples), np.float32)
        for start in range(0, len(triples), _BATCH):
            part = slice(start, start + _BATCH)
            head, relation, tail = triples[part].T
            rows = self.entities.decode(self.tail_offset + tail)
            np.einsum("ij,ij->i", self.queries(head, relation), rows, out=out[part])
        return out

    def rank_targets(
        self,
        given: Integers,
        relations: Integers,
        targets: Integers,
        known: Callable[[Integers, Integers], tuple[Integers, Integers]],
        progress: Callable[[int], None] | None = None,
    ) -> tuple[Integers, Integers]:
        """How many entities score above the right answer of each query, and how many as high.

        Args:
            given, relations, targets: int64 (B,), ids; relations from R on ask for heads.
            known: of given and relations, the answers that do not count, as CSR arrays.
            progress: called with the number of queries done since the last call.

        Returns:
            greater and equal, int64 (B,); the answer itself counts as neither.
        """
        greater, equal = np.zeros(len(given), np.int64), np.zeros(len(given), np.int64)
        for start in range(0, len(given), _SCORED):
            part = slice(start, start + _SCORED)
            queries = self.queries(given[part], relations[part])
            where = (self.tail_offset, self.num_entities)
            scores = self.entities.scores(queries, *where, threads=self.threads)
            wanted = np.ascontiguousarray(targets[part])
            own = scores[np.arange(len(wanted)), wanted]
            indptr, indices = known(given[part], relations[part])
            count, width = scores.shape
            _C.rank(
                scores.ctypes.data,
                False,
                count,
                width,
                width,
                0,
                own.ctypes.data,
                wanted.ctypes.data,
                indptr.ctypes.data,
                indices.ctypes.data,
                greater[part].ctypes.data,
                equal[part].ctypes.data,
                self.threads or default_threads(),
            )
            if progress is not None:
                progress(count)
        return greater, equal

    def neighbor_ids(self, entity: int, k: int) -> tuple[Integers, Floats]:
        """The k entities whose rows point in the most similar direction, and the cosines."""
        row = self.entities.decode([self.tail_offset + entity])
        where = (self.tail_offset, self.num_entities)
        products = self.entities.scores(row, *where, threads=self.threads)[0]
        cosine = products / np.maximum(self._norms * self._norms[entity], np.float32(1e-30))
        cosine[entity] = -np.inf
        best = np.argsort(-cosine, kind="stable")[: min(k, self.num_entities - 1)]
        return best, cosine[best]

    @cached_property
    def _norms(self) -> Floats:
        parts = [np.linalg.norm(part, axis=1) for part in self.entities.chunks()]
        return np.concatenate(parts)[self.tail_offset :].astype(np.float32)
