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

from .batching import PART_ITEMS, PART_WORK, Work
from .schema import NeighborsBody, QueryBody, ScoreBody, read_body, read_queries

_DEFAULT_K = 10
_ANSWER_WORK = 600  # what naming an answer takes, in scores
_TRIPLE_WORK = 5000  # what looking up the names of a triple takes
_FIELDS = ("id", "label", "score", "probability", "known")  # of an `Answer`


class _Asked(NamedTuple):
    """A query in ids.

    `alike` is what queries that are scored together share: k, candidates, typed, keep_known;
    `answer` is the answer without its entities.
    """

    ids: tuple[int, int]
    alike: tuple[int, tuple[int, ...] | None, bool, bool]
    answer: dict[str, Any]


class Part(NamedTuple):
    """Queries of one request, which are scored together.

    `of`: how many the request has; `first`: the place of the first of these among them.
    """

    queries: list[QueryBody]
    first: int
    of: int


class Predictor:
    """The predictions of a model, within limits; any thread may ask.

    Args:
        model: what ranks; every thread that asks it works alone.
        max_batch: queries in a request.
        max_k: answers to a query.
        max_work: scores in a request, and what else takes time counted as scores.
    """

    def __init__(self, model: CompressedModel, max_batch: int, max_k: int, max_work: int) -> None:
        self._model = replace(model, threads=1)
        self._labels = model.entity_labels
        self._max_batch = max_batch
        self._max_k, self._max_work = max_k, max_work
        self.relations = list(model.relation_labels)
        self.about = {
            "entities": model.num_entities,
            "relations": model.num_relations,
            "known_triples": 0 if model.known is None else len(model.known),
            "max_batch": max_batch,
            "max_k": min(max_k, model.num_entities),
        }
        self.entities("", 1)  # what is made when it is first needed is made now
        first = {"relation": self.relations[0], "k": 1}
        for side in ("head", "tail"):
            parts, _ = self.asked(to_json({**first, side: self._labels[0]}))
            self.respond([parts[0].item])

    def entities(self, prefix: str, limit: int) -> list[dict[str, str]]:
        """The id and the label of entities with a word that begins so, `limit` at most."""
        found: dict[int, None] = {}
        for place in self._labels.names.starting_with(prefix):
            found[place % len(self._labels)] = None
            if len(found) == limit:
                break
        return [self._named(place) for place in found]

    def asked(self, body: bytes) -> tuple[list[Work], bool]:
        """The parts of a request for predictions, and whether it is a list of queries.

        Raises:
            BadBody: it holds no query.
            InputError: it asks for too much.
        """
        found = read_queries(body)
        batch = found if isinstance(found, list) else [found]
        if len(batch) > self._max_batch:
            raise InputError(f"a batch has at most {self._max_batch} queries; got {len(batch)}")
        parts: list[Work] = []
        first = work = 0
        for i, query in enumerate(batch):
            one = self._work(query)
            if i > first and i - first >= PART_ITEMS and work + one > PART_WORK:
                parts.append(Work(Part(batch[first:i], first, len(batch)), work, i - first))
                first, work = i, 0
            work += one
        parts.append(Work(Part(batch[first:], first, len(batch)), work, len(batch) - first))
        self._check_work(sum(part.work for part in parts))
        return parts, isinstance(found, list)

    def respond(self, parts: Sequence[Part]) -> list[bytes | Exception]:
        """The JSON of the answers to each part, with commas between; queries alike together.

        Instead, an InputError where a part asks for too much, or for names that nothing has.
        """
        found: list[list[dict[str, Any]] | InputError] = []
        alike: defaultdict[Any, list[_Asked]] = defaultdict(list)
        for part in parts:
            try:
                asked = self._understood(part)
            except InputError as error:
                found.append(error)
                continue
            found.append([one.answer for one in asked])
            for one in asked:
                alike[one.alike].append(one)
        for (k, candidates, typed, keep_known), same in alike.items():
            rows = None if candidates is None else np.array(candidates, np.int64)
            ranked = self._model.answers_of_ids(
                [one.ids for one in same], k, candidates=rows, typed=typed, keep_known=keep_known
            )
            for one, best in zip(same, ranked, strict=True):
                one.answer["answers"] = [dict(zip(_FIELDS, answer, strict=True)) for answer in best]
                one.answer["hidden"] = best.num_hidden
        return [one if isinstance(one, Exception) else to_json(one)[1:-1] for one in found]

    def triples_asked(self, body: bytes) -> Work:
        """What `POST /score` asks for; errors as those of `asked`."""
        asked: ScoreBody = read_body(ScoreBody, body)
        if len(asked.triples) > self._max_batch:
            raise InputError(f"at most {self._max_batch} triples; got {len(asked.triples)}")
        return Work(asked, _TRIPLE_WORK * len(asked.triples))

    def scores(self, requests: Sequence[ScoreBody]) -> list[bytes | Exception]:
        """The body of the answer to each request for scores, or the error that is its answer."""
        return [self._response(self._scores, one) for one in requests]

    def neighbors_asked(self, body: bytes) -> Work:
        """What `POST /neighbors` asks for; errors as those of `asked`."""
        asked: NeighborsBody = read_body(NeighborsBody, body)
        work = 6 * self._model.num_entities + _ANSWER_WORK * self._checked_k(asked.k)
        self._check_work(work)
        return Work(asked, work)

    def neighbors(self, requests: Sequence[NeighborsBody]) -> list[bytes | Exception]:
        """The same of requests for neighbors."""
        return [self._response(self._neighbors, one) for one in requests]

    def _response(self, answer: Callable[[Any], Any], asked: BaseModel) -> bytes | Exception:
        try:
            return to_json(answer(asked))
        except InputError as error:
            return error

    def _scores(self, asked: ScoreBody) -> dict[str, Any]:
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

    def _work(self, query: QueryBody) -> int:
        """About how many scores could be computed in the time that a query takes."""
        answers = min(query.k or _DEFAULT_K, self._max_k, self._model.num_entities)
        ranked = self._model.num_entities
        if query.candidates is not None:
            ranked = (1 + _ANSWER_WORK) * len(query.candidates)  # each is looked up, too
        return ranked + _ANSWER_WORK * answers

    def _check_work(self, work: int) -> None:
        if work > self._max_work:
            raise InputError(
                f"a request takes at most {self._max_work} scores; this one about {work}: "
                "ask for less at a time"
            )

    def _understood(self, part: Part) -> list[_Asked]:
        """The queries in ids; an InputError in a batch says in which one it is."""
        found = []
        for i, query in enumerate(part.queries, part.first):
            try:
                found.append(self._asked(query))
            except InputError as error:
                raise InputError(f"[{i}]: {error}" if part.of > 1 else str(error)) from None
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
        return min(k, self._model.num_entities)

    def _named(self, entity: int) -> dict[str, str]:
        return {"id": self._labels[entity], "label": self._labels.human(entity)}
