"""Settings as they are written."""

import pytest

from metasd.config import Config
from metasd.errors import InputError
from metasd.settings import minutes, size_limit


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90s", 1.5),
        ("1m30s", 1.5),
        ("1h", 60),
        ("1h15m30s", 75.5),
        ("10m", 10),
        ("2.5m", 2.5),
        (".5h", 30),
        ("7", 7),
        ("0", 0),
    ],
)
def test_a_time_is_read_in_minutes(text: str, wanted: float) -> None:
    assert minutes(text) == wanted
    assert Config().override({"tune.budget": text}).tune.budget == wanted
    assert Config().override([f"tune.budget={text}"]).tune.budget == wanted


@pytest.mark.parametrize("text", ["", "5x", "30s1m", "1m30", "-1m", "1 h", "inf", "m", "1e3s"])
def test_what_is_no_time_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(InputError, match=r"tune.budget.* such as 90s, 1m30s, 10m, 2.5m or 1h; got"):
        Config().override({"tune.budget": text})


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("some", "'auto' or 'all' or a valid integer, unable to parse string as an integer"),
        (0, "'auto' or 'all' or greater than or equal to 1"),
    ],
)
def test_every_kind_of_value_that_a_setting_takes_is_named(value: object, wanted: str) -> None:
    with pytest.raises(InputError) as refused:
        Config().override({"train.candidates": value})
    assert str(refused.value) == f"train.candidates: input should be {wanted}; got {value!r}"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1/20", (0.05, None)),
        ("5%", (0.05, None)),
        ("2.5 %", (0.025, None)),
        ("0.1", (0.1, None)),
        ("3MB", (float("inf"), 3_000_000)),
        ("3 mib", (float("inf"), 3 << 20)),
        ("1.5kB", (float("inf"), 1500)),
        ("700B", (float("inf"), 700)),
    ],
)
def test_a_size_is_a_share_or_bytes(text: str, wanted: tuple[float, int | None]) -> None:
    assert size_limit(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "2", "0%", "100%", "1/0", "3TB", "3iB", "-1MB", "0MB", "5%MB"]
)
def test_what_is_no_size_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"a share of .* 1/20, 0.05 or 5%, or a size such as 300kB"
    ):
        size_limit(text)
