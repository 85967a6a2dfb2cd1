"""One split as parallel lists, and the cleaning that every split goes through."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from geodistill.data.columns import Columns, listed
from geodistill.data.label_lists import is_gathered, label_values, lacks_label
from geodistill.data.labels import is_missing, label_name
from geodistill.data.parts import normalized, text_key
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class Rows:
    """`ids` are the rows' places in their split; `pairs` and `labels` are None when the data has none."""

    what: ClassVar[str] = "text"
    ids: list[int]
    texts: list[str]
    pairs: list[str] | None
    labels: list[Any] | None

    def take(self, indices: Sequence[int], ids: Sequence[int] | None = None) -> Rows:
        """The rows at `indices`, with their ids or with new ones."""

        def picked(values: list[Any]) -> list[Any]:
            return [values[index] for index in indices]

        return Rows(
            ids=picked(self.ids) if ids is None else list(ids),
            texts=picked(self.texts),
            pairs=None if self.pairs is None else picked(self.pairs),
            labels=None if self.labels is None else picked(self.labels),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def keys(self) -> list[str]:
        """For each row what identical texts share (`parts.text_key`)."""
        return [
            text_key(text, pair) for text, pair in zip(self.texts, self.pairs or [""] * len(self.texts), strict=True)
        ]

    def contents(self) -> list[tuple[str, ...]]:
        """For each row its text, or the two texts of its pair, normalised (`parts.normalized`)."""
        columns = [self.texts] if self.pairs is None else [self.texts, self.pairs]
        return [tuple(map(normalized, row)) for row in zip(*columns, strict=True)]


def has_labels(table: Table, label: str, *, known: Collection[str] = ()) -> bool:
    """Whether any label is there: unlabelled test splits lack the column, leave it empty, or fill it with −1.

    known: the names of the labels that training has; if −1 is among them, it is a label.
    """
    values = [value for value in table.columns.get(label, []) if not lacks_label(value)]
    names = {label_name(each) for value in values for each in (value.values() if is_gathered(value) else [value])}
    return bool(names - {"-1"}) or ("-1" in names and "-1" in known)


def clean(
    table: Table, columns: Columns, part: str, notes: list[str], class_names: Sequence[str] | None = None
) -> Rows:
    """The rows of a split that have all that they need; those that do not are counted in `notes`.

    A text is kept unchanged, and is empty if it has white space only. `class_names` are the names of the classes
    that labels may be numbers of; by default those that the table knows.
    Raises GeodistillError for a column that is missing or holds lists or objects, and when no row is left.
    """
    texts = [as_text(value) for value in plain_column(table, columns.text, part)]
    pairs = [as_text(value) for value in plain_column(table, columns.text_pair, part)] if columns.text_pair else None
    labels = None
    if columns.label:
        names = table.class_names.get(columns.label) if class_names is None else class_names
        labels = label_column(table, columns.label, part, names or [])
    with_text = [
        index
        for index, text in enumerate(texts)
        if not is_blank(text) and (pairs is None or not is_blank(pairs[index]))
    ]
    kept = [index for index in with_text if labels is None or not lacks_label(labels[index])]
    if dropped := len(texts) - len(with_text):
        notes.append(f"{dropped} of the {len(texts)} {part} rows have an empty text and were dropped.")
    if dropped := len(with_text) - len(kept):
        notes.append(f"{dropped} of the {len(texts)} {part} rows have no label and were dropped.")
    if not kept:
        lacking = "label" if with_text else "text"
        raise GeodistillError(
            f"The {part} split is empty: none of its {len(texts)} rows has a {lacking}.",
            f"Check the column '{columns.label if with_text else columns.text}', or name another with data.{lacking}"
            + (", or use no labels with data.problem=unlabelled." if with_text else "."),
        )
    return Rows(list(range(len(texts))), texts, pairs, labels).take(kept)


def column(table: Table, name: str, part: str) -> list[Any]:
    """A column of a split. Raises GeodistillError when it is missing."""
    if name not in table.columns:
        raise GeodistillError(
            f"The {part} split has no column '{name}'; its columns are {listed(table.columns)}.",
            "Give every split the same columns.",
        )
    return list(table.columns[name])


def plain_column(table: Table, name: str, part: str) -> list[Any]:
    """A column of plain values. Raises GeodistillError when it is missing, or holds lists or objects."""
    values = column(table, name, part)
    nested = next((value for value in values if isinstance(value, list | dict)), None)
    if nested is not None:
        raise GeodistillError(
            f"The column '{name}' of the {part} split holds a {type(nested).__name__}: {str(nested)[:60]}.",
            "Give one text and one label a row.",
        )
    return values


def as_text(value: Any) -> str:
    """A value as text, with the white space at its ends; empty for one that is missing."""
    if is_missing(value):
        return ""
    # JSON may hold half of a surrogate pair, from an emoji that was cut in two: no UTF-8 text can
    return str(value).encode(errors="replace").decode()


def is_blank(text: str) -> bool:
    """Whether a text is empty except for white space."""
    return not text.strip()


def label_column(table: Table, name: str, part: str, class_names: Sequence[str]) -> list[Any]:
    """The labels of a split, or lists of labels, by the names of their classes.

    Raises GeodistillError when the column is missing, or holds objects.
    """
    values = column(table, name, part)
    nested = next((value for value in values if isinstance(value, dict) and not is_gathered(value)), None)
    if nested is not None:
        raise GeodistillError(
            f"The column '{name}' of the {part} split holds a dict: {str(nested)[:60]}.",
            "Give one label a row, a list of labels, or a column for each label (data.label=[COLUMN, COLUMN]).",
        )
    return label_values(values, class_names)
