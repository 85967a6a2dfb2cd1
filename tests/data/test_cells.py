from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geodistill.data.cells import load_array, read_cells
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError


def picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def series(*lengths: int, channels: int = 2) -> list[list[list[float]]]:
    return [[[float(place)] * channels for place in range(length)] for length in lengths]


def test_texts_lose_their_empty_rows() -> None:
    cells, rows = read_cells(Table({"a": ["One  two", None, " ", "one Two", "three"]}), "a", "train")
    assert cells.kind == "text" and rows == [0, 3, 4]
    assert list(cells.values) == ["One  two", "one Two", "three"]
    assert cells.keys[0] == cells.keys[1] != cells.keys[2]
    assert list(cells.take([2]).values) == ["three"]


def test_images() -> None:
    cells, rows = read_cells(Table({"a": [picture(1), picture(2), picture(1)]}), "a", "train")
    assert cells.kind == "image" and rows == [0, 1, 2]
    assert cells.keys[0] == cells.keys[2] != cells.keys[1]
    assert cells.facts[0].width == 4 and len(cells.take([0, 1]).facts) == 2


def test_series_and_features() -> None:
    cells, _ = read_cells(Table({"a": series(3, 1, 3)}), "a", "train")
    assert (cells.kind, cells.axes, cells.width, list(cells.lengths)) == ("array", 2, 2, [3, 1, 3])
    assert cells.keys[0] == cells.keys[2] != cells.keys[1]
    features, _ = read_cells(Table({"a": np.eye(3, dtype=np.float32)}), "a", "train")
    assert (features.axes, features.width, list(features.take([1]).lengths)) == (1, 3, [1])


def test_arrays_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones((4, 2)))
    np.save(tmp_path / "two.npy", np.full((2, 2), np.nan))
    cells, _ = read_cells(Table({"a": ["one.npy", "two.npy"]}, folder=tmp_path), "a", "train")
    assert cells.kind == "array" and cells.not_finite == 4
    assert np.array_equal(load_array(cells.values[0]), np.ones((4, 2)))
    (tmp_path / "one.npy").write_bytes(b"no array")
    with pytest.raises(GeodistillError, match=r"one\.npy' cannot be read"):
        load_array(cells.values[0])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([None, " "], "is empty"),
        ([1.5, 2.5], "float values, which are neither texts, images nor arrays"),
        (["text", [1.0]], "holds texts, but row 2 holds something else"),
        ([[1.0], ["text"]], "holds arrays, but row 2 holds something else"),
        ([[[1.0, 2.0], [3.0]]], "row 1 of the column 'a' has rows of different lengths"),
        ([[1.0, 2.0], [1.0]], r"row 1 has 2 features, and row 2 has 1 features"),
        ([[[[1.0]]]], "has 3 axes"),
        (["missing.npy"], "missing.npy' cannot be read"),
        ([b"no image"], "cannot be read: 'row 1' is no image"),
    ],
)
def test_what_is_no_column_of_one_kind(values: list[Any], problem: str) -> None:
    with pytest.raises(GeodistillError, match=problem):
        read_cells(Table({"a": values}), "a", "train")


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(GeodistillError, match="no column 'ankel'") as error:
        read_cells(Table({"ankle": ["a"], "trunk": ["b"]}), "ankel", "train")
    assert "Did you mean 'ankle'" in error.value.remedy
