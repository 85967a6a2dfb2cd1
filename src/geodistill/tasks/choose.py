"""From a recipe to its task: the one place that chooses."""

from __future__ import annotations

from geodistill.data.examples import load_examples
from geodistill.recipe import DataRecipe, Recipe
from geodistill.tasks.classification import Classification
from geodistill.tasks.task import Task


def task_of(recipe: Recipe, data: DataRecipe | None = None) -> Task:
    """Load the examples of the recipe's data section, or of a stage's, and return the task on them."""
    data = data or recipe.data
    return Classification(load_examples(data))
