"""Columns of plain values, from a file, a `datasets.Dataset` or objects, before their meaning is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset

from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length, and the class names of those that are known to hold class numbers, or lists
    of them.

    A column of Arrow data (a CSV, TSV or Parquet file, a `datasets.Dataset`) becomes Python values when it is first
    asked for. `folder` is the folder of the file, where relative paths in it begin.
    """

    columns: Mapping[str, Sequence[Any]]
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    folder: Path | None = None

    def raw(self, name: str) -> Sequence[Any]:
        """A column in which bytes stay bytes; everywhere else they are text."""
        return self.columns.raw(name) if isinstance(self.columns, ColumnsOnDemand) else self.columns[name]


class ColumnsOnDemand(Mapping[str, Sequence[Any]]):
    """Columns of Arrow data, each read when it is first asked for. `read` returns a column as an Arrow array."""

    def __init__(self, names: Sequence[str], read: Callable[[str], Any]) -> None:
        self._names = list(names)
        self._read = read
        self._values: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._values:
            array = self._read(name)
            values = array.to_pylist()
            self._values[name] = _decoded(values, name) if "binary" in str(array.type) else values
        return self._values[name]

    def raw(self, name: str) -> list[Any]:
        """A column in which bytes stay bytes. It is read anew each time."""
        values: list[Any] = self._read(name).to_pylist()
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # a Mapping would read the column to tell


def from_dataset(dataset: Dataset) -> Table:
    """The columns of a data set, of any type; an image is its bytes and path, which nobody takes for a text."""
    arrow = dataset.with_format("arrow")
    columns = ColumnsOnDemand(dataset.column_names, lambda name: arrow.select_columns(name)[:].column(name))
    kinds = {name: element(kind) for name, kind in dataset.features.items()}
    class_names = {name: list(kind.names) for name, kind in kinds.items() if isinstance(kind, ClassLabel)}
    return Table(columns, class_names)


def element(kind: Any) -> Any:
    """The type of an element if a feature is a list, else the feature."""
    if isinstance(kind, list):
        return kind[0]
    inner = kind.get("feature") if isinstance(kind, dict) else getattr(kind, "feature", None)
    return kind if inner is None else inner


def _decoded(values: list[Any], name: str) -> list[Any]:
    """Bytes, or lists of bytes, as text. Raises GeodistillError if they are not UTF-8."""
    decoded: list[Any] = []
    for number, value in enumerate(values, start=1):
        try:
            if isinstance(value, list):
                decoded.append([each.decode() if isinstance(each, bytes) else each for each in value])
            else:
                decoded.append(value.decode() if isinstance(value, bytes) else value)
        except UnicodeDecodeError as error:
            raise GeodistillError(
                f"The column '{name}' holds bytes that are not UTF-8 text (row {number}).",
                "Save it as text, or name another column in the recipe.",
            ) from error
    return decoded


def table_of_objects(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The columns of JSON objects; a key that an object lacks is missing in its row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names})
