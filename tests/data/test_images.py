from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from geodistill.data import sources
from geodistill.data.decoding import as_png
from geodistill.data.images import ImageExamples, load_images
from geodistill.data.overlap import HeldOut
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


def pictures(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Iterator[Image.Image]:
    """Different pictures without end."""
    generator = np.random.default_rng(seed)
    while True:
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        yield Image.fromarray(pixels).convert(mode)


def write(folder: Path, counts: dict[str, int], seed: int = 0, mode: str = "RGB") -> Path:
    """So many different pictures a class folder."""
    source = pictures(seed, mode)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            next(source).save(folder / name / f"{number:02}.png")
    return folder


def load(folder: Path | str, **recipe: Any) -> ImageExamples:
    return load_images(DataRecipe(source=str(folder), **recipe))


def sizes(examples: ImageExamples) -> dict[str, int]:
    return {name: len(split) for name, split in examples.splits.items()}


def test_class_folders_are_cut_class_by_class(tmp_path: Path) -> None:
    examples = load(write(tmp_path, {"cat": 20, "dog": 10}))
    assert sizes(examples) == {"train": 21, "validation": 3, "test": 6}
    assert examples.label_names == ["cat", "dog"] and examples.metrics == ["accuracy", "macro_f1"]
    assert examples.record.labels == {
        "cat": {"train": 14, "validation": 2, "test": 4},
        "dog": {"train": 7, "validation": 1, "test": 2},
    }
    row = examples.splits["train"][0]
    assert set(row) == {"example_id", "image", "label"} and row["image"].size == (6, 5)
    assert examples.notes == [] and (examples.channels, examples.size) == (3, (5, 6))
    assert examples.record.images is not None and examples.record.images.modes == {"RGB": 30}
    assert "columns: The label of an image is the name of its folder." in examples.record.lines()


def test_images_belong_to_their_labels(tmp_path: Path) -> None:
    for label, value in (("one", 10), ("two", 20)):
        (tmp_path / label).mkdir()
        for number in range(10):
            pixels = np.full((4, 4, 3), value, dtype=np.uint8)
            pixels[0, 0] = number
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    examples = load(tmp_path)
    for split in examples.splits.values():
        for row in split:
            value = row["image"].getpixel((3, 3))[0]
            assert examples.label_names[row["label"]] == {10: "one", 20: "two"}[value]


def test_splits_do_not_depend_on_names_order_or_encoding(tmp_path: Path) -> None:
    source = pictures()
    images = {label: [next(source) for _ in range(20)] for label in ("cat", "dog")}
    for label, each in images.items():
        (tmp_path / "a" / label).mkdir(parents=True)
        (tmp_path / "b" / label).mkdir(parents=True)
        for number, image in enumerate(each):
            image.save(tmp_path / "a" / label / f"{number:02}.png")
            image.convert("RGBA").save(tmp_path / "b" / label / f"{99 - number}.png")
    first, second = load(tmp_path / "a"), load(tmp_path / "b")
    assert first.held_out == second.held_out and len(first.held_out.texts["test"]) == 8
    assert second.notes == [
        "Of the 40 images 40 are RGB with transparency (RGBA): all are converted to RGB; transparency is dropped."
    ]
    assert load(tmp_path / "a", seed=1).held_out != first.held_out


def test_statistics_are_those_of_the_training_images(tmp_path: Path) -> None:
    examples = load(write(tmp_path, {"cat": 10, "dog": 10}))
    pixels = np.stack([np.asarray(row["image"]) for row in examples.splits["train"]]).reshape(-1, 3) / 255
    assert np.allclose(examples.mean, pixels.mean(0), atol=1e-4)
    assert np.allclose(examples.std, pixels.std(0), atol=1e-4)
    grey = load(write(tmp_path / "grey", {"cat": 10, "dog": 10}, mode="L"))
    assert (grey.channels, len(grey.mean), len(grey.std)) == (1, 1, 1) and grey.notes == []


def test_identical_images_are_on_one_side(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 10})
    for number in range(10):
        Image.open(tmp_path / "cat" / f"{number:02}.png").save(tmp_path / "cat" / f"copy{number}.bmp")
    examples = load(tmp_path)
    digests = {
        name: {row["image"].convert("RGB").tobytes() for row in split} for name, split in examples.splits.items()
    }
    assert not digests["train"] & digests["test"] and not digests["train"] & digests["validation"]
    assert sum(sizes(examples).values()) == 30


