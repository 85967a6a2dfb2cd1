"""The bundled data sets: published texts read from a pinned package, each text once.

Two texts that differ in case or white space only are one text. A text that was given two labels is left out, since no
answer to it would be right. Splits are cut afterwards, as for any other source (parts.py), so a text is in one only.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from geodistill.data.bundled.gait import gait_splits
from geodistill.data.bundled.images import BUNDLED_IMAGES
from geodistill.data.bundled.natural_instructions import instruction_splits
from geodistill.data.bundled.packages import TEXTS, package_files
from geodistill.data.bundled.verses import verse_splits
from geodistill.data.parts import cut, text_key
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import DataRecipe

INSTRUCTIONS = "bundled:instructions"
SENTENCE_FILES = ("movieReviewSnippets", "amazonReviewSnippets", "tweets", "nytEditorialSnippets")
NEUTRAL = 0.5  # mean ratings run from −4 to +4; nearer to zero than this a review has no side


def bundled_splits(recipe: DataRecipe) -> dict[str, Callable[[], Table]]:
    """The splits of `bundled:NAME`: all rows as `train`, except for instructions and pairs, which come with splits.

    Raises GeodistillError for an unknown name.
    """
    if recipe.source == INSTRUCTIONS:
        tables = instruction_splits(recipe)
        return {part: partial(tables.__getitem__, part) for part in tables}
    if recipe.source in BUNDLED_PAIRS:
        tables = BUNDLED_PAIRS[recipe.source]()
        return {part: partial(tables.__getitem__, part) for part in tables}
    if recipe.source not in BUNDLED:
        if recipe.source in BUNDLED_IMAGES:
            raise GeodistillError(f"'{recipe.source}' holds images, and the task reads texts.", "Set task: images.")
        names = [*BUNDLED, INSTRUCTIONS, *BUNDLED_PAIRS]
        raise GeodistillError(f"There is no bundled data set '{recipe.source}'.", suggest(recipe.source, names))
    return {"train": partial(BUNDLED[recipe.source], recipe)}


def trec(recipe: DataRecipe) -> Table:
    """Questions by what they ask for: ABBR, DESC, ENTY, HUM, LOC, NUM (Li & Roth 2002). 5,380 texts."""
    return _labelled((question, label.split(":")[0]) for label, question in _questions())


def trec_fine(recipe: DataRecipe) -> Table:
    """The same questions under their 50 fine labels, such as NUM:date. 5,379 texts."""
    return _labelled((question, label) for label, question in _questions())


def reviews(recipe: DataRecipe) -> Table:
    """Movie-review sentences, negative or positive by the mean of 20 ratings (Hutto & Gilbert 2014). 10,070 texts."""
    return _labelled(
        (text, "positive" if rating > 0 else "negative")
        for rating, text in _rated("movieReviewSnippets")
        if abs(rating) >= NEUTRAL
    )


def spam(recipe: DataRecipe) -> Table:
    """Text messages, ham or spam (Almeida et al. 2011). 4,511 texts, 12 % of them spam."""
    with _file("sms-spam.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return _labelled((row["text"], "spam" if row["spam"] == "1" else "ham") for row in rows)


def sentences(recipe: DataRecipe) -> Table:
    """Unlabelled sentences of movie and product reviews, tweets and editorials (Hutto & Gilbert 2014).

    The movie-review sentences come from `bundled:reviews`. What falls into the test part of `bundled:reviews` or
    `bundled:trec`, at this recipe's `seed` and `test_share`, is left out; what falls into their other parts is here, as
    text without a label. A stage leaves out all rows that the task is measured on (overlap.py).
    """
    held_out = {key for table in (trec(recipe), reviews(recipe)) for key in _test_keys(table, recipe)}
    texts = {text_key(text): text.strip() for name in SENTENCE_FILES for _, text in _rated(name)}
    return Table({"text": [text for key, text in texts.items() if key not in held_out]})


BUNDLED_PAIRS: dict[str, Callable[[], dict[str, Table]]] = {"bundled:verses": verse_splits, "bundled:gait": gait_splits}
"""Sets with several columns of the same thing, of which a recipe chooses one for each side (data.columns)."""
BUNDLED: dict[str, Callable[[DataRecipe], Table]] = {
    "bundled:trec": trec,
    "bundled:trec-fine": trec_fine,
    "bundled:reviews": reviews,
    "bundled:spam": spam,
    "bundled:sentences": sentences,
}


def _labelled(rows: Iterable[tuple[str, str]]) -> Table:
    """Each text once, in the order of the file, under its class number; texts with conflicting labels left out."""
    texts: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for text, label in rows:
        texts.setdefault(text_key(text), text.strip())
        labels.setdefault(text_key(text), set()).add(label)
    names = sorted({label for given in labels.values() for label in given})
    kept = [key for key in texts if len(labels[key]) == 1]
    numbers = [names.index(next(iter(labels[key]))) for key in kept]
    return Table({"text": [texts[key] for key in kept], "label": numbers}, {"label": names})


def _test_keys(table: Table, recipe: DataRecipe) -> list[str]:
    keys = [text_key(text) for text in table.columns["text"]]
    parts = cut(keys, table.columns["label"], {"test": recipe.test_share}, recipe.seed)
    return [keys[index] for index in parts["test"]]


def _questions() -> list[tuple[str, str]]:
    lines = _file("question_labels.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split(" ", 1) for line in lines]
    return [(label, question) for label, question in pairs]


def _rated(name: str) -> list[tuple[float, str]]:
    lines = _file(f"{name}_GroundTruth.txt").read_text(encoding="utf-8").splitlines()[1:]
    fields = [line.split("\t") for line in lines]
    return [(float(rating), text) for _, rating, text in fields]


def _file(name: str) -> Path:
    return package_files(TEXTS) / name
