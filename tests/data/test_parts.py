from __future__ import annotations

import random
from collections import Counter

import pytest

from geodistill.data.parts import complete, cut, cut_parts, limited, sample, text_key
from geodistill.data.texts import Rows
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

KEYS = [f"text {i}" for i in range(1000)]
STRATA = [i % 10 == 0 for i in range(1000)]
SHARES = {"test": 0.2, "validation": 0.1}


def rows(count: int, start: int = 0) -> Rows:
    texts = [f"text {number}" for number in range(start, start + count)]
    return Rows(list(range(count)), texts, None, None)


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


def test_text_key_ignores_case_and_white_space_only() -> None:
    assert text_key(" What  is\tIT ?") == text_key("what is it ?")
    assert text_key("what is it?") != text_key("what is it ?")
    assert text_key("a", "b") != text_key("a b")


def test_parts_are_stratified_and_disjoint() -> None:
    parts = cut(KEYS, STRATA, SHARES, seed=0)
    assert {name: len(indices) for name, indices in parts.items()} == {"train": 700, "test": 200, "validation": 100}
    assert sorted(index for indices in parts.values() for index in indices) == list(range(1000))
    assert Counter(STRATA[index] for index in parts["test"]) == {False: 180, True: 20}
    assert all(indices == sorted(indices) for indices in parts.values())


def test_seed_changes_the_cut_and_repeats_it() -> None:
    assert cut(KEYS, STRATA, SHARES, 0) == cut(KEYS, STRATA, SHARES, 0)
    assert cut(KEYS, STRATA, SHARES, 0)["test"] != cut(KEYS, STRATA, SHARES, 1)["test"]


def test_order_of_rows_does_not_matter() -> None:
    order = list(range(1000))
    random.Random(0).shuffle(order)
    before = cut(KEYS, STRATA, SHARES, 0)
    after = cut([KEYS[i] for i in order], [STRATA[i] for i in order], SHARES, 0)
    for name in before:
        assert {KEYS[i] for i in before[name]} == {KEYS[order[i]] for i in after[name]}


def test_identical_texts_stay_together() -> None:
    keys = [f"text {i % 100}" for i in range(300)]
    parts = cut(keys, [0] * 300, SHARES, 0)
    sides = [{keys[index] for index in indices} for indices in parts.values()]
    assert [len(side) for side in sides] == [70, 20, 10]
    assert len(set.union(*sides)) == 100


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rare_class_stays_in_train(count: int) -> None:
    strata = ["rare"] * count + ["common"] * (1000 - count)
    for seed in range(5):
        parts = cut(KEYS, strata, {"test": 0.5, "validation": 0.4}, seed)
        assert any(index < count for index in parts["train"])


def test_sample_grows_with_the_limit() -> None:
    assert sample(KEYS, 2000, 0) == list(range(1000))
    small, large = sample(KEYS, 10, 0), sample(KEYS, 100, 0)
    assert len(small) == 10 and set(small) < set(large)
    assert small == sorted(small)
    assert small != sample(KEYS, 10, 1)


def test_sample_of_identical_texts() -> None:
    assert sample(["same"] * 5, 3, 0) == [0, 1, 2]
