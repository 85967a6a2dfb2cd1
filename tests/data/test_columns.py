from __future__ import annotations

import pytest

from geodistill.data.columns import Columns, InstructionColumns, find_columns, find_instruction_columns
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["sentence", "label", "idx"], Columns("sentence", None, "label")),
        (["idx", "sentence1", "sentence2", "label"], Columns("sentence1", "sentence2", "label")),
        (["premise", "hypothesis", "label"], Columns("premise", "hypothesis", "label")),
        (["question", "sentence", "label"], Columns("question", "sentence", "label")),
        (["question1", "question2", "label"], Columns("question1", "question2", "label")),
        (["label_text", "text", "label"], Columns("text", None, "label")),
        (["id", "text", "class"], Columns("text", None, "class")),
        (["Text", "Target"], Columns("Text", None, "Target")),
        (["text", "labels"], Columns("text", None, "labels")),
        (["text", "id"], Columns("text", None, None)),
        (["text", "label_text"], Columns("text", None, None)),
    ],
)
def test_usual_names(present: list[str], expected: Columns) -> None:
    assert find_columns(present, DataRecipe()) == expected


def test_named_columns_come_first() -> None:
    present = ["text", "title", "body", "label", "stars"]
    recipe = DataRecipe(text="title", text_pair="body", label="stars")
    assert find_columns(present, recipe) == Columns("title", "body", "stars")
    assert find_columns(["sentence1", "sentence2", "label"], DataRecipe(text="sentence2")).text_pair is None


def test_unlabelled_looks_for_no_label() -> None:
    assert find_columns(["text", "label"], DataRecipe(problem="unlabelled")) == Columns("text", None, None)


@pytest.mark.parametrize(
    ("present", "recipe", "message"),
    [
        (["tweet", "label"], DataRecipe(), "the columns are 'tweet', 'label'. Name it with data.text"),
        (["text", "label"], DataRecipe(text="txt"), "no column 'txt'; the columns are 'text', 'label'. Mend data.text"),
        (["text", "label"], DataRecipe(text_pair="pair"), "Mend data.text_pair"),
        (["text", "label"], DataRecipe(label="stars"), "Mend data.label"),
        (
            ["text", "stars"],
            DataRecipe(problem="classification"),
            "the columns are 'text', 'stars'. Name it with data.label",
        ),
        (["text", "stars"], DataRecipe(metrics=["accuracy"]), "No label column"),
        (["text", "label"], DataRecipe(text="label"), "chosen twice"),
        (["text", "label"], DataRecipe(text_pair="text"), "chosen twice"),
    ],
)
def test_missing_columns(present: list[str], recipe: DataRecipe, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        find_columns(present, recipe)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["instruction", "context", "response", "category"], ("instruction", "context", "response", None, "category")),
        (["instruction", "input", "output", "text"], ("instruction", "input", "output", None, None)),
        (["question", "answer"], ("question", None, "answer", None, None)),
        (["prompt", "completion"], ("prompt", None, "completion", None, None)),
        (["Prompt", "Response"], ("Prompt", None, "Response", None, None)),
        (["task", "instruction", "input", "target"], ("instruction", "input", "target", None, "task")),
        (["input", "context", "output"], ("input", "context", "output", None, None)),
        (["input", "output"], ("input", None, "output", None, None)),
        (["prompt", "prompt_id", "messages"], (None, None, None, "messages", None)),
        (["id", "conversations"], (None, None, None, "conversations", None)),
        (["instruction", "output", "messages"], ("instruction", None, "output", None, None)),
    ],
)
def test_usual_names_of_instructions(present: list[str], expected: tuple[str | None, ...]) -> None:
    assert find_instruction_columns(present, DataRecipe()) == InstructionColumns(*expected)


def test_named_columns_of_instructions_come_first() -> None:
    present = ["instruction", "input", "output", "ask", "about", "say", "messages"]
    recipe = DataRecipe(instruction="ask", input="about", output="say")
    assert find_instruction_columns(present, recipe) == InstructionColumns("ask", "about", "say")
    assert find_instruction_columns(present, DataRecipe(messages="messages")).instruction is None


@pytest.mark.parametrize(
    ("present", "recipe", "message"),
    [
        (["text", "label"], DataRecipe(), "No instruction column .* 'text', 'label'. Name it with data.instruction"),
        (
            ["instruction", "label"],
            DataRecipe(),
            "No response column .* 'instruction', 'label'. Name it with data.output",
        ),
        (["instruction", "output"], DataRecipe(input="about"), "no column 'about'.*Mend data.input"),
        (["instruction", "output"], DataRecipe(messages="chat"), "no column 'chat'.*Mend data.messages"),
        (["instruction", "output"], DataRecipe(output="instruction"), "chosen twice"),
    ],
)
def test_missing_columns_of_instructions(present: list[str], recipe: DataRecipe, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        find_instruction_columns(present, recipe)
