"""The parts of a data set: chosen among the splits of a source, and cut from train where it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from geodistill.data.sources import Source
from geodistill.data.splits import cut, sample
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

PARTS = ("train", "validation", "test")
ALL = "all"  # stands for every split of a source, and for a file, which has none


class Part(Protocol):
    """The rows of one split. `what` is a word for what a row holds, such as text."""

    what: ClassVar[str]

    def __len__(self) -> int: ...

    def take(self: P, indices: Sequence[int], ids: Sequence[int] | None = None) -> P:
        """The rows at `indices`, with their ids or with new ones."""

    def keys(self) -> list[str]:
        """For each row a string that rows of the same content share: they go to one part."""

    def contents(self) -> list[tuple[str, ...]]:
        """For each row what may not be both trained on and measured on: its text, normalised, or the two texts of its
        pair, or the hash of its image."""


P = TypeVar("P", bound=Part)


def choose_splits(source: Source, recipe: DataRecipe) -> dict[str, str]:
    """The source's names of the parts it has. Raises GeodistillError for one that is missing or asked for twice."""
    names = {
        "train": source.find(recipe.train_split, required=True),
        "validation": source.find(recipe.validation_split, required=recipe.validation_split != "validation"),
        "test": source.find(recipe.test_split, required=recipe.test_split != "test"),
    }
    if names["train"] in (names["validation"], names["test"]):
        raise GeodistillError(
            f"The split '{names['train']}' is asked for twice, to train on and to measure on.",
            "Give data.validation_split and data.test_split other splits; missing ones are cut from train.",
        )
    if names["test"] == names["validation"]:
        names["test"] = None  # reported on as test, as a validation split without a test split is
    return {part: name for part, name in names.items() if name is not None}


def complete(
    parts: dict[str, P], recipe: DataRecipe, notes: list[str], strata: Sequence[Any] | None = None
) -> dict[str, P]:
    """Cut from train the parts that are missing.

    A validation part without a test part is reported on as test, and a new validation part is cut: nothing is tuned on
    what is reported. `strata` are the classes of the train rows, if they have any.
    """
    if "validation" in parts and "test" not in parts:
        parts = {"train": parts["train"], "test": parts["validation"]}
        notes.append("The validation split is reported on as test; a new validation part was cut from train.")
    wanted = {"test": recipe.test_share, "validation": recipe.validation_share}
    return cut_parts(parts, {name: share for name, share in wanted.items() if name not in parts}, recipe.seed, strata)


def cut_parts(
    parts: dict[str, P], shares: Mapping[str, float], seed: int, strata: Sequence[Any] | None = None
) -> dict[str, P]:
    """Cut these shares from train; raises GeodistillError where the rows are too few for that."""
    train = parts["train"]
    if shares:
        found = cut(train.keys(), [0] * len(train) if strata is None else strata, shares, seed)
        for name, indices in found.items():
            if not indices:
                raise GeodistillError(
                    f"The {len(train)} training rows are too few to cut a {name} part from.",
                    f"Give more rows, a {name} split of your own, or a larger data.{name}_share.",
                )
        parts = {**parts, **{name: train.take(indices, range(len(indices))) for name, indices in found.items()}}
    return {name: parts[name] for name in PARTS if name in parts}


def limited(parts: dict[str, P], recipe: DataRecipe) -> dict[str, P]:
    """At most `recipe.limit` rows of each part."""
    if recipe.limit is None:
        return parts
    return {name: part.take(sample(part.keys(), recipe.limit, recipe.seed)) for name, part in parts.items()}


def origins(names: Mapping[str, str], given: Mapping[str, P], parts: Mapping[str, P]) -> dict[str, str | None]:
    """For each part the split of the source that it is, and None for a part that was cut from train.

    `names` are those of `choose_splits`, `given` the rows of these splits, `parts` what `complete` made of them.
    """
    found = {
        part: next((names[name] for name, rows in given.items() if rows is each), None) for part, each in parts.items()
    }
    return {**found, "train": names["train"]}  # what is left of train after cutting is train
