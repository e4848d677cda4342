"""Which columns are head, relation and tail: by their names, else by their order."""

from __future__ import annotations

from collections.abc import Sequence

from metasd.errors import InputError

FIELDS = {"h": "head", "r": "relation", "t": "tail"}

_NAMES = {
    "head": ("head", "subject", "source", "from", "src", "subj", "start", "head_id", "subject_id"),
    "relation": (
        *("relation", "predicate", "rel", "relationship", "edge", "edge_type", "property", "pred"),
        *("relation_id", "predicate_id", "label", "type"),
    ),
    "tail": ("tail", "object", "target", "to", "dst", "obj", "end", "tail_id", "object_id"),
}
_LETTERS = {"head": ("h", "s"), "relation": ("r", "p"), "tail": ("t", "o")}


def check_columns(columns: str) -> None:
    """InputError unless this is what ``load_graph`` takes."""
    if sorted(columns) != ["h", "r", "t"]:
        raise InputError(f'columns must be a permutation of "hrt", such as "htr"; got "{columns}"')


def named_columns(names: Sequence[str], *, letters: bool = True) -> list[int] | None:
    """The places of head, relation and tail among the names of columns.

    Args:
        names: such as head, relation and tail; subject, predicate and object; from, type and to.
        letters: also h, r, t and s, p, o.

    Returns:
        Three places, or None unless there is a name for each of the three.
    """
    plain = [name.strip().strip(":").casefold().replace(" ", "_") for name in names]
    found = []
    for field, known in _NAMES.items():
        known += _LETTERS[field] * letters
        places = [plain.index(name) for name in known if plain.count(name) == 1]
        if not places:
            return None
        found.append(places[0])
    return found


def looks_named(names: Sequence[str]) -> bool:
    """Whether the fields of a line may be names of columns rather than labels: most of them are."""
    known = {name for names in (*_NAMES.values(), *_LETTERS.values()) for name in names}
    return sum(name.strip().casefold() in known for name in names) >= 2


def choose_columns(names: Sequence[str], columns: str, where: object) -> list[int]:
    """The places of head, relation and tail: by name, else in the order that ``columns`` says.

    Raises:
        InputError: there are no such names, and the columns are not three.
    """
    if (places := named_columns(names)) is not None:
        return places
    if len(names) != 3:
        count = "1 column" if len(names) == 1 else f"{len(names)} columns"
        raise InputError(
            f"{where}: {count}, wanted 3, or columns named head, relation and tail; "
            f"got {', '.join(map(str, names[:6]))}{', ...' * (len(names) > 6)}"
        )
    return [columns.index(letter) for letter in FIELDS]
