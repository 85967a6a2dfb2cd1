from __future__ import annotations

from typing import Any

import pytest

from geodistill.data.label_lists import (
    Gathered,
    LabelLists,
    are_several,
    gather_labels,
    label_values,
    lacks_label,
    train_label_lists,
    with_one_label,
)
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

FLAGS = [Gathered({"toxic": "0", "insult": "1"}), Gathered({"toxic": "1.0", "insult": "0"})]
VALUES = [Gathered({"x": "0.5", "y": "1"}), Gathered({"x": "2", "y": "-1"})]


@pytest.mark.parametrize(
    ("values", "class_names", "wanted", "expected", "reason"),
    [
        (
            [["b", "a"], [], ["c"]],
            None,
            "auto",
            LabelLists("multi_label", ["a", "b", "c"]),
            "labels of a row are a list",
        ),
        ([[10, 9], [1]], None, "auto", LabelLists("multi_label", ["1", "9", "10"]), "are a list"),
        ([["b"]], ["c", "b"], "multi_label", LabelLists("multi_label", ["c", "b"]), "as data.problem asks"),
        ([[0.5, 1], [2, 3]], None, "auto", LabelLists("regression", width=2), "not all whole"),
        ([[1, 2], [2, 3]], None, "regression", LabelLists("regression", width=2), "as data.problem asks"),
        (
            FLAGS,
            None,
            "auto",
            LabelLists("multi_label", ["toxic", "insult"], width=2),
            "'toxic', 'insult' hold 0 and 1",
        ),
        (FLAGS, None, "regression", LabelLists("regression", ["toxic", "insult"], width=2), "as data.problem asks"),
        (VALUES, None, "auto", LabelLists("regression", ["x", "y"], width=2), "'x', 'y' hold numbers"),
    ],
)
def test_problem_by_its_labels(
    values: list[Any], class_names: list[str] | None, wanted: str, expected: LabelLists, reason: str
) -> None:
    found = train_label_lists(values, class_names, wanted)
    assert found == expected
    assert reason in found.reason


def test_a_label_is_the_numbers_of_its_names() -> None:
    labels = LabelLists("multi_label", ["a", "b", "c"])
    assert labels.encode([["c", "a"], [], ["b", "b"]], "test") == [[0, 2], [], [1]]
    assert LabelLists("multi_label", ["1", "2"]).encode([[1, 2.0], ["2 "]], "test") == [[0, 1], [1]]
    flags = LabelLists("multi_label", ["toxic", "insult"])
    assert flags.encode(
        [*FLAGS, Gathered({"toxic": True, "insult": "False"}), Gathered({"toxic": 0, "insult": 0.0})], "test"
    ) == [
        [1],
        [0],
        [0],
        [],
    ]


def test_values_of_a_regression() -> None:
    assert LabelLists("regression", width=2).encode([[1, "2.5"]], "test") == [[1.0, 2.5]]
    assert LabelLists("regression", ["x", "y"], width=2).encode(VALUES, "test") == [[0.5, 1.0], [2.0, -1.0]]
    assert LabelLists("regression", ["x"], width=1).encode([Gathered({"x": "3"})], "test") == [3.0]


@pytest.mark.parametrize(
    ("labels", "value", "message"),
    [
        (LabelLists("multi_label", ["a"]), ["a", "z"], "the dev split has labels that training lacks: 'z'"),
        (LabelLists("multi_label", ["a"]), ["A"], "labels that training lacks: 'A'"),
        (LabelLists("multi_label", ["a"]), "a", "other labels are lists"),
        (LabelLists("multi_label", ["a"]), Gathered({"a": -1}), "column 'a' holds '-1', which is neither 0 nor 1"),
        (LabelLists("regression", width=2), [1.0], "but should be 2 finite numbers"),
        (LabelLists("regression", width=2), [1.0, "inf"], "but should be 2 finite numbers"),
        (LabelLists("regression", width=2), 1.0, "but should be 2 finite numbers"),
    ],
)
def test_a_label_that_does_not_fit(labels: LabelLists, value: Any, message: str) -> None:
    with pytest.raises(GeodistillError, match=f"(?i){message}"):
        labels.encode([value], "dev")


@pytest.mark.parametrize(
    ("values", "wanted", "message"),
    [
        ([["a"]], "classification", r"one label in each row.*multi_label"),
        ([["a"], "b"], "auto", "Some training labels are lists"),
        ([[], "b"], "auto", "Some training labels are lists"),
        ([[1.5], [1, 2]], "auto", "lists of a regression have different lengths, from 1 to 2"),
        ([[0, 1, 0], [1, 1, 0]], "auto", r"0 or 1 for each label.*data.label=\[COLUMN, COLUMN\]"),
        ([[], []], "auto", "No training row has a label"),
    ],
)
def test_labels_that_cannot_be_read(values: list[Any], wanted: str, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        train_label_lists(values, None, wanted)


def test_an_empty_list_is_a_label_and_a_missing_value_is_none() -> None:
    assert not any(lacks_label(value) for value in ([], ["a"], Gathered({"a": 0}), 0, "a"))
    assert all(lacks_label(value) for value in (None, "", [None], ["a", ""], Gathered({"a": 1, "b": ""}), float("nan")))
    assert are_several([[]]) and are_several([Gathered({"a": 1})]) and not are_several(["a", 1])


def test_class_numbers_become_names_in_lists_too() -> None:
    assert label_values([[1, 0], [], None, [-1]], ["x", "y"]) == [["y", "x"], [], None, [None]]
    assert label_values([["a"]], None) == [["a"]]


def test_label_columns_are_gathered_in_one() -> None:
    table = Table({"text": ["u", "v"], "toxic": [0, 1], "insult": [1, 1]})
    gathered = gather_labels(table, ["insult", "toxic"])
    assert gathered.columns["insult + toxic"] == [
        Gathered({"insult": 1, "toxic": 0}),
        Gathered({"insult": 1, "toxic": 1}),
    ]
    assert with_one_label(DataRecipe(label=["insult", "toxic"])).label == "insult + toxic"
    assert with_one_label(DataRecipe(label="toxic")).label == "toxic"
    assert gather_labels(Table({"text": ["u"]}), ["insult", "toxic"]).columns == {"text": ["u"]}
    with pytest.raises(GeodistillError, match="no column 'rude'"):
        gather_labels(table, ["toxic", "rude"])