def test_training_images_that_are_measured_on_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "train", {"cat": 10, "dog": 10})
    write(tmp_path / "test", {"cat": 3, "dog": 3}, seed=1)
    for number in range(2):
        Image.open(tmp_path / "test" / "cat" / f"{number:02}.png").save(tmp_path / "train" / "cat" / f"x{number}.bmp")
    examples = load(tmp_path)
    assert sizes(examples)["test"] == 6 and sum(sizes(examples).values()) == 26
    assert sum(each.places["test"] for each in examples.record.left_out) == 2
    assert [each.note for each in examples.record.left_out] == examples.notes
    assert examples.notes[-1] == (
        "1 of the 20 train rows was left out: its image is also in the held-out data (1 in the test part)."
    )


def test_a_class_that_is_left_out_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path / "train", {"cat": 10, "dog": 10})
    write(tmp_path / "test", {"cat": 10, "dog": 10})
    with pytest.raises(
        GeodistillError, match="No validation row is left: all 2 have an image that is also in the held-out"
    ):
        load(tmp_path)
    write(tmp_path / "train", {"dog": 10}, seed=5)
    with pytest.raises(GeodistillError, match="label 'cat' is left: the images of all 9 are also in the validation"):
        load(tmp_path)


def test_images_of_the_task_are_not_trained_on_in_a_stage(tmp_path: Path) -> None:
    task = load(write(tmp_path, {"cat": 10, "dog": 10}))
    stage = load_images(DataRecipe(source=str(tmp_path), seed=3), task.held_out)
    measured = task.held_out.texts["test"] | task.held_out.texts["validation"]
    assert stage.record.left_out and all(each.whose == "task" for each in stage.record.left_out)
    assert sum(sizes(stage).values()) < 20 and measured
    assert load_images(DataRecipe(source=str(tmp_path)), HeldOut()).fingerprint == task.fingerprint


def test_a_validation_folder_alone_is_reported_on(tmp_path: Path) -> None:
    write(tmp_path / "train", {"cat": 10, "dog": 10})
    write(tmp_path / "val", {"cat": 3, "dog": 3}, seed=1)
    examples = load(tmp_path)
    assert sizes(examples) == {"train": 18, "validation": 2, "test": 6}
    assert "reported on as test" in examples.notes[0]


def test_a_test_folder_without_labels_is_not_used(tmp_path: Path) -> None:
    write(tmp_path / "train", {"cat": 10, "dog": 10})
    write(tmp_path, {"test": 3}, seed=1)
    examples = load(tmp_path)
    assert examples.notes == ["The test split has no labels and is not used."] and sizes(examples)["test"] == 4


def test_class_folders_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "train", {"cat": 10, "dog": 10})
    write(tmp_path / "test", {"cat": 2, "fox": 2}, seed=1)
    with pytest.raises(GeodistillError, match=r"test split has labels that training lacks: 'fox' .*the same classes"):
        load(tmp_path)
    for path in (tmp_path / "test" / "fox").iterdir():
        path.unlink()
    (tmp_path / "test" / "fox").rmdir()
    assert load(tmp_path).record.labels["dog"]["test"] == 0, "a class may be absent from the test part"


def test_one_class(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match="All training images are of one class: 'cat'"):
        load(write(tmp_path, {"cat": 10}))


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 10})
    (tmp_path / "cat" / "readme.txt").write_text("cats")
    whole = (tmp_path / "dog" / "03.png").read_bytes()
    (tmp_path / "dog" / "03.png").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(GeodistillError, match=r"2 images .*cat/readme\.txt' is no image; .*dog/03\.png' is damaged or"):
        load(tmp_path)


