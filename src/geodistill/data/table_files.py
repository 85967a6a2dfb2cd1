"""Files of rows, read into tables: CSV, TSV, JSONL, JSON, Parquet and NPZ."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from geodistill.data.tables import ColumnsOnDemand, Table, element, table_of_objects
from geodistill.errors import GeodistillError


def read_table(path: Path) -> Table:
    """Read a .csv, .tsv, .jsonl, .json, .parquet or .npz file; of the last each array is a column of rows.

    Raises GeodistillError for another suffix and for a file that is empty, damaged, compressed or not UTF-8, or whose
    fields are separated by something else than its suffix says.
    """
    (table,) = stream_table(path, None)
    return table


def stream_table(path: Path, size: int | None) -> Iterator[Table]:
    """Read a file as `read_table` does, in tables of at most `size` rows, so that memory does not grow with the file.

    A .json file is one value, and is read as a whole. Without `size` there is one table.
    """
    try:
        _check_format(path)
        for table in READERS[path.suffix.lower()](path, size):
            yield replace(table, folder=path.parent)
    except (UnicodeDecodeError, pyarrow.ArrowException) as error:
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            raise GeodistillError(f"{path} is not UTF-8 text.", "Save it as UTF-8.") from error
        too_long = f"a row is longer than {BLOCK_BYTES} bytes"
        raise _damaged(path, too_long if "straddling" in str(error) else str(error)) from error
    except OSError as error:
        raise GeodistillError(f"{path} cannot be read: {error}.", "Check the file and its permissions.") from error


def _check_format(path: Path) -> None:
    """Raise GeodistillError for a suffix that is not in `READERS`, and a file that cannot have its suffix."""
    if path.suffix.lower() not in READERS:
        remedy = f"Name it by what it holds: {', '.join(READERS)}."
        if path.suffix.lower() in COMPRESSED:
            remedy = f"Unpack it first; the formats that are read are {', '.join(READERS)}."
        raise GeodistillError(f"The format of {path} is not known by its suffix '{path.suffix}'.", remedy)
    if path.stat().st_size == 0:
        raise GeodistillError(f"{path} is empty.", "Give a file that holds examples.")
    if path.suffix.lower() not in (".parquet", ".npz"):
        _check_text(path)


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


# The longest row that is sure to be read, for a row may not span more than two blocks. pyarrow holds about 35 at once.
BLOCK_BYTES = 4 * 2**20
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
LINES_LOOKED_AT = 5
UNBALANCED = "line {}: a field begins with a quotation mark and does not end with one"


def _read_separated(path: Path, size: int | None) -> Iterator[Table]:
    """Read a file with separators. Every value is an unchanged text: `NA` is no gap, and `007` no number."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    quoted = delimiter != "\t" or not _is_unquoted(path)
    header = _header(path, delimiter, quoted)
    if quoted:
        _check_quotes(path, delimiter)
    ragged: list[Any] = []  # the first row with more or fewer fields than the header

    def skip(row: Any) -> str:
        if not ragged:
            ragged.append(row)
        return "skip"

    count = 0
    with pyarrow.csv.open_csv(
        path,
        # Without threads pyarrow numbers the rows.
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
        parse_options=_parse_options(delimiter, quoted, skip),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(header, pyarrow.string())),
    ) as reader:
        if reader.schema.names != header:
            raise _damaged(path, f"the names of its columns span more than {LINES_LOOKED_AT} lines")
        for batch in reader if size else [reader.read_all()]:
            for start in range(0, len(batch), size or len(batch) or 1):
                rows = batch.slice(start, size)
                count += len(rows)
                if ragged and count > ragged[0].number - 2:  # the header has number 1
                    raise _ragged(path, ragged[0])
                yield _of_arrow([name.strip() for name in header], rows)
    if ragged:
        raise _ragged(path, ragged[0])
    _check_rows(path, count)


def _ragged(path: Path, row: Any) -> GeodistillError:
    fields = f"{row.actual_columns} fields where the header has {row.expected_columns}"
    return _damaged(path, f"row {row.number} has {fields}: {row.text[:60]!r}")


def _parse_options(delimiter: str, quoted: bool, invalid_row_handler: Callable[[Any], str] | None = None) -> Any:
    return pyarrow.csv.ParseOptions(
        delimiter=delimiter,
        quote_char='"' if quoted else False,
        newlines_in_values=quoted,
        invalid_row_handler=invalid_row_handler,
    )


def _of_arrow(names: Sequence[str], data: Any) -> Table:
    """The columns of an Arrow table or batch. One without a name, such as the index that pandas writes, is left out."""
    places = {name: place for place, name in enumerate(names) if name}
    return Table(ColumnsOnDemand(list(places), lambda name: data.column(places[name])))


def _is_unquoted(path: Path) -> bool:
    """Tab-separated text is written with and without quoting. If every line has the tabs of the header, a quotation
    mark is a character of the text; a reader that takes it for quoting would swallow the lines up to the next one."""
    with path.open(encoding="utf-8-sig") as file:
        return len({line.count("\t") for line in file if line.strip()}) == 1


