"""`load_instructions`: from a data recipe to splits of instructions with responses, whatever the source."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, DatasetDict

from geodistill.data.columns import check_split, find_instruction_columns
from geodistill.data.instruction_rows import Instruction, InstructionRows, clean_instructions
from geodistill.data.overlap import HeldOut, separate
from geodistill.data.parts import complete, limited, origins
from geodistill.data.record import Record, part_records
from geodistill.data.sources import choose_splits, open_source
from geodistill.recipe import DataRecipe

MAX_LENGTH = 512
UNSEEN = "unseen"


@dataclass(frozen=True)
class Instructions:
    """Instructions ready to be put into prompts and tokenised.

    splits: `train`, `validation`, `test`, and `unseen` if the source has a split of that name: instructions of tasks
        that are not trained on. Columns: `instruction` (str), `input` (str, may be empty), `references` (a list of at
        least one str; the first is learned), `task` (str, may be empty), `example_id` (int, the row's place in its
        split before rows were dropped or limited), and of conversations `messages` (a list of role and content: turns
        before the response)
    max_length: of the tokens of prompt and response together
    fingerprint: SHA-256 over all rows and how they become tokens: what a run on these instructions depends on
    notes: what was done to the data that its owner should know, one sentence each
    held_out: the prompts of validation, test and unseen, before any limit: what a stage may not be trained on
    record: what was read, for the log, the results and the report
    """

    splits: DatasetDict
    max_length: int
    fingerprint: str
    notes: list[str]
    held_out: HeldOut = field(default_factory=HeldOut)
    record: Record = field(default_factory=Record)


def load_instructions(recipe: DataRecipe, task: HeldOut | None = None) -> Instructions:
    """Read, check and split what `recipe.source` names.

    Sources: `bundled:instructions`, or a file, folder or hub name as in `load_examples`. A row is an instruction with
    an input, if it has one, and a response, or a list of equally good ones; or a conversation, whose last answer is the
    response. Columns are found by their usual names (columns.py) unless the recipe names them.

    Splits that are missing are cut from train by a hash of the prompt, so the same everywhere; identical prompts on the
    same side. When there is a validation split but no test split, the validation split is reported on as test and a new
    validation part is cut from train: nothing is tuned on what is reported.

    Rows with an empty instruction or response are dropped and counted in `notes`. Training rows whose prompt is in the
    validation, test or unseen part are left out and counted there too, as are validation rows whose prompt is in one of
    the other two. `task` are the held-out prompts of the task that this data is a stage of: training rows with one of
    these are left out as well.

    Raises GeodistillError for a source, split, column or response that is missing, unknown, empty or damaged.
    """
    source = open_source(recipe)
    notes: list[str] = []
    names = choose_splits(source, recipe)
    if UNSEEN in source.splits and UNSEEN not in names.values():
        names[UNSEEN] = UNSEEN
    tables = {part: source.splits[name]() for part, name in names.items()}
    columns = find_instruction_columns(tables["train"].columns, recipe)
    for part, table in tables.items():
        check_split(columns, table.columns, part, recipe)
    given = {part: clean_instructions(table, columns, part, notes) for part, table in tables.items()}
    seen = {name: part for name, part in given.items() if name != UNSEEN}
    completed = {**complete(seen, recipe, notes), **{name: part for name, part in given.items() if name == UNSEEN}}
    separated, held_out, left_out = separate(completed, task)
    notes += [each.note for each in left_out]
    parts = limited(separated, recipe)
    max_length = recipe.max_length or MAX_LENGTH
    return Instructions(
        splits=DatasetDict({name: instruction_dataset(part) for name, part in parts.items()}),
        max_length=max_length,
        fingerprint=_fingerprint(parts, [recipe.prompt, recipe.max_prompt_length, max_length]),
        notes=notes,
        held_out=held_out,
        record=Record(
            source=recipe.source,
            parts=part_records(parts, separated, origins(names, given, completed)),
            columns=columns.by_field(),
            found=columns.described(),
            problem="instructions",
            reason="Instructions, as the recipe's task says.",
            left_out=left_out,
            notes=notes,
            max_length=max_length,
        ),
    )


def instruction_dataset(part: InstructionRows) -> Dataset:
    """Return the rows of a split with the columns that `Instructions` describes."""
    fields = [name for name in Instruction._fields if getattr(part.rows[0], name) is not None]
    values = {name: [getattr(row, name) for row in part.rows] for name in fields}
    return Dataset.from_dict({"example_id": part.ids, **values})


def _fingerprint(parts: dict[str, InstructionRows], rest: list[Any]) -> str:
    digest = hashlib.sha256(json.dumps(rest).encode())
    for name, part in parts.items():
        digest.update(json.dumps([name, part.ids, part.rows]).encode())
    return digest.hexdigest()
