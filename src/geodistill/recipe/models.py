"""The sections `teacher` and `student`: which models, and how they are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from geodistill.applies import Rule, Section, only_with
from geodistill.recipe.training import TrainingRecipe

WeightKind = Literal["float32", "bfloat16", "8bit", "4bit"]
NEW_MODEL = "new:"
"""What the name of a model with random weights begins with, such as new:resnet20."""
PYTHON_MODEL = "python:"
"""What the name of an image model begins with that a function makes: python:PACKAGE.MODULE:CALLABLE."""
MADE = (NEW_MODEL, PYTHON_MODEL)
NEW_MODELS = {"images": "new:resnet8", "neural": "new:lfp"}
"""The tasks that have new models by name, and one of the names."""


class TeacherRecipe(Section):
    """The teacher: given fine-tuned, or fine-tuned first when `training` is there."""

    rules = (
        Rule(
            ("revision",),
            lambda teacher: not teacher.model.startswith(("bundled:", *MADE)),
            only_with("a hub name as model"),
        ),
        Rule(
            ("cache_dtype", "cache_variance", "cache_limit_gb", "cache_top_k"),
            lambda teacher: teacher.cache,
            only_with("teacher.cache=true"),
        ),
    )

    model: str = Field(
        "bundled:minilm-l6", description="bundled:NAME, a folder, a hub name; new:NAME, or python:… for an image model"
    )
    revision: str | None = None
    trust_remote_code: bool = Field(False, description="run the code that comes with `model`; of no other side")
    training: TrainingRecipe | None = Field(None, description="fine-tune the teacher on the data first, so")
    weights: WeightKind = Field(
        "float32", description="how the teacher is held in memory; 8bit and 4bit through bitsandbytes"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the teacher's forward pass")
    cache: bool = Field(True, description="run the teacher over the data once and read its signals from disk after")
    cache_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    cache_variance: float | None = Field(
        None, gt=0, le=1, description="keep cached rows in the principal axes that hold this share of their variance"
    )
    cache_limit_gb: float = Field(8.0, gt=0, description="refuse to write a larger cache")
    cache_top_k: int | None = Field(None, ge=1, description="of a token's logits keep the largest and the rest's mass")

    @field_validator("training", mode="before")
    @classmethod
    def in_bfloat16_where_that_is_faster(cls, training: Any) -> Any:
        return {"bf16": "auto", **training} if isinstance(training, Mapping) else training


class LoraRecipe(Section):
    """Low-rank adapters on a pretrained student; they are merged into it at the end."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1, description="adapters act with alpha / rank")
    targets: list[str] | None = Field(None, description="names of linear layers; all of the backbone's when absent")
    dropout: float = Field(0.0, ge=0, lt=1)


class StudentRecipe(Section):
    """The student: exactly one of `model`, `teacher_layers` or (`width` and `layers`)."""

    rules = (
        Rule(
            ("revision",),
            lambda student: student.model is not None and not student.model.startswith(("bundled:", *MADE)),
            only_with("a hub name as student.model"),
        ),
        Rule(
            ("heads", "intermediate", "initialization"),
            lambda student: student.width is not None or student.layers is not None,
            only_with("a new student, of student.width and student.layers"),
        ),
        Rule(
            ("trust_remote_code",),
            lambda student: student.model is not None,
            "Leave it out: a student that is made out of its teacher has the teacher's code, for which there is "
            "teacher.trust_remote_code.",
        ),
    )

    model: str | None = Field(
        None, description="bundled:NAME, a folder, a hub name; new:NAME, or python:… for an image model"
    )
    revision: str | None = None
    trust_remote_code: bool = Field(False, description="run the code that comes with `model`; of no other side")
    teacher_layers: int | list[int] | None = Field(None, description="copy the first so many, or these, teacher layers")
    width: int | None = Field(None, ge=1, description="hidden size of a new student of the teacher's family")
    layers: int | None = Field(None, ge=1)
    heads: int | None = Field(None, ge=1, description="by default one for each 64 of width")
    intermediate: int | None = Field(None, ge=1, description="by default 4 × width")
    initialization: Literal["pca", "random"] = Field("pca", description="of a new student's embeddings")
    training: TrainingRecipe | None = Field(None, description="fine-tune the student on the labels first, so")
    lora: LoraRecipe | None = Field(None, description="train adapters and a classification head, all else stays")

    @model_validator(mode="after")
    def one_way(self) -> StudentRecipe:
        new = self.width is not None or self.layers is not None
        ways = (self.model is not None) + (self.teacher_layers is not None) + new
        if ways != 1:
            raise ValueError("give exactly one of 'model', 'teacher_layers', or 'width' with 'layers'")
        if new and (self.width is None or self.layers is None):
            raise ValueError("a new student needs both 'width' and 'layers'")
        if new and self.lora:
            raise ValueError("'lora' adapts weights that were trained: give 'model' or 'teacher_layers' with it")
        return self
