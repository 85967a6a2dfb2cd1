"""`load_images`: from a data recipe to splits of images with a class, whatever the source."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict, Features, Image, Value

from geodistill.data.columns import check_split, find_image_columns
from geodistill.data.decoding import Facts
from geodistill.data.examples import DEFAULT_METRICS
from geodistill.data.image_folders import open_images
from geodistill.data.image_rows import ImageRows, channels_of, clean_images, count_modes, modes_note
from geodistill.data.labels import Labels, Problem, check_taught, label_name, train_labels
from geodistill.data.overlap import HeldOut, separate
from geodistill.data.parts import complete, limited, origins
from geodistill.data.record import ImageRecord, Record, count_labels, part_records
from geodistill.data.sources import choose_splits
from geodistill.data.tables import Table
from geodistill.data.texts import has_labels
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


@dataclass(frozen=True)
class ImageStatistics:
    """What a reader has to know of images; the attributes of the same names of `ImageExamples` say what they are."""

    channels: int
    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageExamples:
    """Images ready to be read by a model's reader.

    splits: `train`, `validation` and `test`. Columns: `image` (an Image feature: encoded bytes or a path, decoded when
        a row is asked for), `label` (int, a class number) and `example_id` (int, the row's place in its split before
        rows were dropped or limited)
    label_names: the name of each class number
    metrics: names of the metrics to report, the main one first
    channels: 1 if all images are grey, else 3
    size: height and width in pixels; None if images differ
    mean, std: of each channel over the training images, of values from 0 to 1: what a model that brings no
        preprocessing is normalised by; an image counts the same whatever its size
    fingerprint: SHA-256 over the pixels and labels of all rows, label names and metrics
    notes: what was done to the data that its owner should know, one sentence each
    held_out: the hashes of the images of validation and test, before any limit: what a stage may not be trained on
    record: what was read, for the log, the results and the report
    """

    splits: DatasetDict
    label_names: list[str]
    metrics: list[str]
    channels: int
    size: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    notes: list[str]
    held_out: HeldOut = field(default_factory=HeldOut)
    record: Record = field(default_factory=Record)

    @property
    def problem(self) -> Problem:
        return "classification"

    @property
    def width(self) -> int:
        """How many values a label has."""
        return 1


def load_images(recipe: DataRecipe, task: HeldOut | None = None) -> ImageExamples:
    """Read, check and split what `recipe.source` names.

    Sources: `bundled:cifar10`, `bundled:mnist`, `bundled:digits`; a folder of images by class, with splits
    (`FOLDER/train/CLASS/*.png`) or without (`FOLDER/CLASS/*.png`); a file or a folder of files with a column of images,
    which are bytes, paths, or the Image feature of the datasets library; any other name is looked for on the hub.
    Columns are found by their usual names (columns.py) unless the recipe names them.

    Splits that are missing are cut from train: by the hash of an image's pixels, so the same everywhere, class by
    class, identical images on the same side. When there is a validation split but no labelled test split, the
    validation split is reported on as test and a new validation part is cut from train.

    Every image is decoded once here. One that is no image, or is damaged or truncated, is refused by name, as a damaged
    line of a text file is; a row without an image or without a label is dropped and counted in `notes`. Training rows
    whose image is in the validation or test part are left out and counted, as are validation rows whose image is in the
    test part. `task` are the held-out images of the task that this data is a stage of: training rows with one of these
    are left out as well.

    Raises GeodistillError for a source, split, column, label or image that is missing, unknown, empty or damaged.
    """
    if isinstance(recipe.label, list):
        raise GeodistillError("data.label names several columns, and an image has one class.", "Name one column.")
    source = open_images(recipe)
    notes = list(source.notes)
    names = choose_splits(source, recipe)
    tables = {part: source.splits[name]() for part, name in names.items()}
    columns = find_image_columns(tables["train"].columns, recipe)
    for part, table in tables.items():
        check_split(columns, table.columns, part, recipe)
    rows, class_names = _rows(tables, columns, notes)
    labels = _labels(rows, class_names)
    rows = {part: _encoded(each, labels, part) for part, each in rows.items()}
    parts = complete(rows, recipe, notes, rows["train"].labels)
    separated, held_out, left_out = separate(parts, task)
    if task is None:
        check_taught(parts["train"].labels, separated["train"].labels, labels.names, ImageRows.what)
    notes += [each.note for each in left_out]
    facts = [each for part in rows.values() for each in part.facts]
    modes = count_modes(facts)
    notes += modes_note(modes)
    used = limited(separated, recipe)
    metrics = recipe.metrics or DEFAULT_METRICS["classification"]
    images = ImageRecord(
        width=(min(each.width for each in facts), max(each.width for each in facts)),
        height=(min(each.height for each in facts), max(each.height for each in facts)),
        modes=modes,
    )
    statistics = image_statistics(separated["train"].facts, facts)
    return ImageExamples(
        splits=DatasetDict({name: image_dataset(part) for name, part in used.items()}),
        label_names=labels.names,
        metrics=list(metrics),
        channels=statistics.channels,
        size=statistics.size,
        mean=statistics.mean,
        std=statistics.std,
        fingerprint=_fingerprint(used, [labels.names, list(metrics)]),
        notes=notes,
        held_out=held_out,
        record=Record(
            source=recipe.source,
            parts=part_records(used, separated, origins(names, rows, parts)),
            columns=columns.by_field() if source.found is None else {},
            found=columns.described() if source.found is None else source.found,
            problem="images",
            reason="Classification of images, as the recipe's task says.",
            labels=count_labels({name: part.labels for name, part in used.items()}, labels.names),
            left_out=left_out,
            notes=notes,
            images=images,
        ),
    )


def _rows(tables: dict[str, Table], columns: Any, notes: list[str]) -> tuple[dict[str, ImageRows], list[str] | None]:
    """The rows of these splits, cleaned, and the class names of their labels if a split has them.

    A test split without labels is left out.
    """
    named = {part: found for part, table in tables.items() if (found := table.class_names.get(columns.label))}
    class_names = next(iter(named.values()), None)
    rows: dict[str, ImageRows] = {}
    for part, table in tables.items():
        known = {label_name(label) for label in rows["train"].labels} if "train" in rows else set()
        if part == "test" and not has_labels(table, columns.label, known=known):
            notes.append("The test split has no labels and is not used.")
            continue
        rows[part] = clean_images(table, columns, part, notes, named.get(part, class_names) or [])
    return rows, class_names


def _labels(rows: dict[str, ImageRows], class_names: list[str] | None) -> Labels:
    """The classes of the training images. Raises GeodistillError if they are one."""
    given = {part: {label_name(label) for label in each.labels} for part, each in rows.items()}
    if len(given["train"]) < 2:
        raise GeodistillError(
            f"All training images are of one class: '{min(given['train'])}'.", "Give images of at least two classes."
        )
    return train_labels(rows["train"].labels, class_names, "classification")


def _encoded(rows: ImageRows, labels: Labels, part: str) -> ImageRows:
    try:
        numbers = labels.encode(rows.labels, part)
    except GeodistillError as error:
        remedy = "Give every split the same classes, written alike; every class needs images in the train split."
        raise GeodistillError(error.problem, remedy) from None
    return ImageRows(rows.ids, rows.images, rows.facts, list(numbers))


def image_statistics(train: Sequence[Facts], every: Sequence[Facts]) -> ImageStatistics:
    """Channels and size of every image; mean and standard deviation of each channel of the training images, to four
    digits as they are published."""
    channels = channels_of(each.mode for each in every)
    sizes = {(each.height, each.width) for each in every}
    mean = [math.fsum(facts.mean[each] for facts in train) / len(train) for each in range(channels)]
    square = [math.fsum(facts.square[each] for facts in train) / len(train) for each in range(channels)]
    std = [math.sqrt(max(two - one**2, 0)) for one, two in zip(mean, square, strict=True)]
    return ImageStatistics(
        channels=channels,
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        mean=tuple(round(value, 4) for value in mean),
        std=tuple(round(value, 4) or 1.0 for value in std),
    )


def image_dataset(rows: ImageRows) -> Dataset:
    """Return the rows of a split with the columns that `ImageExamples` describes."""
    features = Features({"example_id": Value("int64"), "image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"example_id": rows.ids, "image": rows.images, "label": rows.labels}, features=features)


def _fingerprint(rows: dict[str, ImageRows], rest: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name, part in rows.items():
        digest.update(json.dumps([name, part.ids, part.keys(), part.labels]).encode())
    return digest.hexdigest()
