"""The compressed model: queries and answers in labels, computed from the compressed tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metasd import _C
from metasd.data.filter_index import KnownAnswers
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError, error_context
from metasd.models import Scoring

from .calibration import fit_temperature
from .description import describe, model_card
from .labels import Labels
from .storage import ModelParts, load, save
from .table import Floats, Integers, default_threads, dense_table

_BATCH = 256  # queries answered at a time
_SCORED = 64  # queries whose scores of all entities are held


class Query(NamedTuple):
    """What completes (head, relation, ?) or (?, relation, tail): one of head and tail is None."""

    head: str | None
    relation: str
    tail: str | None = None


class Answer(NamedTuple):
    """One entity: its id in the data, its name, its score, and its share of the softmax."""

    entity: str
    label: str
    score: float
    probability: float


@dataclass(frozen=True, eq=False)
class CompressedModel(ModelParts):
    """Tables, labels and known triples; made by `metasd.compress` or `from_pretrained`.

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

    def __repr__(self) -> str:
        return (
            f"CompressedModel({self.scoring}, rank {self.rank}, {self.num_entities} entities, "
            f"{self.num_relations} relations, {self.entities.codec} {self.entities.weight_format}, "
            f"{self.nbytes / 1e6:.1f} MB)"
        )

    @staticmethod
    def of_tables(
        scoring: str,
        rank: int,
        entities: Floats,
        relations: Floats,
        vocabulary: Vocabulary,
        triples: Integers | None = None,
    ) -> CompressedModel:
        """A model of tables as they are, fp32: a trained model answers like a compressed one.

        Args:
            scoring: name of the scoring function.
            rank: coordinates per entity.
            entities: fp32 (roles * N, width).
            relations: fp32 (2R, width), inverse relations second.
            vocabulary: the labels.
            triples: int64 (n, 3) that answers leave out, or None.
        """
        known = None
        if triples is not None:
            known = KnownAnswers.of_triples(
                triples, vocabulary.num_entities, vocabulary.num_relations
            )
        return CompressedModel(
            scoring,
            rank,
            dense_table(entities),
            dense_table(relations),
            Labels.of(vocabulary.entities, vocabulary.entity_labels, "entity"),
            Labels.of(vocabulary.relations, vocabulary.relation_labels, "relation"),
            known,
        )

    @staticmethod
    def from_pretrained(path: str | os.PathLike[str]) -> CompressedModel:
        """Reads a model folder; its files stay mapped, and must not be written to meanwhile.

        Raises:
            InputError: something is missing, damaged or hostile: which file, and what.
        """
        parts = load(Path(path))
        with error_context(path):
            return CompressedModel(**vars(parts))

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes a model folder, whole or not at all; only an older model is ever replaced.

        Raises:
            InputError: there is something else at `path`, or it cannot be written.
        """
        save(self, Path(path), model_card(self))

    def to(self, device: str) -> CompressedModel:
        """The same model, scored on `device`, a GPU such as `cuda`; needs torch and triton.

        Raises:
            InputError: there is no such device, or no torch.
        """
        try:
            from .device import DeviceTable  # the only part of this package that needs torch
        except ModuleNotFoundError as error:
            raise InputError(f"{error.name} is not installed: {device} needs it") from None
        return replace(self, entities=DeviceTable.of(self.entities, device))

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

    def predict(
        self,
        head: str | None = None,
        relation: str | None = None,
        tail: str | None = None,
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        keep_known: bool = False,
    ) -> list[tuple[str, float]]:
        """The k best completions of one triple: [(label, score), ...]; see `answers`."""
        query = Query(head, relation or "", tail)
        found = self.answers([query], k, candidates=candidates, keep_known=keep_known)[0]
        return [(answer.label, answer.score) for answer in found]

    def answers(
        self,
        queries: Sequence[Query],
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        keep_known: bool = False,
    ) -> list[list[Answer]]:
        """The k entities that complete each triple best, the best first.

        Args:
            queries: of labels, or of human labels that only one entity has.
            k: answers per query, at most; fewer if fewer entities are left.
            candidates: the entities to choose among; all of them if None.
            keep_known: also gives answers that are in the graph already.

        Returns:
            The answers of each query. A probability is the softmax over all candidates, known
            answers among them, at the model's temperature.

        Raises:
            InputError: an unknown label (the nearest are named), not one of head and tail, k < 1.
        """
        rows = None
        if candidates is not None:
            rows = np.unique([self.entity_labels.find(label) for label in candidates])
            rows = rows.astype(np.int64)
        ids = [self.query_ids(query) for query in queries]
        return self.answers_of_ids(ids, k, candidates=rows, keep_known=keep_known)

    def query_ids(self, query: Query) -> tuple[int, int]:
        """The given entity of a query and its relation, which is an inverse one if heads are asked.

        Raises:
            InputError: an unknown label (the nearest are named), or not one of head and tail.
        """
        head, relation, tail = query
        if not relation or (head is None) == (tail is None):
            raise InputError("a query has a relation and either a head or a tail")
        place = self.relation_labels.find(relation)
        if head is not None:
            return self.entity_labels.find(head), place
        return self.entity_labels.find(str(tail)), place + self.num_relations

    def answers_of_ids(
        self,
        queries: Sequence[tuple[int, int]],
        k: int = 10,
        *,
        candidates: Integers | None = None,
        keep_known: bool = False,
    ) -> list[list[Answer]]:
        """What `answers` does, of queries that `query_ids` gave; candidates as for `best`."""
        if k < 1:
            raise InputError(f"k must be at least 1; got {k}")
        found: list[list[Answer]] = []
        for start in range(0, len(queries), _BATCH):
            given, relations = np.array(queries[start : start + _BATCH], dtype=np.int64).T
            ranked = self.best(given, relations, k, candidates=candidates, keep_known=keep_known)
            for columns in zip(*(part.tolist() for part in ranked), strict=True):
                found.append(
                    [
                        Answer(self.entity_labels[i], self.entity_labels.human(i), score, share)
                        for i, score, share in zip(*columns, strict=True)
                        if i >= 0
                    ]
                )
        return found

    def best(
        self,
        given: Integers,
        relations: Integers,
        k: int = 10,
        *,
        candidates: Integers | None = None,
        keep_known: bool = False,
    ) -> tuple[Integers, Floats, Floats]:
        """The k entities that complete each triple best, as arrays.

        Args:
            given: int64 (B,) heads, or tails where the relation is an inverse one.
            relations: int64 (B,) below 2R; from R on they are inverse.
            k: answers per query, at most.
            candidates: int64 (n,), sorted and without duplicates; None: all entities.
            keep_known: also gives answers that are in the graph already.

        Returns:
            entities int64 (B, k), -1 where no more are left; scores and probabilities fp32 (B, k).
        """
        known = None
        if self.known is not None and not keep_known:
            known = self.known.rows(given, relations)
            if candidates is not None:
                known = _within(*known, candidates)
        where = (self.tail_offset, self.num_entities)
        scores, places, total = self.entities.best(
            self.queries(given, relations),
            k,
            *where,
            rows=candidates,
            known=known,
            temperature=self.temperature,
            threads=self.threads,
        )
        share = np.exp(np.minimum(scores / self.temperature - total[:, None], 0))
        if candidates is not None and len(candidates):
            places = np.where(places >= 0, candidates[places], -1)
        return places, scores, share

    def score(self, triples: Sequence[tuple[str, str, str]] | Integers) -> Floats:
        """The scores of triples, fp32 (n,).

        Args:
            triples: labels, or ids int64 (n, 3) of head, relation (inverse ones too) and tail.

        Raises:
            InputError: an unknown label.
            ValueError: another shape, or an id out of range.
        """
        if not isinstance(triples, np.ndarray):
            ids = [
                (
                    self.entity_labels.find(head),
                    self.relation_labels.find(relation),
                    self.entity_labels.find(tail),
                )
                for head, relation, tail in triples
            ]
            triples = np.array(ids, dtype=np.int64).reshape(-1, 3)
        limits = self.num_entities, 2 * self.num_relations, self.num_entities
        if triples.ndim != 2 or triples.shape[1] != 3:
            raise ValueError(f"triples must be (n, 3); got {triples.shape}")
        if ((triples < 0) | (triples >= limits)).any():
            raise ValueError(f"triples must be ids below {limits}")
        out = np.empty(len(triples), np.float32)
        for start in range(0, len(triples), _BATCH):
            head, relation, tail = triples[start : start + _BATCH].T
            rows = self.entities.decode(self.tail_offset + tail)
            np.einsum(
                "ij,ij->i", self.queries(head, relation), rows, out=out[start : start + _BATCH]
            )
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

    def embedding(self, label: str) -> Floats:
        """An entity's row, fp32; of a model with two roles, as a head and then as a tail."""
        place = self.entity_labels.find(label)
        return self.entities.decode(np.arange(place, self.entities.rows, self.num_entities)).ravel()

    def neighbors(self, label: str, k: int = 10) -> list[tuple[str, float]]:
        """The k entities whose rows point in the most similar direction: [(label, cosine), ...]."""
        if k < 1:
            raise InputError(f"k must be at least 1; got {k}")
        place = self.entity_labels.find(label)
        row = self.entities.decode([self.tail_offset + place])
        where = (self.tail_offset, self.num_entities)
        products = self.entities.scores(row, *where, threads=self.threads)[0]
        cosine = products / np.maximum(self._norms * self._norms[place], np.float32(1e-30))
        cosine[place] = -np.inf
        best = np.argsort(-cosine, kind="stable")[: min(k, self.num_entities - 1)]
        return [(self.entity_labels.human(i), float(cosine[i])) for i in best.tolist()]

    @cached_property
    def _norms(self) -> Floats:
        parts = [np.linalg.norm(part, axis=1) for part in self.entities.chunks()]
        return np.concatenate(parts)[self.tail_offset :].astype(np.float32)

    def calibrated(self, triples: Integers, sample: int = 500, seed: int = 0) -> CompressedModel:
        """The same model at the temperature under which held-out triples are most likely.

        Args:
            triples: ids int64 (n, 3), such as the validation split, asked for tail and for head.
            sample: how many of them are used, at most.
            seed: of the choice among them.

        Raises:
            InputError: there are no triples.
        """
        if not len(triples):
            raise InputError("calibration needs triples")
        chosen = np.random.default_rng(seed).permutation(len(triples))[:sample]
        head, relation, tail = triples[chosen].T
        given, target = np.concatenate([head, tail]), np.concatenate([tail, head])
        asked = self.queries(given, np.concatenate([relation, relation + self.num_relations]))
        rows = self.entities.decode(self.tail_offset + target)
        right = np.einsum("ij,ij->i", asked, rows)
        temperature = fit_temperature(self.entities, self.tail_offset, asked, right)
        return replace(self, temperature=temperature)

    def info(self) -> dict[str, Any]:
        """Sizes in bytes, density, and how many times smaller than dense tables (JSON)."""
        return describe(self)


def _within(indptr: Integers, indices: Integers, rows: Integers) -> tuple[Integers, Integers]:
    """The same answers as places among the sorted `rows`, without those that are not there."""
    place = np.searchsorted(rows, indices)
    there = place < len(rows)
    there[there] = rows[place[there]] == indices[there]
    kept = np.concatenate([[0], np.cumsum(there)])
    return kept[indptr], place[there]
