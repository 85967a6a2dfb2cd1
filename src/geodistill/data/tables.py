"""Columns of plain values, read from a local file or a `datasets.Dataset`, before their meaning is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Value

from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length, and the class names of those that are known to hold class numbers."""

    columns: dict[str, list[Any]]
    class_names: dict[str, list[str]] = field(default_factory=dict)


def from_dataset(dataset: Dataset) -> Table:
    """The columns of plain values (text, numbers, classes) and of lists and objects of these; images and audio are left
    unread."""
    features = dataset.features
    columns = {name: list(dataset[name]) for name, kind in features.items() if _is_plain(kind)}
    class_names = {name: list(kind.names) for name, kind in features.items() if isinstance(kind, ClassLabel)}
    return Table(columns, class_names)


def _is_plain(kind: Any) -> bool:
    if isinstance(kind, dict):
        return all(map(_is_plain, kind.values()))
    if isinstance(kind, list):
        return all(map(_is_plain, kind))
    inner = getattr(kind, "feature", None)  # of the several types of lists that releases of datasets have
    return isinstance(kind, Value | ClassLabel) if inner is None else _is_plain(inner)


def read_table(path: Path) -> Table:
    """Read a .csv, .tsv, .jsonl, .json or .parquet file.

    Raises GeodistillError for another suffix and for a file that is empty, damaged or not UTF-8.
    """
    if path.suffix.lower() not in READERS:
        raise GeodistillError(
            f"The format of {path} is not known by its suffix '{path.suffix}'.",
            f"Name it by what it holds: {', '.join(READERS)}.",
        )
    try:
        if path.stat().st_size == 0:
            raise GeodistillError(f"{path} is empty.", "Give a file that holds examples.")
        table = READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise GeodistillError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
    except OSError as error:
        raise GeodistillError(f"{path} cannot be read: {error}.", "Check the file and its permissions.") from error
    if not any(table.columns.values()):
        raise GeodistillError(f"{path} has no rows.", "Give a file that holds examples.")
    return table


def _read_csv(path: Path) -> Table:
    return _read_separated(path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Table:
    # Tab-separated text is written with and without quoting. Where every line has the tabs of the header, a quotation
    # mark is a character of the text; a reader that takes it for quoting would swallow the lines up to the next one.
    with path.open(encoding="utf-8-sig") as file:
        unquoted = len({line.count("\t") for line in file if line.strip()}) == 1
    return _read_separated(path, delimiter="\t", quoting=csv.QUOTE_NONE if unquoted else csv.QUOTE_MINIMAL)


def _read_separated(path: Path, delimiter: str, quoting: int) -> Table:
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: an unbalanced quotation mark is an error, not a field that swallows the rest of the file
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
        try:
            header = next(reader, [])
            if repeated := {name for name in header if header.count(name) > 1}:
                raise csv.Error(f"several columns are named '{min(repeated)}'")
            for row in reader:
                if row and len(row) != len(header):
                    raise csv.Error(f"{len(row)} fields where the header has {len(header)}")
                if row:
                    rows.append(row)
        except csv.Error as error:
            raise _damaged(path, f"line {reader.line_num}: {error}") from error
    return Table({name: [row[i] for row in rows] for i, name in enumerate(header)})


def _read_jsonl(path: Path) -> Table:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip():
                    rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise _damaged(path, f"line {number}: {error}") from error
    return _from_objects(path, rows)


def _read_json(path: Path) -> Table:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line, under the other suffix
            return _read_jsonl(path)
        raise _damaged(path, str(error)) from error
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    return _from_objects(path, content if isinstance(content, list) else [content])


def _from_objects(path: Path, rows: list[Any]) -> Table:
    if not all(isinstance(row, dict) for row in rows):
        raise _damaged(path, 'its rows are not JSON objects such as {"text": …, "label": …}')
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names})


def _read_parquet(path: Path) -> Table:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        return from_dataset(Dataset(pyarrow.parquet.read_table(path)))
    except pyarrow.ArrowException as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> GeodistillError:
    return GeodistillError(
        f"{path} cannot be read as {path.suffix[1:].lower()} ({reason}).", "Mend or rewrite the file."
    )


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
