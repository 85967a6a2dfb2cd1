from __future__ import annotations

import math

import numpy
import pytest

from geodistill.errors import GeodistillError
from geodistill.tasks.metrics import (
    CLASSIFICATION,
    MULTI_LABEL,
    REGRESSION,
    Constant,
    check_metrics,
    compute_metrics,
    constant_predictor,
)

PREDICTED = numpy.array([0, 1, 1, 0, 1, 0, 1, 1])
GIVEN = numpy.array([0, 1, 0, 0, 1, 1, 1, 0])


def one(name: str, predictions: object, references: object, problem: str) -> float:
    return compute_metrics([name], predictions, references, problem=problem)[name]  # type: ignore[arg-type]


def slow_f1(predictions: numpy.ndarray, references: numpy.ndarray, positive: int) -> float:
    hit = sum(1 for p, r in zip(predictions, references, strict=True) if p == r == positive)
    precision = hit / max(1, (predictions == positive).sum())
    recall = hit / max(1, (references == positive).sum())
    return 0.0 if hit == 0 else 2 * precision * recall / (precision + recall)


def test_two_classes_by_their_formulas() -> None:
    scores = compute_metrics(list(CLASSIFICATION), PREDICTED, GIVEN, problem="classification")
    tp, tn, fp, fn = 3, 2, 2, 1
    assert scores["accuracy"] == 5 / 8
    assert scores["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert scores["macro_f1"] == pytest.approx((slow_f1(PREDICTED, GIVEN, 0) + slow_f1(PREDICTED, GIVEN, 1)) / 2)
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert scores["matthews_correlation"] == pytest.approx(expected)


def test_several_classes() -> None:
    random = numpy.random.default_rng(0)
    predicted, given = random.integers(0, 4, 200), random.integers(0, 4, 200)
    assert one("macro_f1", predicted, given, "classification") == pytest.approx(
        sum(slow_f1(predicted, given, label) for label in range(4)) / 4
    )
    with pytest.raises(GeodistillError, match="macro_f1"):
        one("f1", predicted, given, "classification")


def test_regression_by_formulas() -> None:
    random = numpy.random.default_rng(1)
    given = random.normal(size=50)
    predicted = given + random.normal(size=50)
    x, y = predicted - predicted.mean(), given - given.mean()
    assert one("pearson", predicted, given, "regression") == pytest.approx(x @ y / math.sqrt((x @ x) * (y @ y)))
    ranks = [values.argsort().argsort().astype(float) for values in (predicted, given)]
    assert one("spearman", predicted, given, "regression") == pytest.approx(one("pearson", *ranks, "regression"))
    assert one("mean_squared_error", predicted, given, "regression") == pytest.approx(
        sum((predicted - given) ** 2) / 50
    )


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "f1", "matthews_correlation", "pearson", "spearman"])
def test_perfect_predictions_score_one(name: str) -> None:
    assert one(name, GIVEN, GIVEN, "classification" if name in CLASSIFICATION else "regression") == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearman"])
def test_constant_prediction_has_no_correlation(name: str) -> None:
    problem = "classification" if name in CLASSIFICATION else "regression"
    assert one(name, numpy.ones(8), GIVEN, problem) == 0.0


def test_several_labels_by_their_formulas() -> None:
    random = numpy.random.default_rng(2)
    predicted, given = random.integers(0, 2, (50, 4)), random.integers(0, 2, (50, 4))
    predicted[:, 3], given[:, 3] = 0, 0  # a label that is neither predicted nor there
    scores = compute_metrics(list(MULTI_LABEL), predicted, given, problem="multi_label")
    assert scores["micro_f1"] == pytest.approx(slow_f1(predicted.ravel(), given.ravel(), 1))
    expected = sum(slow_f1(predicted[:, label], given[:, label], 1) for label in range(3)) / 3
    assert scores["macro_f1"] == pytest.approx(expected)
    right = sum(all(p == g) for p, g in zip(predicted, given, strict=True))
    assert scores["subset_accuracy"] == right / 50


def test_several_labels_and_none_of_them() -> None:
    nothing = numpy.zeros((3, 1))
    assert compute_metrics(list(MULTI_LABEL), nothing, nothing, problem="multi_label") == {
        "micro_f1": 0.0,
        "macro_f1": 0.0,
        "subset_accuracy": 1.0,
    }
    full = numpy.ones((3, 1))
    assert one("macro_f1", full, full, "multi_label") == one("micro_f1", full, full, "multi_label") == 1.0
    assert math.isnan(one("micro_f1", full * math.nan, full, "multi_label"))


@pytest.mark.parametrize("name", ["pearson", "spearman", "mean_squared_error"])
def test_a_regression_of_several_values_is_the_mean_over_them(name: str) -> None:
    random = numpy.random.default_rng(3)
    predicted, given = random.normal(size=(2, 30, 3))
    columns = [one(name, predicted[:, value], given[:, value], "regression") for value in range(3)]
    assert one(name, predicted, given, "regression") == pytest.approx(sum(columns) / 3)


def test_order_of_names_is_kept() -> None:
    assert list(compute_metrics(["f1", "accuracy"], PREDICTED, GIVEN, problem="classification")) == ["f1", "accuracy"]


@pytest.mark.parametrize("name", REGRESSION)
def test_diverged_model_scores_nan(name: str) -> None:
    assert math.isnan(one(name, [0.0, float("nan"), 1.0], [0.0, 1.0, 2.0], "regression"))


@pytest.mark.parametrize(
    ("name", "problem", "message"),
    [
        ("acuracy", "classification", "Did you mean 'accuracy'"),
        ("pearson", "classification", "does not fit"),
        ("accuracy", "regression", "Use pearson"),
        ("accuracy", "unlabelled", "leave data.metrics out"),
    ],
)
def test_metric_that_does_not_fit(name: str, problem: str, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        check_metrics([name], problem)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        compute_metrics(["accuracy"], [0, 1], [0], problem="classification")
    with pytest.raises(ValueError, match="must have one shape"):
        compute_metrics(["accuracy"], [], [], problem="classification")


def test_the_constant_predictor_gives_the_most_frequent_answer_of_training() -> None:
    names = ["accuracy", "macro_f1"]
    constant = constant_predictor(
        names, [1, 0, 2, 2, 1], [1, 1, 2, 0], problem="classification", label_names=list("abc")
    )
    assert constant == Constant("'b'", {"accuracy": 0.5, "macro_f1": pytest.approx(2 / 9)}, 4)
    values = constant_predictor(
        ["mean_squared_error", "pearson"], [1.0, 3.0], [2.0, 4.0], problem="regression", label_names=[]
    )
    assert values == Constant("2", {"mean_squared_error": 2.0, "pearson": 0.0}, 2)


def test_the_constant_predictor_of_several_labels_gives_the_most_frequent_ones() -> None:
    train = [[0, 2], [0, 2], [0], [1, 2], [], [0, 2]]
    found = constant_predictor(
        ["micro_f1", "subset_accuracy"], train, [[0, 2], [1]], problem="multi_label", label_names=["a", "b", "c"]
    )
    assert found == Constant("'a', 'c'", {"micro_f1": pytest.approx(4 / 7), "subset_accuracy": 0.5}, 2)


def test_the_constant_predictor_of_several_values_gives_their_means() -> None:
    train = [[0.0, 1.0], [1.0, 3.0]]
    found = constant_predictor(["mean_squared_error"], train, [[0.5, 4.0]], problem="regression", label_names=[])
    assert found == Constant("0.5, 2", {"mean_squared_error": 2.0}, 1)
