"""`load_examples`: from a data recipe to splits with the same few columns, whatever the source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value

from geodistill.data.columns import find_columns
from geodistill.data.labels import Labels, Problem, train_labels
from geodistill.data.rows import Rows, clean, has_labels
from geodistill.data.sources import Source, open_source
from geodistill.data.splits import cut, sample
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

DEFAULT_METRICS: dict[Problem, list[str]] = {
    "classification": ["accuracy", "macro_f1"],
    "regression": ["pearson", "spearman"],
    "unlabelled": [],
}
UNLABELLED_VALIDATION_SHARE = 0.05  # enough rows to measure the geometry on; the rest is worth more in training


@dataclass(frozen=True)
class Examples:
    """Examples ready to be tokenised.

    splits: `train`, `validation` and `test`; unlabelled data has a `test` split only when its source has one. Columns:
        `text` (str), `text_pair` (str; pairs only), `label` (int for a classification, float for a regression; absent
        when unlabelled) and `example_id` (int, the row's place in its split before rows were dropped or limited)
    problem: what the labels ask for
    label_names: the name of each class number; empty unless a classification
    metrics: names of the metrics to report, the main one first; empty when unlabelled
    fingerprint: SHA-256 over all rows, label names, metrics and `max_length`: what a run on these examples depends on
    notes: what was done to the data that its owner should know, one sentence each
    """

    splits: DatasetDict
    problem: Problem
    label_names: list[str]
    metrics: list[str]
    fingerprint: str
    notes: list[str]


def load_examples(recipe: DataRecipe) -> Examples:
    """Read, check, encode and split what `recipe.source` names.

    Sources: `bundled:trec`, `bundled:trec-fine`, `bundled:reviews`, `bundled:spam`, `bundled:sentences` (unlabelled);
    `glue/TASK`; a .csv, .tsv, .jsonl, .json or .parquet file; a folder with such files named train, validation (or dev,
    val, valid) and test; any other name is looked for on the hub. Columns are found by their usual names (columns.py)
    unless the recipe names them.

    Splits that are missing are cut from train: by a hash of the text, so the same everywhere; class by class; identical
    texts on the same side. When there is a validation split but no labelled test split, as in GLUE, the validation
    split is reported on as test and a new validation part is cut from train: nothing is tuned on what is reported.
    Unlabelled data needs only a train split; 5 % of it become the validation part, to measure the geometry on.

    Rows with an empty text or, in a labelled split, without a label are dropped and counted in `notes`.
    Raises GeodistillError for a source, split, column or label that is missing, unknown, empty or damaged.
    """
    source = open_source(recipe)
    notes: list[str] = []
    rows, class_names = _read(source, recipe, notes)
    given = rows["train"].labels
    labels = Labels("unlabelled") if given is None else train_labels(given, class_names, recipe.problem)
    rows = {name: _encoded(part, labels, name) for name, part in rows.items()}
    rows = _complete(rows, labels.problem, recipe, notes)
    _note_overlap(rows, notes)
    if recipe.limit is not None:
        rows = {name: part.take(sample(part.text_keys(), recipe.limit, recipe.seed)) for name, part in rows.items()}
    metrics = (
        [] if labels.problem == "unlabelled" else recipe.metrics or source.metrics or DEFAULT_METRICS[labels.problem]
    )
    return Examples(
        splits=DatasetDict({name: _dataset(part, labels.problem) for name, part in rows.items()}),
        problem=labels.problem,
        label_names=labels.names,
        metrics=list(metrics),
        fingerprint=_fingerprint(rows, [labels.problem, labels.names, list(metrics), recipe.max_length]),
        notes=notes,
    )


def _read(source: Source, recipe: DataRecipe, notes: list[str]) -> tuple[dict[str, Rows], list[str] | None]:
    """The splits that the source has, cleaned, and the class names of their labels when it knows them.

    Labels are still as they came. A test split without labels is left out.
    """
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
    tables = {part: source.splits[name]() for part, name in names.items() if name is not None}
    columns = find_columns(tables["train"].columns, recipe)
    class_names = tables["train"].class_names.get(columns.label) if columns.label else None
    rows = {}
    for part, table in tables.items():
        if columns.label and part == "test" and not has_labels(table, columns.label):
            notes.append("The test split has no labels and is not used.")
            continue
        rows[part] = clean(table, columns, part, notes)
    return rows, class_names


def _encoded(rows: Rows, labels: Labels, part: str) -> Rows:
    if rows.labels is None:
        return rows
    return Rows(rows.ids, rows.texts, rows.pairs, list(labels.encode(rows.labels, part)))


def _complete(rows: dict[str, Rows], problem: Problem, recipe: DataRecipe, notes: list[str]) -> dict[str, Rows]:
    """Cut from train the splits that are missing, in the way that `load_examples` describes."""
    if problem == "unlabelled":
        shares = {} if "validation" in rows else {"validation": UNLABELLED_VALIDATION_SHARE}
    elif "validation" in rows and "test" not in rows:
        rows = {"train": rows["train"], "test": rows["validation"]}
        shares = {"validation": recipe.validation_share}
        notes.append("The validation split is reported on as test; a new validation part was cut from train.")
    else:
        wanted = {"test": recipe.test_share, "validation": recipe.validation_share}
        shares = {name: share for name, share in wanted.items() if name not in rows}
    if shares:
        train = rows["train"]
        strata = train.labels if problem == "classification" and train.labels else [0] * len(train.texts)
        parts = cut(train.text_keys(), strata, shares, recipe.seed)
        for name, indices in parts.items():
            if not indices:
                raise GeodistillError(
                    f"The {len(train.texts)} training rows are too few to cut a {name} part from.",
                    f"Give more rows, a {name} split of your own, or a larger data.{name}_share.",
                )
        rows = {**rows, **{name: train.take(indices, range(len(indices))) for name, indices in parts.items()}}
    return {name: rows[name] for name in ("train", "validation", "test") if name in rows}


def _note_overlap(rows: dict[str, Rows], notes: list[str]) -> None:
    seen = set(rows["train"].text_keys())
    for name in ("validation", "test"):
        if name in rows and (shared := sum(key in seen for key in rows[name].text_keys())):
            notes.append(f"{shared} of the {len(rows[name].texts)} {name} texts are in the training split as well.")


def _dataset(rows: Rows, problem: Problem) -> Dataset:
    columns: dict[str, list[Any]] = {"example_id": rows.ids, "text": rows.texts}
    features = {"example_id": Value("int64"), "text": Value("string")}
    if rows.pairs is not None:
        columns["text_pair"], features["text_pair"] = rows.pairs, Value("string")
    if rows.labels is not None:
        columns["label"], features["label"] = rows.labels, Value("int64" if problem == "classification" else "float32")
    return Dataset.from_dict(columns, features=Features(features))


def _fingerprint(rows: dict[str, Rows], rest: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name, part in rows.items():
        digest.update(json.dumps([name, part.ids, part.texts, part.pairs, part.labels]).encode())
    return digest.hexdigest()
