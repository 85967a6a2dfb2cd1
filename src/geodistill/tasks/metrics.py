"""The metrics that a task is reported with, as fractions (0.95, not 95)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
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


def micro_f1(predictions: NDArray, references: NDArray) -> float:
    """F1 of all labels of all examples together, in [0, 1]; 0 when no label is predicted or there."""
    return float(sklearn_metrics.f1_score(references.ravel(), predictions.ravel(), zero_division=0))


def macro_f1_of_labels(predictions: NDArray, references: NDArray) -> float:
    """The mean of the F1 of each label that is predicted or there, in [0, 1]; every label counts the same.

    0 when no label is predicted or there.
    """
    pairs = zip(references.T, predictions.T, strict=True)
    scores = [
        float(sklearn_metrics.f1_score(given, predicted, zero_division=0))
        for given, predicted in pairs
        if given.any() or predicted.any()
    ]
    return fmean(scores) if scores else 0.0


def subset_accuracy(predictions: NDArray, references: NDArray) -> float:
    """The share of examples of which every label is right, in [0, 1]."""
    return float((predictions == references).all(axis=1).mean())


def pearson(predictions: NDArray, references: NDArray) -> float:
    """Pearson's r, in [−1, 1]; 0 for a constant prediction, which tells nothing. Of several outputs the mean."""
    return _correlation(stats.pearsonr, predictions, references)


def spearman(predictions: NDArray, references: NDArray) -> float:
    """Spearman's ρ, Pearson's r of the ranks, in [−1, 1]; 0 for a constant prediction. Of several outputs the mean."""
    return _correlation(stats.spearmanr, predictions, references)


def mean_squared_error(predictions: NDArray, references: NDArray) -> float:
    """The mean of (prediction − reference)² over examples and outputs, in squared units; smaller is better."""
    return float(numpy.square(predictions - references).mean())


CLASSIFICATION: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
}
MULTI_LABEL: dict[str, Metric] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1_of_labels,
    "subset_accuracy": subset_accuracy,
}
REGRESSION: dict[str, Metric] = {"pearson": pearson, "spearman": spearman, "mean_squared_error": mean_squared_error}
METRICS = {"classification": CLASSIFICATION, "multi_label": MULTI_LABEL, "regression": REGRESSION}
NOT_SHARES = ("mean_squared_error", "perplexity")  # with other units, and the smaller the better


def is_share(name: str) -> bool:
    """Tell whether a metric is a share or a correlation, of which more is better, whatever prefix its name has."""
    return not name.endswith(NOT_SHARES)


@dataclass(frozen=True)
class Constant:
    """What a predictor reaches that gives every example the same answer, whatever the example.

    answer: the most frequent class of the training part, its most frequent labels, or its mean value
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

    If an example has several labels, it predicts the most frequent ones in training, as many as give the highest
    micro F1 there.

    train, references: m and n class numbers of a classification, lists of class numbers of a multi-label one, or floats
    or lists of floats of a regression; m, n ≥ 1. Among classes of equal count the first by number is taken.
    """
    if problem == "classification":
        best = min(Counter(train).items(), key=lambda entry: (-entry[1], entry[0]))[0]
        answer, predictions = f"'{label_names[best]}'", numpy.full(len(references), best)
    elif problem == "multi_label":
        counts = numpy.bincount([number for row in train for number in row], minlength=len(label_names))
        order = numpy.argsort(-counts, kind="stable")
        predicted = numpy.arange(1, len(label_names) + 1) * len(train)  # labels in all, for each number of labels
        often = order[: int((counts[order].cumsum() / (predicted + counts.sum())).argmax()) + 1]
        answer = ", ".join(f"'{label_names[number]}'" for number in often)
        references = [[number in row for number in range(len(label_names))] for row in references]
        predictions = numpy.tile(numpy.isin(numpy.arange(len(label_names)), often), (len(references), 1))
    else:
        mean = numpy.mean(train, axis=0)
        answer = ", ".join(f"{value:.4g}" for value in numpy.atleast_1d(mean))
        predictions = numpy.broadcast_to(mean, numpy.shape(references))
    return Constant(answer, compute_metrics(names, predictions, references, problem=problem), len(references))


def chosen_metrics(chosen: Sequence[str] | None, known: Sequence[str], of: str) -> list[str]:
    """The metrics that a task reports: those that were chosen, or all that it knows; `of` says of what they are.

    Raises GeodistillError for one that is unknown.
    """
    for name in chosen or ():
        if name not in known:
            raise GeodistillError(f"There is no metric '{name}' of {of}.", suggest(name, known))
    return list(chosen or known)


def check_metrics(names: Sequence[str], problem: str) -> dict[str, Metric]:
    """The named metrics, in order. Raises GeodistillError for one that is unknown or belongs to another problem."""
    valid = METRICS.get(problem, {})
    known = list(dict.fromkeys(name for metrics in METRICS.values() for name in metrics))
    for name in names:
        if name not in known:
            raise GeodistillError(f"There is no metric '{name}'.", suggest(name, valid or known))
        if name not in valid:
            remedy = f"Use {', '.join(valid)}." if valid else "Unlabelled data has no metrics; leave data.metrics out."
            raise GeodistillError(f"The metric '{name}' does not fit a problem that is {problem}.", remedy)
    return {name: valid[name] for name in names}


def compute_metrics(
    names: Sequence[str], predictions: ArrayLike, references: ArrayLike, *, problem: str
) -> dict[str, float]:
    """The named metrics of predictions against references, in the order of `names`.

    predictions, references, n ≥ 1: (n,) class numbers for a classification; (n, labels) of 0 and 1 for a multi-label
        one; (n,) or (n, outputs) floats for a regression.
    Every metric is NaN when a prediction is not finite: a model that has diverged scores nothing.
    Raises GeodistillError for a metric that is unknown or belongs to another problem.
    """
    chosen = check_metrics(names, problem)
    kind = numpy.float64 if problem == "regression" else numpy.int64
    dimensions = {"classification": (1,), "multi_label": (2,)}.get(problem, (1, 2))
    predicted, given = numpy.asarray(predictions), numpy.asarray(references)
    if predicted.shape != given.shape or predicted.ndim not in dimensions or predicted.size == 0:
        raise ValueError(
            f"predictions {predicted.shape} and references {given.shape} must have one shape, {dimensions} dimensions, "
            "and an example"
        )
    if not numpy.isfinite(predicted).all():
        return dict.fromkeys(chosen, float("nan"))
    return {name: metric(predicted.astype(kind), given.astype(kind)) for name, metric in chosen.items()}


def _correlation(correlation: Callable, predictions: NDArray, references: NDArray) -> float:
    if predictions.ndim > 1:
        return fmean(_correlation(correlation, *pair) for pair in zip(predictions.T, references.T, strict=True))
    if numpy.ptp(predictions) == 0 or numpy.ptp(references) == 0:
        return 0.0
    return float(correlation(predictions, references).statistic)
