"""The names that an error message offers."""

import random
import time

from metasd.errors import nearest


def test_nearest() -> None:
    names = ["wn18rr", "FB15k-237", "/location/country/capital"]
    assert nearest("wn18r", names) == '; did you mean "wn18rr"?'
    assert nearest("fb15k-237", names) == '; did you mean "FB15k-237"?'
    assert nearest("capital", names) == '; did you mean "/location/country/capital"?'
    assert nearest("zzz", names) == ""
    assert nearest("cat", ["bat", "cart", "dog"], limit=2) == '; did you mean "cart" or "bat"?'


def test_nearest_is_quick_on_long_lists() -> None:
    draw = random.Random(0)
    names = [
        "".join(draw.choices("abcdefghijklmnop ", k=draw.randrange(4, 30))) for _ in range(50_000)
    ]
    names.append("Mount Kilimanjaro")
    start = time.perf_counter()
    assert nearest("Mount Kilimanjarro", names) == '; did you mean "Mount Kilimanjaro"?'
    assert time.perf_counter() - start < 2
