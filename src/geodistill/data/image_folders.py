"""Folders of images by class: `FOLDER/train/CLASS/*.png` with other splits beside `train`, or `FOLDER/CLASS/*.png`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from geodistill.data.bundled.images import BUNDLED_IMAGES, CIFAR10_NOTE
from geodistill.data.bundled.texts import BUNDLED, INSTRUCTIONS
from geodistill.data.columns import listed
from geodistill.data.sources import VALIDATION_NAMES, Source, open_source
from geodistill.data.table_files import READERS
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import DataRecipe

# A folder of such a name is no class, whether or not the recipe asks for it: what it asks for must be there.
SPLIT_NAMES = ("train", "training", "test", "testing", "eval", "evaluation", *VALIDATION_NAMES)
BY_FOLDER = "The label of an image is the name of its folder."
LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini")


def open_images(recipe: DataRecipe) -> Source:
    """Find the images that `recipe.source` names: bundled, a folder by class, or any source that `open_source` finds.

    A folder has splits if one of its folders has a split's name and holds class folders; else its folders are
    classes, unless data files lie beside them.
    """
    if recipe.source.startswith("bundled:"):
        if recipe.source not in BUNDLED_IMAGES:
            is_text = recipe.source in (*BUNDLED, INSTRUCTIONS)
            raise GeodistillError(
                f"'{recipe.source}' holds texts, and the task is images."
                if is_text
                else f"There is no bundled set of images '{recipe.source}'.",
                suggest(recipe.source, BUNDLED_IMAGES),
            )
        tables = BUNDLED_IMAGES[recipe.source]()
        notes = (CIFAR10_NOTE,) if recipe.source == "bundled:cifar10" else ()
        return Source({part: partial(tables.__getitem__, part) for part in tables}, notes=notes)
    folder = Path(recipe.source).expanduser()
    if not folder.is_dir() or recipe.configuration is not None:
        return open_source(recipe)
    inner = _folders(folder)
    chosen = (recipe.train_split, recipe.validation_split, recipe.test_split)
    if any((each.name in chosen or each.name.casefold() in SPLIT_NAMES) and _folders(each) for each in inner):
        return Source({each.name: partial(_by_class, each, each.name) for each in inner}, found=[BY_FOLDER])
    if any(path.suffix.lower() in READERS for path in _files(folder)):
        return open_source(recipe)
    return Source({"train": partial(_by_class, folder, "train")}, found=[BY_FOLDER], whole=True)


def image_files(folder: Path) -> list[Path]:
    """Return all files of a folder and of the folders in it, in an order that is the same on every machine.

    Raises GeodistillError if there is none.
    """
    files = _files(folder, deep=True)
    if not files:
        raise GeodistillError(f"The folder {folder} holds no files.", "Give a folder of images.")
    return files


def _by_class(folder: Path, part: str) -> Table:
    """The images of a split with the names of their class folders; a test split may lie there without labels."""
    classes = _folders(folder)
    loose = _files(folder)
    if not classes and loose and part != "train":
        return Table({"image": [str(path) for path in loose]})
    if not classes or loose:
        raise GeodistillError(
            f"The folder {folder} holds {'files beside' if classes else 'no'} class folders"
            + (f": {listed(path.name for path in loose[:3])}." if loose else "."),
            "Put the images of each class into a folder of the class's name: "
            f"{folder.name}/CLASS/*.png, or FOLDER/train/CLASS/*.png with train, validation and test.",
        )
    images = {each.name: _files(each, deep=True) for each in classes}
    if empty := [name for name, paths in images.items() if not paths]:
        raise GeodistillError(
            f"The folder {folder} has class folders without images: {listed(empty)}.",
            "Put images into them, or remove them.",
        )
    rows = [(str(path), name) for name, paths in images.items() for path in paths]
    return Table({"image": [path for path, _ in rows], "label": [name for _, name in rows]})


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path, *, deep: bool = False) -> list[Path]:
    """Its files, in an order that is the same on every machine, except for hidden ones and what file managers leave."""
    found = (path for path in (folder.rglob("*") if deep else folder.iterdir()) if path.is_file())
    kept = [
        path
        for path in found
        if not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.name.lower() not in LEFT_BY_SYSTEMS
    ]
    return sorted(kept, key=lambda path: path.relative_to(folder).parts)
