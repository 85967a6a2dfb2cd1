"""What kind of problem a label column poses, and its values as class numbers or floats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from geodistill.errors import GeodistillError

Problem = Literal["classification", "regression", "unlabelled"]


@dataclass(frozen=True)
class Labels:
    """How labels are encoded: for a classification, a label's number is its place in `names`."""

    problem: Problem
    names: list[str] = field(default_factory=list)

    def encode(self, values: Sequence[Any], split: str) -> list[int] | list[float]:
        """Class numbers or floats. Raises GeodistillError for a label that training lacks, or that is no number."""
        if self.problem == "regression":
            return [_number(value) for value in values]
        numbers = {name: number for number, name in enumerate(self.names)}
        unknown = sorted({label_name(value) for value in values} - set(numbers))
        if unknown:
            raise GeodistillError(
                f"The {split} split has labels that training lacks: {_few(unknown)} (training has {_few(self.names)}).",
                "Add examples of them to the training split, or remove them.",
            )
        return [numbers[label_name(value)] for value in values]


def train_labels(values: Sequence[Any], class_names: list[str] | None, wanted: str) -> Labels:
    """The encoding that the labels of the training split ask for.

    `wanted` is `classification`, `regression` or `auto`: numbers written as floats are a regression, everything
    else a classification. Class names are those of the data set when it has them, else the values, sorted.
    """
    names = {label_name(value) for value in values}
    if wanted == "regression" or (wanted == "auto" and class_names is None and _are_floats(values)):
        return Labels("regression")
    if len(names) < 2:
        raise GeodistillError(
            f"All training labels are the same: {_few(sorted(names))}.", "A classification needs at least two labels."
        )
    return Labels("classification", class_names or sorted(names, key=_numbers_first))


def is_missing(value: Any) -> bool:
    """None, an empty string and NaN stand for a label that was not given."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def label_name(value: Any) -> str:
    """One name for 1, 1.0 and "1", so that files of different formats agree."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise GeodistillError(
            f"The label '{value}' is not a finite number.", "Mend it, or set data.problem=classification."
        )
    return number


def _are_floats(values: Sequence[Any]) -> bool:
    """Whether all are numbers, and not all are written as whole ones."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]
        whole = all(isinstance(value, int) or str(value).strip().lstrip("+-").isdecimal() for value in values)
    except (TypeError, ValueError):
        return False
    return bool(numbers) and not whole


def _numbers_first(name: str) -> tuple[bool, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:10])
    return f"{shown}, … ({len(names)} in all)" if len(names) > 10 else shown
