from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geodistill.data.decoding import as_png
from geodistill.data.image_folders import BY_FOLDER, open_images
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

PNG = as_png(np.zeros((2, 2), dtype=np.uint8))["bytes"]


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    return folder


def rows(folder: Path, split: str) -> list[tuple[str, str]]:
    table = open_images(DataRecipe(source=str(folder))).splits[split]()
    paths = [Path(path).relative_to(folder).as_posix() for path in table.columns["image"]]
    return list(zip(paths, table.columns.get("label", [""] * len(paths)), strict=True))


def test_class_folders_in_split_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/b.png", "train/cat/a.jpg", "train/dog/old/c.png", "val/dog/d.png")
    touch(tmp_path, "train/cat/.hidden", "train/dog/Thumbs.db", ".git/x")
    source = open_images(DataRecipe(source=str(tmp_path)))
    assert set(source.splits) == {"train", "val"} and source.found == [BY_FOLDER]
    assert rows(tmp_path, "train") == [
        ("train/cat/a.jpg", "cat"),
        ("train/cat/b.png", "cat"),
        ("train/dog/old/c.png", "dog"),
    ]
    assert rows(tmp_path, "val") == [("val/dog/d.png", "dog")]


def test_class_folders_alone_are_one_split(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "test/b.png")  # a class may be named test
    assert set(open_images(DataRecipe(source=str(tmp_path))).splits) == {"train"}
    assert rows(tmp_path, "train") == [("cat/a.png", "cat"), ("test/b.png", "test")]


def test_splits_of_other_names(tmp_path: Path) -> None:
    touch(tmp_path, "fold1/cat/a.png", "fold2/cat/a.png")
    assert set(open_images(DataRecipe(source=str(tmp_path), train_split="fold1")).splits) == {"fold1", "fold2"}


@pytest.mark.parametrize("name", ["Train", "training"])
def test_a_split_folder_is_no_class(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}/cat/a.png", f"{name}/dog/a.png", "Test/cat/b.png")
    source = open_images(DataRecipe(source=str(tmp_path)))
    assert set(source.splits) == {name, "Test"}
    with pytest.raises(GeodistillError, match=rf"There is no split 'train'\. Did you mean '{name}'"):
        source.find("train", required=True)


def test_a_test_split_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/c.png")
    assert rows(tmp_path, "test") == [("test/c.png", "")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png"], "holds no class folders: 'a.png'"),
        (["cat/a.png", "b.png"], "holds files beside class folders: 'b.png'"),
        (["train/cat/a.png", "train/b.png"], "holds files beside class folders: 'b.png'"),
    ],
)
def test_images_outside_class_folders(tmp_path: Path, names: list[str], message: str) -> None:
    touch(tmp_path, *names)
    with pytest.raises(GeodistillError, match=message):
        rows(tmp_path, "train")


def test_an_empty_class_folder(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.png", "test/cat/a.png")
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "test" / "fox").mkdir()
    for split, name in (("train", "dog"), ("test", "fox")):
        with pytest.raises(GeodistillError, match=f"class folders without images: '{name}'"):
            rows(tmp_path, split)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="holds no class folders"):
        rows(tmp_path, "train")


def test_data_files_beside_a_folder_of_images(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.png")
    (tmp_path / "train.csv").write_text("file,label\nimages/a.png,cat\n")
    table = open_images(DataRecipe(source=str(tmp_path))).splits["train"]()
    assert table.columns == {"file": ["images/a.png"], "label": ["cat"]} and table.folder == tmp_path


def test_bundled_names() -> None:
    with pytest.raises(GeodistillError, match="Did you mean 'bundled:digits'"):
        open_images(DataRecipe(source="bundled:digit"))
    with pytest.raises(GeodistillError, match="'bundled:trec' holds texts, and the task is images"):
        open_images(DataRecipe(source="bundled:trec"))
