from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from geodistill.data.labels import Labels, check_taught, is_missing, label_name, train_labels, with_names
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
        ([1.0, 2.0], Labels("classification", ["1", "2"])),
        (["1.0", 2, "3"], Labels("classification", ["1", "2", "3"])),
        (["1.10", "1.1"], Labels("regression")),
        (["a1.0", "a1"], Labels("classification", ["a1", "a1.0"])),
        (["1_0", "2.5"], Labels("classification", ["1_0", "2.5"])),
        (["US", "us", "Us"], Labels("classification", ["US", "Us", "us"])),
        ([True, 1], Labels("classification", ["1", "True"])),
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
    assert labels.encode(["7.0", Decimal("7.0"), "5.00"], "test") == [1, 1, 0]
    assert train_labels(["5.0", 7.0], None, "auto") == labels
    assert Labels("regression").encode(["1", 2, 0.5], "test") == [1.0, 2.0, 0.5]


@pytest.mark.parametrize("values", [[True, False], ["True", "False"], ["true", "false"], ["TRUE", "FALSE"]])
def test_truth_values_are_one_label_in_any_case(values: list[Any]) -> None:
    labels = train_labels(values, None, "auto")
    assert labels.names == sorted(map(str, values))
    assert labels.encode([True, "True", "true", "TRUE", False], "test") == [1, 1, 1, 1, 0]


def test_truth_values_that_training_tells_apart_are_compared_exactly() -> None:
    labels = train_labels(["true", "True", "false"], None, "auto")
    assert labels.names == ["True", "false", "true"]
    assert labels.encode(["true", True, "FALSE"], "test") == [2, 0, 1]
    with pytest.raises(GeodistillError, match="lacks: 'TRUE'"):
        labels.encode(["TRUE"], "test")


def test_labels_in_another_case_are_refused_and_told() -> None:
    with pytest.raises(GeodistillError, match=r"lacks: 'Spam'.*labels that differ in case, as 'spam' does, are two"):
        Labels("classification", ["ham", "spam"]).encode(["Spam"], "test")


def test_numbers_that_training_lacks_may_be_a_scale() -> None:
    with pytest.raises(GeodistillError, match=r"lacks: '2.5'.*data.problem=regression if labels are on a scale"):
        Labels("classification", ["2", "3"]).encode([2.5], "test")


@pytest.mark.parametrize(
    ("values", "class_names", "wanted", "reason"),
    [
        ([0.5, 1.0], None, "auto", "Regression, since labels are numbers and not all whole, such as 0.5."),
        ([1, 2], None, "regression", "Regression, as data.problem asks."),
        ([1, 2], None, "classification", "Classification, as data.problem asks."),
        (["a", "b"], None, "auto", "Classification, since labels are not numbers."),
        (["no", "yes"], ["no", "yes"], "auto", "Classification, since the data set names the classes."),
        (
            [1, "2"],
            None,
            "auto",
            "Classification, since labels are whole numbers; data.problem=regression takes them for a scale.",
        ),
        (
            ["0.0", "1.0"],
            None,
            "auto",
            "Classification, since labels are whole numbers, though some are written with a decimal point; "
            "data.problem=regression takes them for a scale.",
        ),
    ],
)
def test_the_problem_is_told_with_its_reason(
    values: list[Any], class_names: list[str] | None, wanted: str, reason: str
) -> None:
    assert train_labels(values, class_names, wanted).reason == reason


@pytest.mark.parametrize("make", [int, float, str, lambda number: f"text {number}"])
def test_a_label_for_nearly_every_row_is_asked_about(make: Callable[[int], Any]) -> None:
    values = [make(number % 90) for number in range(100)]
    with pytest.raises(GeodistillError, match=r"100 training rows have 90 different labels.*Set data.problem"):
        train_labels(values, None, "auto")
    assert len(train_labels(values, None, "classification").names) == 90
    assert len(train_labels(values * 2, None, "auto").names) == 90


@pytest.mark.parametrize("values", [["1", "nan"], [0.5, float("inf")], ["0.5", "nan"]])
def test_words_for_no_number_among_numbers_are_refused(values: list[Any]) -> None:
    labels = train_labels(values, None, "auto")
    with pytest.raises(GeodistillError, match="not a finite number"):
        labels.encode(values, "train")


def test_class_numbers_and_names() -> None:
    assert with_names([0, "1", "no", 7, -1, None, 1.0], ["no", "yes"]) == ["no", "yes", "no", 7, None, None, "yes"]
    assert with_names([0, 1], []) == [0, 1]
    assert with_names(["1", "0"], ["1", "2"]) == ["1", "1"]  # a number that is a name is that name


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


def test_a_class_without_training_rows() -> None:
    check_taught([0, 1, 1], [1, 0], ["cat", "dog"], "image")
    with pytest.raises(GeodistillError, match=r"label 'dog' is left: the images of all 2 are .* with other images"):
        check_taught([0, 1, 1], [0], ["cat", "dog"], "image")
