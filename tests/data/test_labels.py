from __future__ import annotations

from typing import Any

import pytest

from geodistill.data.labels import Labels, is_missing, label_name, train_labels
from geodistill.errors import GeodistillError


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0, 1], Labels("classification", ["0", "1"])),
        (["1", "0", "10", "2"], Labels("classification", ["0", "1", "2", "10"])),
        ([-1, 1], Labels("classification", ["-1", "1"])),
        (["spam", "ham"], Labels("classification", ["ham", "spam"])),
        (["b", "2", "nan", "a"], Labels("classification", ["2", "a", "b", "nan"])),
        ([True, False], Labels("classification", ["False", "True"])),
        ([0.5, 2.0], Labels("regression")),
        ([1.0, 2.0], Labels("regression")),
        (["0.5", "3"], Labels("regression")),
        (["+1", "-1"], Labels("classification", ["+1", "-1"])),
    ],
)
def test_problem_by_its_labels(values: list[Any], expected: Labels) -> None:
    found = train_labels(values, None, "auto")
    assert found.problem == expected.problem
    assert sorted(found.names) == sorted(expected.names)


def test_names_are_sorted_as_numbers_where_they_are() -> None:
    assert train_labels(["10", "9", "x", "1"], None, "auto").names == ["1", "9", "10", "x"]


def test_problem_by_request() -> None:
    assert train_labels([1, 2, 3], None, "regression") == Labels("regression")
    assert train_labels([1.0, 2.0, 2.5], None, "classification") == Labels("classification", ["1", "2", "2.5"])
    assert train_labels(["a", "b"], ["b", "a", "c"], "auto") == Labels("classification", ["b", "a", "c"])


def test_encoding_agrees_between_formats() -> None:
    labels = train_labels([5, 7], None, "auto")
    assert labels.encode(["7", 7, 7.0, " 5 "], "test") == [1, 1, 1, 0]
    assert Labels("regression").encode(["1", 2, 0.5], "test") == [1.0, 2.0, 0.5]


def test_label_that_training_lacks() -> None:
    with pytest.raises(
        GeodistillError, match=r"validation split has labels that training lacks: 'c', 'd' \(training has"
    ):
        Labels("classification", ["a", "b"]).encode(["a", "d", "c"], "validation")


def test_many_labels_are_listed_in_short() -> None:
    with pytest.raises(GeodistillError, match=r"… \(50 in all\)"):
        Labels("classification", ["a", "b"]).encode([str(i) for i in range(50)], "test")


def test_one_label_only() -> None:
    with pytest.raises(GeodistillError, match="All training labels are the same: 'a'"):
        train_labels(["a", "a"], None, "auto")


@pytest.mark.parametrize("value", ["three", float("inf")])
def test_label_that_is_no_number(value: Any) -> None:
    with pytest.raises(GeodistillError, match="not a finite number"):
        Labels("regression").encode([value], "train")


def test_missing() -> None:
    assert all(is_missing(value) for value in (None, "", "  ", float("nan")))
    assert not any(is_missing(value) for value in (0, False, "0", 0.0, -1))
    assert label_name(2.0) == label_name(2) == label_name("2 ") == "2"
