"""`load_pairs`: from a data recipe to splits whose rows have an input for each side, whatever the source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from geodistill.data.bundled.images import BUNDLED_IMAGES
from geodistill.data.cells import IN_WORDS, Cells, read_cells
from geodistill.data.examples import MAX_LENGTH
from geodistill.data.image_folders import open_images
from geodistill.data.images import ImageStatistics, image_statistics
from geodistill.data.label_lists import are_several, lacks_label
from geodistill.data.labels import Labels, Problem, train_labels
from geodistill.data.overlap import HeldOut, separate
from geodistill.data.parts import complete, limited, origins
from geodistill.data.record import Record, count_labels, part_records, summarize_values
from geodistill.data.sources import Source, choose_splits, open_source
from geodistill.data.tables import Table
from geodistill.data.texts import label_column
from geodistill.errors import GeodistillError
from geodistill.recipe import ColumnsRecipe, DataRecipe

LABEL = "label"


@dataclass(frozen=True)
class PairedRows:
    """The rows of one split: the cells of each column that a side reads, and the labels if there are any.

    `ids` are the rows' places in their split; labels are as they came, class numbers, or values. A row is known by what
    the student reads: rows with the same student input are in one part.
    """

    what: ClassVar[str] = "student input"
    ids: list[int]
    columns: Mapping[str, Cells]
    sides: ColumnsRecipe
    labels: list[Any] | None = None

    @property
    def student(self) -> Cells:
        return self.columns[self.sides.student]

    @property
    def teacher(self) -> Cells:
        return self.columns[self.sides.teacher]

    @property
    def column_names(self) -> list[str]:
        """The columns as readers ask for them."""
        return [*self.columns, *([] if self.labels is None else [LABEL])]

    def __getitem__(self, name: str) -> Sequence[Any]:
        """Return the values of a column, and under `label` the labels."""
        return self.columns[name].values if name in self.columns else self.labels or []

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int], ids: Sequence[int] | None = None) -> PairedRows:
        """Return the rows at `indices`, with their ids or with new ones."""
        return PairedRows(
            ids=[self.ids[index] for index in indices] if ids is None else list(ids),
            columns={name: cells.take(indices) for name, cells in self.columns.items()},
            sides=self.sides,
            labels=None if self.labels is None else [self.labels[index] for index in indices],
        )

    def keys(self) -> list[str]:
        return self.student.keys

    def contents(self) -> list[tuple[str, ...]]:
        return [(key,) for key in self.student.keys]


@dataclass(frozen=True)
class PairedExamples:
    """Paired inputs ready to be read by the readers of both sides.

    splits: `train`, `validation` and `test`
    sides: which column each side reads
    problem: what the labels ask for; `unlabelled` if data.label names none
    label_names: the name of each class number; else empty
    images: column → what a reader of images has to know of them
    max_length: of the tokens of a text
    fingerprint: SHA-256 over all rows, labels and `max_length`
    notes: what was done to the data that its owner should know, one sentence each
    held_out: the student inputs of validation and test, before any limit
    record: what was read, for the log, the results and the report
    """

    splits: dict[str, PairedRows]
    sides: ColumnsRecipe
    problem: Problem
    label_names: list[str]
    images: Mapping[str, ImageStatistics]
    max_length: int
    fingerprint: str
    notes: list[str]
    held_out: HeldOut = field(default_factory=HeldOut)
    record: Record = field(default_factory=Record)

    @property
    def width(self) -> int:
        """How many values a label has."""
        return 1

    def cells(self, column: str) -> Cells:
        """Return the cells of a column in the first split, train as a rule, which tell its kind and its width."""
        return next(iter(self.splits.values())).columns[column]


def load_pairs(recipe: DataRecipe, task: HeldOut | None = None) -> PairedExamples:
    """Read, check and split what `recipe.source` names, with one column for each side (`recipe.columns`).

    Any source with columns: bundled sets, a file, a folder of files, a folder of images by class, the hub. A column
    holds texts, images or arrays (`read_cells`); both sides may read the same one. Labels are read if `recipe.label`
    names their column, and never found by a usual name.

    Splits that are missing are cut from train, by the hash of what the student reads; a validation split without a test
    split is reported on as test. Rows that lack an input or a label are dropped and counted in `notes`. Training rows
    whose student input is in the validation or test part are left out and counted.

    Raises GeodistillError for a source, split or column that is missing, for columns of arrays with numbers that are
    not finite, and for columns that change their kind between splits.
    """
    sides = recipe.columns
    if sides is None:
        raise GeodistillError(
            "The task reads an input for each side, and the recipe does not say which.",
            "Set data.columns={student: COLUMN, teacher: COLUMN}.",
        )
    if isinstance(recipe.label, list):
        raise GeodistillError("data.label names several columns, and a pair has one label.", "Name one column.")
    source = open_pairs(recipe)
    notes = list(source.notes)
    names = choose_splits(source, recipe)
    tables = {part: source.splits[name]() for part, name in names.items()}
    rows = {part: read_pairs(table, sides, recipe.label, part, notes) for part, table in tables.items()}
    check_kinds(rows["train"], rows)
    labels = _labels(rows["train"], tables["train"], recipe.label)
    rows = {part: _numbered(each, labels, part) for part, each in rows.items()}
    strata = rows["train"].labels if labels.problem == "classification" else None
    parts = complete(rows, recipe, notes, strata)
    separated, held_out, left_out = separate(parts, task)
    notes += [each.note for each in left_out]
    used = limited(separated, recipe)
    kinds = {name: cells.kind for name, cells in used["train"].columns.items()}
    if recipe.max_length is not None and "text" not in kinds.values():
        raise GeodistillError("data.max_length counts tokens, and no side reads texts.", "Leave it out.")
    max_length = recipe.max_length or MAX_LENGTH
    classes = [] if labels.problem == "regression" else labels.names
    counted = {name: part.labels for name, part in used.items()}
    return PairedExamples(
        splits=used,
        sides=sides,
        problem=labels.problem,
        label_names=labels.names,
        images={
            name: image_statistics(
                separated["train"].columns[name].facts,
                [facts for part in rows.values() for facts in part.columns[name].facts],
            )
            for name, kind in kinds.items()
            if kind == "image"
        },
        max_length=max_length,
        fingerprint=_fingerprint(used, [sides.model_dump(), labels.problem, labels.names, max_length]),
        notes=notes,
        held_out=held_out,
        record=Record(
            source=recipe.source,
            parts=part_records(used, separated, origins(names, rows, parts)),
            columns={**sides.model_dump(), **({LABEL: recipe.label} if recipe.label else {})},
            found=[
                f"The {side} reads the {IN_WORDS[kinds[column]]} of the column '{column}'."
                for side, column in sides.model_dump().items()
            ],
            problem="pairs",
            reason="Paired inputs, as the recipe's task says." + (f" {labels.reason}" if recipe.label else ""),
            labels=count_labels(counted, classes),
            values=summarize_values(counted, classes),
            left_out=left_out,
            notes=notes,
            max_length=max_length if "text" in kinds.values() else None,
        ),
    )


def open_pairs(recipe: DataRecipe) -> Source:
    """Open a source that may have columns of images, which only `open_images` keeps as they are."""
    if recipe.source.startswith("bundled:") and recipe.source not in BUNDLED_IMAGES:
        return open_source(recipe)
    return open_images(recipe)


def read_pairs(table: Table, sides: ColumnsRecipe, label: str | None, part: str, notes: list[str]) -> PairedRows:
    """Read the rows of a split that have all that they need; the others are counted in `notes`."""
    found = {name: read_cells(table, name, part) for name in dict.fromkeys((sides.student, sides.teacher))}
    columns = {name: cells for name, (cells, _) in found.items()}
    places = {name: {row: place for place, row in enumerate(rows)} for name, (_, rows) in found.items()}
    complete_rows = sorted(set.intersection(*(set(each) for each in places.values())))
    count = len(table.raw(sides.student))
    if dropped := count - len(complete_rows):
        notes.append(f"{dropped:,} of the {count:,} {part} rows lack the input of a side and were dropped.")
    labels = None
    kept = complete_rows
    if label is not None:
        given = label_column(table, label, part, table.class_names.get(label, []))
        if are_several(given):
            raise GeodistillError(f"The column '{label}' holds lists of labels.", "Give one label a row.")
        kept = [row for row in complete_rows if not lacks_label(given[row])]
        labels = [given[row] for row in kept]
        if dropped := len(complete_rows) - len(kept):
            notes.append(f"{dropped:,} of the {count:,} {part} rows have no label and were dropped.")
    if not kept:
        raise GeodistillError(
            f"The {part} split is empty: none of its {count:,} rows has all that data.columns"
            f"{' and data.label' if label else ''} name.",
            "Check the columns, or name others.",
        )
    chosen = {name: cells.take([places[name][row] for row in kept]) for name, cells in columns.items()}
    for name, cells in chosen.items():
        if cells.not_finite:
            raise GeodistillError(
                f"The column '{name}' of the {part} split has {cells.not_finite:,} numbers that are NaN or infinite.",
                "Fill them, or leave their rows or channels out.",
            )
    return PairedRows(kept, chosen, sides, labels)


def check_kinds(train: PairedRows, rows: Mapping[str, PairedRows]) -> None:
    """Raise GeodistillError for a column that does not hold in every split what it holds in the train split."""
    for part, each in rows.items():
        for name, cells in each.columns.items():
            known = train.columns[name]
            if (cells.kind, cells.axes, cells.width) != (known.kind, known.axes, known.width):
                raise GeodistillError(
                    f"The column '{cells.column}' holds {_described(known)} in the train split and {_described(cells)} "
                    f"in the {part} split.",
                    "Give it one kind and one width in every split.",
                )


def _described(cells: Cells) -> str:
    return IN_WORDS[cells.kind] + (f" of {cells.axes} axes and width {cells.width}" if cells.axes else "")


def _labels(train: PairedRows, table: Table, label: str | None) -> Labels:
    if label is None or train.labels is None:
        return Labels("unlabelled")
    return train_labels(train.labels, table.class_names.get(label), "auto")


def _numbered(rows: PairedRows, labels: Labels, part: str) -> PairedRows:
    if rows.labels is None:
        return rows
    return PairedRows(rows.ids, rows.columns, rows.sides, list(labels.encode(rows.labels, part)))


def _fingerprint(rows: Mapping[str, PairedRows], rest: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name, part in rows.items():
        cells = [[each.column, each.kind, each.keys] for each in part.columns.values()]
        texts = [list(each.values) for each in part.columns.values() if each.kind == "text"]
        digest.update(json.dumps([name, part.ids, cells, texts, part.labels]).encode())
    return digest.hexdigest()
