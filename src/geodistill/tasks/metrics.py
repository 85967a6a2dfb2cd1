"""The metrics that a task is reported with, as fractions (0.95, not 95)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn import metrics as sklearn_metrics

from geodistill.errors import GeodistillError, suggest

Metric = Callable[[NDArray, NDArray], float]


def accuracy(predictions: NDArray, references: NDArray) -> float:
    """The share of predictions that are right, in [0, 1]."""
    return float((predictions == references).mean())


def f1(predictions: NDArray, references: NDArray) -> float:
    """F1 of class 1 of a two-class problem, in [0, 1]; 0 when class 1 is neither predicted nor there."""
    if max(predictions.max(), references.max()) > 1:
        raise GeodistillError("The metric 'f1' is that of one class of two, and there are more.", "Use 'macro_f1'.")
    return float(sklearn_metrics.f1_score(references, predictions, zero_division=0))


def macro_f1(predictions: NDArray, references: NDArray) -> float:
    """The mean of the F1 of each class that is predicted or there, in [0, 1]; every class counts the same."""
    return float(sklearn_metrics.f1_score(references, predictions, average="macro", zero_division=0))


def matthews_correlation(predictions: NDArray, references: NDArray) -> float:
    """Matthews correlation, the R_K of Gorodkin (2004) for several classes, in [−1, 1]; 0 for a constant prediction."""
    return float(sklearn_metrics.matthews_corrcoef(references, predictions))


def pearson(predictions: NDArray, references: NDArray) -> float:
    """Pearson's r, in [−1, 1]; 0 for a constant prediction, which tells nothing."""
    return _correlation(stats.pearsonr, predictions, references)


def spearman(predictions: NDArray, references: NDArray) -> float:
    """Spearman's ρ, Pearson's r of the ranks, in [−1, 1]; 0 for a constant prediction."""
    return _correlation(stats.spearmanr, predictions, references)


def mean_squared_error(predictions: NDArray, references: NDArray) -> float:
    """The mean of (prediction − reference)², in squared units of the label; smaller is better."""
    return float(numpy.square(predictions - references).mean())


CLASSIFICATION: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
}
REGRESSION: dict[str, Metric] = {"pearson": pearson, "spearman": spearman, "mean_squared_error": mean_squared_error}
NOT_SHARES = ("mean_squared_error", "perplexity")  # in units of their own, and the smaller the better


def is_share(name: str) -> bool:
    """Tell whether a metric is a share or a correlation, of which more is better, whatever prefix its name has."""
    return not name.endswith(NOT_SHARES)


@dataclass(frozen=True)
class Constant:
    """What a predictor reaches that gives every example the same answer, whatever the example.

    answer: the most frequent class of the training part, or its mean value
    metrics: name → value on the examples that were scored
    examples: how many examples these were
    """

    answer: str
    metrics: dict[str, float]
    examples: int


def constant_predictor(
    names: Sequence[str], train: Sequence[Any], references: Sequence[Any], *, problem: str, label_names: Sequence[str]
) -> Constant:
    """Score the constant predictor: of classes the most frequent one in training, of values their mean in training.

    train, references: (m,) and (n,) class numbers of a classification, floats of a regression; m, n ≥ 1.
    Among classes of equal count the first by number is taken.
    """
    if problem == "classification":
        best = min(Counter(train).items(), key=lambda entry: (-entry[1], entry[0]))[0]
        answer, predictions = f"'{label_names[best]}'", numpy.full(len(references), best)
    else:
        mean = float(numpy.mean(train))
        answer, predictions = f"{mean:.4g}", numpy.full(len(references), mean)
    return Constant(answer, compute_metrics(names, predictions, references, problem=problem), len(references))


def check_metrics(names: Sequence[str], problem: str) -> dict[str, Metric]:
    """The named metrics, in order. Raises GeodistillError for one that is unknown or belongs to another problem."""
    valid = {"classification": CLASSIFICATION, "regression": REGRESSION}.get(problem, {})
    for name in names:
        if name not in CLASSIFICATION and name not in REGRESSION:
            raise GeodistillError(
                f"There is no metric '{name}'.", suggest(name, valid or [*CLASSIFICATION, *REGRESSION])
            )
        if name not in valid:
            remedy = f"Use {', '.join(valid)}." if valid else "Unlabelled data has no metrics; leave data.metrics out."
            raise GeodistillError(f"The metric '{name}' does not fit a problem that is {problem}.", remedy)
    return {name: valid[name] for name in names}


def compute_metrics(
    names: Sequence[str], predictions: ArrayLike, references: ArrayLike, *, problem: str
) -> dict[str, float]:
    """The named metrics of predictions against references, in the order of `names`.

    predictions, references: (n,) class numbers for a classification, floats for a regression, n ≥ 1.
    Every metric is NaN when a prediction is not finite: a model that has diverged scores nothing.
    Raises GeodistillError for a metric that is unknown or belongs to another problem.
    """
    chosen = check_metrics(names, problem)
    kind = numpy.int64 if problem == "classification" else numpy.float64
    predicted, given = numpy.asarray(predictions), numpy.asarray(references)
    if predicted.shape != given.shape or predicted.ndim != 1 or predicted.size == 0:
        raise ValueError(f"predictions {predicted.shape} and references {given.shape} must both be (n,), n ≥ 1")
    if not numpy.isfinite(predicted).all():
        return dict.fromkeys(chosen, float("nan"))
    return {name: metric(predicted.astype(kind), given.astype(kind)) for name, metric in chosen.items()}


def _correlation(correlation: Callable, predictions: NDArray, references: NDArray) -> float:
    if numpy.ptp(predictions) == 0 or numpy.ptp(references) == 0:
        return 0.0
    return float(correlation(predictions, references).statistic)