def _header(path: Path, delimiter: str, quoted: bool) -> list[str]:
    """The names of the columns, unchanged.

    Raises GeodistillError if two are equal, and if the first lines have one field, and several of equal number by
    another separator.
    """
    with path.open("rb") as file:
        start = b"".join(islice((line for line in file if line.strip(b"\r\n")), LINES_LOOKED_AT))
    _check_rows(path, len(start))
    options = _parse_options(delimiter, quoted, lambda row: "skip")
    header: list[str] = pyarrow.csv.read_csv(BytesIO(start), parse_options=options).column_names
    for separator in SEPARATORS if len(header) == 1 else ():
        try:
            found = pyarrow.csv.read_csv(BytesIO(start), parse_options=_parse_options(separator, True)).column_names
        except pyarrow.ArrowInvalid:  # its lines differ in their number of fields
            continue
        if len(found) > 1:
            suffix = {",": "Name it .csv, or save", "\t": "Name it .tsv, or save"}.get(separator, "Save")
            raise GeodistillError(
                f"{path} seems to be separated by {SEPARATORS[separator]}, not by {SEPARATORS[delimiter]}.",
                f"{suffix} it with {SEPARATORS[delimiter]}.",
            )
    names = [name.strip() for name in header]
    if repeated := {name for name in names if name and names.count(name) > 1}:
        raise _damaged(path, f"several columns are named '{min(repeated)}'")
    return header


def _check_quotes(path: Path, delimiter: str) -> None:
    """Raise GeodistillError for a quoted field without an end, or with text after it.

    pyarrow reads both without a word: such a field swallows the rows up to the next quotation mark.
    """
    between = rf"[{delimiter}\r\n]"
    # A quotation mark at the beginning of a field, the text with its marks doubled, and the mark at the end.
    field = rf'"(?<![^{delimiter}\r\n]")[^"]*(?:""[^"]*)*(?:"(?={between}|\Z)|(?P<no_end>))'
    find = re.compile(field.encode()).finditer
    opened = 0  # the line in which a field began that has no end yet
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if b'"' not in line:
                continue
            before, opened = opened, 0
            text = b'"' + line if before else line.removeprefix(b"\xef\xbb\xbf")
            for match in find(text):
                if match["no_end"] is not None:
                    opened = before if before and match.start() == 0 else number
                    if match.end() < len(text):  # there is text after the mark at the end
                        raise _damaged(path, UNBALANCED.format(opened))
    if opened:
        raise _damaged(path, UNBALANCED.format(opened))


def _read_jsonl(path: Path, size: int | None) -> Iterator[Table]:
    """Read an object in each line.

    Neither pyarrow nor datasets reads JSON as it is written: both make a time of the text "2020-01-01", a float of the
    label 1 if another is 0.5, and of a large whole number a float that is not equal to it.
    """
    yield from _tables_of(path, _json_lines(path), size)


def _json_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            try:
                if line.strip():
                    yield json.loads(line)
            except json.JSONDecodeError as error:
                raise _damaged(path, f"line {number}: {error}") from error


def _read_json(path: Path, size: int | None) -> Iterator[Table]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise _damaged(path, str(error)) from error
        content = list(_json_lines(path))  # one object a line, under the other suffix
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    yield from _tables_of(path, content if isinstance(content, list) else [content], size)


def _tables_of(path: Path, rows: Iterable[Any], size: int | None) -> Iterator[Table]:
    rest, count = iter(rows), 0
    while chunk := list(islice(rest, size)):
        if not all(isinstance(row, dict) for row in chunk):
            raise _damaged(path, 'its rows are not JSON objects such as {"text": …, "label": …}')
        count += len(chunk)
        yield table_of_objects(chunk)
    _check_rows(path, count)


def _read_parquet(path: Path, size: int | None) -> Iterator[Table]:
    def read(name: str) -> Any:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                return file.read(columns=[name]).column(name)
        except pyarrow.ArrowException as error:
            raise _damaged(path, str(error)) from error

    with pyarrow.parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        _check_rows(path, file.metadata.num_rows)
        if repeated := {name for name in schema.names if schema.names.count(name) > 1}:
            raise _damaged(path, f"several columns are named '{min(repeated)}'")
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))  # the datasets library writes this
        features = (described.get("info") or {}).get("features") or {}
        kinds = {name: element(kind) for name, kind in features.items()}
        class_names = {name: kind["names"] for name, kind in kinds.items() if _is_class_label(kind)}
        if size is None:
            yield Table(ColumnsOnDemand(schema.names, read), class_names)
            return
        for batch in file.iter_batches(batch_size=size):
            yield Table(ColumnsOnDemand(schema.names, batch.column), class_names)


def _read_npz(path: Path, size: int | None) -> Iterator[Table]:
    """Read named arrays, whose first axis is the rows. One of a single axis, such as labels, holds plain values."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{error}; arrays of Python objects are not read") from error
    if scalars := [name for name, array in arrays.items() if not array.ndim]:
        raise _damaged(path, f"'{scalars[0]}' is a single number, and has no rows")
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        (first, one), (second, other) = list({count: name for name, count in lengths.items()}.items())[:2]
        raise GeodistillError(
            f"{path} has arrays that are not paired: '{one}' has {first:,} rows, and '{other}' {second:,}.",
            "Give each array one entry for each row along its first axis.",
        )
    count = next(iter(lengths.values()), 0)
    _check_rows(path, count)
    columns = {name: array.tolist() if array.ndim == 1 else array for name, array in arrays.items()}
    for start in range(0, count, size or count):
        yield Table({name: column[start : start + (size or count)] for name, column in columns.items()})


def _is_class_label(kind: Any) -> bool:
    return isinstance(kind, dict) and kind.get("_type") == "ClassLabel" and bool(kind.get("names"))


def _check_rows(path: Path, count: int) -> None:
    if not count:
        raise GeodistillError(f"{path} has no rows.", "Give a file that holds examples.")


def _damaged(path: Path, reason: str) -> GeodistillError:
    return GeodistillError(
        f"{path} cannot be read as {path.suffix[1:].lower()} ({reason}).", "Correct or rewrite the file."
    )


READERS: dict[str, Callable[[Path, int | None], Iterator[Table]]] = {
    ".csv": _read_separated,
    ".tsv": _read_separated,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".npz": _read_npz,
}
