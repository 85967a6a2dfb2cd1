"""Rows that are scored unchanged: nothing is cut from them, their order stays, and no label is learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from geodistill.data.columns import (
    MOST_NAMED,
    Columns,
    InstructionColumns,
    few,
    find_columns,
    find_image_columns,
    find_instruction_columns,
    listed,
)
from geodistill.data.examples import DEFAULT_METRICS, MAX_LENGTH, Examples, split_dataset
from geodistill.data.image_folders import open_images
from geodistill.data.image_rows import ImageRows, clean_images
from geodistill.data.images import ImageExamples, image_dataset, image_statistics
from geodistill.data.instruction_rows import clean_instructions
from geodistill.data.instructions import MAX_LENGTH as INSTRUCTIONS_MAX_LENGTH
from geodistill.data.instructions import Instructions, instruction_dataset
from geodistill.data.label_lists import LabelLists, are_several, by_outputs, is_gathered, labels_of, with_one_label
from geodistill.data.labels import Labels, Problem, label_name
from geodistill.data.paired import PairedExamples, PairedRows, check_kinds, open_pairs, read_pairs
from geodistill.data.parts import ALL, limited
from geodistill.data.sources import Source, open_source
from geodistill.data.tables import Table
from geodistill.data.texts import Rows, clean
from geodistill.errors import GeodistillError, suggest
from geodistill.recipe import DataRecipe

COLUMN_FIELDS = ("text", "text_pair", "label", "image", "instruction", "input", "output", "messages")


def rows_to_score(
    recipe: DataRecipe,
    *,
    problem: Problem,
    label_names: Sequence[str],
    split: str | None = None,
    named: Collection[str] = (),
    pairs: bool | None = None,
    metrics: Sequence[str] = (),
) -> Examples:
    """Read labelled rows for a student whose head solves `problem` with the labels `label_names`, in their order.

    The names of a regression are the names of its outputs if it has several, and empty otherwise.

    A file is one split named `all`. Of other sources the named split is read, `test` by default, and `all` reads every
    split that there is. Rows keep their order; `example_id` is a row's place in its file or split, from 0. Rows with an
    empty text or without a label are left out and counted in `notes`. At most `recipe.limit` rows are read, chosen by
    the hash of their text; without a limit, every row.

    named: the column fields of `recipe` that were chosen for this data. Any other is the run's own: it is taken if
        the data has such a column, else the column is found by its usual name
    pairs: whether the student reads pairs of texts; None if that is not known
    metrics: the names of the metrics if neither `recipe` nor the source has any

    Raises GeodistillError for a source, split or column that is missing, and for a label that the student does not
    know.
    """
    notes: list[str] = []
    source, tables = _tables(recipe, split)
    recipe = with_one_label(recipe)
    parts = {}
    for name, table in tables.items():
        shown = _shown(recipe, name)
        columns = text_columns(table.columns, recipe, named=named, pairs=pairs, labels=True, notes=notes)
        rows = clean(table, columns, shown, notes)
        assert rows.labels is not None
        numbers = match_labels(rows.labels, problem, label_names, shown)
        parts[name] = Rows(rows.ids, rows.texts, rows.pairs, numbers)
    parts = limited(parts, recipe)
    chosen = recipe.metrics or source.metrics or list(metrics) or DEFAULT_METRICS[problem]
    return Examples(
        splits=DatasetDict({name: split_dataset(rows, problem) for name, rows in parts.items()}),
        problem=problem,
        label_names=list(label_names),
        metrics=list(chosen),
        max_length=recipe.max_length or MAX_LENGTH,
        fingerprint="",
        notes=notes,
        width=len(label_names) or 1,
    )


def instructions_to_score(recipe: DataRecipe, *, split: str | None = None, named: Collection[str] = ()) -> Instructions:
    """Read instructions with their responses, as `rows_to_score` reads rows with their labels."""
    notes: list[str] = []
    _, tables = _tables(recipe, split)
    parts = {}
    for name, table in tables.items():
        own = own_columns(recipe, named, table.columns, notes)
        columns = find_instruction_columns(table.columns, own)
        notes += [line for line in columns.described() if line not in notes]
        parts[name] = clean_instructions(table, columns, _shown(recipe, name), notes)
    parts = limited(parts, recipe)
    return Instructions(
        splits=DatasetDict({name: instruction_dataset(part) for name, part in parts.items()}),
        max_length=recipe.max_length or INSTRUCTIONS_MAX_LENGTH,
        fingerprint="",
        notes=notes,
    )


def images_to_score(
    recipe: DataRecipe,
    *,
    label_names: Sequence[str],
    split: str | None = None,
    named: Collection[str] = (),
    metrics: Sequence[str] = (),
) -> ImageExamples:
    """Read labelled images as `rows_to_score` reads texts. A folder of images by class that has no splits is one split
    named `all`, as a file is."""
    notes: list[str] = []
    source, tables = _tables(recipe, split, open_images)
    parts = {}
    for name, table in tables.items():
        shown = _shown(recipe, name)
        columns = find_image_columns(table.columns, own_columns(recipe, named, table.columns, notes))
        if source.found is None:
            notes += [line for line in columns.described() if line not in notes]
        rows = clean_images(table, columns, shown, notes, table.class_names.get(columns.label, []))
        numbers = match_labels(rows.labels, "classification", label_names, shown)
        parts[name] = ImageRows(rows.ids, rows.images, rows.facts, numbers)
    parts = limited(parts, recipe)
    facts = [each for rows in parts.values() for each in rows.facts]
    return ImageExamples(
        splits=DatasetDict({name: image_dataset(rows) for name, rows in parts.items()}),
        label_names=list(label_names),
        metrics=recipe.metrics or list(metrics) or DEFAULT_METRICS["classification"],
        **vars(image_statistics(facts, facts)),
        fingerprint="",
        notes=notes,
    )


def pairs_to_score(
    recipe: DataRecipe, own: PairedExamples, *, split: str | None = None, named: Collection[str] = ()
) -> PairedExamples:
    """Read paired inputs as `rows_to_score` reads texts, as far as a student and a teacher read them that were trained
    on `own`: with its kinds of columns, its labels and its names of the columns.

    Labels are read if `recipe.label` names a column that the data has. A label column that it lacks is an error only if
    it is in `named`; without labels the pairs alone are scored.

    Raises GeodistillError as `rows_to_score` does, and for a column that holds something else than the run's.
    """
    sides = recipe.columns
    assert sides is not None, "a run of pairs has columns"
    if own.sides.student == own.sides.teacher and sides.student != sides.teacher:
        raise GeodistillError(
            "Student and teacher of the run read one column, and data.columns names two.",
            "Give data.columns.student and data.columns.teacher the same name.",
        )
    notes: list[str] = []
    _, tables = _tables(recipe, split, open_pairs)
    label = recipe.label if isinstance(recipe.label, str) else None
    if label and "label" not in named and not all(label in table.columns for table in tables.values()):
        notes.append(f"There is no column '{label}', which has the labels of the run: the pairs alone are scored.")
        label = None
    parts = {}
    for name, table in tables.items():
        shown = _shown(recipe, name)
        for side, column in sides.model_dump().items():
            if column not in table.columns:
                raise GeodistillError(
                    f"{shown} has no column '{column}', which the {side} reads.",
                    f"Name it with data.columns.{side}=COLUMN. {suggest(column, table.columns)}",
                )
        rows = read_pairs(table, sides, label, shown, notes)
        labels = None
        if rows.labels is not None:
            labels = match_labels(rows.labels, own.problem, own.label_names, shown)
        columns = {own.sides.student: rows.student, own.sides.teacher: rows.teacher}
        parts[name] = PairedRows(rows.ids, columns, own.sides, labels)
        check_kinds(own.splits["train"], {shown: parts[name]})
    return replace(
        own,
        splits=limited(parts, recipe),
        problem=own.problem if label else "unlabelled",
        max_length=recipe.max_length or own.max_length,
        fingerprint="",
        notes=notes,
    )


def is_file(source: str) -> bool:
    """Tell whether `data.source` names a file, which has no splits."""
    return not source.startswith(("bundled:", "glue/")) and Path(source).expanduser().is_file()


def own_columns(recipe: DataRecipe, named: Collection[str], present: Collection[str], notes: list[str]) -> DataRecipe:
    """Return the recipe without the columns that were chosen for the run's own data and that this data lacks."""
    lacking = {
        field: getattr(recipe, field)
        for field in COLUMN_FIELDS
        if field not in named and getattr(recipe, field) not in (None, *present)
    }
    for field, column in lacking.items():
        note = f"There is no column '{column}', which is data.{field} of the run; usual names are looked for."
        if note not in notes:
            notes.append(note)
    return recipe.model_copy(update=dict.fromkeys(lacking))


