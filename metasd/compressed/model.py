"""The compressed model: queries and answers in labels, computed from the compressed tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from metasd.data.filter_index import KnownAnswers
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError, error_context
from metasd.files import as_path

from .answers import (
    Answer,
    Answers,
    Query,
    as_ids,
    as_list,
    as_queries,
    check_k,
    find_sorted,
    places_among,
)
from .calibration import fit_temperature
from .description import describe, model_card, summary
from .hub import download, is_repo_id, upload
from .labels import Labels
from .scorer import Scorer
from .storage import load, save
from .table import Floats, Integers, dense_table

_BATCH = 256  # queries answered at a time


@dataclass(frozen=True, eq=False)
class CompressedModel(Scorer):
    """Tables, labels and known triples; made by `metasd.compress` or `from_pretrained`.

    Attributes: see `Scorer`, whose methods do in ids what these do in labels.
    """

    def __repr__(self) -> str:
        return "\n".join(summary(self))

    @staticmethod
    def of_tables(
        scoring: str,
        rank: int,
        entities: Floats,
        relations: Floats,
        vocabulary: Vocabulary,
        known: KnownAnswers | None = None,
    ) -> CompressedModel:
        """A model of tables as they are, fp32: a trained model answers like a compressed one.

        Args:
            scoring: name of the scoring function.
            rank: coordinates per entity.
            entities: fp32 (roles * N, width).
            relations: fp32 (2R, width), inverse relations second.
            vocabulary: the labels.
            known: triples that answers leave out, with packed keys.
        """
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
    def from_pretrained(
        path: str | os.PathLike[str], *, revision: str | None = None, endpoint: str | None = None
    ) -> CompressedModel:
        """Reads a model folder; its files stay mapped, and must not be written to meanwhile.

        Args:
            path: a folder; where there is none, as text: a model's name on the Hugging Face Hub,
                `user/model`, of which only the files of the format are downloaded.
            revision: a branch, tag or commit there.
            endpoint: the hub's address; by default that of HF_ENDPOINT, or huggingface.co.

        Raises:
            InputError: something is missing, damaged or hostile: which file, and what.
        """
        folder = as_path(path, "a compressed model")
        if is_repo_id(path) and not folder.exists():
            folder = download(str(path), revision, endpoint)
        parts = load(folder)
        with error_context(path):
            return CompressedModel(**vars(parts))

    def save_pretrained(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Writes a model folder, whole or not at all.

        Args:
            path: the folder; only an older model is ever replaced.
            overwrite: False refuses to replace that, too.

        Raises:
            InputError: there is something else at `path`, or it cannot be written.
        """
        save(self, as_path(path, "a compressed model"), model_card(self), overwrite)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, endpoint: str | None = None
    ) -> str:
        """Uploads the model to the Hugging Face Hub; the repository is made if there is none.

        Where the graph lies on this machine is left out.

        Args:
            repo_id: `user/model`. The token is that of HF_TOKEN or `hf auth login`.
            private: of a new repository.
            endpoint: as for `from_pretrained`.

        Returns:
            The address of the commit; InputError where the upload is not allowed or not possible.
        """
        about = dict(self.about)
        if isinstance(graph := about.get("graph"), dict):
            about["graph"] = {key: value for key, value in graph.items() if key != "source"}
        pushed = replace(self, about=about)
        return upload(pushed, model_card(pushed, repo_id), repo_id, private, endpoint)

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

    def query_vectors(self, queries: Sequence[Query]) -> Floats:
        """The rows of `queries`, of labels: their products with the rows of tails are scores.

        Returns:
            fp32 (B, width).

        Raises:
            InputError: an unknown label, or not one of head and tail.
        """
        ids = [self.query_ids(query) for query in as_queries(queries)]
        entities, relations = np.array(ids, dtype=np.int64).reshape(-1, 2).T
        return self.queries(entities, relations)

    def predict(
        self,
        head: str | None = None,
        relation: str | None = None,
        tail: str | None = None,
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        typed: bool = False,
        keep_known: bool = False,
    ) -> list[tuple[str, float]]:
        """The k best completions of one triple: [(label, score), ...]; see `answers`."""
        query = Query(head, "" if relation is None else relation, tail)
        found = self.answers([query], k, candidates=candidates, typed=typed, keep_known=keep_known)
        return [(answer.label, answer.score) for answer in found[0]]

    def answers(
        self,
        queries: Sequence[tuple[str | None, str, str | None]],
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        typed: bool = False,
        keep_known: bool = False,
    ) -> list[Answers]:
        """The k entities that complete each triple best, the best first.

        Args:
            queries: (head, relation, tail), None for what is asked: labels, or human labels that
                only one entity has.
            k: answers per query, at most; fewer if fewer entities are left.
            candidates: the entities to choose among, known answers or not; all of them if None.
            typed: choose among the entities that known triples have in that place of the relation.
            keep_known: also gives known answers, which are in the graph already.

        Returns:
            The answers of each query, and which known ones were left out. A probability is the
            softmax over all candidates, known answers among them, at the model's temperature.

        Raises:
            InputError: an unknown label (the nearest are named), not one of head and tail, k < 1,
                `typed` of a model without known triples or beside candidates.
        """
        rows = None if candidates is None else self.candidate_ids(candidates)
        ids = [self.query_ids(query) for query in as_queries(queries)]
        return self.answers_of_ids(ids, k, candidates=rows, typed=typed, keep_known=keep_known)

    def query_ids(self, query: Query) -> tuple[int, int]:
        """The given entity of a query and its relation, which is an inverse one if heads are asked.

        Raises:
            InputError: an unknown label (the nearest are named), or not one of head and tail.
        """
        head, relation, tail = query
        given = head if tail is None else tail
        unnamed = relation is None or (isinstance(relation, str) and not relation)
        if unnamed or given is None or (head is not None and tail is not None):
            raise InputError("a query has a relation and either a head or a tail")
        place = self.relation_labels.find(relation)
        return self.entity_labels.find(given), place + self.num_relations * (head is None)

    def candidate_ids(self, labels: Sequence[str]) -> Integers:
        """The ids of candidates, int64, sorted and without duplicates; see `answers`."""
        labels = as_list(labels, "candidates are a list of labels")
        return np.unique(np.array([self.entity_labels.find(label) for label in labels], np.int64))

    def answers_of_ids(
        self,
        queries: Sequence[tuple[int, int]],
        k: int = 10,
        *,
        candidates: Integers | None = None,
        typed: bool = False,
        keep_known: bool = False,
    ) -> list[Answers]:
        """What `answers` does, in ids: those of `query_ids` and `candidate_ids`."""
        k = check_k(k)
        pairs = as_ids(queries, 2, "queries")
        groups = [(np.arange(len(pairs)), candidates)]  # places in `queries`, their candidates
        if typed:
            known = self.check_typed(candidates)
            groups = [
                (np.flatnonzero(pairs[:, 1] == r), known.entities_of(r))
                for r in np.unique(pairs[:, 1]).tolist()
            ]
        hide_known = not keep_known and candidates is None
        found: dict[int, Answers] = {}
        for places, rows in groups:
            for start in range(0, len(places), _BATCH):
                part = places[start : start + _BATCH]
                given, asked = pairs[part].T
                answers = self._answer(given, asked, k, rows, hide_known)
                found |= zip(part.tolist(), answers, strict=True)
        return [found[i] for i in range(len(pairs))]

    def check_typed(self, candidates: object = None) -> KnownAnswers:
        """What `typed` reads; InputError where it cannot be: no known triples, or candidates."""
        if candidates is not None:
            raise InputError("give either candidates or typed")
        if self.known is None:
            raise InputError("typed needs known triples, and this model stores none")
        return self.known

    def _answer(
        self,
        given: Integers,
        relations: Integers,
        k: int,
        candidates: Integers | None,
        hide_known: bool,
    ) -> Iterator[Answers]:
        """The answers to a batch of queries; arguments as for `best`."""
        known = None if self.known is None else self.known.rows(given, relations)
        hidden = known if hide_known else None
        if hidden is not None and candidates is not None:
            hidden = places_among(*hidden, candidates)
        ids, scores, total = self.best(given, relations, k, candidates, hidden)
        for i, query in enumerate(zip(given, relations, total, strict=True)):
            kept = ids[i] >= 0
            own = None if known is None else known[1][known[0][i] : known[0][i + 1]]
            answers = self._named(ids[i, kept], scores[i, kept], total[i], own)
            if own is None or not hide_known:
                yield Answers(answers)
            else:
                yield Answers(answers, len(own), partial(self._known_answers, *query, own))

    def _named(
        self, ids: Integers, scores: Floats, total: float, known: Integers | None
    ) -> list[Answer]:
        """Answers from ids and scores; `known` are the sorted known answers of their query."""
        shares = np.exp(np.minimum(scores / self.temperature - total, 0))
        marks: list[bool | None] = [None] * len(ids)
        if known is not None:
            marks = find_sorted(known, ids)[1].tolist()
        columns = (ids.tolist(), scores.tolist(), shares.tolist(), marks)
        return [
            Answer(self.entity_labels[i], self.entity_labels.human(i), *rest)
            for i, *rest in zip(*columns, strict=True)
        ]

    def _known_answers(
        self, given: int, relation: int, total: float, known: Integers
    ) -> list[Answer]:
        """The known answers of one query, the best first."""
        query = np.array([given]), np.array([relation])
        ids, scores, _ = self.best(*query, len(known), known)
        return self._named(ids[0], scores[0], total, known)

    def score(self, triples: Sequence[tuple[str, str, str]] | npt.NDArray[Any]) -> Floats:
        """The scores of triples, fp32 (n,).

        Args:
            triples: (head, relation, tail) in labels, or ids int64 (n, 3), inverse relations too.

        Raises:
            InputError: an unknown label, another shape, or an id out of range.
        """
        return self.score_ids(self.triple_ids(triples))

    def ranks(
        self, triples: Sequence[tuple[str, str, str]] | npt.NDArray[Any]
    ) -> npt.NDArray[np.float64]:
        """The ranks of each triple's head and tail among all entities, float64 (n, 2); 1 is best.

        Other known answers are left out, as in filtered evaluation; with ties, the mean of the best
        and the worst rank that the score allows.
        """
        head, relation, tail = self.triple_ids(triples).T
        if self.known is None:
            raise InputError("ranks leave out known triples, and this model stores none")
        asked = relation + self.num_relations, relation
        counts = [
            self.rank_targets(given, relations, targets, self.known.rows)
            for given, relations, targets in ((tail, asked[0], head), (head, asked[1], tail))
        ]
        return np.stack([1 + greater + equal / 2 for greater, equal in counts], axis=1)

    def triple_ids(self, triples: Sequence[tuple[str, str, str]] | npt.NDArray[Any]) -> Integers:
        """Triples in ids, int64 (n, 3); ids stay as they are."""
        if isinstance(triples, np.ndarray) and triples.dtype.kind in "iu":
            return as_ids(triples, 3, "triples")
        ids = []
        wanted = "triples are a list of (head, relation, tail)"
        for triple in as_list(triples, wanted):
            if not isinstance(triple, tuple | list | np.ndarray) or len(triple) != 3:
                raise InputError(f"{wanted}; one of them is {triple!r:.80}")
            head, relation, tail = triple
            entities = self.entity_labels.find(head), self.entity_labels.find(tail)
            ids.append((entities[0], self.relation_labels.find(relation), entities[1]))
        return np.array(ids, dtype=np.int64).reshape(-1, 3)

    def embedding(self, label: str) -> Floats:
        """An entity's row, fp32; of a model with two roles, as a head and then as a tail."""
        place = self.entity_labels.find(label)
        return self.entities.decode(np.arange(place, self.entities.rows, self.num_entities)).ravel()

    def neighbors(self, label: str, k: int = 10) -> list[tuple[str, float]]:
        """The k entities whose rows point in the most similar direction: [(label, cosine), ...]."""
        ids, cosines = self.neighbor_ids(self.entity_labels.find(label), check_k(k))
        names = map(self.entity_labels.human, ids.tolist())
        return list(zip(names, cosines.tolist(), strict=True))

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
