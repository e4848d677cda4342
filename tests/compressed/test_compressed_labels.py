"""Labels of a compressed model: found by label or human label, with suggestions."""

import pytest

from metasd.compressed.labels import Labels
from metasd.errors import InputError


def test_a_human_label_finds_its_entity_when_only_one_has_it() -> None:
    labels = Labels.of(["q1", "q2", "q3", "q4"], {"q1": "Ada", "q2": "Bo", "q4": "Bo"}, "entity")
    assert [labels.find(name) for name in ("q2", "Ada", "q4")] == [1, 0, 3]
    assert [labels.human(i) for i in range(4)] == ["Ada", "Bo", "q3", "Bo"]
    assert list(labels) == ["q1", "q2", "q3", "q4"]
    with pytest.raises(InputError, match=r'"Bo" names 2 entities \(q2, q4\)'):
        labels.find("Bo")
    with pytest.raises(IndexError):
        labels[4]
    with pytest.raises(InputError, match="tab"):
        Labels.of(["a\tb"], {}, "entity")
    with pytest.raises(InputError, match="twice"):
        Labels.of(["b", "a", "b"], {}, "entity")


def test_misspelt_names_are_suggested() -> None:
    names = {f"q{i}": f"Person number {i}" for i in range(300)}
    labels = Labels.of([*names, "rome"], {**names, "rome": "The City of Rome"}, "entity")
    with pytest.raises(InputError, match='did you mean "Person number 7"'):
        labels.find("Persn number 7")
    with pytest.raises(InputError, match='did you mean "The City of Rome"'):
        labels.find("citi of rome")
    with pytest.raises(InputError, match=r'no entity "zzz"$'):
        labels.find("zzz")