def text_columns(
    present: Collection[str],
    recipe: DataRecipe,
    *,
    named: Collection[str],
    pairs: bool | None,
    labels: bool,
    notes: list[str],
) -> Columns:
    """Find the column of the text, of the second text for a student that reads pairs, and of the label with `labels`.

    Raises GeodistillError for one that is not found, or if the texts do not fit the student.
    """
    problem = "auto" if labels else "unlabelled"
    recipe = recipe if labels else recipe.model_copy(update={"label": None})
    own = own_columns(recipe, named, present, notes).model_copy(update={"problem": problem, "metrics": None})
    columns = find_columns(present, own)
    if pairs and columns.text_pair is None:
        raise GeodistillError(
            f"The student reads pairs of texts, but no second text is found; the columns are {listed(present)}.",
            "Name both columns with data.text and data.text_pair.",
        )
    if pairs is False and columns.text_pair is not None:
        raise GeodistillError(
            f"The student reads single texts, but the columns '{columns.text}' and '{columns.text_pair}' are a pair.",
            "Name the one to read with data.text.",
        )
    if labels and columns.label is None:
        raise GeodistillError(
            f"No label column is found by its usual names; the columns are {listed(present)}.",
            "Name it with data.label, or use 'geodistill predict', which needs no labels.",
        )
    notes += [line for line in columns.described() if line not in notes]
    return columns


