"""Images of the test split, read again and made small enough to lie in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Image as ImageFeature
from PIL import Image

from geodistill.data.decoding import EncodedImage, Unreadable, decode
from geodistill.data.record import Record
from geodistill.errors import GeodistillError
from geodistill.recipe import TASK_STAGE
from geodistill.runs.folder import RECIPE, RESULTS, read_json
from geodistill.runs.recipe_file import load_recipe
from geodistill.tasks.choose import task_of
from geodistill.tasks.images import Images

SIDE = 128  # pixels of the longer side
LOSSLESS = 64  # up to this side, where each pixel can be seen
MOST_READ = 20_000  # images of a data set that is read again; all of them have to be decoded


class Thumbnails:
    """The images behind lines of test_predictions.jsonl, as data URIs.

    A line that names a file is read from the file. Other images are looked for in the data of the run, if it is small
    and has not changed since.

    Args:
        run: the folder of a run.

    Example:
        `Thumbnails(folder)(line)`, which is "" for an image that cannot be read again, and for what is no image
    """

    def __init__(self, run: Path) -> None:
        self.run = run

    def __call__(self, line: Mapping[str, Any]) -> str:
        image: EncodedImage | None = {"bytes": None, "path": line["image"]} if "image" in line else None
        image = image or self._kept.get((line.get("split"), line.get("row")))
        if image is None:
            return ""
        try:
            return thumbnail(decode(image))
        except Unreadable:
            return ""

    @cached_property
    def _kept(self) -> dict[tuple[Any, Any], EncodedImage]:
        """The images of the test split by split and row; none if they are not the images that were scored."""
        try:
            recipe, results = load_recipe(self.run / RECIPE), read_json(self.run / RESULTS)
            if recipe.task != "images" or _count(results) > MOST_READ:
                return {}
            task = task_of(recipe)
        except GeodistillError:
            return {}
        if not isinstance(task, Images) or task.fingerprint != results["data_fingerprint"]:
            return {}
        rows = task.examples.splits["test"].cast_column("image", ImageFeature(decode=False)).to_list()
        return {("test", row["example_id"]): row["image"] for row in rows}


def thumbnail(picture: Image.Image) -> str:
    """Return a data URI of an image, of at most `SIDE` pixels: PNG of a tiny image, WebP of another."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    kind = "png" if max(picture.size) <= LOSSLESS else "webp"
    file = io.BytesIO()
    small.save(file, kind, quality=75)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _count(results: Mapping[str, Any]) -> int:
    """How many images the data of a run has."""
    parts = Record.from_dict(results["read"][TASK_STAGE]).parts if results.get("read") else {}
    return sum(part.found for part in parts.values())
