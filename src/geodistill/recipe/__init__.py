"""The typed recipe: everything that a run is made from, and nothing that it computes.

A recipe is a YAML file; every field here is a key of it, and may be overridden on the command line by its dotted path
(`training.epochs=3`, `objective.features.0.weight=5`). An unknown key is refused, and the nearest valid one is named.

Names of losses, rows, divergences and tasks are plain strings here. The dicts of them live on higher floors, where the
names and the options of a loss are checked: `geodistill.runs.recipe_file.check_names`.
"""

from geodistill.applies import Section
from geodistill.recipe.data import Augmentation, ColumnsRecipe, DataRecipe, PromptKind, SessionsRecipe
from geodistill.recipe.models import (
    MADE,
    NEW_MODEL,
    NEW_MODELS,
    PYTHON_MODEL,
    LoraRecipe,
    StudentRecipe,
    TeacherRecipe,
    WeightKind,
)
from geodistill.recipe.objective import FeatureTerm, LabelTerm, LogitTerm, ObjectiveRecipe, Term
from geodistill.recipe.scoring import CompareRecipe, GenerationRecipe
from geodistill.recipe.stages import TASK_STAGE, QuantizationRecipe, StageRecipe
from geodistill.recipe.training import TrainingRecipe
from geodistill.recipe.whole import CLASSIFICATION_DATA, IMAGE_DATA, INSTRUCTION_DATA, Recipe

__all__ = [
    "CLASSIFICATION_DATA",
    "IMAGE_DATA",
    "INSTRUCTION_DATA",
    "MADE",
    "NEW_MODEL",
    "NEW_MODELS",
    "PYTHON_MODEL",
    "TASK_STAGE",
    "Augmentation",
    "ColumnsRecipe",
    "CompareRecipe",
    "DataRecipe",
    "FeatureTerm",
    "GenerationRecipe",
    "LabelTerm",
    "LogitTerm",
    "LoraRecipe",
    "ObjectiveRecipe",
    "PromptKind",
    "QuantizationRecipe",
    "Recipe",
    "Section",
    "SessionsRecipe",
    "StageRecipe",
    "StudentRecipe",
    "TeacherRecipe",
    "Term",
    "TrainingRecipe",
    "WeightKind",
]
