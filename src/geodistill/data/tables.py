"""Columns of plain values, read from a local file or a `datasets.Dataset`, before their meaning is known."""

from __future__ import annotations

import csv
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from datasets import ClassLabel, Dataset

from geodistill.errors import GeodistillError


@dataclass(frozen=True)
class Table:
    """Columns by name, all of one length, and the class names of those that are known to hold class numbers, or lists
    of them.

    A column of a Parquet file or a `datasets.Dataset` is read when it is first asked for. `folder` is the folder of the
    file, where relative paths in it begin.
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
    kinds = {name: _one(kind) for name, kind in dataset.features.items()}
    class_names = {name: list(kind.names) for name, kind in kinds.items() if isinstance(kind, ClassLabel)}
    return Table(columns, class_names)


def _one(kind: Any) -> Any:
    """The type of an element where a feature is a list, else the feature."""
    if isinstance(kind, list):
        return kind[0]
    inner = kind.get("feature") if isinstance(kind, dict) else getattr(kind, "feature", None)
    return kind if inner is None else inner


def _decoded(values: list[Any], name: str) -> list[Any]:
    """Bytes, or lists of bytes, as text. Raises GeodistillError where they are not UTF-8."""
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


def read_table(path: Path) -> Table:
    """Read a .csv, .tsv, .jsonl, .json or .parquet file.

    Raises GeodistillError for another suffix and for a file that is empty, damaged, compressed or not UTF-8, or whose
    fields are separated by something else than its suffix says.
    """
    try:
        _check_format(path)
        return replace(READERS[path.suffix.lower()](path), folder=path.parent)
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, error) from error


def _check_format(path: Path) -> None:
    """Raise GeodistillError for another suffix than those of `READERS`, and a file that cannot be of its suffix."""
    if path.suffix.lower() not in READERS:
        remedy = f"Name it by what it holds: {', '.join(READERS)}."
        if path.suffix.lower() in COMPRESSED:
            remedy = f"Unpack it first; the formats that are read are {', '.join(READERS)}."
        raise GeodistillError(f"The format of {path} is not known by its suffix '{path.suffix}'.", remedy)
    if path.stat().st_size == 0:
        raise GeodistillError(f"{path} is empty.", "Give a file that holds examples.")
    if path.suffix.lower() != ".parquet":
        _check_text(path)


def _unreadable(path: Path, error: UnicodeDecodeError | OSError) -> GeodistillError:
    if isinstance(error, UnicodeDecodeError):
        return GeodistillError(f"{path} is not UTF-8 text.", "Save it as UTF-8.")
    return GeodistillError(f"{path} cannot be read: {error}.", "Check the file and its permissions.")


def _check_text(path: Path) -> None:
    """Raise GeodistillError for a file that is of another kind than text in UTF-8, as its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(1024)
    for magic, kind, remedy in MISTAKEN:
        if start.startswith(magic):
            raise GeodistillError(f"{path} is not UTF-8 text but {kind}.", remedy)
    if b"\0" in start:
        raise GeodistillError(f"{path} is not UTF-8 text: it holds zero bytes, as UTF-16 does.", "Save it as UTF-8.")


COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
MISTAKEN = (
    (b"\xff\xfe", "UTF-16", "Save it as UTF-8."),
    (b"\xfe\xff", "UTF-16", "Save it as UTF-8."),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it first."),
    (b"BZh", "compressed by bzip2", "Unpack it first."),
    (b"\xfd7zXZ", "compressed by xz", "Unpack it first."),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "Unpack it first."),
    (b"PK\x03\x04", "a zip archive or a workbook", "Unpack it, or export the sheet as CSV in UTF-8."),
    (b"PAR1", "a Parquet file", "Name it .parquet."),
)


def stream_table(path: Path, size: int) -> Iterator[Table]:
    """Read a file as `read_table` does, in tables of `size` rows at most, so that memory does not grow with the file.

    A .json file is one value, and is read as a whole.
    """
    try:
        _check_format(path)
        match path.suffix.lower():
            case ".csv" | ".tsv":
                yield from _stream_separated(path, size)
            case ".jsonl":
                yield from _stream_objects(path, size)
            case ".parquet":
                yield from _stream_parquet(path, size)
            case _:
                yield from _slices(READERS[path.suffix.lower()](path), size)
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, error) from error


def _slices(table: Table, size: int) -> Iterator[Table]:
    count = max(map(len, table.columns.values()))
    for start in range(0, count, size):
        yield Table({name: values[start : start + size] for name, values in table.columns.items()}, table.class_names)


def _read_separated(path: Path) -> Table:
    header, *rows = _separated(path)
    _check_rows(path, len(rows))
    return _by_column(header, rows)


def _stream_separated(path: Path, size: int) -> Iterator[Table]:
    lines = _separated(path)
    header = next(lines)
    for rows in _chunks(path, lines, size):
        yield _by_column(header, rows)


