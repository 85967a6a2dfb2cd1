from __future__ import annotations

import pytest

from geodistill.data.columns import Columns
from geodistill.data.tables import Table
from geodistill.data.texts import Rows, clean, has_labels
from geodistill.errors import GeodistillError

COLUMNS = Columns("text", None, "label")


def test_rows_without_text_or_label_are_dropped_and_counted() -> None:
    notes: list[str] = []
    table = Table({"text": ["a", " ", None, "b", "c", float("nan")], "label": [0, 1, 1, None, 1, 0]})
    assert clean(table, COLUMNS, "train", notes) == Rows([0, 4], ["a", "c"], None, [0, 1])
    assert notes == [
        "3 of the 6 train rows have an empty text and were dropped.",
        "1 of the 6 train rows have no label and were dropped.",
    ]


def test_pair_needs_both_texts() -> None:
    table = Table({"a": ["x", "y"], "b": ["", "z"]})
    assert clean(table, Columns("a", "b", None), "train", []) == Rows([1], ["y"], ["z"], None)


def test_class_numbers_become_names() -> None:
    table = Table({"text": ["a", "b", "c"], "label": [1, -1, 0]}, {"label": ["no", "yes"]})
    assert clean(table, COLUMNS, "test", []).labels == ["yes", "no"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["", " "], "label": [0, 1]}, "train split is empty: none of its 2 rows has a text"),
        ({"text": ["a", "b"], "label": [None, ""]}, "train split is empty: none of its 2 rows has a label"),
        ({"text": ["a"], "target": [1]}, "no column 'label'; its columns are 'text', 'target'"),
        ({"text": [["a", "b"]], "label": [1]}, "holds a list"),
        ({"text": ["a"], "label": [{"x": 1}]}, "holds a dict"),
    ],
)
def test_bad_tables(columns: dict[str, list], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        clean(Table(columns), COLUMNS, "train", [])


@pytest.mark.parametrize("values", [[-1, -1], [-1.0], ["-1"], [None, None], [""]])
def test_split_without_labels(values: list) -> None:
    assert not has_labels(Table({"text": ["a"] * len(values), "label": values}), "label")


def test_minus_one_is_a_label_where_training_has_it() -> None:
    assert has_labels(Table({"label": ["-1.0"]}), "label", known={"-1", "1"})
    assert not has_labels(Table({"label": [None]}), "label", known={"-1", "1"})


def test_texts_keep_their_spaces() -> None:
    table = Table({"a": [" x ", "y"], "b": ["\tz\n", " "]})
    assert clean(table, Columns("a", "b", None), "train", []) == Rows([0], [" x "], ["\tz\n"], None)


def test_class_names_of_another_split() -> None:
    table = Table({"text": ["a", "b", "c", "d"], "label": ["1", "no", 7, -1]})
    assert clean(table, COLUMNS, "test", [], ["no", "yes"]).labels == ["yes", "no", 7]


def test_split_with_labels() -> None:
    assert has_labels(Table({"label": [-1, 1]}), "label")
    assert not has_labels(Table({"text": ["a"]}), "label")


def test_take() -> None:
    rows = Rows([5, 6, 7], ["a", "b", "c"], ["x", "y", "z"], [0, 1, 0])
    assert rows.take([2, 0]) == Rows([7, 5], ["c", "a"], ["z", "x"], [0, 0])
    assert rows.take([2, 0], range(2)).ids == [0, 1]
    assert rows.keys()[0] != Rows([0], ["a"], None, None).keys()[0]
