"""Rows of a file or of standard input, in their order and a chunk at a time, so that memory does not grow with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from geodistill.data.image_folders import image_files
from geodistill.data.table_files import COMPRESSED, READERS, stream_table
from geodistill.data.tables import Table, table_of_objects
from geodistill.errors import GeodistillError

STANDARD_INPUT = "-"
LINES = ".txt"
LINE = "line"  # the column that a plain line is in


@dataclass(frozen=True)
class Stream:
    """Rows that are read once.

    name: of the file, for messages
    plain: whether a row is a line of text, in the one column `LINE`
    chunks: tables of at most so many rows as were asked for, in order
    """

    name: str
    plain: bool
    chunks: Iterator[Table]


def open_stream(source: str, size: int) -> Stream:
    """Open a file, or standard input if `source` is `-`, to be read in chunks of `size` rows.

    A .txt file is plain text, and each line is a row, an empty line too. Standard input is plain text as well, unless
    its first line that is not empty is a JSON object: then each line is one, and empty lines are left out. A file of
    another format has columns. A .json file is read as a whole; all others are read as they are needed.

    Raises GeodistillError for a file that is missing, empty, damaged, not UTF-8, or of an unknown format.
    """
    if source == STANDARD_INPUT:
        return _lines_or_objects(_decoded(sys.stdin.buffer, "standard input"), size)
    path = Path(source).expanduser()
    if not path.exists():
        raise GeodistillError(
            f"There is no file '{source}'.", "Give the path of a file, or '-' to read standard input."
        )
    if path.is_dir():
        raise GeodistillError(f"'{source}' is a folder.", "Give one file.")
    if path.suffix.lower() == LINES:
        with path.open("rb") as file:
            empty = not file.read(1)
        if empty:
            raise _empty(path.name)
        return Stream(path.name, True, _plain(_lines_of(path), size, path.parent))
    return Stream(path.name, False, stream_table(path, size))


def open_images(source: str, size: int) -> Stream:
    """Open a folder of images, one image, or whatever `open_stream` opens, where a plain line is the path of an image.

    Raises GeodistillError as `open_stream` does, and for a folder without files.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return Stream(path.name, True, _plain(map(str, image_files(path)), size))
    if source != STANDARD_INPUT and path.is_file() and path.suffix.lower() not in (LINES, *READERS, *COMPRESSED):
        return Stream(path.name, True, _plain([str(path)], size))
    return open_stream(source, size)


def _lines_or_objects(lines: Iterator[str], size: int) -> Stream:
    """Standard input, whose first line that is not empty says what it holds."""
    name = "standard input"
    skipped: list[str] = []
    first = None
    for line in lines:
        if line.strip():
            first = line
            break
        skipped.append(line)
    if first is None:
        raise _empty(name)
    whole = chain(skipped, [first], lines)
    if isinstance(_value(first), dict):
        return Stream(name, False, _objects(whole, name, size))
    return Stream(name, True, _plain(whole, size))


def _plain(lines: Iterable[str], size: int, folder: Path | None = None) -> Iterator[Table]:
    rest = iter(lines)
    while chunk := list(islice(rest, size)):
        yield Table({LINE: chunk}, folder=folder)


def _objects(lines: Iterable[str], name: str, size: int) -> Iterator[Table]:
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    while chunk := list(islice(numbered, size)):
        rows = []
        for number, line in chunk:
            row = _value(line)
            if not isinstance(row, dict):
                raise GeodistillError(
                    f"Line {number} of {name} is not a JSON object, but its first line is one.",
                    "Give a JSON object in each line, or plain text in each line.",
                )
            rows.append(row)
        yield table_of_objects(rows)


def _lines_of(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from _decoded(file, path.name)


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise GeodistillError(f"Line {number} of {name} is not UTF-8 text.", "Give it as UTF-8.") from error
        yield text.rstrip("\r\n")


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _empty(name: str) -> GeodistillError:
    return GeodistillError(f"There is nothing to read: {name} is empty.", "Give at least one row.")
