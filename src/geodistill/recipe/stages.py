"""The section `stages`, and the section `quantization` of each stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from geodistill.applies import Rule, Section, only_with
from geodistill.recipe.data import DataRecipe
from geodistill.recipe.objective import ObjectiveRecipe
from geodistill.recipe.training import TrainingRecipe

TASK_STAGE = "task"
Bits = Annotated[int, Field(ge=2, le=8)]


class QuantizationRecipe(Section):
    """How a student's layers are rounded to integers of a few bits while it trains."""

    rules = (
        Rule(
            ("biases", "symmetric", "calibration", "percentile", "calibration_examples"),
            lambda quantization: quantization.activations is not None,
            only_with("activations that are quantised"),
        ),
        Rule(
            ("percentile",),
            lambda quantization: quantization.calibration == "percentile",
            only_with("calibration: percentile"),
        ),
    )

    weights: Bits = Field(8, description="bits of the weights; they are symmetric")
    activations: Bits | None = Field(8, description="bits of what the layers read; float if null")
    embeddings: Bits | None = Field(8, description="bits of embeddings; float if null")
    first_and_last: Bits | None = Field(8, description="bits of the first and the last layer; float if null")
    biases: bool = Field(True, description="round biases to the int32 grid of the product of both steps")
    per_channel: bool = Field(True, description="one interval for each output channel of a weight, or row of a table")
    symmetric: bool = Field(False, description="signed integers for what the layers read, zero in their middle")
    include: list[str] | None = Field(None, min_length=1, description="patterns of names of layers; all if absent")
    exclude: list[str] = Field(default_factory=list, description="patterns of names of layers that stay float")
    calibration: Literal["minmax", "percentile"] = Field(
        "minmax", description="where the intervals of what layers read start"
    )
    percentile: float = Field(99.99, gt=50, lt=100, description="values beyond it, on each side, start as clipped")
    calibration_examples: int = Field(256, ge=1, description="so many training examples decide where intervals start")


class StageRecipe(Section):
    """A training stage that comes before the task itself, such as feature terms alone on unlabelled text."""

    name: str = Field(pattern=r"^\w[\w .-]*$", description="of its own; its checkpoints are in a folder of this name")
    data: DataRecipe | None = Field(None, description="the task's own data when absent, with its labels")
    objective: ObjectiveRecipe
    teacher_objective: ObjectiveRecipe | None = Field(
        None, description="train the teacher too, with the roles swapped; it is not cached meanwhile"
    )
    quantization: QuantizationRecipe | None = Field(
        None, description="put quantisers into the student when the stage begins; they stay in later ones"
    )
    training: TrainingRecipe = Field(default_factory=TrainingRecipe)
