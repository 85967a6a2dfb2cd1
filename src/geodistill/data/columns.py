"""Which columns hold the text, its pair and the label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

# The column names of GLUE and of most published sets; the first that is there is taken.
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("text", "text_pair"),
    ("text1", "text2"),
)
TEXTS = ("text", "sentence", "review", "content", "question")
LABELS = ("label", "labels", "class", "target")


@dataclass(frozen=True)
class Columns:
    text: str
    text_pair: str | None
    label: str | None


def find_columns(present: Iterable[str], recipe: DataRecipe) -> Columns:
    """The columns that the recipe names, and by their usual names, in any case of letters, those that it does not.

    No label is looked for when `problem` is `unlabelled`, and none need be there when it is `auto`.
    Raises GeodistillError, listing the columns present, for one that is missing.
    """
    names = list(present)
    usual = {name.strip().casefold(): name for name in reversed(names)}
    for field in ("text", "text_pair", "label"):
        named = getattr(recipe, field)
        if named is not None and named not in names:
            raise GeodistillError(
                f"There is no column '{named}'; the columns are {listed(names)}.", f"Mend data.{field}."
            )
    text, text_pair = recipe.text, recipe.text_pair
    if text is None and text_pair is None:
        text, text_pair = next(((usual[a], usual[b]) for a, b in PAIRS if a in usual and b in usual), (None, None))
    text = text or next((usual[name] for name in TEXTS if name in usual), None)
    if text is None:
        raise GeodistillError(
            f"No text column is found by its usual names; the columns are {listed(names)}.",
            "Name it with data.text (and data.text_pair).",
        )
    if recipe.problem == "unlabelled":
        return Columns(text, text_pair, None)
    label = recipe.label or next((usual[name] for name in LABELS if name in usual), None)
    if label is None and (recipe.problem != "auto" or recipe.metrics):
        raise GeodistillError(
            f"No label column is found by its usual names; the columns are {listed(names)}.",
            "Name it with data.label, or ask for no metrics and set data.problem=unlabelled.",
        )
    chosen = [name for name in (text, text_pair, label) if name is not None]
    if len(set(chosen)) < len(chosen):
        raise GeodistillError(
            f"One column is chosen twice, of text, pair and label: {listed(chosen)}.",
            "Name another one with data.text, data.text_pair or data.label.",
        )
    return Columns(text, text_pair, label)


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
