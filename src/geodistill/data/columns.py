"""Which columns hold the text, its pair and the label, or the instruction and the response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
# Those of Alpaca, Dolly, Natural Instructions, TRL and chat data.
INSTRUCTIONS = ("instruction", "prompt", "question", "query", "input")
INPUTS = ("input", "context")
OUTPUTS = ("output", "response", "completion", "references", "reference", "answer", "answers", "target", "targets")
MESSAGES = ("messages", "conversations", "conversation")
TASKS = ("task", "category")


@dataclass(frozen=True)
class Columns:
    text: str
    text_pair: str | None
    label: str | None


@dataclass(frozen=True)
class InstructionColumns:
    """Either `messages` or both `instruction` and `output` are there."""

    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    messages: str | None = None
    task: str | None = None


def find_columns(present: Iterable[str], recipe: DataRecipe) -> Columns:
    """The columns that the recipe names, and by their usual names, in any case of letters, those that it does not.

    No label is looked for when `problem` is `unlabelled`, and none need be there when it is `auto`.
    Raises GeodistillError, listing the columns present, for one that is missing.
    """
    names = list(present)
    usual = _usual(names)
    _check_named(names, recipe, ("text", "text_pair", "label"))
    text, text_pair = recipe.text, recipe.text_pair
    if text is None and text_pair is None:
        text, text_pair = next(((usual[a], usual[b]) for a, b in PAIRS if a in usual and b in usual), (None, None))
    text = text or _first(TEXTS, usual)
    if text is None:
        raise GeodistillError(
            f"No text column is found by its usual names; the columns are {listed(names)}.",
            "Name it with data.text (and data.text_pair).",
        )
    if recipe.problem == "unlabelled":
        return Columns(text, text_pair, None)
    label = recipe.label or _first(LABELS, usual)
    if label is None and (recipe.problem != "auto" or recipe.metrics):
        raise GeodistillError(
            f"No label column is found by its usual names; the columns are {listed(names)}.",
            "Name it with data.label, or ask for no metrics and set data.problem=unlabelled.",
        )
    _check_distinct({"text": text, "text_pair": text_pair, "label": label})
    return Columns(text, text_pair, label)


def find_instruction_columns(present: Iterable[str], recipe: DataRecipe) -> InstructionColumns:
    """The columns of instructions and responses, or of conversations, that the recipe names, else by usual names.

    A conversation is looked for where the recipe names one, or where no instruction with a response is found.
    Raises GeodistillError, listing the columns present, for one that is missing.
    """
    names = list(present)
    usual = _usual(names)
    _check_named(names, recipe, ("instruction", "input", "output", "messages"))
    task = _first(TASKS, usual)
    instruction = recipe.instruction or _first(INSTRUCTIONS, usual)
    output = recipe.output or _first(OUTPUTS, usual)
    messages = recipe.messages
    if messages is None and (instruction is None or output is None):
        messages = _first(MESSAGES, usual)
    if messages is not None:
        return InstructionColumns(messages=messages, task=task)
    for column, kind, field in ((instruction, "instruction", "instruction"), (output, "response", "output")):
        if column is None:
            raise GeodistillError(
                f"No {kind} column is found by its usual names; the columns are {listed(names)}.",
                f"Name it with data.{field}, or a column of conversations with data.messages.",
            )
    about = recipe.input or _first(INPUTS, {name: found for name, found in usual.items() if found != instruction})
    _check_distinct({"instruction": instruction, "input": about, "output": output})
    return InstructionColumns(instruction, about, output, task=task)


def _usual(names: Sequence[str]) -> dict[str, str]:
    return {name.strip().casefold(): name for name in reversed(names)}


def _first(wanted: Iterable[str], usual: Mapping[str, str]) -> str | None:
    return next((usual[name] for name in wanted if name in usual), None)


def _check_named(names: Sequence[str], recipe: DataRecipe, fields: Iterable[str]) -> None:
    for field in fields:
        named = getattr(recipe, field)
        if named is not None and named not in names:
            raise GeodistillError(
                f"There is no column '{named}'; the columns are {listed(names)}.", f"Mend data.{field}."
            )


def _check_distinct(columns: Mapping[str, str | None]) -> None:
    chosen = [name for name in columns.values() if name is not None]
    if len(set(chosen)) < len(chosen):
        raise GeodistillError(
            f"One column is chosen twice, of {', '.join(columns)}: {listed(chosen)}.",
            f"Name another one with {', '.join(f'data.{field}' for field in columns)}.",
        )


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
