from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geodistill.data.bundled import natural_instructions
from geodistill.data.bundled.natural_instructions import UNSEEN_TASKS, TaskRow, families, instruction_splits, read_task
from geodistill.data.bundled.packages import NATURAL_INSTRUCTIONS
from geodistill.data.instructions import load_instructions
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe

RECIPE = DataRecipe(source="bundled:instructions")


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files with the package's layout and made-up rows: the second task asks what the first one says."""
    for number, name in enumerate(NATURAL_INSTRUCTIONS.members):
        examples: list[dict[str, Any]] = []
        for i in range(40):
            fact = f"the colour of stone number {i} is {'red' if number < 2 else f'{number} times green'}"
            examples.append({"input": f"Fact: {fact}. \nTopic: stones.", "target": [f"{i}.", f"it is {i}."]})
        examples += [{"input": "Fact: empty.", "target": [" "]}, {**examples[0], "target": ["another.", "0."]}]
        definition = f"Definition: Work on task {number}. Things to Avoid: - Prompt: Do task {number}."
        content = {"task_prefix": definition, "examples": examples, "canary": "no training corpus"}
        (tmp_path / name).write_text(json.dumps(content))
    monkeypatch.setattr(natural_instructions, "package_files", lambda package: tmp_path)
    return tmp_path


def test_a_task_is_read_once_for_each_input(made_up: Path) -> None:
    rows = read_task("subtask033_winogrande_answer_generation")
    assert len(rows) == 40
    assert rows[0].instruction == "Do task 0."
    assert rows[0].input == "Fact: the colour of stone number 0 is red. \nTopic: stones."
    assert rows[0].output == ["0.", "it is 0.", "another."]


def test_two_tasks_are_never_trained_on(made_up: Path) -> None:
    instructions = load_instructions(RECIPE)
    assert set(instructions.splits) == {"train", "validation", "test", "unseen"}
    assert set(instructions.splits["unseen"]["task"]) == set(UNSEEN_TASKS)
    for part in ("train", "validation", "test"):
        assert not set(instructions.splits[part]["task"]) & set(UNSEEN_TASKS)
    assert sum(len(split) for split in instructions.splits.values()) == 400
    assert instructions.notes == []


def test_families_are_in_one_split(made_up: Path) -> None:
    where: dict[str, set[str]] = {}
    for part, table in instruction_splits(RECIPE).items():
        for task, text in zip(table.columns["task"], table.columns["input"], strict=True):
            if task[:10] in ("subtask033", "subtask034"):
                where.setdefault(text, set()).add(part)
    assert len(where) == 40 and all(len(parts) == 1 for parts in where.values())
    assert {part for parts in where.values() for part in parts} == {"train", "validation", "test"}


def test_a_task_is_capped(made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natural_instructions, "ROWS_PER_TASK", 10)
    tables = instruction_splits(RECIPE)
    assert sum(len(table.columns["task"]) for table in tables.values()) == 100
    assert len(tables["unseen"].columns["task"]) == 20
    other = instruction_splits(DataRecipe(source=RECIPE.source, seed=1))
    assert set(other["unseen"].columns["input"]) != set(tables["unseen"].columns["input"])


def test_relatives_by_way_of_others() -> None:
    one, two, three = "all birds lay eggs in spring", "a nest is made of twigs", "the sun is a very old star"
    rows = [
        TaskRow("a", "", f"Fact: {one}. \nTopic: birds.", ["short"]),
        TaskRow("b", "", f"Fact 1: {two}. \nFact 2: nothing", [f"{one[0].upper()}{one[1:]}."]),
        TaskRow("c", "", f"Question: Is it so? {two.capitalize()}.", ["short"]),
        TaskRow("d", "", f"Fact: {three}. \nTopic: birds.", ["short"]),
    ]
    first, second, third, other = families(rows)
    assert first == second == third != other
    assert families(rows[::-1]) == [other, third, second, first]


def test_they_are_no_texts_to_classify(made_up: Path) -> None:
    from geodistill.data.examples import load_examples

    with pytest.raises(GeodistillError, match="No text column"):
        load_examples(RECIPE)


@pytest.mark.slow
def test_the_real_ones() -> None:
    instructions = load_instructions(RECIPE)
    assert {name: len(split) for name, split in instructions.splits.items()} == {
        "train": 2790,
        "validation": 395,
        "test": 815,
        "unseen": 693,
    }
    for split in instructions.splits.values():
        assert all(row["input"] and row["references"] and len(row["instruction"].split()) < 30 for row in split)
    assert max(len(row["references"]) for row in instructions.splits["unseen"]) > 5
