"""From `data.source` in a recipe to the splits it offers: bundled, GLUE, a file, a folder of files, or a hub name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import load_dataset

from geodistill.data.bundled.texts import bundled_splits
from geodistill.data.label_lists import gather_labels
from geodistill.data.table_files import COMPRESSED, READERS, read_table
from geodistill.data.tables import Table, from_dataset
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import DataRecipe

GLUE_HUB_NAME = "nyu-mll/glue"
# The benchmark's own metrics (Wang et al. 2019, table 1), the main one first.
GLUE_METRICS = {
    "cola": ["matthews_correlation"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "f1"],
    "stsb": ["pearson", "spearman"],
    "qqp": ["accuracy", "f1"],
    "mnli": ["accuracy"],
    "qnli": ["accuracy"],
    "rte": ["accuracy"],
    "wnli": ["accuracy"],
}
VALIDATION_NAMES = ("validation", "dev", "val", "valid")


@dataclass(frozen=True)
class Source:
    """The splits of a source by name, each read on demand, and the metrics it is reported with, when it has its own.

    found: how its columns came about, in sentences, if they are no columns of a table
    notes: what a user of it should know, one sentence each
    whole: whether nothing says which split its rows are of
    """

    splits: dict[str, Callable[[], Table]]
    metrics: list[str] | None = None
    found: list[str] | None = None
    notes: Sequence[str] = ()
    whole: bool = False

    def find(self, name: str, *, required: bool) -> str | None:
        """The name under which the wanted split is there; `dev`, `val` and `valid` are other names of `validation`.

        None when it is absent and not required. Raises GeodistillError, listing the splits present, when it is.
        """
        aliases = (name, *VALIDATION_NAMES) if name in VALIDATION_NAMES else (name,)
        found = next((alias for alias in aliases if alias in self.splits), None)
        if found is None and required:
            raise GeodistillError(f"There is no split '{name}'.", suggest(name, self.splits))
        return found


def choose_splits(source: Source, recipe: DataRecipe) -> dict[str, str]:
    """The source's names of the parts it has. Raises GeodistillError for one that is missing or asked for twice."""
    names = {
        "train": source.find(recipe.train_split, required=True),
        "validation": source.find(recipe.validation_split, required=recipe.validation_split != "validation"),
        "test": source.find(recipe.test_split, required=recipe.test_split != "test"),
    }
    if names["train"] in (names["validation"], names["test"]):
        raise GeodistillError(
            f"The split '{names['train']}' is used twice, for training and for evaluation.",
            "Give data.validation_split and data.test_split other splits; missing ones are cut from train.",
        )
    if names["test"] == names["validation"]:
        names["test"] = None  # reported on as test, as a validation split without a test split is
    return {part: name for part, name in names.items() if name is not None}


def open_source(recipe: DataRecipe) -> Source:
    """Find what `recipe.source` names. `glue/TASK` is the hub's; a folder of that name is reached as `./glue/TASK`.

    If the recipe names several label columns, every table has one more that holds their values (`gather_labels`).
    """
    source = _open(recipe)
    if not isinstance(recipe.label, list):
        return source
    splits = {name: partial(_gathered, read, recipe.label) for name, read in source.splits.items()}
    return Source(dict(splits), source.metrics)


def _gathered(read: Callable[[], Table], label: list[str]) -> Table:
    return gather_labels(read(), label)


def _open(recipe: DataRecipe) -> Source:
    name = recipe.source
    if name.startswith("bundled:"):
        return Source(bundled_splits(recipe))
    if name.startswith("glue/"):
        return _glue(name)
    path = Path(name).expanduser()
    if path.exists() and recipe.configuration is not None:
        raise GeodistillError(
            f"data.configuration is for data sets on the hub, but '{name}' is on this machine.",
            "Set data.configuration=null.",
        )
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return Source({"train": partial(read_table, path)})
    if path.suffix.lower() in (*READERS, *COMPRESSED) or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise GeodistillError(
            f"There is no file or folder '{name}'.", "Give data.source an existing path or a hub name."
        )
    return _hub(name, recipe.configuration)


def _glue(name: str) -> Source:
    task = name.removeprefix("glue/")
    if task not in GLUE_METRICS:
        raise GeodistillError(
            f"There is no GLUE task '{name}'.", suggest(name, [f"glue/{task}" for task in GLUE_METRICS])
        )
    splits = _hub(GLUE_HUB_NAME, task).splits
    if task == "mnli":
        splits = {**splits, "validation": splits["validation_matched"]}
    return Source(splits, GLUE_METRICS[task])


def _folder(folder: Path) -> Source:
    present = sorted(path for path in folder.iterdir() if path.is_file())
    files = [path for path in present if path.suffix.lower() in READERS]
    for path in present:
        if path.suffix.lower() in COMPRESSED and Path(path.stem).suffix.lower() in READERS:
            raise GeodistillError(
                f"The folder {folder} holds {path.name}, and compressed files are not read.", "Unpack or remove it."
            )
    if not files:
        raise GeodistillError(
            f"The folder {folder} holds no data files.",
            f"Put a train file there, and if you have them validation and test files: {', '.join(READERS)}.",
        )
    splits: dict[str, Callable[[], Table]] = {}
    for path in files:
        if path.stem in splits:
            raise GeodistillError(f"The folder {folder} holds two files named '{path.stem}'.", "Keep one of them.")
        splits[path.stem] = partial(read_table, path)
    return Source(splits)


def _hub(name: str, configuration: str | None) -> Source:
    try:
        loaded = load_dataset(name, configuration)
    except Exception as error:  # datasets, the hub client and its transport share no base class of errors
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise GeodistillError(
            f"The data set '{name}' could not be loaded from the hub ({reason}).",
            "Check the name, data.configuration and the connection; local files and bundled sets need none.",
        ) from error
    return Source({split: partial(from_dataset, dataset) for split, dataset in loaded.items()})
