from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geodistill.data.columns import ImageColumns
from geodistill.data.decoding import as_png
from geodistill.data.image_rows import ImageRows, channels_of, clean_images, count_modes, modes_note
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError

COLUMNS = ImageColumns("image", "label")
PNGS = [as_png(np.full((2, 3), value, dtype=np.uint8))["bytes"] for value in range(4)]


def clean(images: list[Any], labels: list[Any], notes: list[str], names: list[str] | None = None) -> ImageRows:
    return clean_images(Table({"image": images, "label": labels}), COLUMNS, "train", notes, names or [])


def test_rows_without_image_or_label_are_dropped_and_counted() -> None:
    notes: list[str] = []
    rows = clean([PNGS[0], None, PNGS[1], {"bytes": None, "path": None}, PNGS[2]], ["a", "a", None, "b", "b"], notes)
    assert (rows.ids, rows.labels, len(rows)) == ([0, 4], ["a", "b"], 2)
    assert notes == [
        "2 of the 5 train rows have no image and were dropped.",
        "1 of the 5 train rows have no label and were dropped.",
    ]


def test_class_numbers_get_their_names() -> None:
    assert clean(PNGS, [0, 1, 1, -1], [], ["cat", "dog"]).labels == ["cat", "dog", "dog"]


def test_rows_are_known_by_their_pixels() -> None:
    rows = clean([PNGS[0], PNGS[1], PNGS[0]], ["a", "b", "b"], [])
    first, second, third = rows.keys()
    assert first == third != second and rows.contents() == [(first,), (second,), (third,)]
    taken = rows.take([2, 0])
    assert (taken.ids, taken.labels, taken.images[0]) == ([2, 0], ["b", "a"], rows.images[2])
    assert rows.take([2, 0], range(2)).ids == [0, 1]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([None, ""], ["a", "b"], r"none of its 2 rows has an image\. Check the column 'image'"),
        (PNGS[:2], [None, ""], r"none of its 2 rows has a label\. Check the column 'label'"),
        ([PNGS[0], b"no"], ["a", "b"], "'row 2' is no image"),
        ([[1], PNGS[0]], ["a", "b"], "'row 1' is a list, neither bytes nor a path"),
        (PNGS[:2], [["a"], ["b", "c"]], "holds lists of labels"),
    ],
)
def test_what_is_refused(images: list[Any], labels: list[Any], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        clean(images, labels, [])


def test_a_split_without_the_column() -> None:
    with pytest.raises(GeodistillError, match="The test split has no column 'image'; its columns are 'label'"):
        clean_images(Table({"label": ["a"]}), COLUMNS, "test", [], [])


def test_a_relative_path_begins_at_the_folder_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNGS[0])
    table = Table({"image": ["a.png"], "label": ["x"]}, folder=tmp_path)
    assert len(clean_images(table, COLUMNS, "train", [], [])) == 1
    with pytest.raises(GeodistillError, match=r"b\.png' does not exist"):
        clean_images(Table({"image": ["b.png"], "label": ["x"]}, folder=tmp_path), COLUMNS, "train", [], [])


def test_modes_are_counted_and_told_where_something_is_converted() -> None:
    rows = clean([*PNGS, as_png(np.zeros((2, 2, 3), dtype=np.uint8))["bytes"]], list("abcde"), [])
    assert count_modes(rows.facts) == {"L": 4, "RGB": 1}
    assert modes_note({"RGB": 3}) == modes_note({"L": 3}) == []
    assert modes_note({"RGB": 2000, "L": 4, "RGBA": 1}) == [
        "Of the 2,005 images 2,000 are RGB, 4 are grey (L), 1 are RGB with transparency (RGBA): "
        "all are converted to RGB; transparency is dropped."
    ]
    assert modes_note({"L": 1, "1": 1})[0].endswith("all are converted to grey.")
    assert (channels_of(["L", "1", "LA"]), channels_of(["L", "P"]), channels_of(["RGB"])) == (1, 3, 3)
