"""Rows of entities and relations that a trained model does not have, fitted to their triples.

All other rows stay as they are. The loss is that of training, cross entropy over all entities, plus
a ridge.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .base import Scoring

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# Chosen by valid MRR: see benchmarks/results/growth_settings.json.
_STEPS = 6  # of Adagrad
_RIDGE = 0.125  # per triple of a row
_OTHERS = 2000  # triples without new rows, whose answers the new entities must not become
_CANDIDATES = 1000  # entities that are scored, beside the right answers, where there are more
_CHUNK = 1024  # triples scored at a time


def fit_rows(
    scoring: Scoring,
    entities: Floats,
    relations: Floats,
    new_entity: Flags,
    new_relation: Flags,
    triples: Integers,
    seed: int = 0,
) -> None:
    """Fits, in place, the rows of new entities and relations that have triples.

    Args:
        scoring: the scoring function.
        entities: fp32 (roles * N, width), contiguous.
        relations: fp32 (2R, width), inverse relations second.
        new_entity: bool (N,): the entities whose rows are fitted. What these hold is ignored.
        new_relation: bool (R,), likewise.
        triples: int64 (n, 3), all that are known, without inverses.
        seed: of the samples that stand for all other triples and, of many entities, for all.
    """
    inverse = triples[:, ::-1] + np.array([0, len(new_relation), 0])
    fit = _Fit(scoring, entities, relations, new_entity, np.tile(new_relation, 2), seed)
    fit.take(np.concatenate([triples, inverse]))
    sums = [np.zeros_like(rows) for rows in fit.rows]
    for _ in range(_STEPS):
        for i, gradient in enumerate(fit.gradients()):
            sums[i] += gradient**2
            fit.rows[i] -= fit.lengths[i] * gradient / (np.sqrt(sums[i]) + np.float32(1e-10))
        fit.write()


class _Fit:
    """The tables, the new rows (`rows`: of entities, of relations), and the triples about them."""

    def __init__(
        self,
        scoring: Scoring,
        entities: Floats,
        relations: Floats,
        new_entity: Flags,
        new_relation: Flags,
        seed: int,
    ) -> None:
        self.scoring, self.relations = scoring, relations
        self.entities = entities.reshape(scoring.entity_roles, len(new_entity), -1)  # a view
        self.heads, self.tails = self.entities[0], self.entities[-1]
        self.new_entity, self.new_relation = new_entity, new_relation
        self.known = np.flatnonzero(~new_entity)
        self.random = np.random.default_rng(seed)
        self.lengths = [_length(self.tails[self.known]), _length(relations[~new_relation])]

    def take(self, triples: Integers) -> None:
        """Sorts the triples (inverse ones too) by what is new in them; new rows become zero."""
        head, relation, tail = triples.T
        moving = self.new_entity[head] | self.new_relation[relation]
        touched = moving | self.new_entity[tail]
        others = triples[~touched]
        sample = others[self.random.permutation(len(others))[:_OTHERS]]
        self.moving = triples[moving]  # their queries have new rows in them
        self.fixed = np.concatenate([triples[touched & ~moving], sample])
        self.weight = np.ones((len(self.fixed), 1), np.float32)
        self.weight[len(self.fixed) - len(sample) :] = len(others) / max(len(sample), 1)

        mine = triples[touched]
        counts = np.bincount(mine[:, [0, 2]].ravel(), minlength=len(self.new_entity))
        relation_counts = np.bincount(mine[:, 1], minlength=len(self.new_relation))
        self.ids = np.flatnonzero(self.new_entity & (counts > 0))
        self.relation_ids = np.flatnonzero(self.new_relation & (relation_counts > 0))
        self.place = _places(self.ids, len(counts))
        self.relation_place = _places(self.relation_ids, len(relation_counts))
        self.ridges = [
            _RIDGE * counts[self.ids, None].astype(np.float32),
            _RIDGE * relation_counts[self.relation_ids, None].astype(np.float32),
        ]
        roles, _, width = self.entities.shape
        self.rows = [
            np.zeros((roles, len(self.ids), width), np.float32),
            np.zeros((len(self.relation_ids), self.relations.shape[1]), np.float32),
        ]
        self.write()
        self.totals = self._log_totals()

    def write(self) -> None:
        self.entities[:, self.ids] = self.rows[0]
        self.relations[self.relation_ids] = self.rows[1]

    def gradients(self) -> list[Floats]:
        """Of the loss, with respect to the new rows of entities and of relations."""
        found = [ridge * rows for ridge, rows in zip(self.ridges, self.rows, strict=True)]
        for start in range(0, len(self.fixed), _CHUNK):
            self._add_fixed(slice(start, start + _CHUNK), found[0][-1])
        for start in range(0, len(self.moving), _CHUNK):
            self._add_moving(self.moving[start : start + _CHUNK], found)
        return found

    def _queries(self, triples: Integers) -> Floats:
        rows: Floats = self.scoring.query(self.heads[triples[:, 0]], self.relations[triples[:, 1]])
        return rows

    def _log_totals(self) -> Floats:
        """log sum exp of the scores of known entities, (n, 1), for queries without new rows."""
        found = []
        for start in range(0, len(self.fixed), _CHUNK):
            triples = self.fixed[start : start + _CHUNK]
            candidates, offset = self._candidates(triples[:, 2])
            offset[self.new_entity[candidates]] = -np.inf
            found.append(_softmax(self._queries(triples) @ self.tails[candidates].T + offset)[1])
        return np.concatenate([*found, np.empty((0, 1), np.float32)])

    def _add_fixed(self, part: slice, gradient: Floats) -> None:
        """Queries without new rows: only the scores of new tails change."""
        triples = self.fixed[part]
        queries = self._queries(triples)
        share, total = _softmax(queries @ self.tails[self.ids].T)
        share *= np.exp(total - np.logaddexp(total, self.totals[part]))  # known ones have the rest
        place = self.place[triples[:, 2]]
        right = np.flatnonzero(place >= 0)
        share[right, place[right]] -= 1
        gradient += (share * self.weight[part]).T @ queries

    def _add_moving(self, triples: Integers, gradients: list[Floats]) -> None:
        """Queries with new rows: all scores change, of which a sample stands for many."""
        head, relation, tail = triples.T
        candidates, offset = self._candidates(tail)
        rows, queries = self.tails[candidates], self._queries(triples)
        share, _ = _softmax(queries @ rows.T + offset)
        share[np.arange(len(tail)), np.searchsorted(candidates, tail)] -= 1
        place = self.place[candidates]
        gradients[0][-1][place[place >= 0]] += share[:, place >= 0].T @ queries
        along = share @ rows
        place = self.place[head]
        own = self.scoring.head_query(self.relations[relation], along)
        np.add.at(gradients[0][0], place[place >= 0], own[place >= 0])
        place = self.relation_place[relation]
        own = self.scoring.relation_query(self.heads[head], along)
        np.add.at(gradients[1], place[place >= 0], own[place >= 0])

    def _candidates(self, tails: Integers) -> tuple[Integers, Floats]:
        """Sorted entities to score, new ones and right answers among them.

        Beside them log weights, (n,): an entity of a sample stands for several.
        """
        if len(self.known) <= _CANDIDATES:
            candidates = np.union1d(self.known, self.ids)
            return candidates, np.zeros(len(candidates), np.float32)
        needed = np.union1d(tails, self.ids)
        sample = np.setdiff1d(self.random.choice(self.known, _CANDIDATES, replace=False), needed)
        candidates = np.union1d(needed, sample)
        left = len(self.known) + len(self.ids) - len(needed)
        offset = np.zeros(len(candidates), np.float32)
        offset[np.isin(candidates, sample)] = np.log(left / max(len(sample), 1))
        return candidates, offset


def _softmax(scores: Floats) -> tuple[Floats, Floats]:
    """The softmax of each row, in the memory of the scores, and log sum exp, (n, 1)."""
    if not scores.shape[1]:
        return scores, np.full((len(scores), 1), -np.inf, np.float32)
    largest = scores.max(axis=1, keepdims=True)
    scores -= largest
    np.exp(scores, out=scores)
    total = scores.sum(axis=1, keepdims=True)
    scores /= total
    return scores, largest + np.log(total)


def _places(ids: Integers, count: int) -> Integers:
    """The place of each of 0 ... count - 1 among the ids, -1 of those that are not there."""
    places = np.full(count, -1, np.int64)
    places[ids] = np.arange(len(ids))
    return places


def _length(rows: Floats) -> np.float32:
    """The size of a known weight (root mean square), the first step of a new one."""
    return np.float32(np.sqrt(np.mean(np.square(rows)))) if rows.size else np.float32(0.1)
