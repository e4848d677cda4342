"""The names that an error message offers."""

from metasd.errors import nearest, one_of


def test_nearest() -> None:
    names = ["wn18rr", "FB15k-237", "/location/country/capital"]
    assert nearest("wn18r", names) == '; did you mean "wn18rr"?'
    assert nearest("fb15k-237", names) == '; did you mean "FB15k-237"?'
    assert nearest("capital", names) == '; did you mean "/location/country/capital"?'
    assert nearest("zzz", names) == ""
    assert nearest("cat", ["bat", "cart", "dog"], limit=2) == '; did you mean "cart" or "bat"?'


def test_a_choice_is_in_words() -> None:
    assert one_of(["a"]) == "a"
    assert one_of(["a", "b"]) == "a or b"
    assert one_of(("a", "b", "c")) == "a, b or c"