def test_grey_transparent_and_palette_images_are_told(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 10})
    write(tmp_path, {"fox": 4}, seed=1, mode="L")
    write(tmp_path, {"hen": 4}, seed=2, mode="RGBA")
    write(tmp_path, {"owl": 4}, seed=3, mode="P")
    (note,) = load(tmp_path).notes
    assert note.startswith("Of the 32 images 20 are RGB, 4 are grey (L), 4 are RGB with transparency (RGBA), 4 are")


def rows(count: int = 10) -> list[tuple[bytes, int]]:
    generator = np.random.default_rng(0)
    made = [generator.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(2 * count)]
    return [(as_png(pixels)["bytes"], place % 2) for place, pixels in enumerate(made)]


def test_parquet_with_bytes_and_with_the_image_feature(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    images, labels = map(list, zip(*rows(), strict=True))
    pyarrow.parquet.write_table(pyarrow.table({"img": images, "label": labels}), tmp_path / "plain.parquet")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    cells = [{"bytes": image, "path": None} for image in images]
    datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features).to_parquet(tmp_path / "hf.parquet")
    plain, known = load(tmp_path / "plain.parquet"), load(tmp_path / "hf.parquet")
    assert (plain.label_names, known.label_names) == (["0", "1"], ["cat", "dog"])
    assert plain.held_out == known.held_out and sizes(plain) == {"train": 14, "validation": 2, "test": 4}
    assert plain.record.columns == {"image": "img", "label": "label"}


def test_jsonl_with_paths(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 10, "dog": 10})
    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("*/*.png"))
    lines = [json.dumps({"picture": path.as_posix(), "kind": path.parent.name}) for path in paths]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    examples = load(tmp_path / "all.jsonl", image="picture", label="kind")
    assert examples.label_names == ["cat", "dog"] and sum(sizes(examples).values()) == 20
    with pytest.raises(GeodistillError, match=r"No label column .*'picture', 'kind'.* Name it with data\.label"):
        load(tmp_path / "all.jsonl")
    with pytest.raises(GeodistillError, match=r"no column 'pic'.* Correct data\.image"):
        load(tmp_path / "all.jsonl", image="pic")
    with pytest.raises(GeodistillError, match="an image has one class"):
        load(tmp_path / "all.jsonl", label=["kind", "other"])


def test_a_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = map(list, zip(*rows(), strict=True))
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    cells = [{"bytes": image, "path": None} for image in images]
    loaded = datasets.Dataset.from_dict({"img": cells, "label": labels}, features=features)
    monkeypatch.setattr(
        sources, "load_dataset", lambda name, configuration: datasets.DatasetDict({"train": loaded, "test": loaded})
    )
    with pytest.raises(GeodistillError, match="all 2 have an image that is also in the held-out data"):
        load("someone/pets")
    monkeypatch.setattr(sources, "load_dataset", lambda name, configuration: datasets.DatasetDict({"train": loaded}))
    assert load("someone/pets").label_names == ["cat", "dog"]


def test_limit_and_metrics(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 20, "dog": 20})
    few, all_of_them = load(tmp_path, limit=3, metrics=["macro_f1"]), load(tmp_path)
    assert sizes(few) == {"train": 3, "validation": 3, "test": 3} and few.metrics == ["macro_f1"]
    assert few.held_out == all_of_them.held_out and few.fingerprint != all_of_them.fingerprint
    assert few.record.parts["train"].found == 28


def test_digits() -> None:
    examples = load("bundled:digits")
    assert sizes(examples) == {"train": 1259, "validation": 179, "test": 359}
    assert (examples.channels, examples.size, examples.mean) == (1, (8, 8), (0.3053,))
    assert "images: 8 × 8 pixels; L 1,797" in examples.record.lines()
