from __future__ import annotations

from typing import Any

import pytest
from datasets import DatasetDict
from transformers import BertConfig

from geodistill.data.examples import Examples
from geodistill.errors import GeodistillError
from geodistill.tasks.heads import check_problem, head_settings, match_head


def examples(problem: Any, *names: str) -> Examples:
    return Examples(DatasetDict(), problem, list(names), [], 16, "", [], width=len(names) or 1)


def config(outputs: int = 2, **settings: Any) -> BertConfig:
    return BertConfig(num_labels=outputs, **settings)


def test_a_new_head_is_of_the_problem_and_its_labels() -> None:
    assert head_settings(examples("unlabelled")) == {}
    assert head_settings(examples("regression")) == {"num_labels": 1, "problem_type": "regression"}
    assert head_settings(examples("classification", "ham", "spam")) == {
        "num_labels": 2,
        "id2label": {0: "ham", 1: "spam"},
        "label2id": {"ham": 0, "spam": 1},
        "problem_type": "single_label_classification",
    }
    several = head_settings(examples("multi_label", "a", "b", "c"))
    assert (several["num_labels"], several["problem_type"]) == (3, "multi_label_classification")
    wide = head_settings(Examples(DatasetDict(), "regression", [], [], 16, "", [], width=3))
    assert wide == {"num_labels": 3, "problem_type": "regression"}


def test_unlabelled_data_and_a_regression_have_no_names_to_match() -> None:
    assert match_head(config(7), examples("unlabelled"), "m").numbers == []
    assert match_head(config(1), examples("regression"), "m").numbers == [0]
    with pytest.raises(GeodistillError, match="'m' has 3 outputs, and the labels of the data are 1 numbers"):
        match_head(config(3, problem_type="regression"), examples("regression"), "m")


@pytest.mark.parametrize(
    ("head", "problem", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "classification", r"any number of labels .*problem_type in"),
        ({"problem_type": "regression"}, "classification", "is for a regression"),
        ({"outputs": 1}, "classification", r"is for a regression \(it has one output\)"),
        ({"problem_type": "single_label_classification"}, "regression", "the data is a regression"),
        ({"problem_type": "multi_label_classification"}, "regression", "the data is a regression"),
        ({"problem_type": "single_label_classification"}, "multi_label", "data is a classification with any number"),
        ({"problem_type": "regression"}, "multi_label", "data is a classification with any number"),
    ],
)
def test_a_head_of_another_problem_is_refused(head: dict[str, Any], problem: Any, message: str) -> None:
    with pytest.raises(GeodistillError, match=f"The model 'm' .*{message}") as caught:
        check_problem(config(**head), examples(problem, "a", "b"), "m")
    assert "teacher.training" in caught.value.remedy


def test_a_head_that_does_not_say_its_problem() -> None:
    assert check_problem(config(), examples("classification", "a", "b"), "m") == []
    assert check_problem(config(1), examples("regression"), "m") == []
    (note,) = check_problem(config(), examples("regression"), "m")
    assert "has no problem_type; its head is taken for a regression" in note


def test_labels_that_only_the_head_has() -> None:
    head = config(3, problem_type="multi_label_classification", id2label={0: "a", 1: "b", 2: "c"})
    match = match_head(head, examples("multi_label", "c", "a"), "m")
    assert match.numbers == [2, 0]
    assert match.notes == ["The data lacks these labels of 'm', which count as absent: 'b'."]
    head.problem_type = "regression"
    with pytest.raises(GeodistillError, match="The data lacks values of outputs of 'm': 'b'"):
        match_head(head, examples("regression", "c", "a"), "m")
    assert match_head(head, examples("regression", "c", "a", "b"), "m").numbers == [2, 0, 1]
