"""One column of a table as cells of one kind: texts, images or arrays of numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geodistill.data.decoding import DATA_URI, Facts, Unreadable, all_facts, encoded, refuse
from geodistill.data.parts import text_key
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError, suggest

Kind = Literal["text", "image", "array"]
IN_WORDS: dict[Kind, str] = {"text": "texts", "image": "images", "array": "arrays"}
ARRAY_FILE = ".npy"
IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Cells:
    """The cells of one column, all of one kind.

    column: its name
    values: texts; images as the datasets library encodes them; arrays, or the paths of .npy files
    keys: for each cell what equal cells share: a text without its case and white space, else a hash
    facts: of each image; empty for other kinds
    axes: of an array: 1 for features (features,), 2 for a series (time, channels); 0 for other kinds
    width: how many features or channels each array has
    lengths: of each array how many time bins it has; empty for other kinds
    not_finite: how many numbers are NaN or infinite
    """

    column: str
    kind: Kind
    values: Sequence[Any]
    keys: list[str]
    facts: Sequence[Facts] = ()
    axes: int = 0
    width: int = 0
    lengths: Sequence[int] = ()
    not_finite: int = 0

    def take(self, indices: Sequence[int]) -> Cells:
        """Return the cells at these places."""

        def chosen(values: Sequence[Any]) -> list[Any]:
            return [values[index] for index in indices] if len(values) else []

        return replace(
            self,
            values=chosen(self.values),
            keys=chosen(self.keys),
            facts=chosen(self.facts),
            lengths=chosen(self.lengths),
        )


def read_cells(table: Table, column: str, part: str) -> tuple[Cells, list[int]]:
    """Read a column of a split: the cells that hold something, and the numbers of their rows.

    The first of them tells the kind:

    - an array: a list of numbers, or of lists of numbers; an array of a .npz file; or the path of a .npy file. With one
      axis it is a row of features, with two a series (time, channels)
    - an image: bytes, the path of an image file, a data URI, or the Image feature of the datasets library
    - any other text is a text

    Raises GeodistillError for a column that is missing, for cells of another kind than the first, for images and files
    that cannot be read, for arrays of different widths, and for a column without a cell.
    """
    if column not in table.columns:
        raise GeodistillError(f"The {part} split has no column '{column}'.", suggest(column, table.columns))
    values = table.raw(column)
    rows = list(range(len(values)))
    if not isinstance(values, np.ndarray):
        rows = [row for row, value in enumerate(values) if not _is_missing(value)]
    if not rows:
        raise GeodistillError(
            f"The column '{column}' of the {part} split is empty.", "Name another column in data.columns."
        )
    kind = _kind(values[rows[0]], column)
    chosen = [values[row] for row in rows]
    if kind == "image":
        return _images(chosen, rows, column, table.folder, part), rows
    if kind == "array":
        return _arrays(chosen, rows, column, table.folder), rows
    if wrong := [row for row, value in zip(rows, chosen, strict=True) if not isinstance(value, str)]:
        raise _mixed(column, kind, wrong[0])
    return Cells(column, kind, chosen, [text_key(value) for value in chosen]), rows


def load_array(value: Any) -> NDArray[Any]:
    """Return an array, (features,) or (time, channels), from a cell of a column of arrays.

    Raises GeodistillError for a file that is missing or damaged.
    """
    if not isinstance(value, Path):
        return np.asarray(value)
    try:
        return np.load(value, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise GeodistillError(
            f"The array '{value}' cannot be read: {error}.", "Write it anew with numpy.save, without objects in it."
        ) from error


def _is_missing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return True
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, bytes | list) and not len(value)


def _kind(value: Any, column: str) -> Kind:
    if isinstance(value, str):
        path = value.strip().lower()
        if path.endswith(ARRAY_FILE):
            return "array"
        return "image" if path.startswith(DATA_URI) or path.endswith(IMAGE_FILES) else "text"
    if isinstance(value, bytes | dict):
        return "image"
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.ndim):
        return "array"
    raise GeodistillError(
        f"The column '{column}' holds {type(value).__name__} values, which are neither texts, images nor arrays.",
        "Name another column in data.columns.",
    )


def _mixed(column: str, kind: Kind, row: int) -> GeodistillError:
    return GeodistillError(
        f"The column '{column}' holds {IN_WORDS[kind]}, but row {row + 1} holds something else.",
        "Give every row of a column a value of one kind.",
    )


def _images(values: Sequence[Any], rows: Sequence[int], column: str, folder: Path | None, part: str) -> Cells:
    images, names, unreadable = [], [], []
    for row, value in zip(rows, values, strict=True):
        try:
            image = encoded(value, folder)
        except Unreadable as error:
            unreadable.append((f"row {row + 1}", error))
            continue
        if image is None:
            raise _mixed(column, "image", row)
        images.append(image)
        names.append(image["path"] or f"row {row + 1}")
    refuse(unreadable, part)
    facts = all_facts(images, names, part)
    return Cells(column, "image", images, [each.digest for each in facts], facts)


def _arrays(values: Sequence[Any], rows: Sequence[int], column: str, folder: Path | None) -> Cells:
    kept: list[Any] = []
    keys, lengths, not_finite = [], [], 0
    axes = width = 0
    for row, value in zip(rows, values, strict=True):
        array = value
        if isinstance(value, str):
            path = Path(value.strip()).expanduser()
            kept.append(path if folder is None else folder / path)
            array = load_array(kept[-1])
        else:
            try:
                array = np.asarray(value)
            except ValueError:
                raise GeodistillError(
                    f"The array in row {row + 1} of the column '{column}' has rows of different lengths.",
                    "Give each time bin as many channels.",
                ) from None
            kept.append(array)
        if array.dtype.kind not in "biuf" or not array.size:
            raise _mixed(column, "array", row)
        if array.ndim > 2:
            raise GeodistillError(
                f"The array in row {row + 1} of the column '{column}' has {array.ndim} axes.",
                "Give features (features,) or a series (time, channels).",
            )
        axes, width = axes or array.ndim, width or array.shape[-1]
        if (array.ndim, array.shape[-1]) != (axes, width):
            raise GeodistillError(
                f"The arrays of the column '{column}' differ in width: row {rows[0] + 1} has {_shape(axes, width)}, "
                f"and row {row + 1} has {_shape(array.ndim, array.shape[-1])}.",
                "Give every array as many features or channels; a series of one channel has the shape (time, 1).",
            )
        keys.append(hashlib.sha256(f"{array.dtype.kind} {array.shape};".encode() + _bytes(array)).hexdigest())
        lengths.append(len(array) if axes == 2 else 1)
        not_finite += int(array.size - np.isfinite(array).sum())
    return Cells(column, "array", kept, keys, axes=axes, width=width, lengths=lengths, not_finite=not_finite)


def _bytes(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype.kind == "f" else np.int64).tobytes()


def _shape(axes: int, width: int) -> str:
    return f"{width} {'features' if axes == 1 else 'channels'}"
