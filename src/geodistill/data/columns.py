"""Which columns hold the text, its pair and the label, or the instruction and the response, or the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

MOST_NAMED = 10
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
IMAGES = ("image", "img", "picture", "file", "file_name", "filename", "image_path", "file_path", "path")

# What the fields of the recipe stand for, in words.
MEANINGS = {
    "text": "text",
    "text_pair": "second text",
    "label": "label",
    "instruction": "instruction",
    "input": "input",
    "output": "response",
    "messages": "conversation",
    "task": "task",
    "image": "image",
}
MOST_WORDS = 3  # a column's name with more words is a text


@dataclass(frozen=True)
class Columns:
    """The columns that are read. `named` are the fields that the recipe names; the others have a usual name."""

    text: str
    text_pair: str | None
    label: str | None
    named: frozenset[str] = field(default=frozenset(), compare=False)

    def by_field(self) -> dict[str, str]:
        """Return the column of each field of the recipe that has one."""
        return _chosen({"text": self.text, "text_pair": self.text_pair, "label": self.label})

    def described(self) -> list[str]:
        """Say in a sentence for each column what it holds and how it was found."""
        return _described(self.by_field(), self.named)


@dataclass(frozen=True)
class InstructionColumns:
    """Either `messages` or both `instruction` and `output` are there; `output` is absent if none was looked for.

    `named` are the fields that the recipe names.
    """

    instruction: str | None = None
    input: str | None = None
    output: str | None = None
    messages: str | None = None
    task: str | None = None
    named: frozenset[str] = field(default=frozenset(), compare=False)

    def by_field(self) -> dict[str, str]:
        """Return the column of each field of the recipe that has one, and the column of the task."""
        fields = ("instruction", "input", "output", "messages", "task")
        return _chosen({name: getattr(self, name) for name in fields})

    def described(self) -> list[str]:
        """Say in a sentence for each column what it holds and how it was found."""
        return _described(self.by_field(), self.named)


@dataclass(frozen=True)
class ImageColumns:
    """The columns that are read of images. `named` are the fields that the recipe names."""

    image: str
    label: str
    named: frozenset[str] = field(default=frozenset(), compare=False)

    def by_field(self) -> dict[str, str]:
        """Return the column of each field of the recipe."""
        return {"image": self.image, "label": self.label}

    def described(self) -> list[str]:
        """Say in a sentence for each column what it holds and how it was found."""
        return _described(self.by_field(), self.named)


def find_columns(present: Iterable[str], recipe: DataRecipe) -> Columns:
    """Find the columns of one table: those that the recipe names, and by their usual names those that it does not.

    A usual name is compared exactly first, and then in any case of letters. No label is looked for when `problem` is
    `unlabelled`, and none need be there when it is `auto`.
    Raises GeodistillError, listing the columns present, for one that is missing.
    """
    names = list(present)
    _check_named(names, recipe, ("text", "text_pair", "label"))
    found = _look(names, recipe)
    text, text_pair, label = found["text"], found["text_pair"], found["label"]
    if text is None:
        raise _not_found("text", names, "Name it with data.text (and data.text_pair).")
    if label is None and recipe.problem != "unlabelled" and (recipe.problem != "auto" or recipe.metrics):
        remedy = "Name it with data.label, or ask for no metrics and set data.problem=unlabelled."
        raise _not_found("label", names, remedy)
    _check_distinct({"text": text, "text_pair": text_pair, "label": label})
    return Columns(text, text_pair, label, _named(recipe, ("text", "text_pair", "label")))


def _look(names: Sequence[str], recipe: DataRecipe) -> dict[str, str | None]:
    """The column of each field, or None."""
    text, text_pair = recipe.text, recipe.text_pair
    if text is None and text_pair is None:
        pairs = (tuple(_spelled(name, names) for name in pair) for pair in PAIRS)
        text, text_pair = next((pair for pair in pairs if None not in pair), (None, None))
    text = text or _first(TEXTS, names)
    label = None if recipe.problem == "unlabelled" else recipe.label or _first(LABELS, names)
    assert not isinstance(label, list)  # several label columns were gathered in one before
    return {"text": text, "text_pair": text_pair, "label": label}


def find_instruction_columns(
    present: Iterable[str], recipe: DataRecipe, *, responses: bool = True
) -> InstructionColumns:
    """Find the columns of instructions and responses, or of conversations, as `find_columns` does.

    A conversation is looked for if the recipe names one, or if no instruction with a response is found. Without
    `responses` the column of the responses is not looked for.
    Raises GeodistillError, listing the columns present, for one that is missing.
    """
    names = list(present)
    fields = ("instruction", "input", *(("output",) if responses else ()), "messages")
    _check_named(names, recipe, fields)
    found = _look_for_instructions(names, recipe, responses=responses)
    if found["messages"] is None:
        for name in ("instruction", "output") if responses else ("instruction",):
            if found[name] is None:
                remedy = f"Name it with data.{name}, or a column of conversations with data.messages."
                raise _not_found(MEANINGS[name], names, remedy)
        _check_distinct({name: found[name] for name in ("instruction", "input", "output")})
    return InstructionColumns(**found, named=_named(recipe, fields))


def _look_for_instructions(
    names: Sequence[str], recipe: DataRecipe, *, responses: bool = True
) -> dict[str, str | None]:
    """The column of each field, or None; with a conversation no other but the task."""
    task = _first(TASKS, names)
    instruction = recipe.instruction or _first(INSTRUCTIONS, names)
    output = (recipe.output or _first(OUTPUTS, names)) if responses else None
    messages = recipe.messages
    if messages is None and (instruction is None or (responses and output is None)):
        messages = _first(MESSAGES, names)
    if messages is not None:
        return {"instruction": None, "input": None, "output": None, "messages": messages, "task": task}
    about = recipe.input or _first(INPUTS, [name for name in names if name != instruction])
    return {"instruction": instruction, "input": about, "output": output, "messages": None, "task": task}


def find_image_columns(present: Iterable[str], recipe: DataRecipe) -> ImageColumns:
    """Find the columns of an image and its label, as `find_columns` does.

    Raises GeodistillError, listing the columns present, for one that is missing.
    """
    names = list(present)
    _check_named(names, recipe, ("image", "label"))
    found = _look_for_images(names, recipe)
    for name, column in found.items():
        if column is None:
            raise _not_found(name, names, f"Name it with data.{name}.")
    _check_distinct(found)
    return ImageColumns(**_chosen(found), named=_named(recipe, ("image", "label")))


def find_image(present: Iterable[str], recipe: DataRecipe) -> str:
    """Find the column of the images alone. Raises GeodistillError, listing the columns present, if there is none."""
    names = list(present)
    _check_named(names, recipe, ("image",))
    column = recipe.image or _first(IMAGES, names)
    if column is None:
        raise _not_found("image", names, "Name it with data.image.")
    return column


def _look_for_images(names: Sequence[str], recipe: DataRecipe) -> dict[str, str | None]:
    assert not isinstance(recipe.label, list)
    return {"image": recipe.image or _first(IMAGES, names), "label": recipe.label or _first(LABELS, names)}


def check_split(
    columns: Columns | InstructionColumns | ImageColumns, present: Iterable[str], part: str, recipe: DataRecipe
) -> None:
    """Check that a split has no column under another name than the train split, whose columns were found.

    A column that is not there under any name is let pass: whether a split can do without it is decided elsewhere.
    Raises GeodistillError, naming both columns.
    """
    names = list(present)
    own = LOOKS[type(columns)](names, recipe)
    for name, column in columns.by_field().items():
        if column in names:
            continue
        alike = [other for other in names if _folded(other) == _folded(column)]
        other = alike[0] if alike else None if name in columns.named else own[name]
        if other is not None:
            raise GeodistillError(
                f"The column of the {MEANINGS[name]} is '{column}' in the train split and '{other}' in the {part} "
                "split.",
                "Give it one name in every split.",
            )
    if isinstance(columns, Columns) and columns.label is None and own["label"] is not None:
        raise GeodistillError(
            f"The {part} split has a label column, '{own['label']}', and no label column is found in the train split.",
            "Give it one name in every split, or set data.problem=unlabelled to use no labels.",
        )


LOOKS: dict[type, Callable[[Sequence[str], DataRecipe], dict[str, str | None]]] = {
    Columns: _look,
    InstructionColumns: _look_for_instructions,
    ImageColumns: _look_for_images,
}


def _folded(name: str) -> str:
    return name.strip().casefold()


def _spelled(wanted: str, names: Sequence[str]) -> str | None:
    """The name that is `wanted`, else the one that differs from it in case and spaces only."""
    if wanted in names:
        return wanted
    alike = [name for name in names if _folded(name) == wanted]
    if len(alike) > 1:
        raise GeodistillError(
            f"The columns {listed(alike)} differ in case or spaces only, and only one can be the {wanted}.",
            "Rename one of them, or name the right one in the recipe.",
        )
    return alike[0] if alike else None


def _first(wanted: Iterable[str], names: Sequence[str]) -> str | None:
    return next((found for name in wanted if (found := _spelled(name, names)) is not None), None)


def _chosen(columns: Mapping[str, str | None]) -> dict[str, str]:
    return {name: column for name, column in columns.items() if column is not None}


def _named(recipe: DataRecipe, fields: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in fields if getattr(recipe, name) is not None)


def _described(columns: Mapping[str, str], named: Collection[str]) -> list[str]:
    return [
        f"The {MEANINGS[name]} is the column '{column}', "
        + (f"which data.{name} names." if name in named else "found by its usual name.")
        for name, column in columns.items()
    ]


def _check_named(names: Sequence[str], recipe: DataRecipe, fields: Iterable[str]) -> None:
    for name in fields:
        named = getattr(recipe, name)
        if named is not None and named not in names:
            alike = next((other for other in names if _folded(other) == _folded(named)), None)
            raise GeodistillError(
                f"There is no column '{named}'; the columns are {listed(names)}.",
                f"Correct data.{name}{f' to {alike!r}' if alike else ''}.{_header_hint(names)}",
            )


def _check_distinct(columns: Mapping[str, str | None]) -> None:
    chosen = [name for name in columns.values() if name is not None]
    if len(set(chosen)) < len(chosen):
        raise GeodistillError(
            f"One column is used twice, among {', '.join(columns)}: {listed(chosen)}.",
            f"Name another column with {' or '.join(f'data.{field}' for field in columns)}.",
        )


def _not_found(kind: str, names: Sequence[str], remedy: str) -> GeodistillError:
    return GeodistillError(
        f"No {kind} column is found by its usual names; the columns are {listed(names)}.",
        f"{remedy}{_header_hint(names)}",
    )


def _header_hint(names: Iterable[str]) -> str:
    """A hint if the names look like a row of data: one is a number, or a text."""
    if any(_is_number(name) or len(name.split()) > MOST_WORDS for name in names):
        return " If these are the first row of data, the file lacks a header line: add one, such as text,label."
    return ""


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def few(names: Sequence[str]) -> str:
    """List names, and of many only the first ones, with their number."""
    return listed(names) if len(names) <= MOST_NAMED else f"{listed(names[:MOST_NAMED])}, … ({len(names)} in all)"
