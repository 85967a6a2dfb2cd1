from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from geodistill.data.record import PartRecord, Record
from geodistill.files import write_json
from geodistill.runs.folder import RECIPE, RESULTS, read_json
from geodistill.studies.report import thumbnails
from geodistill.studies.report.thumbnails import SIDE, Thumbnails, thumbnail


def opened(uri: str) -> Image.Image:
    kind, _, content = uri.partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.format is not None and kind == f"data:image/{picture.format.lower()}"
    return picture


def test_a_tiny_image_keeps_its_pixels_and_a_large_one_becomes_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 300, 3), dtype=np.uint8)
    tiny = Image.fromarray(noise[:32, :32])
    assert np.array_equal(np.asarray(opened(thumbnail(tiny))), np.asarray(tiny))
    uri = thumbnail(Image.fromarray(noise))
    assert opened(uri).size == (SIDE // 2, SIDE) and len(uri) < 8000


def test_an_image_file_is_read_again_if_it_is_there(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 200).save(tmp_path / "grey.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    read = Thumbnails(tmp_path)
    assert opened(read({"image": str(tmp_path / "grey.png")})).getpixel((0, 0)) == (200, 200, 200)
    assert read({"image": str(tmp_path / "broken.png")}) == read({"image": "lost.png"}) == ""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    from geodistill.runs.recipe_file import check_recipe
    from geodistill.tasks.choose import task_of

    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    rows = [f'"{thumbnail(Image.fromarray(each))}",{"ab"[place % 2]}' for place, each in enumerate(pixels)]
    (tmp_path / "rows.csv").write_text("\n".join(["image,label", *rows]))
    content = {
        "task": "images",
        "data": {"source": str(tmp_path / "rows.csv")},
        "teacher": {"model": "new:resnet8", "training": {"epochs": 1}},
        "student": {"model": "new:resnet8"},
        "objective": {"label": {}},
    }
    recipe = check_recipe(content)
    write_json(tmp_path / RECIPE, recipe.model_dump(mode="json"))
    write_json(tmp_path / RESULTS, {"data_fingerprint": task_of(recipe).fingerprint})
    return tmp_path


def test_images_that_are_no_files_are_found_again_unless_the_data_are_others(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geodistill.data.images import load_images
    from geodistill.runs.recipe_file import load_recipe

    row: Any = load_images(load_recipe(run / RECIPE).data).splits["test"][3]
    line, read = {"split": "test", "row": row["example_id"], "prediction": "1"}, Thumbnails(run)
    assert np.array_equal(np.asarray(opened(read(line))), np.asarray(row["image"]))
    assert read({**line, "row": 10**6}) == ""
    results = read_json(run / RESULTS)
    write_json(run / RESULTS, {**results, "data_fingerprint": "another"})
    assert Thumbnails(run)(line) == ""
    write_json(run / RESULTS, {**results, "read": {"task": Record(parts={"test": PartRecord(30, 10**6)}).to_dict()}})
    monkeypatch.setattr(thumbnails, "task_of", None)  # too many images are not read
    assert Thumbnails(run)(line) == ""
