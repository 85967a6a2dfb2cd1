from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from geodistill.recipe import DataRecipe, Recipe
from geodistill.recipe_file import check_recipe
from geodistill.tasks.choose import task_of
from geodistill.tasks.classification import Classification
from geodistill.tasks.instructions import InstructionFollowing


def test_a_recipe_has_the_task_that_it_names(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    assert isinstance(task_of(make_recipe()), Classification)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "Say {i}.", "response": "{i}"}}\n' for i in range(30)))
    spoken = {
        "task": "instructions",
        "data": {"source": str(rows)},
        "student": {"teacher_layers": [1]},
        "objective": {"label": {}},
    }
    task = task_of(check_recipe(spoken))
    assert isinstance(task, InstructionFollowing) and task.metrics[0] == "rouge_l"


def test_a_stage_has_the_same_task_on_data_of_its_own(make_recipe: Callable[..., Recipe], write_csv: Any) -> None:
    recipe = make_recipe()
    own = DataRecipe(source=str(write_csv([(f"text {i}", "ab"[i % 2]) for i in range(40)])))
    task = task_of(recipe, own)
    assert isinstance(task, Classification) and task.examples.label_names == ["a", "b"]
    assert task.fingerprint != task_of(recipe).fingerprint
