"""Names by the beginning of their words, and names like another."""

import re

from hypothesis import given
from hypothesis import strategies as st

from metasd.compressed.name_index import NameIndex, _fold

LABELS = [
    "Paris",
    "Paris Saint-Germain",
    "land_reform.n.01",
    "",
    "University of Paris",
    "Zoë",
    "!!!",
]

texts = st.text("ab é_.ß", max_size=6)


def test_whole_names_come_before_words() -> None:
    names = NameIndex(LABELS)
    assert list(names.starting_with("paris")) == [0, 1, 4]
    assert list(names.starting_with("PARIS s")) == [1]
    assert list(names.starting_with("land refo")) == [2]
    assert list(names.starting_with("Land_Reform.n")) == [2]
    assert list(names.starting_with("zoe")) == list(names.starting_with("Zoë")) == [5]
    assert list(names.starting_with("!!")) == [6]
    assert list(names.starting_with("aris")) == []


def test_near_names() -> None:
    names = NameIndex(LABELS)
    assert names.near("Pariss", 1) == [0]
    assert names.near("land refrom", 2)[0] == 2
    assert 3 not in names.near("Paris", 100)
    assert names.near("", 3) == []


@given(st.lists(texts, min_size=1, max_size=12), texts)
def test_a_prefix_finds_what_a_scan_finds(labels: list[str], prefix: str) -> None:
    wanted = _fold(prefix)
    whole, words = [], []
    for place, label in enumerate(labels):
        folded = _fold(label)
        starts = [match.start() for match in re.finditer(r"(?<= )\w", folded)]
        whole += [place] if folded and folded.startswith(wanted) else []
        words += [place for i in starts if folded.startswith(wanted, i)]
    found = list(NameIndex(labels).starting_with(prefix))
    assert sorted(found[: len(whole)]) == whole
    assert sorted(found[len(whole) :]) == words
    folded = [_fold(labels[place]) for place in found[: len(whole)]]
    assert folded == sorted(folded)


@given(st.lists(texts, min_size=1, max_size=12))
def test_a_name_is_near_itself(labels: list[str]) -> None:
    names = NameIndex(labels)
    for label in labels:
        if len(_fold(label)) > 1:
            assert _fold(label) in [_fold(labels[place]) for place in names.near(label)]
