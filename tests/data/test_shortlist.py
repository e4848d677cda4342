"""Names like a misspelt one, from lists of any length."""

import random

from hypothesis import given
from hypothesis import strategies as st

from metasd.data.shortlist import inverse_counts, most_alike, pair_masks, shortlist
from metasd.errors import nearest


def test_a_long_list_gives_the_names_like_the_wanted_one() -> None:
    draw = random.Random(0)
    names = ["".join(draw.choices("abcdefghij ", k=draw.randrange(4, 30))) for _ in range(70_000)]
    names.insert(66_000, "Mount Kilimanjaro")
    names.insert(100, "the lake Tanganyika that lies in the east of the continent, and is deep")
    found = list(shortlist("mount kilimanjarro", names, 5, 1))
    assert "Mount Kilimanjaro" in found
    assert len(found) <= 12

    def suggested(name: str, limit: int = 1) -> str:
        return nearest(name, shortlist(name, iter(names), 200, limit), limit)

    assert suggested("mount kilimanjarro") == '; did you mean "Mount Kilimanjaro"?'
    assert "the lake Tanganyika" in suggested("Tanganyika", 3)
    assert suggested("") == suggested("qqqqqq") == ""


@given(st.lists(st.text(max_size=8), min_size=1, max_size=20), st.text(max_size=8))
def test_a_name_is_in_its_own_shortlist(names: list[str], name: str) -> None:
    names = [*names, name]
    assert len(pair_masks("".join(part.replace("\n", " ") + "\n" for part in names))) == len(names)
    if name.strip():
        assert name in list(shortlist(name, names, len(names), 0))


def test_among_equal_names_the_shorter_and_then_the_earlier_is_better() -> None:
    masks = pair_masks("paris france\nparis\nparis\nrome\n")
    assert most_alike("paris", masks, inverse_counts(masks), 3).tolist() == [1, 2, 0]
