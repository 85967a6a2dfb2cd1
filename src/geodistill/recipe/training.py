"""The sections `training`: how long and how fast to train."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from geodistill.aliases import OWN_FIELDS, TRAINER_NAMES
from geodistill.applies import Rule, Section, only_with
from geodistill.errors import GeodistillError


class TrainingRecipe(Section):
    """How long and how fast to train.

    `arguments` passes fields of DistillationConfig through, which are those of transformers.TrainingArguments and a few
    more: those that have no key of their own here.
    """

    rules = (
        Rule(
            ("warmup",),
            lambda training: training.schedule != "constant" or training.warmup == 0,
            only_with("another schedule, such as constant_with_warmup"),
        ),
    )

    epochs: float = Field(
        3.0, ge=0, description="0: no training, for a stage of quantised weights: they are rounded after training"
    )
    max_steps: int = Field(-1, description="stops early after so many steps when positive")
    batch_size: int = Field(32, ge=1, description="examples per device and micro-batch")
    evaluation_batch_size: int = Field(128, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    exact_accumulation: bool = Field(
        False, description="take feature terms of all micro-batches of a step together, at one more student forward"
    )
    global_batch: bool = Field(True, description="take feature terms of the whole batch over all ranks")
    learning_rate: float = Field(5e-5, gt=0)
    rates: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="pattern of parameter names → learning rate; the first that matches counts"
    )
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    schedule: str = Field("linear", description="a transformers learning-rate schedule: linear, cosine, constant, …")
    max_gradient_norm: float = Field(1.0, ge=0)
    bf16: bool | Literal["auto"] = Field(
        False, description="train in bfloat16; auto: if the hardware multiplies it. A teacher's default is auto"
    )
    fp16: bool | Literal["auto"] = Field(
        False, description="train in float16; auto: on a CUDA device, unless bf16 is chosen"
    )
    seed: int = 0
    logging_steps: int = Field(20, ge=1)
    evaluate_each_epoch: bool = Field(False, description="score the validation split after each epoch as well")
    save_steps: int | None = Field(None, ge=1, description="write a checkpoint every so many steps; none when absent")
    arguments: dict[str, Any] = Field(default_factory=dict, description="other fields of geodistill.DistillationConfig")

    @model_validator(mode="after")
    def one_precision(self) -> TrainingRecipe:
        if self.bf16 is True and self.fp16 is True:
            raise ValueError("'bf16' and 'fp16' are both true: keep one of them, or set both to auto")
        return self

    @field_validator("arguments")
    @classmethod
    def one_place_for_each_setting(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if name in TRAINER_NAMES:
                key = TRAINER_NAMES[name]
                raise GeodistillError(
                    f"'{name}' has a key of its own.", f"Set '{key}' in the training section instead."
                )
            if name in OWN_FIELDS:
                raise GeodistillError(f"A run decides '{name}' by itself.", OWN_FIELDS[name])
        return arguments
