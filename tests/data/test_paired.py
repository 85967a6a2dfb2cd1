from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geodistill.data.paired import load_pairs
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

SIDES = {"student": "fr", "teacher": "en"}


def recipe(source: Path, **more: Any) -> DataRecipe:
    return DataRecipe.model_validate({"source": str(source), "columns": SIDES} | more)


@pytest.fixture
def verses(tmp_path: Path) -> Path:
    rows = [{"fr": f"vers {place}", "en": f"verse {place}", "book": "ab"[place % 2]} for place in range(40)]
    rows += [{"fr": "VERS 1", "en": "another"}, {"fr": "", "en": "nothing"}, {"fr": "rien"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_pairs_of_texts(verses: Path) -> None:
    pairs = load_pairs(recipe(verses))
    assert [len(pairs.splits[part]) for part in ("train", "validation", "test")] == [28, 5, 8]
    train = pairs.splits["train"]
    assert all(
        other in (own.lower().replace("vers", "verse"), "another")
        for own, other in zip(train.student.values, train.teacher.values, strict=True)
    )
    assert pairs.notes == ["2 of the 43 train rows lack the input of a side and were dropped."]
    assert pairs.problem == "unlabelled" and pairs.record.columns == SIDES
    places = [name for name, part in pairs.splits.items() for text in part.student.values if text.lower() == "vers 1"]
    assert len(set(places)) == 1, "rows with one student input are in one part"
    assert load_pairs(recipe(verses)).fingerprint == pairs.fingerprint
    other = load_pairs(
        DataRecipe.model_validate({"source": str(verses), "columns": {"student": "en", "teacher": "fr"}})
    )
    assert other.fingerprint != pairs.fingerprint


def test_labels_are_read_where_they_are_named(verses: Path) -> None:
    pairs = load_pairs(recipe(verses, label="book"))
    assert pairs.problem == "classification" and pairs.label_names == ["a", "b"]
    assert set(pairs.splits["train"]["label"]) == {0, 1}
    assert pairs.notes[-1].startswith("1 of the 43 train rows have no label")


def test_a_column_may_serve_both_sides(verses: Path) -> None:
    pairs = load_pairs(recipe(verses, columns={"student": "en", "teacher": "en"}))
    assert pairs.splits["train"].column_names == ["en"]


def test_arrays_of_a_file_of_arrays(tmp_path: Path) -> None:
    for part, rows in (("train", 6), ("validation", 2), ("test", 3)):
        draw = np.random.default_rng(rows)
        np.savez(tmp_path / f"{part}.npz", fr=draw.normal(size=(rows, 4, 2)), en=draw.normal(size=(rows, 5)))
    pairs = load_pairs(recipe(tmp_path))
    assert [len(pairs.splits[part]) for part in ("train", "validation", "test")] == [6, 2, 3]
    assert (pairs.cells("fr").axes, pairs.cells("en").axes, pairs.cells("en").width) == (2, 1, 5)
    np.savez(tmp_path / "test.npz", fr=np.ones((3, 4, 3)), en=np.ones((3, 5)))
    with pytest.raises(GeodistillError, match=r"arrays of 2 axes and width 2 in the train split and .* width 3 in the"):
        load_pairs(recipe(tmp_path))


@pytest.mark.parametrize(
    ("arrays", "more", "problem"),
    [
        ({"fr": np.ones((4, 2)), "en": np.ones((5, 2))}, {}, "not paired: 'fr' has 4 rows, and 'en' 5"),
        ({"fr": np.full((8, 2), np.inf), "en": np.ones((8, 2))}, {}, "'fr' of the train split has 16 numbers"),
        ({"fr": np.eye(8), "en": np.eye(8)}, {"max_length": 9}, "max_length counts tokens"),
        ({"fr": np.ones((8, 2)), "en": np.ones((8, 2))}, {"columns": None}, "an input for each side"),
        ({"fr": np.array(7.0)}, {}, "'fr' is a single number"),
        ({"fr": np.array([{}])}, {}, "arrays of Python objects are not read"),
    ],
)
def test_what_is_no_pair(tmp_path: Path, arrays: dict[str, Any], more: dict[str, Any], problem: str) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(GeodistillError, match=problem):
        load_pairs(recipe(tmp_path / "rows.npz", **more))
