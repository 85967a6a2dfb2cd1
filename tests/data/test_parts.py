from __future__ import annotations

import pytest

from geodistill.data.parts import choose_splits, complete, cut_parts, limited
from geodistill.data.sources import Source
from geodistill.data.tables import Table
from geodistill.data.texts import Rows
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


def source(*names: str) -> Source:
    return Source({name: lambda: Table({}) for name in names})


def rows(count: int, start: int = 0) -> Rows:
    texts = [f"text {number}" for number in range(start, start + count)]
    return Rows(list(range(count)), texts, None, None)


def test_parts_are_found_under_their_names() -> None:
    assert choose_splits(source("train", "dev"), DataRecipe()) == {"train": "train", "validation": "dev"}
    named = DataRecipe(train_split="fit", test_split="held")
    assert choose_splits(source("fit", "held", "more"), named) == {"train": "fit", "test": "held"}


def test_one_split_is_not_trained_and_measured_on() -> None:
    with pytest.raises(GeodistillError, match="asked for twice"):
        choose_splits(source("train"), DataRecipe(test_split="train"))


def test_validation_and_test_by_one_name_are_a_validation_split() -> None:
    recipe = DataRecipe(test_split="validation")
    assert choose_splits(source("train", "validation"), recipe) == {"train": "train", "validation": "validation"}


def test_missing_parts_are_cut_from_train() -> None:
    notes: list[str] = []
    parts = complete({"train": rows(100)}, DataRecipe(), notes)
    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "validation": 10, "test": 20}
    assert notes == []
    assert parts["test"].ids == list(range(20))


def test_what_is_there_stays_whole() -> None:
    given = {"train": rows(20), "validation": rows(4, 20), "test": rows(5, 30)}
    assert complete(given, DataRecipe(), []) == given


def test_too_few_to_cut() -> None:
    with pytest.raises(GeodistillError, match="2 training rows are too few to cut a validation part"):
        cut_parts({"train": rows(2)}, {"validation": 0.1}, seed=0)


def test_a_limit_is_of_each_part() -> None:
    parts = limited({"train": rows(10), "test": rows(3)}, DataRecipe(limit=5))
    assert (len(parts["train"]), len(parts["test"])) == (5, 3)
