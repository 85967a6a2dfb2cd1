"""One split as parallel lists, and the cleaning that every split goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from geodistill.data.columns import Columns
from geodistill.data.labels import is_missing
from geodistill.data.splits import text_key
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class Rows:
    """`ids` are the rows' places in their split; `pairs` and `labels` are None when the data has none."""

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

    def text_keys(self) -> list[str]:
        """For each row what identical texts share (`splits.text_key`)."""
        return [
            text_key(text, pair) for text, pair in zip(self.texts, self.pairs or [""] * len(self.texts), strict=True)
        ]


def has_labels(table: Table, label: str) -> bool:
    """Unlabelled test splits lack the column, leave it empty, or fill it with −1."""
    values = [value for value in table.columns.get(label, []) if not is_missing(value)]
    return any(str(value) != "-1" for value in values)


def clean(table: Table, columns: Columns, part: str, notes: list[str]) -> Rows:
    for name in (columns.text, columns.text_pair, columns.label):
        if name is not None and name not in table.columns:
            present = ", ".join(f"'{column}'" for column in table.columns)
            raise GeodistillError(
                f"The {part} split has no column '{name}'; its columns are {present}.",
                "Give every split the same columns.",
            )
    texts = [_text(value) for value in table.columns[columns.text]]
    pairs = [_text(value) for value in table.columns[columns.text_pair]] if columns.text_pair else None
    labels = _named(table, columns.label) if columns.label else None
    with_text = [index for index, text in enumerate(texts) if text and (pairs is None or pairs[index])]
    kept = [index for index in with_text if labels is None or not is_missing(labels[index])]
    if dropped := len(texts) - len(with_text):
        notes.append(f"{dropped} of the {len(texts)} {part} rows have an empty text and were dropped.")
    if dropped := len(with_text) - len(kept):
        notes.append(f"{dropped} of the {len(texts)} {part} rows have no label and were dropped.")
    if not kept:
        raise GeodistillError(
            f"The {part} split is empty: of its {len(texts)} rows none has both a text and what else it needs.",
            "Check data.text, data.text_pair and data.label.",
        )
    return Rows(list(range(len(texts))), texts, pairs, labels).take(kept)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _named(table: Table, label: str) -> list[Any]:
    """Labels by the names of their classes where the source knows them; −1 then means none."""
    names = table.class_names.get(label)
    values = table.columns[label]
    if names is None:
        return values
    return [names[value] if value is not None and 0 <= value < len(names) else None for value in values]
