from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe, Recipe
from geodistill.runs.recipe_file import check_recipe
from geodistill.tasks.choose import stage_tasks, task_of
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


def test_data_of_a_stage_that_cannot_be_read_names_the_stage(
    make_recipe: Callable[..., Recipe], write_csv: Any
) -> None:
    data = {"source": str(write_csv([("what is it", "DESC")], header="a,b"))}
    recipe = make_recipe(stages=[{"name": "warm", "data": data, "objective": {"label": {}}}])
    task = task_of(recipe)
    with pytest.raises(GeodistillError, match=r"^Stage 'warm': No text column"):
        stage_tasks(recipe, task)
    assert stage_tasks(make_recipe(), task) == {"task": task}


def test_a_stage_leaves_out_what_the_task_is_measured_on(make_recipe: Callable[..., Recipe]) -> None:
    data = {"source": "bundled:trec", "problem": "unlabelled", "seed": 1}
    recipe = make_recipe(stages=[{"name": "warm", "data": data, "objective": {"features": [{"loss": "gram"}]}}])
    task = task_of(recipe)
    stage = stage_tasks(recipe, task)["warm"]
    assert "in the task's test part" in stage.notes[0]
    assert stage.fingerprint != task_of(recipe, recipe.stages[0].data).fingerprint
