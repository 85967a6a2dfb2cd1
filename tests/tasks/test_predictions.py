from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geodistill.tasks.predictions import answer, decide, never_predicted, prediction


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_decisions() -> None:
    assert decide(logits(0.1, 3.0, -1.0), "classification") == 1
    assert decide(logits(0.1, 0.0, -0.1), "multi_label").tolist() == [1, 1, 0]
    assert np.isnan(decide(logits(np.nan, 1.0), "multi_label")[0])
    assert decide(np.ones((4, 1)), "regression").shape == (4,)
    assert decide(np.ones((4, 2)), "regression").shape == (4, 2)


def test_answer_of_a_classification() -> None:
    said = answer(logits(0.0, 0.0, np.log(2.0)), "classification", ["a", "b", "c"])
    assert said == {"prediction": "c", "probability": 0.5, "probabilities": {"a": 0.25, "b": 0.25, "c": 0.5}}


def test_answer_of_several_labels() -> None:
    said = answer(logits(0.0, -np.log(3.0), 200.0, -200.0), "multi_label", ["a", "b", "c", "d"])
    assert said == {"prediction": ["a", "c"], "probabilities": {"a": 0.5, "b": 0.25, "c": 1.0, "d": 0.0}}
    assert answer(logits(-1.0), "multi_label", ["a"])["prediction"] == []


def test_answer_of_a_regression() -> None:
    assert answer(logits(1.5), "regression", []) == {"prediction": 1.5}
    assert answer(logits(1.5, -2.0), "regression", ["x", "y"]) == {"prediction": [1.5, -2.0]}


@pytest.mark.parametrize(
    ("problem", "labels", "expected"),
    [
        ("classification", 1, {"prediction": "b", "probability": 0.731059, "reference": "b"}),
        (
            "multi_label",
            [1.0, 0.0],
            {"prediction": ["a", "b"], "probabilities": {"a": 0.5, "b": 0.731059}, "reference": ["a"]},
        ),
        ("regression", [2.0, 3.0], {"prediction": [0.0, 1.0], "reference": [2.0, 3.0]}),
    ],
)
def test_a_line_holds_the_texts_the_answer_and_the_reference(problem: Any, labels: Any, expected: Any) -> None:
    row = {"text": "one", "text_pair": "two", "label": 0}
    line = prediction(row, labels, logits(0.0, 1.0), problem, ["a", "b"])
    assert line == {"text": "one", "text_pair": "two", **expected}


def test_a_label_that_is_never_predicted_is_named() -> None:
    """The commonest first, and not all of very many."""
    lines = [{"prediction": "a", "reference": name} for name in "abcc"]
    assert never_predicted(lines) == ["never predicts 'c' (2), 'b' (1), of 4 examples"]
    assert never_predicted([*lines, {"prediction": "c", "reference": "a"}, {"prediction": "b", "reference": "a"}]) == []
    many = [{"prediction": "0", "reference": str(number)} for number in range(9)]
    named = "'1' (1), '2' (1), '3' (1), '4' (1), '5' (1)"
    assert never_predicted(many) == [f"never predicts {named} and 3 more, of 9 examples"]


def test_each_of_several_labels_may_be_never_predicted() -> None:
    lines = [{"prediction": ["a"], "reference": ["a", "b"]}, {"prediction": [], "reference": ["b", "c"]}]
    assert never_predicted(lines) == ["never predicts 'b' (2), 'c' (1), of 2 examples"]
    assert never_predicted([{"prediction": [], "reference": []}]) == []
