"""Instructions of one split, and the cleaning that every split goes through."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from geodistill.data.columns import InstructionColumns
from geodistill.data.parts import text_key
from geodistill.data.tables import Table
from geodistill.data.texts import as_text, column, is_blank, plain_column
from geodistill.errors import GeodistillError

Message = dict[str, str]
SPEAKERS = {"human": "user", "gpt": "assistant"}  # as ShareGPT names them


class Instruction(NamedTuple):
    """An instruction, what it is about (may be empty), responses that are equally good, and the name of its task.

    Of a conversation, `messages` are the turns before the last answer, and `instruction` is the last of the user's.
    """

    instruction: str
    input: str
    references: list[str]
    task: str = ""
    messages: list[Message] | None = None


@dataclass(frozen=True)
class InstructionRows:
    """`ids` are the rows' places in their split."""

    what: ClassVar[str] = "text"
    ids: list[int]
    rows: list[Instruction]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int], ids: Sequence[int] | None = None) -> InstructionRows:
        """The rows at `indices`, with their ids or with new ones."""
        kept = [self.ids[index] for index in indices] if ids is None else list(ids)
        return InstructionRows(kept, [self.rows[index] for index in indices])

    def keys(self) -> list[str]:
        """For each row what identical prompts share (`parts.text_key`)."""
        return [
            text_key(row.instruction, row.input)
            if row.messages is None
            else text_key("\n".join(message["content"] for message in row.messages))
            for row in self.rows
        ]

    def contents(self) -> list[tuple[str, ...]]:
        """For each row its prompt as one text, normalised (`parts.normalized`): an instruction alone, such as
        "Translate this.", is no text of a test prompt that has an input as well."""
        return [(key.replace("\n", " ").strip(),) for key in self.keys()]


def clean_instructions(table: Table, columns: InstructionColumns, part: str, notes: list[str]) -> InstructionRows:
    """The rows of a split that have an instruction and a response; those that do not are counted in `notes`.

    A text is kept unchanged, and is empty if it has white space only.
    Raises GeodistillError for a column that is missing or of another form, and when no row is left.
    """
    rows = _conversations(table, columns, part) if columns.messages else _instructions(table, columns, part)
    with_text = [index for index, row in enumerate(rows) if not is_blank(row.instruction)]
    kept = [index for index in with_text if rows[index].references]
    if dropped := len(rows) - len(with_text):
        notes.append(f"{dropped} of the {len(rows)} {part} rows have no instruction and were dropped.")
    if dropped := len(with_text) - len(kept):
        notes.append(f"{dropped} of the {len(rows)} {part} rows have an empty response and were dropped.")
    if not kept:
        lacking, field = ("a response", "output") if with_text else ("an instruction", "instruction")
        raise GeodistillError(
            f"The {part} split is empty: none of its {len(rows)} rows has {lacking}.",
            f"Check the column '{columns.messages or getattr(columns, field)}', or name another with "
            f"data.{'messages' if columns.messages else field}.",
        )
    return InstructionRows(list(range(len(rows))), rows).take(kept)


def _instructions(table: Table, columns: InstructionColumns, part: str) -> list[Instruction]:
    assert columns.instruction is not None and columns.output is not None
    instructions = _texts(table, columns.instruction, part)
    outputs = column(table, columns.output, part)
    inputs = _inputs(table, columns, part, len(outputs))
    references = [_references(value, columns.output, part) for value in outputs]
    tasks = _tasks(table, columns, part, len(outputs))
    return [Instruction(*row) for row in zip(instructions, inputs, references, tasks, strict=True)]


def _conversations(table: Table, columns: InstructionColumns, part: str) -> list[Instruction]:
    assert columns.messages is not None
    values = column(table, columns.messages, part)
    tasks = _tasks(table, columns, part, len(values))
    rows = []
    for value, task in zip(values, tasks, strict=True):
        turns = [_message(turn, columns.messages, part) for turn in _turns(value, columns.messages, part)]
        answer = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
        asked = [turn["content"] for turn in turns[:answer] if turn["role"] == "user"]
        references = [turn["content"] for turn in turns[answer : answer + 1] if not is_blank(turn["content"])]
        rows.append(Instruction(asked[-1] if asked else "", "", references, task, turns[:answer]))
    return rows


def prompts_of(table: Table, columns: InstructionColumns, part: str) -> list[Instruction]:
    """Every row of a part as it waits for a response, without references; a missing instruction is empty.

    The prompt of a conversation is all its turns except an answer at its end, which training takes for the response.
    Raises GeodistillError for a column that is of another form.
    """
    if columns.messages is None:
        assert columns.instruction is not None
        instructions = _texts(table, columns.instruction, part)
        inputs = _texts(table, columns.input, part) if columns.input else [""] * len(instructions)
        return [Instruction(*row, []) for row in zip(instructions, inputs, strict=True)]
    rows = []
    for value in column(table, columns.messages, part):
        turns = [_message(turn, columns.messages, part) for turn in _turns(value, columns.messages, part)]
        if turns and turns[-1]["role"] == "assistant":
            turns.pop()
        asked = [turn["content"] for turn in turns if turn["role"] == "user"]
        rows.append(Instruction(asked[-1] if asked else "", "", [], messages=turns))
    return rows


def _texts(table: Table, name: str, part: str) -> list[str]:
    return [as_text(value) for value in plain_column(table, name, part)]


def _inputs(table: Table, columns: InstructionColumns, part: str, count: int) -> list[str]:
    if columns.input is None:
        return [""] * count
    return ["" if is_blank(text) else text for text in _texts(table, columns.input, part)]


def _tasks(table: Table, columns: InstructionColumns, part: str, count: int) -> list[str]:
    # No one named it, so a split may lack it.
    if columns.task is None or columns.task not in table.columns:
        return [""] * count
    return [as_text(value).strip() for value in table.columns[columns.task]]


def _references(value: Any, name: str, part: str) -> list[str]:
    """The different responses of a row, in order, without empty ones."""
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    if any(isinstance(each, list | dict) for each in values):
        raise GeodistillError(
            f"The column '{name}' of the {part} split holds {_shown(value)}.",
            "Give each row one response, or a list of equally good ones, as text.",
        )
    return list(dict.fromkeys(text for text in map(as_text, values) if not is_blank(text)))


def _turns(value: Any, name: str, part: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _no_conversation(value, name, part)
    return value


def _message(turn: Any, name: str, part: str) -> Message:
    if isinstance(turn, dict):
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(role, str) and isinstance(content, str):
            return {"role": SPEAKERS.get(role, role), "content": as_text(content)}
    raise _no_conversation(turn, name, part)


def _no_conversation(value: Any, name: str, part: str) -> GeodistillError:
    return GeodistillError(
        f"The column '{name}' of the {part} split holds {_shown(value)} where a conversation should be.",
        'Give each row a list such as [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].',
    )


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]