def prompt_columns(
    present: Collection[str], recipe: DataRecipe, named: Collection[str], notes: list[str]
) -> InstructionColumns:
    """Find the columns of the instruction and its input, or of the conversation. No response is looked for."""
    asked = recipe.model_copy(update={"output": None})
    columns = find_instruction_columns(present, own_columns(asked, named, present, notes), responses=False)
    notes += columns.described()
    return columns


def match_labels(values: Sequence[Any], problem: Problem, names: Sequence[str], part: str) -> list[Any]:
    """Return the student's number of each label, the list of these if a row has several labels, or each value as a
    float, or as a list of floats, for a regression.

    A label is matched to the student's name for it exactly, or else without regard to case if the student's names
    stay distinct so. Raises GeodistillError for a label that the student does not know.
    """
    if problem == "regression":
        values = [by_outputs(value, names) if is_gathered(value) else value for value in values]
        if len(names) > 1 or are_several(values):
            return LabelLists("regression", width=len(names) or 1).encode(values, part)
        return list(Labels("regression").encode(values, part))
    if problem == "classification" and are_several(values):
        raise GeodistillError(
            f"A row of {part} has several labels, but the student predicts one.", "Name another column with data.label."
        )
    exact = {name: number for number, name in enumerate(names)}
    folded = {name.casefold(): number for name, number in exact.items()}
    if len(folded) < len(exact):
        folded = {}
    several = problem == "multi_label"
    rows = [labels_of(value) if several else [label_name(value)] for value in values]
    given = [name for row in rows for name in row]
    unknown = Counter(name for name in given if name not in exact and name.casefold() not in folded)
    if unknown:
        counts = [f"'{name}' ({count} {'row' if count == 1 else 'rows'})" for name, count in unknown.most_common()]
        shown = ", ".join(counts[:MOST_NAMED])
        raise GeodistillError(
            f"The student does not know labels of {part}: {shown}{', …' if len(unknown) > MOST_NAMED else ''}.",
            f"Rename them to the student's, or remove their rows; it knows {few(names)}.",
        )
    numbers = [[exact[name] if name in exact else folded[name.casefold()] for name in row] for row in rows]
    return [sorted(set(row)) for row in numbers] if several else [number for row in numbers for number in row]


def _tables(
    recipe: DataRecipe, split: str | None, opened: Callable[[DataRecipe], Source] = open_source
) -> tuple[Source, Mapping[str, Table]]:
    source = opened(recipe)
    if is_file(recipe.source) or source.whole:
        if split not in (None, ALL):
            what = "one file" if is_file(recipe.source) else "a folder of classes"
            raise GeodistillError(f"'{recipe.source}' is {what}, which has no split '{split}'.", "Leave --split out.")
        return source, {ALL: next(iter(source.splits.values()))()}
    if split == ALL:
        return source, {name: read() for name, read in source.splits.items()}
    found = source.find(split or "test", required=False)
    if found is None:
        raise GeodistillError(
            f"'{recipe.source}' has no split '{split or 'test'}'.",
            f"Choose one with --split. {suggest(split or 'test', [*source.splits, ALL])}",
        )
    return source, {found: source.splits[found]()}


def _shown(recipe: DataRecipe, split: str) -> str:
    return Path(recipe.source).name if split == ALL else split
