"""Natural Instructions v1 (Mishra et al. 2022): ten tasks with short texts, as the bundled data set of instructions.

Tasks 033 to 041 are trained on and measured on; 044 and 045 are never trained on. Of each task at most 500 rows are
taken, drawn by a hash; a task has one instruction, the last sentence of its definition, which says what to do.

The tasks were made from few sources, so one fact may be in the input of one task and in the answer of another. Rows
that have a sentence in common, even by way of others, are a family, and a family is in one split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from geodistill.data.bundled.packages import NATURAL_INSTRUCTIONS, package_files
from geodistill.data.parts import cut, sample, text_key
from geodistill.data.tables import Table
from geodistill.recipe import DataRecipe

UNSEEN_TASKS = (
    "subtask044_essential_terms_identifying_essential_words",
    "subtask045_miscellaneous_sentence_paraphrasing",
)
ROWS_PER_TASK = 500
SENTENCE_WORDS = 5  # shorter ones, such as "Answer: PersonX", are in rows that have nothing to do with each other


class TaskRow(NamedTuple):
    task: str
    instruction: str
    input: str
    output: list[str]


def instruction_splits(recipe: DataRecipe) -> dict[str, Table]:
    """The splits `train`, `validation`, `test` and `unseen`, by the recipe's shares and seed."""
    seen: list[TaskRow] = []
    unseen: list[TaskRow] = []
    for task in sorted(name.removesuffix(".json") for name in NATURAL_INSTRUCTIONS.members):
        rows = read_task(task)
        chosen = sample([text_key(row.input) for row in rows], ROWS_PER_TASK, recipe.seed)
        (unseen if task in UNSEEN_TASKS else seen).extend(rows[index] for index in chosen)
    shares = {"test": recipe.test_share, "validation": recipe.validation_share}
    parts = cut(families(seen), [row.task for row in seen], shares, recipe.seed)
    tables = {part: _table(seen[index] for index in indices) for part, indices in parts.items()}
    return {**tables, "unseen": _table(unseen)}


def read_task(task: str) -> list[TaskRow]:
    """The rows of a task that have an answer; equal inputs as one row with the answers of all."""
    content = json.loads((package_files(NATURAL_INSTRUCTIONS) / f"{task}.json").read_text(encoding="utf-8"))
    instruction = content["task_prefix"].rsplit("Prompt:", 1)[1].strip()
    rows: dict[str, TaskRow] = {}
    for example in content["examples"]:
        text = example["input"].strip()
        row = rows.setdefault(text_key(text), TaskRow(task, instruction, text, []))
        row.output.extend(answer for answer in map(str.strip, example["target"]) if answer and answer not in row.output)
    return [row for row in rows.values() if row.output]


def families(rows: Iterable[TaskRow]) -> list[str]:
    """For each row the name of its family."""
    found = [_sentences(row) for row in rows]
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            parents[name] = name = parents[parents[name]]
        return name

    for first, *others in found:
        for other in others:
            kept, joined = sorted((root(first), root(other)))
            parents[joined] = kept
    return [root(first) for first, *_ in found]


def _sentences(row: TaskRow) -> list[str]:
    """What makes rows relatives: the input as a whole, and each longer sentence of input and answers."""
    pieces = [piece for text in (row.input, *row.output) for piece in re.split(r"\n|(?<=[.?!])\s", text)]
    keys = [text_key(re.sub(r"^[A-Z][\w ]{0,15}: ", "", piece).rstrip(" .?!")) for piece in pieces]
    return [text_key(row.input), *(key for key in keys if len(key.split()) >= SENTENCE_WORDS)]


def _table(rows: Iterable[TaskRow]) -> Table:
    columns = zip(*rows, strict=True)
    return Table({name: list(values) for name, values in zip(TaskRow._fields, columns, strict=True)})
