"""What a model's logits say: the answer to one example, and what a list of answers hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from geodistill.data.labels import Problem

# What an answer holds.
ANSWER: dict[Problem, tuple[str, ...]] = {
    "classification": ("prediction", "probability", "probabilities"),
    "multi_label": ("prediction", "probabilities"),
    "regression": ("prediction",),
}
MOST_NAMED = 5
DIGITS = 6
THRESHOLD = 0.5
"""A label of several is predicted from this probability on."""


def decide(logits: np.ndarray, problem: Problem) -> np.ndarray:
    """Return what logits (…, outputs) predict.

    A classification: class numbers (…). Multi-label: 0 or 1 for each label (…, labels), NaN if the logit is none. A
    regression: values (…, outputs), and (…) for a single output.
    """
    match problem:
        case "multi_label":
            # A probability of one half is a logit of zero.
            return np.where(np.isnan(logits), np.nan, logits >= np.log(THRESHOLD / (1 - THRESHOLD)))
        case "regression":
            return logits[..., 0] if logits.shape[-1] == 1 else logits
        case _:
            return logits.argmax(axis=-1)


def answer(logits: np.ndarray, problem: Problem, names: Sequence[str]) -> dict[str, Any]:
    """Return what a model says of one example, as JSON has it. `names` are those of its outputs.

    - classification: `prediction` (a label), its `probability`, and the `probabilities` of all labels by name
    - multi-label: `prediction` (a list of labels, of probability 0.5 or more), and `probabilities` of all by name
    - regression: `prediction` (a number, or a list of numbers if there are several outputs)
    """
    decided = decide(logits, problem)
    if problem == "regression":
        return {"prediction": decided.tolist()}
    exact = logits.astype(np.float64)
    if problem == "multi_label":
        shares = np.exp(-np.logaddexp(0, -exact))
        chosen: Any = [name for name, yes in zip(names, decided, strict=True) if yes == 1]
    else:
        shares = np.exp(exact - exact.max())
        shares /= shares.sum()
        chosen = names[int(decided)]
    probabilities = {name: round(float(share), DIGITS) for name, share in zip(names, shares, strict=True)}
    if problem == "multi_label":
        return {"prediction": chosen, "probabilities": probabilities}
    return {"prediction": chosen, "probability": probabilities[chosen], "probabilities": probabilities}


def reference(labels: Any, problem: Problem, names: Sequence[str]) -> Any:
    """Return the label, the labels or the values of an encoded example as `answer` writes a prediction."""
    if problem == "regression":
        return labels
    if problem == "multi_label":
        return [name for name, yes in zip(names, labels, strict=True) if yes]
    return names[labels]


def prediction(
    row: Mapping[str, Any], labels: Any, logits: np.ndarray, problem: Problem, names: Sequence[str]
) -> dict[str, Any]:
    """Return the line that tells what a model made of one example: its texts, the `answer`, and the reference.

    Of a classification it holds the probability of the predicted label alone.
    """
    texts: dict[str, Any] = {key: row[key] for key in ("text", "text_pair") if key in row}
    said = answer(logits, problem, names)
    if problem == "classification":
        said.pop("probabilities")
    return {**texts, **said, "reference": reference(labels, problem, names)}


def never_predicted(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tell which labels of the references a model gives to no example at all: a mean over examples hides a rare one."""
    counts = Counter(name for line in lines for name in _names(line["reference"]))
    predicted = {name for line in lines for name in _names(line["prediction"])}
    missed = sorted(counts.keys() - predicted, key=lambda name: (-counts[name], str(name)))
    if not missed:
        return []
    named = ", ".join(f"'{name}' ({counts[name]})" for name in missed[:MOST_NAMED])
    more = f" and {len(missed) - MOST_NAMED} more" if len(missed) > MOST_NAMED else ""
    return [f"never predicts {named}{more}, of {len(lines):,} examples"]


def _names(said: str | list[str]) -> list[str]:
    return said if isinstance(said, list) else [said]
