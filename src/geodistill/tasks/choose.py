"""From a recipe to its task: the one place that chooses."""

from __future__ import annotations

from geodistill.data.examples import load_examples
from geodistill.data.instructions import load_instructions
from geodistill.recipe import DataRecipe, Recipe
from geodistill.tasks.classification import Classification
from geodistill.tasks.instructions import InstructionFollowing
from geodistill.tasks.task import Task


def task_of(recipe: Recipe, data: DataRecipe | None = None) -> Task:
    """Load the examples of the recipe's data section, or of a stage's, and return the task on them."""
    data = data or recipe.data
    match recipe.task:
        case "classification":
            return Classification(load_examples(data))
        case "instructions":
            return InstructionFollowing(load_instructions(data), data, recipe.generation)
