"""From a recipe to its task: the one place that chooses."""

from __future__ import annotations

from geodistill.data.examples import load_examples
from geodistill.data.instructions import load_instructions
from geodistill.data.overlap import HeldOut
from geodistill.errors import GeodistillError
from geodistill.recipe import TASK_STAGE, DataRecipe, Recipe
from geodistill.tasks.classification import Classification
from geodistill.tasks.instructions import InstructionFollowing
from geodistill.tasks.task import Task


def task_of(recipe: Recipe, data: DataRecipe | None = None, held_out: HeldOut | None = None) -> Task:
    """Load the examples of the recipe's data section, or of a stage's, and return the task on them.

    `held_out` are the held-out texts of the task, for a stage: its training rows with these are left out.
    """
    data = data or recipe.data
    match recipe.task:
        case "classification":
            return Classification(load_examples(data, held_out))
        case "instructions":
            return InstructionFollowing(load_instructions(data, held_out), data, recipe.generation)


def stage_tasks(recipe: Recipe, task: Task) -> dict[str, Task]:
    """Load the data of every stage, by the stage's name, and of the task itself, which is given.

    Raises GeodistillError for data that cannot be read, naming the stage.
    """
    tasks = {}
    for stage in recipe.stages:
        try:
            tasks[stage.name] = task_of(recipe, stage.data, task.held_out)
        except GeodistillError as error:
            raise GeodistillError(f"Stage '{stage.name}': {error.problem}", error.remedy) from error
    return {**tasks, TASK_STAGE: task}
