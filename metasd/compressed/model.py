"""A compressed model: questions in labels, answers in labels, straight from compressed tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from metasd import _C
from metasd.data.vocabulary import Vocabulary
from metasd.errors import InputError
from metasd.models import Scoring

from .known import KnownTriples
from .labels import Labels
from .table import Floats, Integers, Table, default_threads, dense_table

_BATCH = 256  # questions answered at a time
_SCORED = 64  # questions whose scores of all entities are held
_NONE = ("", "?")


class Question(NamedTuple):
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
class CompressedModel:
    """Tables, labels and known triples; made by `metasd.compress` or `from_pretrained`.

    Attributes:
        scoring: name of the scoring function.
        rank: coordinates an entity.
        entities: (roles * N, width), and `relations` (2R, width): inverse relations come second.
        entity_labels, relation_labels: of the N entities and the R relations.
        known: triples that answers leave out, or None if the model was saved without.
        temperature: of the softmax behind probabilities; see `calibrated`.
        about: where it comes from (JSON): training, protocol, metrics, graph.
        threads: of the engine; 0: OMP_NUM_THREADS, or all cores.
    """

    scoring: str
    rank: int
    entities: Table
    relations: Table
    entity_labels: Labels
    relation_labels: Labels
    known: KnownTriples | None = None
    temperature: float = 1.0
    about: dict[str, Any] = field(default_factory=dict)
    threads: int = 0

    def __post_init__(self) -> None:
        rank, how = self.rank, self._scoring
        wanted = {
            "entities": (how.entity_roles * self.num_entities, how.entity_width),
            "relations": (2 * self.num_relations, how.relation_width),
        }
        for name, shape in wanted.items():
            table: Table = getattr(self, name)
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
            f"{self.num_relations} relations, {self.entities.codec} {self.entities.values}, "
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
        """Tables as they are, fp32, asked like compressed ones.

        Args:
            entities: fp32 (roles * N, width). relations: (2R, width), inverses second.
            triples: int64 (n, 3) that answers leave out, or None.
        """
        known = None
        if triples is not None:
            known = KnownTriples.of(triples, vocabulary.num_entities, vocabulary.num_relations)
        return CompressedModel(
            scoring,
            rank,
            dense_table(entities),
            dense_table(relations),
            Labels.of(vocabulary.entities, vocabulary.entity_labels, "entity"),
            Labels.of(vocabulary.relations, {}, "relation"),
            known,
        )

    @staticmethod
    def from_pretrained(path: str | os.PathLike[str]) -> CompressedModel:
        """Reads a model folder; its files stay mapped, and must not be written to meanwhile.

        Raises:
            InputError: something is missing, damaged or hostile: which file, and what.
        """
        from .storage import load

        return load(Path(path))

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes a model folder, whole or not at all; only an older model is ever replaced."""
        from .storage import save

        save(self, Path(path))

    def to(self, device: str) -> CompressedModel:
        """The same model asked on `device`, a GPU such as `cuda`; needs torch and triton.

        Raises:
            InputError: there is no such device, or no torch.
        """
        try:
            from .device import DeviceTable
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
        """Of both tables, without labels and known triples."""
        return self.entities.nbytes + self.relations.nbytes

    def dense(self) -> tuple[Floats, Floats]:
        """What the tables decode to: fp32 entities (roles * N, width), relations (2R, width)."""
        return self.entities.dense(), self.relations.dense()

    def queries(self, entities: npt.ArrayLike, relations: npt.ArrayLike) -> Floats:
        """fp32 (B, width), whose product with the rows of tails are scores; relations below 2R."""
        return self._scoring.query(self.entities.decode(entities), self.relations.decode(relations))

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
        question = Question(head, relation or "", tail)
        found = self.answers([question], k, candidates=candidates, keep_known=keep_known)[0]
        return [(answer.label, answer.score) for answer in found]

    def answers(
        self,
        questions: Sequence[Question],
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        keep_known: bool = False,
    ) -> list[list[Answer]]:
        """The k entities that complete each triple best, the best first.

        Args:
            questions: labels, or human labels that only one entity has.
            k: at most how many answers; fewer if not so many entities are left.
            candidates: the entities to choose among; all of them if None.
            keep_known: answers that are in the graph already are not left out.

        Returns:
            For every question its answers. A probability is the softmax over all candidates, known
            answers among them, at the model's temperature.

        Raises:
            InputError: an unknown label (the nearest are named), not one of head and tail, k < 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1; got {k}")
        rows = None
        if candidates is not None:
            rows = np.unique([self.entity_labels.find(label) for label in candidates])
            rows = rows.astype(np.int64)
        asked = [self._ids(question) for question in questions]
        found: list[list[Answer]] = []
        for start in range(0, len(asked), _BATCH):
            given, relations = np.array(asked[start : start + _BATCH], dtype=np.int64).T
            ranked = self.best(given, relations, k, candidates=rows, keep_known=keep_known)
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
        """What `answers` does, in ids.

        Args:
            given: int64 (B,) heads, or tails where the relation is an inverse one.
            relations: int64 (B,) below 2R: from R on they are inverse.
            candidates: int64, sorted and without duplicates.

        Returns:
            entities int64 (B, k), -1 where no more are left; scores and probabilities fp32 (B, k).
        """
        known = None
        if self.known is not None and not keep_known:
            known = self.known.rows(given, relations)
            if candidates is not None:
                known = _within(*known, candidates)
        scores, places, total = self.entities.best(
            self.queries(given, relations),
            k,
            self.tail_offset,
            self.num_entities,
            rows=candidates,
            known=known,
            temperature=self.temperature,
            threads=self.threads,
        )
        share = np.exp(np.minimum(scores / self.temperature - total[:, None], 0))
        if candidates is not None and len(candidates):
            places = np.where(places >= 0, candidates[places], -1)
        return places, scores, share

    def _ids(self, question: Question) -> tuple[int, int]:
        head, relation, tail = question
        if not relation or (head is None) == (tail is None):
            raise InputError("a question has a relation and either a head or a tail")
        place = self.relation_labels.find(relation)
        if head is not None:
            return self.entity_labels.find(head), place
        return self.entity_labels.find(str(tail)), place + self.num_relations

    def answer_file(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        k: int = 10,
        *,
        keep_known: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Answers a TSV file of questions by a TSV file; returns how many questions there were.

        Args:
            source: lines `head<TAB>relation<TAB>tail`, one of head and tail empty or `?`.
            target: lines `head, relation, tail, rank, entity, label, score, probability` under a
                header, the entity in its place; written whole or not at all.
            progress: called with how many questions are answered, and how many there are.

        Raises:
            InputError: a line is no question, or names what the model does not know.
        """
        from metasd.files import write_atomically

        questions = list(_read_questions(Path(source)))
        for number, question in enumerate(questions, 1):
            try:
                self._ids(question)
            except InputError as error:
                raise InputError(f"{source}: line {number}: {error}") from None

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8") as file:
                file.write("head\trelation\ttail\trank\tentity\tlabel\tscore\tprobability\n")
                for start in range(0, len(questions), _BATCH):
                    part = questions[start : start + _BATCH]
                    found = self.answers(part, k, keep_known=keep_known)
                    for question, answers in zip(part, found, strict=True):
                        for rank, (entity, label, score, probability) in enumerate(answers, 1):
                            head, relation, tail = question
                            whole = (head or entity, relation, tail or entity, rank, entity, label)
                            file.write("\t".join(map(str, whole)))
                            file.write(f"\t{score:.6g}\t{probability:.6g}\n")
                    if progress is not None:
                        progress(start + len(part), len(questions))

        write_atomically(Path(target), write)
        return len(questions)

    def score(self, triples: Sequence[tuple[str, str, str]] | Integers) -> Floats:
        """Scores fp32 (n,) of triples: labels, or ids int64 (n, 3)."""
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
        """How many entities beat, and how many tie, the right answer of each question.

        Args:
            given, relations, targets: int64 (B,), ids; relations from R on ask for heads.
            known: of given and relations, the answers that do not count, as CSR arrays.
            progress: called with the number of questions done since the last call.
        """
        greater, equal = np.zeros(len(given), np.int64), np.zeros(len(given), np.int64)
        for start in range(0, len(given), _SCORED):
            part = slice(start, start + _SCORED)
            scores = self.entities.scores(
                self.queries(given[part], relations[part]),
                self.tail_offset,
                self.num_entities,
                threads=self.threads,
            )
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
        products = self.entities.scores(
            row, self.tail_offset, self.num_entities, threads=self.threads
        )[0]
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
            sample: at most how many of them are used.
        """
        if not len(triples):
            raise InputError("calibration needs triples")
        chosen = np.random.default_rng(seed).permutation(len(triples))[:sample]
        head, relation, tail = triples[chosen].T
        given, target = np.concatenate([head, tail]), np.concatenate([tail, head])
        asked = self.queries(given, np.concatenate([relation, relation + self.num_relations]))
        rows = self.entities.decode(self.tail_offset + target)
        right = np.einsum("ij,ij->i", asked, rows)

        def loss(logarithm: float) -> float:
            total = 0.0
            for start in range(0, len(asked), _BATCH):
                part = slice(start, start + _BATCH)
                _, _, mass = self.entities.best(
                    asked[part], 1, self.tail_offset, temperature=float(np.exp(logarithm))
                )
                total += float((mass - right[part] / np.exp(logarithm)).sum())
            return total

        low, high = np.log(0.05), np.log(20.0)
        golden = (5**0.5 - 1) / 2
        left, middle = high - golden * (high - low), low + golden * (high - low)
        at_left, at_middle = loss(left), loss(middle)
        for _ in range(12):
            if at_left < at_middle:
                high, middle, at_middle = middle, left, at_left
                left = high - golden * (high - low)
                at_left = loss(left)
            else:
                low, left, at_left = left, middle, at_middle
                middle = low + golden * (high - low)
                at_middle = loss(middle)
        return replace(self, temperature=round(float(np.exp((low + high) / 2)), 4))

    def info(self) -> dict[str, Any]:
        """Sizes in bytes, density, and how many times smaller than dense tables."""
        weights = sum(table.rows * table.width for table in (self.entities, self.relations))
        nonzero = self.entities.nonzero + self.relations.nonzero
        labels = self.entity_labels.text.nbytes + self.relation_labels.text.nbytes
        known = self.known.nbytes if self.known is not None else 0
        row_scales = 4 * (self.entities.rows + self.relations.rows)
        dense = {"fp32": 4 * weights, "fp16": 2 * weights, "int8": weights + row_scales}
        return {
            "model": f"{self.scoring}, rank {self.rank}",
            "entities": self.num_entities,
            "relations": self.num_relations,
            "codec": " ".join(
                dict.fromkeys((self.entities.codec, self.entities.columns, self.entities.values))
            ).replace("all ", ""),
            "weights": weights,
            "density": round(nonzero / weights, 6),
            "temperature": self.temperature,
            "bytes": {
                "tables": self.nbytes,
                "labels": labels,
                "known triples": known,
                "together": self.nbytes + labels + known,
            },
            "times smaller than dense": {
                f"{name} ({what})": round(size / mine, 2)
                for name, size in dense.items()
                for what, mine in (
                    ("tables", self.nbytes),
                    ("with labels and known triples", self.nbytes + labels + known),
                )
            },
        }


def _within(indptr: Integers, indices: Integers, rows: Integers) -> tuple[Integers, Integers]:
    """The same answers as places among the sorted `rows`, those that are not there dropped."""
    place = np.searchsorted(rows, indices)
    there = place < len(rows)
    there[there] = rows[place[there]] == indices[there]
    kept = np.concatenate([[0], np.cumsum(there)])
    return kept[indptr], place[there]


def _read_questions(path: Path) -> Iterator[Question]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        fields = line.removesuffix("\r").split("\t")
        if len(fields) != 3 or (fields[0] in _NONE) == (fields[2] in _NONE):
            raise InputError(
                f"{path}: line {number}: wanted head<TAB>relation<TAB>tail with ? for what is asked"
            )
        head, relation, tail = (None if value in _NONE else value for value in fields)
        yield Question(head, relation or "", tail)
