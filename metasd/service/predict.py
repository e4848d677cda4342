"""Predictions, scores and neighbors: from the bytes of a request to the bytes of its answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel
from pydantic_core import to_json

from metasd.compressed import CompressedModel, Query
from metasd.errors import InputError, error_context

from .schema import BadBody, NeighborsBody, QueryBody, ScoreBody, read_body, read_queries

_DEFAULT_K = 10
_FIELDS = ("id", "label", "score", "probability", "known")  # of an `Answer`


class _Asked(NamedTuple):
    """A query in ids.

    `alike` is what queries that are scored together share: k, candidates, typed, keep_known;
    `answer` is the answer without its entities.
    """

    ids: tuple[int, int]
    alike: tuple[int, tuple[int, ...] | None, bool, bool]
    answer: dict[str, Any]


class Predictor:
    """The predictions of a model, within limits; any thread may ask.

    Args:
        model: what ranks; every thread that asks it works alone.
        max_batch: queries in a request.
        max_k: answers to a query.
    """

    def __init__(self, model: CompressedModel, max_batch: int, max_k: int) -> None:
        self._model = replace(model, threads=1)
        self._labels = model.entity_labels
        self._max_batch = max_batch
        self._max_k = min(max_k, model.num_entities)
        self.relations = list(model.relation_labels)
        self.about = {
            "entities": model.num_entities,
            "relations": model.num_relations,
            "known_triples": 0 if model.known is None else len(model.known),
            "max_batch": max_batch,
            "max_k": self._max_k,
        }
        self.entities("", 1)  # what is made when it is first needed is made now
        first = {"relation": self.relations[0], "k": 1}
        self.respond([to_json({**first, side: self._labels[0]}) for side in ("head", "tail")])

    def entities(self, prefix: str, limit: int) -> list[dict[str, str]]:
        """The id and the label of entities with a word that begins so, `limit` at most."""
        found: dict[int, None] = {}
        for place in self._labels.names.starting_with(prefix):
            found[place % len(self._labels)] = None
            if len(found) == limit:
                break
        return [self._named(place) for place in found]

    def respond(self, bodies: Sequence[bytes]) -> list[bytes | Exception]:
        """The body of the answer to each body of a request; queries alike are scored together.

        Instead, an error: BadBody where a body holds no query, InputError where it asks for too
        much, or for names that nothing has.
        """
        found: list[Any] = []
        alike: defaultdict[Any, list[_Asked]] = defaultdict(list)
        for body in bodies:
            try:
                queries = read_queries(body)
                batch = queries if isinstance(queries, list) else [queries]
                asked = self._understood(batch)
            except (BadBody, InputError) as error:
                found.append(error)
                continue
            answers = [one.answer for one in asked]
            found.append(answers if isinstance(queries, list) else answers[0])
            for one in asked:
                alike[one.alike].append(one)
        for (k, candidates, typed, keep_known), part in alike.items():
            rows = None if candidates is None else np.array(candidates, np.int64)
            ranked = self._model.answers_of_ids(
                [one.ids for one in part], k, candidates=rows, typed=typed, keep_known=keep_known
            )
            for one, best in zip(part, ranked, strict=True):
                one.answer["answers"] = [dict(zip(_FIELDS, answer, strict=True)) for answer in best]
                one.answer["hidden"] = best.num_hidden
        return [one if isinstance(one, Exception) else to_json(one) for one in found]

    def scores(self, bodies: Sequence[bytes]) -> list[bytes | Exception]:
        """The body of the answer to each body of `POST /score`, or the error that is its answer."""
        return [self._response(self._scores, ScoreBody, body) for body in bodies]

    def neighbors(self, bodies: Sequence[bytes]) -> list[bytes | Exception]:
        """The same of `POST /neighbors`."""
        return [self._response(self._neighbors, NeighborsBody, body) for body in bodies]

    def _response(
        self, answer: Callable[[Any], Any], kind: type[BaseModel], body: bytes
    ) -> bytes | Exception:
        try:
            return to_json(answer(read_body(kind, body)))
        except (BadBody, InputError) as error:
            return error

    def _scores(self, asked: ScoreBody) -> dict[str, Any]:
        if len(asked.triples) > self._max_batch:
            raise InputError(f"at most {self._max_batch} triples; got {len(asked.triples)}")
        ids = []
        for i, triple in enumerate(asked.triples):
            with error_context(f"[{i}]"):
                ids.append(self._model.triple_ids([triple]))
        return {"scores": self._model.score_ids(np.concatenate(ids)).tolist()}

    def _neighbors(self, asked: NeighborsBody) -> dict[str, Any]:
        entity = self._labels.find(asked.entity)
        ids, cosines = self._model.neighbor_ids(entity, self._checked_k(asked.k))
        found = zip(ids.tolist(), cosines.tolist(), strict=True)
        return {
            "entity": self._named(entity),
            "neighbors": [{**self._named(place), "cosine": cosine} for place, cosine in found],
        }

    def _understood(self, batch: list[QueryBody]) -> list[_Asked]:
        """The queries in ids; an InputError in a batch says in which one it is."""
        if len(batch) > self._max_batch:
            raise InputError(f"a batch has at most {self._max_batch} queries; got {len(batch)}")
        found = []
        for i, query in enumerate(batch):
            try:
                found.append(self._asked(query))
            except InputError as error:
                raise InputError(f"[{i}]: {error}" if len(batch) > 1 else str(error)) from None
        return found

    def _asked(self, query: QueryBody) -> _Asked:
        k = self._checked_k(query.k)
        ids = self._model.query_ids(Query(query.head, query.relation, query.tail))
        candidates = None
        if query.candidates is not None:
            candidates = tuple(self._model.candidate_ids(query.candidates).tolist())
        if query.typed:
            self._model.check_typed(candidates)
        side = "tail" if query.head is None else "head"
        answer = {side: self._named(ids[0]), "relation": query.relation}
        return _Asked(ids, (k, candidates, query.typed, query.keep_known), answer)

    def _checked_k(self, k: int | None) -> int:
        k = k or min(_DEFAULT_K, self._max_k)
        if k > self._max_k:
            raise InputError(f"k must be 1 ... {self._max_k}; got {k}")
        return k

    def _named(self, entity: int) -> dict[str, str]:
        return {"id": self._labels[entity], "label": self._labels.human(entity)}
