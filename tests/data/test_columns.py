from __future__ import annotations

import pytest

from geodistill.data.columns import (
    Columns,
    ImageColumns,
    InstructionColumns,
    check_split,
    find_columns,
    find_image_columns,
    find_instruction_columns,
)
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
        (
            ["text", "label"],
            DataRecipe(text="txt"),
            "no column 'txt'; the columns are 'text', 'label'. Correct data.text",
        ),
        (["text", "label"], DataRecipe(text_pair="pair"), "Correct data.text_pair"),
        (["text", "label"], DataRecipe(label="stars"), "Correct data.label"),
        (
            ["text", "stars"],
            DataRecipe(problem="classification"),
            "the columns are 'text', 'stars'. Name it with data.label",
        ),
        (["text", "stars"], DataRecipe(metrics=["accuracy"]), "No label column"),
        (["text", "label"], DataRecipe(text="label"), "used twice"),
        (["text", "label"], DataRecipe(text_pair="text"), "used twice"),
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
        (["instruction", "output"], DataRecipe(input="about"), "no column 'about'.*Correct data.input"),
        (["instruction", "output"], DataRecipe(messages="chat"), "no column 'chat'.*Correct data.messages"),
        (["instruction", "output"], DataRecipe(output="instruction"), "used twice"),
    ],
)
def test_missing_columns_of_instructions(present: list[str], recipe: DataRecipe, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        find_instruction_columns(present, recipe)


def test_columns_say_how_they_were_found() -> None:
    assert find_columns(["Sentence", "stars"], DataRecipe(label="stars")).described() == [
        "The text is the column 'Sentence', found by its usual name.",
        "The label is the column 'stars', which data.label names.",
    ]
    assert find_instruction_columns(["ask", "answer", "task"], DataRecipe(instruction="ask")).described() == [
        "The instruction is the column 'ask', which data.instruction names.",
        "The response is the column 'answer', found by its usual name.",
        "The task is the column 'task', found by its usual name.",
    ]


def test_an_exact_name_comes_before_another_spelling() -> None:
    assert find_columns(["TEXT", "text", "Label", "label"], DataRecipe()) == Columns("text", None, "label")
    assert find_columns([" Text ", "LABEL"], DataRecipe()) == Columns(" Text ", None, "LABEL")


@pytest.mark.parametrize(
    "present", [["Text", "TEXT", "label"], ["text", "Label", "LABEL"], ["text", " label", "Label"]]
)
def test_spellings_that_only_case_tells_apart_are_refused(present: list[str]) -> None:
    with pytest.raises(GeodistillError, match=r"differ in case or spaces only.*Rename one of them"):
        find_columns(present, DataRecipe())


def test_a_named_column_in_another_case_is_suggested() -> None:
    with pytest.raises(GeodistillError, match=r"no column 'Stars'.*Correct data.label to 'stars'"):
        find_columns(["text", "stars"], DataRecipe(label="Stars"))


@pytest.mark.parametrize(
    ("present", "recipe"),
    [
        (["I loved it", "1"], DataRecipe()),
        (["I loved it so much", "good"], DataRecipe()),
        (["text is here", "0.5"], DataRecipe(text="text")),
        (["What is it?", "7", "x"], DataRecipe(instruction="ask")),
    ],
)
def test_a_file_without_a_header_line_is_hinted_at(present: list[str], recipe: DataRecipe) -> None:
    find = find_columns if recipe.instruction is None else find_instruction_columns
    with pytest.raises(GeodistillError, match="lacks a header line"):
        find(present, recipe)


def test_no_hint_at_the_header_where_names_are_names() -> None:
    with pytest.raises(GeodistillError) as caught:
        find_columns(["tweet", "sentiment score"], DataRecipe())
    assert "header" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "other", "recipe", "message"),
    [
        (["text", "label"], ["text", "Label"], DataRecipe(), "label is 'label' in the train split and 'Label' in the"),
        (["text", "label"], ["text", "target"], DataRecipe(), "'label' in the train split and 'target' in the test"),
        (
            ["text", "label"],
            ["Text", "label"],
            DataRecipe(),
            "text is 'text' in the train split and 'Text' in the test",
        ),
        (["text", "label"], ["sentence", "label"], DataRecipe(), "'text' in the train split and 'sentence'"),
        (["premise", "hypothesis"], ["premise", "Hypothesis"], DataRecipe(), "second text is 'hypothesis'"),
        (["text", "stars"], ["text", " stars"], DataRecipe(label="stars"), "'stars' in the train split and ' stars'"),
        (["text"], ["text", "label"], DataRecipe(), "test split has a label column, 'label', and no label column"),
    ],
)
def test_another_name_in_another_split(train: list[str], other: list[str], recipe: DataRecipe, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        check_split(find_columns(train, recipe), other, "test", recipe)


@pytest.mark.parametrize(
    ("train", "other", "recipe"),
    [
        (["text", "label"], ["text", "label", "Label", "target"], DataRecipe()),
        (["text", "label"], ["text", "id"], DataRecipe()),
        (["text", "stars"], ["text", "label"], DataRecipe(label="stars")),
        (["text"], ["text", "label"], DataRecipe(problem="unlabelled")),
    ],
)
def test_splits_that_agree_or_lack_a_column(train: list[str], other: list[str], recipe: DataRecipe) -> None:
    check_split(find_columns(train, recipe), other, "test", recipe)


@pytest.mark.parametrize(
    ("train", "other", "message"),
    [
        (["instruction", "output"], ["Instruction", "output"], "instruction is 'instruction' in the train split and"),
        (["instruction", "output"], ["instruction", "response"], "response is 'output' in the train split and 'resp"),
        (["prompt", "input", "output"], ["prompt", "Input", "output"], "input is 'input' in the train split"),
        (["messages"], ["conversations"], "conversation is 'messages' in the train split and 'conversations' in"),
    ],
)
def test_another_name_in_another_split_of_instructions(train: list[str], other: list[str], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        check_split(find_instruction_columns(train, DataRecipe()), other, "test", DataRecipe())


@pytest.mark.parametrize(
    ("present", "recipe", "expected"),
    [
        (["img", "label"], DataRecipe(), ImageColumns("img", "label")),
        (["file", "image", "Labels"], DataRecipe(), ImageColumns("image", "Labels")),
        (["file_name", "target"], DataRecipe(), ImageColumns("file_name", "target")),
        (["image", "fine_label"], DataRecipe(label="fine_label"), ImageColumns("image", "fine_label")),
    ],
)
def test_columns_of_images(present: list[str], recipe: DataRecipe, expected: ImageColumns) -> None:
    assert find_image_columns(present, recipe) == expected


@pytest.mark.parametrize(
    ("present", "recipe", "message"),
    [
        (["photo", "label"], DataRecipe(), r"No image column .*'photo', 'label'\. Name it with data\.image"),
        (["image", "kind"], DataRecipe(), r"No label column .* Name it with data\.label"),
        (["image", "label"], DataRecipe(image="Image"), r"Correct data\.image to 'image'"),
        (["image", "label"], DataRecipe(label="image"), "used twice, among image, label"),
    ],
)
def test_columns_of_images_that_are_missing(present: list[str], recipe: DataRecipe, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        find_image_columns(present, recipe)


def test_an_image_has_one_name_in_every_split() -> None:
    columns = find_image_columns(["image", "label"], DataRecipe())
    assert columns.described()[0] == "The image is the column 'image', found by its usual name."
    with pytest.raises(GeodistillError, match=r"image is 'image' in the train split and 'img' in the test"):
        check_split(columns, ["img", "label"], "test", DataRecipe())
