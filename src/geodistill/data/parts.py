"""The parts of a data set, cut from train if its source has none.

A cut is the same on every machine and in any order of the rows: the hash of a row's content decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

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
    """Cut these shares from train; raises GeodistillError if the rows are too few for that."""
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


def text_key(text: str, pair: str = "") -> str:
    """What two texts share when they differ in case and white space only."""
    return "\n".join(map(normalized, (text, pair)))


def normalized(text: str) -> str:
    """The text in small letters, with one space wherever it has white space."""
    return " ".join(text.casefold().split())


def cut(keys: Sequence[str], strata: Sequence[Any], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Indices of the parts named in `shares`, and of the rest as `train`, in the order of the rows.

    Each stratum (a class) is shared out by itself, and at least one of its texts stays in `train`. Rows with the same
    key are one text and go to one part, so no text is both trained on and reported on.
    """
    texts: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        texts.setdefault(key, []).append(index)
    by_stratum: dict[Hashable, list[str]] = {}
    for key, indices in texts.items():
        by_stratum.setdefault(strata[indices[0]], []).append(key)
    parts: dict[str, list[int]] = {name: [] for name in ("train", *shares)}
    for members in by_stratum.values():
        rest = sorted(members, key=lambda key: _rank(key, f"cut {seed}"))
        for name, share in shares.items():
            count = min(round(share * len(members)), len(rest) - 1)
            parts[name] += [index for key in rest[:count] for index in texts[key]]
            rest = rest[count:]
        parts["train"] += [index for key in rest for index in texts[key]]
    return {name: sorted(indices) for name, indices in parts.items()}


def sample(keys: Sequence[str], limit: int, seed: int) -> list[int]:
    """At most `limit` indices in the order of the rows; a larger limit keeps all indices of a smaller one."""
    if limit >= len(keys):
        return list(range(len(keys)))
    return sorted(sorted(range(len(keys)), key=lambda index: (_rank(keys[index], f"limit {seed}"), index))[:limit])


def _rank(key: str, salt: str) -> bytes:
    return hashlib.sha256(f"{salt}\n{key}".encode()).digest()
