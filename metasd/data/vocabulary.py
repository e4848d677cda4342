"""The labels behind the ids of a graph, and the files that keep them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from metasd.errors import InputError
from metasd.files import write_lines

from .bounded import file_errors, open_lines
from .mapped_labels import MappedHuman, MappedIds, MappedLabels, find_label


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """The labels behind the ids: what turns a user's words into ids and ids back into words.

    Attributes:
        entities: raw labels as in the data; the index is the id.
        relations: likewise, without inverse relations.
        entity_labels: raw label -> human label, for the entities that have one.
        relation_labels: likewise.

    Entities are a list and their labels a dict; or both stay in a file (``mapped_labels``), and so
    does what is made of them here.
    """

    entities: Sequence[str]
    relations: list[str]
    entity_labels: Mapping[str, str] = field(default_factory=dict)
    relation_labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_entities(self) -> int:
        return len(self.entities)

    @property
    def num_relations(self) -> int:
        """How many relations the data have; inverse relations are not counted."""
        return len(self.relations)

    @cached_property
    def entity_to_id(self) -> Mapping[str, int]:
        if isinstance(self.entities, MappedLabels):
            return MappedIds(self.entities)
        return {label: i for i, label in enumerate(self.entities)}

    @cached_property
    def relation_to_id(self) -> dict[str, int]:
        return {label: i for i, label in enumerate(self.relations)}

    @cached_property
    def _by_human_label(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for raw, human in self.entity_labels.items():
            if raw in self.entity_to_id:
                found.setdefault(human, []).append(self.entity_to_id[raw])
        return found

    def _called(self, human: str) -> list[int]:
        """The entities with this human label."""
        if isinstance(self.entity_labels, MappedHuman):
            return self.entity_labels.by_id.places(human)
        return self._by_human_label.get(human, [])

    def human_labels(self) -> Iterator[str]:
        """By id, the human label of each entity, or an empty string."""
        human = self.entity_labels
        if isinstance(human, MappedHuman):
            return iter(human.by_id)
        return (human.get(raw, "") for raw in self.entities)

    def entity_id(self, text: str) -> int:
        """The id of an entity given by its raw label or by a human label that only it has.

        Raises:
            InputError: nothing is called that (the nearest names are suggested), or several are.
        """
        raw = self.entity_to_id.get(text)
        found = [] if raw is None else [raw]
        human = [] if found else self._called(text)
        near = chain(self.entities, filter(None, self.human_labels()))
        return find_label(text, self.entities, found, human, near)

    def relation_id(self, text: str) -> int:
        """The id of a relation, given like an entity; InputError with the nearest names if none."""
        raw = self.relation_to_id.get(text)
        found = [] if raw is None else [raw]
        names = [self.relation_labels.get(raw, "") for raw in self.relations]
        human = [i for i, name in enumerate(names) if name == text and not found]
        near = chain(self.relations, filter(None, names))
        return find_label(text, self.relations, found, human, near, "relation")

    def entity_name(self, entity: int) -> str:
        """The human label of an entity where there is one, else the raw label."""
        raw = self.entities[entity]
        return self.entity_labels.get(raw, raw)

    def relation_name(self, relation: int) -> str:
        """The human label of a relation where there is one, else the raw label."""
        raw = self.relations[relation]
        return self.relation_labels.get(raw, raw)

    def save_vocabulary(self, folder: str | os.PathLike[str]) -> None:
        """Write ``entities.tsv`` and ``relations.tsv``, each whole or not at all.

        Lines are ``id<TAB>label``; where there are human labels, a third column has them, empty for
        those without one.

        Raises:
            InputError: a label holds a tab, a line break or NUL.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        of_entities = self.human_labels() if self.entity_labels else None
        of_relations = None
        if self.relation_labels:
            of_relations = (self.relation_labels.get(raw, "") for raw in self.relations)
        relations = list(_lines(self.relations, of_relations, "relation"))
        write_lines(folder / "entities.tsv", _lines(self.entities, of_entities, "entity"))
        write_lines(folder / "relations.tsv", relations)


def _lines(labels: Sequence[str], human: Iterator[str] | None, what: str) -> Iterator[str]:
    """Lines of a file of labels."""
    for i, raw in enumerate(labels):
        _check_label(raw, what)
        line = f"{i}\t{raw}"
        if human is not None:
            label = next(human)
            _check_label(label, "human label")
            line += f"\t{label}"
        yield line


def load_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """Read what ``save_vocabulary`` wrote.

    Raises:
        InputError: a file is missing, or a line is not ``id<TAB>label`` with ids 0, 1, 2, ...
    """
    entities, human = _read_ids(Path(folder) / "entities.tsv")
    relations, of_relations = _read_ids(Path(folder) / "relations.tsv")
    return Vocabulary(
        entities=entities,
        relations=relations,
        entity_labels=human,
        relation_labels=of_relations,
    )


def _read_ids(path: Path) -> tuple[list[str], dict[str, str]]:
    """Labels by id, and raw label -> human label from the third column where it is filled."""
    labels: list[str] = []
    human: dict[str, str] = {}
    with file_errors(path), open_lines(path) as file:
        for i, line in enumerate(file):
            try:
                number, *rest = line.decode().removesuffix("\n").split("\t")
            except UnicodeDecodeError:
                raise InputError(f"{path}: not UTF-8 text") from None
            if number != str(i) or len(rest) not in (1, 2) or not rest[0]:
                raise InputError(f"{path}: line {i + 1}: wanted {i}<TAB>label")
            labels.append(rest[0])
            if len(rest) == 2 and rest[1]:
                human[rest[0]] = rest[1]
    if not labels:
        raise InputError(f"{path}: line 1: wanted 0<TAB>label")
    return labels, human


def _check_label(label: str, what: str) -> None:
    if any(mark in label for mark in "\t\n\r\0"):
        raise InputError(f"{what} {label!r} holds a tab, a line break or NUL")
