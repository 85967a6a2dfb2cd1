from __future__ import annotations

import pytest

from geodistill.studies.formats import count, duration, one_line, p_value, unit


@pytest.mark.parametrize(
    ("number", "text"), [(22_713_216, "22.7 M"), (999_999, "1.0 M"), (1.3e9, "1.3 B"), (512, "512"), (12_300, "12.3 k")]
)
def test_count(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (float("nan"), "–"), (2.34, "2.3 s"), (59.97, "1:00 min"), (312, "5:12 min"), (3725, "1:02 h")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_p_value() -> None:
    assert [p_value(p) for p in (None, 0.0004, 0.001, 0.25)] == ["–", "<0.001", "0.001", "0.250"]


def test_a_name_is_printed_as_one_line_without_characters_that_are_not_seen() -> None:
    assert one_line(" a\u202e\tb ") == "a b" and one_line("a\nb\x1b[31m") == "a b [31m"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (1.234, "1.23 ms"), (54.06, "54.1 ms"), (3729.4, "3,729 ms"), (float("nan"), "–")],
)
def test_unit(value: float | None, text: str) -> None:
    assert unit(value, " ms") == text
