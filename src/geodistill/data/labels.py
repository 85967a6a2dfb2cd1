"""What kind of problem a label column poses, and its values as class numbers or floats."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from geodistill.data.columns import few
from geodistill.errors import GeodistillError

Problem = Literal["classification", "multi_label", "regression", "unlabelled"]
WHOLE = re.compile(r"(-?)(0|[1-9]\d*)\.0+", re.ASCII)  # a whole number as pandas writes it in a column with a gap
TRUTH = ("true", "false")
MOST_CLASSES = 50  # more than this, with fewer than two rows a class, and `auto` asks


@dataclass(frozen=True)
class Labels:
    """How labels are encoded: for a classification, a label's number is its place in `names`.

    reason: a sentence that says what the problem is and why
    """

    problem: Problem
    names: list[str] = field(default_factory=list)
    reason: str = field(default="", compare=False)

    def encode(self, values: Sequence[Any], split: str) -> list[int] | list[float]:
        """Class numbers or floats. Raises GeodistillError for a label that training lacks, or that is no number.

        Names are compared exactly. Only `true` and `false` may be in another case than in training, since programs
        write them differently, unless training tells two such spellings apart.
        """
        if self.problem == "regression":
            return [_number(value) for value in values]
        numbers = {name: number for number, name in enumerate(self.names)}
        for word in TRUTH:
            alike = [name for name in self.names if name.lower() == word]
            if len(alike) == 1:
                spellings = (word, word.capitalize(), word.upper())
                numbers = {**dict.fromkeys(spellings, numbers[alike[0]]), **numbers}
        given = [label_name(value) for value in values]
        unknown = sorted(set(given) - set(numbers))
        if unknown:
            raise _unknown(unknown, self.names, split)
        return [numbers[name] for name in given]


def _unknown(unknown: Sequence[str], names: Sequence[str], split: str) -> GeodistillError:
    if split == "train":
        return GeodistillError(
            f"The train split has labels that are not classes of the data set: {few(unknown)} (the classes are "
            f"{few(names)}).",
            "Correct these labels, or remove their rows.",
        )
    alike = next((other for name in unknown for other in names if name.casefold() == other.casefold()), None)
    remedy = "Add examples of them to the training split, or remove them."
    if alike is not None:
        remedy = f"Write them as training does: labels that differ in case, as '{alike}' does, are two labels."
    elif all(_is_number(name) for name in (*unknown, *names)):
        remedy = "Add examples of them to the training split, or set data.problem=regression if labels are on a scale."
    return GeodistillError(
        f"The {split} split has labels that training lacks: {few(unknown)} (training has {few(names)}).", remedy
    )


def train_labels(values: Sequence[Any], class_names: list[str] | None, wanted: str) -> Labels:
    """The encoding that the labels of the training split ask for.

    `wanted` is `classification`, `regression` or `auto`. With `auto`, labels are a regression if all are numbers and
    not all are whole, however they are written; everything else is a classification. Class names are those of the data
    set when it has them, else the values, sorted.

    Raises GeodistillError for a classification of one label, and with `auto` if nearly every row has a label to
    itself, since such labels may be a scale, or no labels at all.
    """
    names = {label_name(value) for value in values}
    if wanted == "regression":
        return Labels("regression", reason="Regression, as data.problem asks.")
    if wanted == "auto" and class_names is None and _are_numbers(values) and not _are_whole(values):
        example = next(name for name in map(label_name, values) if not _is_whole(name))
        reason = f"Regression, since labels are numbers and not all whole, such as {example}."
        return Labels("regression", reason=reason)
    if len(names) < 2:
        raise GeodistillError(
            f"All training labels are the same: {few(sorted(names))}.",
            "A classification needs at least two labels; set data.problem=unlabelled to use none.",
        )
    if class_names:
        return Labels("classification", class_names, "Classification, since the data set names the classes.")
    if wanted == "auto" and len(names) > MOST_CLASSES and len(values) < 2 * len(names):
        raise GeodistillError(
            f"The {len(values)} training rows have {len(names)} different labels, too many to tell that they are "
            f"classes: {few(sorted(names, key=_numbers_first))}.",
            "Set data.problem to classification or regression, or name another column with data.label.",
        )
    return Labels("classification", sorted(names, key=_numbers_first), _why_classes(values, wanted))


def check_taught(before: Sequence[int], after: Sequence[int], names: Sequence[str], what: str) -> None:
    """Check that no class lost all its training rows when rows were left out. `what` is a word for what a row holds.

    Raises GeodistillError for a class that did.
    """
    for number in sorted(set(before) - set(after)):
        raise GeodistillError(
            f"No training row with the label '{names[number]}' is left: the {what}s of all "
            f"{list(before).count(number):,} are also in the validation or test part.",
            f"Give training rows of this label with other {what}s, or take these {what}s out of the other splits.",
        )


def _why_classes(values: Sequence[Any], wanted: str) -> str:
    if wanted == "classification":
        return "Classification, as data.problem asks."
    if not _are_numbers(values):
        return "Classification, since labels are not numbers."
    written = ""
    if not all(isinstance(value, int) or WHOLE.fullmatch(str(value).strip()) is None for value in values):
        written = ", though some are written with a decimal point"
    return f"Classification, since labels are whole numbers{written}; data.problem=regression takes them for a scale."


def is_missing(value: Any) -> bool:
    """None, an empty string and NaN stand for a label that was not given. Words such as NA are labels."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def label_name(value: Any) -> str:
    """One name for 1, 1.0, "1" and "1.0", so that files of different formats agree; any other text unchanged."""
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    name = str(value).encode(errors="replace").decode().strip()
    if match := WHOLE.fullmatch(name):
        return match[2] if match[2] == "0" else match[1] + match[2]
    return name


def with_names(values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Labels by the names of their classes: a number that is not itself a name is a class number, and −1 means none.

    A label that is neither stays unchanged.
    """
    if not names:
        return list(values)
    by_number = {str(number): name for number, name in enumerate(names)}
    known = {name: name for name in names}
    found: dict[str, Any] = {"-1": None, **by_number, **known}
    return [value if is_missing(value) else found.get(label_name(value), value) for value in values]


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise GeodistillError(
            f"The label '{value}' is not a finite number.", "Correct it, or set data.problem=classification."
        )
    return number


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(not isinstance(value, bool) and _is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    """Whether it is written as one; `nan` and `inf` are, and the underscores that Python allows are not."""
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return "_" not in str(value)


def _are_whole(values: Sequence[Any]) -> bool:
    return all(_is_whole(value) for value in values)


def _is_whole(value: Any) -> bool:
    return float(value).is_integer()  # False for nan and inf, which no class has


def _numbers_first(name: str) -> tuple[bool, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (False, number, name) if math.isfinite(number) else (True, 0.0, name)