def _by_column(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    # A column without a name, such as the index that pandas writes, cannot be asked for.
    return Table({name: [row[i] for row in rows] for i, name in enumerate(header) if name})


def _separated(path: Path) -> Iterator[list[str]]:
    """The header of a file with separators, and its rows."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    _check_separator(path, delimiter)
    quoting = csv.QUOTE_NONE if delimiter == "\t" and _is_unquoted(path) else csv.QUOTE_MINIMAL
    with path.open(encoding="utf-8-sig", newline="") as file:
        # strict: an unbalanced quotation mark is an error, not a field that swallows the rest of the file
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
        try:
            header = [name.strip() for name in _next_row(reader) or []]
            if repeated := {name for name in header if name and header.count(name) > 1}:
                raise csv.Error(f"several columns are named '{min(repeated)}'")
            yield header
            while (row := _next_row(reader)) is not None:
                if len(row) != len(header):
                    raise csv.Error(f"{len(row)} fields where the header has {len(header)}")
                yield row
        except csv.Error as error:
            raise _damaged(path, f"line {reader.line_num}: {error}") from error


def _is_unquoted(path: Path) -> bool:
    """Tab-separated text is written with and without quoting. Where every line has the tabs of the header, a quotation
    mark is a character of the text; a reader that takes it for quoting would swallow the lines up to the next one."""
    with path.open(encoding="utf-8-sig") as file:
        return len({line.count("\t") for line in file if line.strip()}) == 1


def _next_row(reader: Iterator[list[str]]) -> list[str] | None:
    """The next row that is not an empty line; None at the end."""
    with _fields_of_any_length():
        return next((row for row in reader if row), None)


_FIELD_LIMIT = threading.RLock()


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the limit of 131,072 characters a field, which the csv module has for the whole process, for a while."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a C long, which has 32 bits on Windows
        try:
            yield
        finally:
            csv.field_size_limit(before)


SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
LINES_LOOKED_AT = 5


def _check_separator(path: Path, expected: str) -> None:
    """Raise GeodistillError where the first lines have one field, and several of equal number by another separator."""
    with path.open(encoding="utf-8-sig") as file:
        lines = list(islice((line.rstrip("\n") for line in file if line.strip()), LINES_LOOKED_AT))
    if not lines or len(_fields(lines[0], expected)) > 1:
        return
    for separator, name in SEPARATORS.items():
        counts = {len(_fields(line, separator)) for line in lines}
        if len(counts) == 1 and max(counts) > 1:
            suffix = {",": ".csv", "\t": ".tsv"}.get(separator)
            save = f"save it with {SEPARATORS[expected]}"
            raise GeodistillError(
                f"The fields of {path} seem to be separated by {name}, and those of a {path.suffix.lower()} file are "
                f"separated by {SEPARATORS[expected]}.",
                f"Name it {suffix}, or {save}." if suffix else f"{save.capitalize()}.",
            )


def _fields(line: str, separator: str) -> list[str]:
    with _fields_of_any_length():
        return next(csv.reader([line], delimiter=separator), [])


def _read_jsonl(path: Path) -> Table:
    return _from_objects(path, list(_json_lines(path)))


def _stream_objects(path: Path, size: int) -> Iterator[Table]:
    for rows in _chunks(path, _json_lines(path), size):
        yield _from_objects(path, rows)


Row = TypeVar("Row")


def _chunks(path: Path, rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """The rows of a file, `size` at a time. Raises GeodistillError where there are none."""
    count = 0
    while chunk := list(islice(rows, size)):
        count += len(chunk)
        yield chunk
    _check_rows(path, count)


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip():
                    yield json.loads(line)
            except json.JSONDecodeError as error:
                raise _damaged(path, f"line {number}: {error}") from error


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
    _check_rows(path, len(rows))
    return table_of_objects(rows)


def table_of_objects(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The columns of JSON objects; a key that an object lacks is missing in its row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names})


def _read_parquet(path: Path) -> Table:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    def read(name: str) -> Any:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                return file.read(columns=[name]).column(name)
        except pyarrow.ArrowException as error:
            raise _damaged(path, str(error)) from error

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
    except pyarrow.ArrowException as error:
        raise _damaged(path, str(error)) from error
    _check_rows(path, count)
    if repeated := {name for name in schema.names if schema.names.count(name) > 1}:
        raise _damaged(path, f"several columns are named '{min(repeated)}'")
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))  # the datasets library writes this
    features = (described.get("info") or {}).get("features") or {}
    kinds = {name: _one(kind) for name, kind in features.items()}
    class_names = {name: kind["names"] for name, kind in kinds.items() if _is_class_label(kind)}
    return Table(ColumnsOnDemand(schema.names, read), class_names)


def _stream_parquet(path: Path, size: int) -> Iterator[Table]:
    import pyarrow
    import pyarrow.parquet

    table = _read_parquet(path)  # of which no column is read yet
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=size):
                yield Table(ColumnsOnDemand(list(table.columns), batch.column), table.class_names)
    except pyarrow.ArrowException as error:
        raise _damaged(path, str(error)) from error


def _is_class_label(kind: Any) -> bool:
    return isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and bool(kind.get("names"))


def _check_rows(path: Path, count: int) -> None:
    if not count:
        raise GeodistillError(f"{path} has no rows.", "Give a file that holds examples.")


def _damaged(path: Path, reason: str) -> GeodistillError:
    return GeodistillError(
        f"{path} cannot be read as {path.suffix[1:].lower()} ({reason}).", "Correct or rewrite the file."
    )


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
