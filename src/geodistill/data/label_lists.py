"""Several labels in one row: a list of labels, or one column for each label, of 0 and 1 or of numbers."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from geodistill.data.columns import listed
from geodistill.data.labels import Labels, Problem, is_missing, label_name, with_names
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

FLAGS = {"0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True)
class LabelLists(Labels):
    """How labels of which a row has several are encoded.

    multi_label: a row's label is the list of the numbers of its labels, in order; a label's number is its place in
        `names`. It is empty if the row has none.
    regression: a row's label is the list of its `width` values, or one number if the width is 1; `names` are the
        columns' names, and empty for values that came as lists
    """

    width: int = 1

    def encode(self, values: Sequence[Any], split: str) -> list[Any]:
        """Class numbers or floats. Raises GeodistillError for a label that training lacks, or a value of no use."""
        if self.problem == "regression":
            return [_numbers(value, self, split) for value in values]
        places = {name: number for number, name in enumerate(self.names)}
        rows = [labels_of(value) for value in values]
        if unknown := sorted({name for row in rows for name in row} - set(places)):
            raise GeodistillError(
                f"The {split} split has labels that training lacks: {listed(unknown[:10])}.",
                f"Add examples of them to the training split, or remove them; training has {listed(self.names[:10])}.",
            )
        return [sorted({places[name] for name in row}) for row in rows]


class Gathered(dict[str, Any]):
    """The values of several label columns in one row, by the names of the columns."""


def is_gathered(value: Any) -> TypeGuard[Gathered]:
    return isinstance(value, Gathered)


def label_values(values: Sequence[Any], class_names: Sequence[str]) -> list[Any]:
    """Return labels, and the labels in lists, by the names of their classes, as `with_names` does."""
    flat = iter(with_names([each for value in values for each in _as_list(value)], class_names))
    return [[next(flat) for _ in value] if isinstance(value, list) else next(flat) for value in values]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def are_several(values: Iterable[Any]) -> bool:
    """Tell whether the labels are lists, or the values of several columns."""
    return any(isinstance(value, list | Gathered) for value in values)


def train_label_lists(values: Sequence[Any], class_names: Sequence[str] | None, wanted: str) -> LabelLists:
    """The encoding that the labels of the training split ask for, if a row has several.

    `wanted` is `multi_label`, `regression` or `auto`: lists are labels, unless they hold numbers that are not all
    whole; columns are labels if they hold 0 and 1 alone, and else numbers of a regression. The names of labels are
    those of the columns, those of the data set when it has them, or else what the lists hold, sorted.

    Raises GeodistillError for labels that cannot be read so.
    """
    if wanted == "classification":
        raise GeodistillError(
            "A row has several labels, but data.problem asks for one label in each row.",
            "Set data.problem=multi_label, or name a column with one label a row with data.label.",
        )
    mixed = [value for value in values if type(value) is not type(values[0])]
    if mixed:
        raise GeodistillError(
            f"Some training labels are lists and some are not: {str(values[0])[:60]} and {str(mixed[0])[:60]}.",
            "Write all of them as lists.",
        )
    return _columns(values, wanted) if is_gathered(values[0]) else _lists(values, class_names, wanted)


def _columns(values: Sequence[dict[str, Any]], wanted: str) -> LabelLists:
    names = list(values[0])
    flags = all(_is_flag(value) for row in values for value in row.values())
    problem: Problem = "multi_label" if wanted == "multi_label" or (wanted == "auto" and flags) else "regression"
    why = "as data.problem asks"
    if wanted == "auto":
        why = f"since the columns {listed(names[:10])} hold {'0 and 1' if flags else 'numbers'}"
    kind = "Multi-label" if problem == "multi_label" else "Regression"
    return LabelLists(problem, names, reason=f"{kind}, {why}.", width=len(names))


def _lists(values: Sequence[list[Any]], class_names: Sequence[str] | None, wanted: str) -> LabelLists:
    elements = [element for row in values for element in row]
    numbers = class_names is None and bool(elements) and all(_is_number(element) for element in elements)
    if wanted == "regression" or (wanted == "auto" and numbers and any(not _is_whole(each) for each in elements)):
        widths = {len(row) for row in values}
        if len(widths) > 1 or widths == {0}:
            raise GeodistillError(
                f"The lists of a regression have different lengths, from {min(widths)} to {max(widths)}, or are empty.",
                "Give every row as many values, or set data.problem=multi_label if these are labels.",
            )
        why = "as data.problem asks" if wanted == "regression" else "since lists hold numbers that are not all whole"
        return LabelLists("regression", reason=f"Regression, {why}.", width=widths.pop())
    names = {label_name(element) for element in elements}
    if numbers and names <= {"0", "1"} and any(len(set(map(label_name, row))) < len(row) for row in values):
        raise GeodistillError(
            f"The label lists look like a 0 or 1 for each label, not like lists of labels: {values[0]}.",
            "Write the names of a row's labels, or give each label a column of its own and name them all: "
            "data.label=[COLUMN, COLUMN].",
        )
    if not names:
        raise GeodistillError("No training row has a label.", "Name another column with data.label.")
    why = "as data.problem asks" if wanted == "multi_label" else "since the labels of a row are a list"
    ordered = list(class_names or sorted(names, key=_numbers_first))
    return LabelLists("multi_label", ordered, reason=f"Multi-label, {why}.")


def lacks_label(value: Any) -> bool:
    """Tell whether a row has no label: a missing list, or one with a missing value. An empty list is a label."""
    if is_gathered(value):
        return any(map(is_missing, value.values()))
    if isinstance(value, list):
        return any(map(is_missing, value))
    return is_missing(value)


def labels_of(value: Any) -> list[str]:
    """Return the labels of a row, by name: the labels of a list, or the columns that hold 1.

    Raises GeodistillError for a single value, and for a column that holds neither 0 nor 1.
    """
    if is_gathered(value):
        return [name for name, flag in value.items() if _flag(name, flag)]
    if not isinstance(value, list):
        raise GeodistillError(
            f"A label is '{value}', but other labels are lists.", "Write every label as a list, even a single label."
        )
    return [label_name(element) for element in value]


def by_outputs(value: Gathered, names: Sequence[str]) -> list[Any]:
    """Return the values of several columns in the order of a head's outputs: by name, or else in the listed order if
    the outputs have no names but numbers.

    Raises GeodistillError for columns of other names.
    """
    if names and set(names) <= set(value):
        return [value[name] for name in names]
    if len(names) > 1 and not all(name.startswith("LABEL_") for name in names):
        raise GeodistillError(
            f"The columns {listed(value)} are not the values that the student predicts: {listed(names)}.",
            "Name the columns of these values with data.label, and rename them in the data if need be.",
        )
    return list(value.values())


def gather_labels(table: Table, label: Sequence[str]) -> Table:
    """Add a column that holds, for each row, the values of several label columns by their names.

    A table that lacks all of them stays unchanged, as a test split without labels does.
    Raises GeodistillError for a table that lacks some of them.
    """
    lacking = [name for name in label if name not in table.columns]
    if len(lacking) == len(label):
        return table
    if lacking:
        raise GeodistillError(
            f"There is no column '{lacking[0]}'; the columns are {listed(table.columns)}.", "Correct data.label."
        )
    columns = [table.columns[name] for name in label]
    rows = [Gathered(zip(label, row, strict=True)) for row in zip(*columns, strict=True)]
    # No copy, since a table reads a column when it is first asked for.
    return Table(ChainMap({joined_name(label): rows}, table.columns), table.class_names)  # type: ignore[arg-type]


def with_one_label(recipe: DataRecipe) -> DataRecipe:
    """Return the recipe with the name of the gathered column, if it names several label columns."""
    if not isinstance(recipe.label, list):
        return recipe
    return recipe.model_copy(update={"label": joined_name(recipe.label)})


def joined_name(label: Sequence[str]) -> str:
    return " + ".join(label)


def _flag(name: str, value: Any) -> bool:
    if not _is_flag(value):
        raise GeodistillError(
            f"The label column '{name}' holds '{value}', which is neither 0 nor 1.",
            "Correct it or remove its row, or set data.problem=regression if the columns are numbers.",
        )
    return FLAGS[_flag_name(value)]


def _is_flag(value: Any) -> bool:
    return _flag_name(value) in FLAGS


def _flag_name(value: Any) -> str:
    return label_name(value).lower()


def _numbers(value: Any, labels: LabelLists, split: str) -> Any:
    given = list(value.values()) if is_gathered(value) else value
    if not isinstance(given, list) or len(given) != labels.width or not all(map(_is_number, given)):
        raise GeodistillError(
            f"A label of the {split} split is {str(value)[:60]}, but should be {labels.width} finite numbers.",
            "Correct it, or set data.problem=multi_label if these are labels.",
        )
    return float(given[0]) if labels.width == 1 else [float(each) for each in given]


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _is_whole(value: Any) -> bool:
    return float(value).is_integer()


def _numbers_first(name: str) -> tuple[bool, float, str]:
    return (False, float(name), name) if _is_number(name) else (True, 0.0, name)
