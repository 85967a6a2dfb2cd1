"""`load_examples`: from a data recipe to splits with the same few columns, whatever the source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, Features, Value

from geodistill.data.columns import Columns, check_split, find_columns, listed
from geodistill.data.label_lists import LabelLists, are_several, train_label_lists, with_one_label
from geodistill.data.labels import Labels, Problem, check_taught, label_name, train_labels
from geodistill.data.overlap import HeldOut, separate
from geodistill.data.parts import complete, cut_parts, limited, origins
from geodistill.data.record import Record, count_labels, part_records, summarize_values
from geodistill.data.sources import Source, choose_splits, open_source
from geodistill.data.texts import Rows, clean, has_labels
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

DEFAULT_METRICS: dict[Problem, list[str]] = {
    "classification": ["accuracy", "macro_f1"],
    "multi_label": ["micro_f1", "macro_f1", "subset_accuracy"],
    "regression": ["pearson", "spearman"],
    "unlabelled": [],
}
UNLABELLED_VALIDATION_SHARE = 0.05  # enough rows to measure the geometry on; the rest is worth more in training
MAX_LENGTH = 128


@dataclass(frozen=True)
class Examples:
    """Examples ready to be tokenised.

    splits: `train`, `validation` and `test`; unlabelled data has a `test` split only when its source has one. Columns:
        `text` (str), `text_pair` (str; pairs only), `label` (absent when unlabelled) and `example_id` (int, the row's
        place in its split before rows were dropped or limited). A label is an int for a classification, a list of int
        for a multi-label one, and a float for a regression, or a list of float if it has several values
    problem: what the labels ask for
    label_names: the name of each class number, or of each value of a regression with several columns; else empty
    metrics: names of the metrics to report, the main one first; empty when unlabelled
    max_length: of the tokens of a text or pair
    fingerprint: SHA-256 over all rows, label names, metrics and `max_length`: what a run on these examples depends on
    notes: what was done to the data that its owner should know, one sentence each
    held_out: the texts of validation and test, before any limit: what a stage of this task may not be trained on
    record: what was read, for the log, the results and the report
    width: how many values a label of a regression has
    """

    splits: DatasetDict
    problem: Problem
    label_names: list[str]
    metrics: list[str]
    max_length: int
    fingerprint: str
    notes: list[str]
    held_out: HeldOut = field(default_factory=HeldOut)
    record: Record = field(default_factory=Record)
    width: int = 1


def load_examples(recipe: DataRecipe, task: HeldOut | None = None) -> Examples:
    """Read, check, encode and split what `recipe.source` names.

    Sources: `bundled:trec`, `bundled:trec-fine`, `bundled:reviews`, `bundled:spam`, `bundled:sentences` (unlabelled);
    `glue/TASK`; a .csv, .tsv, .jsonl, .json or .parquet file; a folder with such files named train, validation (or dev,
    val, valid) and test; any other name is looked for on the hub. Columns are found by their usual names (columns.py)
    unless the recipe names them.

    Splits that are missing are cut from train: by a hash of the text, so the same everywhere; class by class, if a
    row has one label; identical texts on the same side. When there is a validation split but no labelled test split,
    as in GLUE, the validation split is reported on as test and a new validation part is cut from train: nothing is
    tuned on what is reported.
    Unlabelled data needs only a train split; 5 % of it become the validation part, to measure the geometry on.

    Rows with an empty text or, in a labelled split, without a label are dropped and counted in `notes`. Training rows
    whose text is in the validation or test part are left out and counted there too, as are validation rows whose text
    is in the test part. `task` are the held-out texts of the task that this data is a stage of: training rows with one
    of these are left out as well.

    Raises GeodistillError for a source, split, column or label that is missing, unknown, empty or damaged.
    """
    source, recipe = open_source(recipe), with_one_label(recipe)
    notes: list[str] = []
    names = choose_splits(source, recipe)
    rows, columns, class_names = _read(source, names, recipe, notes)
    given = rows["train"].labels
    labels = _labels(given, class_names, recipe)
    splits = {name: _encoded(part, labels, name) for name, part in rows.items()}
    parts = _complete(splits, labels.problem, recipe, notes)
    separated, held_out, left_out = separate(parts, task)
    if task is None and labels.problem == "classification":
        check_taught(parts["train"].labels or [], separated["train"].labels or [], labels.names, "text")
    if task is None and labels.problem == "multi_label":
        notes += _untaught(separated["train"], labels)
    notes += [each.note for each in left_out]
    rows = limited(separated, recipe)
    metrics = (
        [] if labels.problem == "unlabelled" else recipe.metrics or source.metrics or DEFAULT_METRICS[labels.problem]
    )
    max_length = recipe.max_length or MAX_LENGTH
    classes = [] if labels.problem == "regression" else labels.names
    return Examples(
        splits=DatasetDict({name: split_dataset(part, labels.problem) for name, part in rows.items()}),
        problem=labels.problem,
        label_names=labels.names,
        metrics=list(metrics),
        max_length=max_length,
        fingerprint=_fingerprint(rows, [labels.problem, labels.names, list(metrics), max_length]),
        notes=notes,
        held_out=held_out,
        record=Record(
            source=recipe.source,
            parts=part_records(rows, separated, origins(names, splits, parts)),
            columns=columns.by_field(),
            found=columns.described(),
            problem=labels.problem,
            reason=labels.reason,
            labels=count_labels({name: part.labels for name, part in rows.items()}, classes),
            values=summarize_values({name: part.labels for name, part in rows.items()}, classes),
            left_out=left_out,
            notes=notes,
            max_length=max_length,
        ),
        width=labels.width if isinstance(labels, LabelLists) else 1,
    )


def _read(
    source: Source, names: dict[str, str], recipe: DataRecipe, notes: list[str]
) -> tuple[dict[str, Rows], Columns, list[str] | None]:
    """The splits of these names, cleaned, their columns, and the class names of their labels if a split has them.

    Labels are still as they came, or the names of their classes. A test split without labels is left out.
    """
    tables = {part: source.splits[name]() for part, name in names.items()}
    columns = find_columns(tables["train"].columns, recipe)
    for part, table in tables.items():
        check_split(columns, table.columns, part, recipe)
    named: dict[str, list[str]] = {}
    if columns.label and recipe.problem != "regression":
        known_names = {part: table.class_names.get(columns.label) for part, table in tables.items()}
        named = {part: found for part, found in known_names.items() if found}
    class_names = next(iter(named.values()), None)
    rows = {}
    known: set[str] = set()
    for part, table in tables.items():
        if columns.label and part == "test" and not has_labels(table, columns.label, known=known):
            notes.append("The test split has no labels and is not used.")
            continue
        rows[part] = clean(table, columns, part, notes, named.get(part, class_names) or [])
        if part == "train":
            known = set(map(label_name, rows[part].labels or []))
    return rows, columns, class_names


def _unlabelled(recipe: DataRecipe) -> Labels:
    if recipe.problem == "unlabelled":
        return Labels("unlabelled", reason="Unlabelled, as data.problem asks.")
    return Labels("unlabelled", reason="Unlabelled, since no label column is found by its usual names.")


def _labels(given: Sequence[Any] | None, class_names: list[str] | None, recipe: DataRecipe) -> Labels:
    if given is None:
        return _unlabelled(recipe)
    if are_several(given):
        return train_label_lists(given, class_names, recipe.problem)
    if recipe.problem == "multi_label":
        raise GeodistillError(
            f"data.problem asks for a list of labels in each row, but one label is '{str(given[0])[:60]}'.",
            "Give a list of labels in each row (JSONL or parquet), or name a column for each label: "
            "data.label=[COLUMN, COLUMN].",
        )
    return train_labels(given, class_names, recipe.problem)


def _encoded(rows: Rows, labels: Labels, part: str) -> Rows:
    if rows.labels is None:
        return rows
    return Rows(rows.ids, rows.texts, rows.pairs, list(labels.encode(rows.labels, part)))


def _complete(rows: dict[str, Rows], problem: Problem, recipe: DataRecipe, notes: list[str]) -> dict[str, Rows]:
    """Cut from train the splits that are missing, in the way that `load_examples` describes."""
    if problem == "unlabelled":
        shares = {} if "validation" in rows else {"validation": UNLABELLED_VALIDATION_SHARE}
        return cut_parts(rows, shares, recipe.seed)
    return complete(rows, recipe, notes, rows["train"].labels if problem == "classification" else None)


def _untaught(train: Rows, labels: Labels) -> list[str]:
    """Tell which labels no training row has. Rows of several labels are cut by their texts alone, so a rare label may
    be in another part only."""
    taught = {number for row in train.labels or () for number in row}
    lacking = [name for number, name in enumerate(labels.names) if number not in taught]
    return [f"No training row has the label{'s'[: len(lacking) > 1]} {listed(lacking)}."] if lacking else []


def split_dataset(rows: Rows, problem: Problem) -> Dataset:
    """Return the rows of a split with the columns that `Examples` describes."""
    columns: dict[str, list[Any]] = {"example_id": rows.ids, "text": rows.texts}
    features = {"example_id": Value("int64"), "text": Value("string")}
    if rows.pairs is not None:
        columns["text_pair"], features["text_pair"] = rows.pairs, Value("string")
    if rows.labels is not None:
        value = Value("float32" if problem == "regression" else "int64")
        several = problem == "multi_label" or are_several(rows.labels)
        columns["label"], features["label"] = rows.labels, [value] if several else value
    return Dataset.from_dict(columns, features=Features(features))


def _fingerprint(rows: dict[str, Rows], rest: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name, part in rows.items():
        digest.update(json.dumps([name, part.ids, part.texts, part.pairs, part.labels]).encode())
    return digest.hexdigest()
