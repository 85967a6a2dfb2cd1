"""The tasks by their names, and from a recipe to its task."""

from __future__ import annotations

from geodistill.data.overlap import HeldOut
from geodistill.errors import GeodistillError
from geodistill.recipe import TASK_STAGE, DataRecipe, Recipe
from geodistill.tasks.classification import Classification
from geodistill.tasks.embeddings import Embeddings
from geodistill.tasks.images import Images
from geodistill.tasks.instructions import InstructionFollowing
from geodistill.tasks.neural import Neural
from geodistill.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "instructions": InstructionFollowing,
    "images": Images,
    "neural": Neural,
    "embeddings": Embeddings,
}
"""Every task by the name that a recipe has for it: a new one is a class like these and a row here."""


def task_of(recipe: Recipe, data: DataRecipe | None = None, held_out: HeldOut | None = None) -> Task:
    """Load the examples of the recipe's data section, or of a stage's, and return the task on them.

    `held_out` are the held-out texts of the task, for a stage: its training rows with these are left out.
    """
    return TASKS[recipe.task].load(data or recipe.data, recipe, held_out)


def stage_tasks(recipe: Recipe, task: Task) -> dict[str, Task]:
    """Load the data of every stage, by the stage's name, and of the task itself, which is given. A stage without data
    of its own has the task's.

    Raises GeodistillError for data that cannot be read, naming the stage.
    """
    tasks = {}
    for stage in recipe.stages:
        if stage.data is None:
            tasks[stage.name] = task
            continue
        try:
            tasks[stage.name] = task_of(recipe, stage.data, task.held_out)
        except GeodistillError as error:
            raise GeodistillError(f"Stage '{stage.name}': {error.problem}", error.remedy) from error
    return {**tasks, TASK_STAGE: task}
