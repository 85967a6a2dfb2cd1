"""In which precision a run computes: what its recipe says, and what `auto` comes to on this machine."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from geodistill.distillation.signals import bfloat16_is_faster, runs_in_bfloat16
from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe, TrainingRecipe

logger = logging.getLogger(__name__)
Precision = Literal["float32", "bfloat16", "float16"]
SLOW = "this machine does not multiply bfloat16 in hardware, which makes it many times slower than float32"


def training_precision(training: TrainingRecipe, device: torch.device) -> Precision:
    """Return the precision of a training's forward pass on a device; its weights and its optimiser are float32.

    `bf16: auto` is bfloat16 if the device multiplies it in hardware, `fp16: auto` float16 on a CUDA device. What is
    set to true comes first, then bfloat16.

    Raises GeodistillError for float16 on a CPU.
    """
    if training.fp16 is True:
        if device.type == "cpu":
            raise GeodistillError(
                "float16 was asked for (fp16: true), and this run is on the CPU, which does not train in it.",
                "Set fp16: auto, which is float16 on a CUDA device alone, or bf16: auto.",
            )
        return "float16"
    if training.bf16 is True or (training.bf16 == "auto" and bfloat16_is_faster(device)):
        return "bfloat16"
    return "float16" if training.fp16 == "auto" and device.type == "cuda" else "float32"


def describe_precision(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """Return the precision of each part of a run on a device, by the name of its section; `teacher` is the teacher's
    forward pass."""
    chosen: dict[str, str] = {
        name.removesuffix(".training") if name.startswith("stages.") else name: training_precision(training, device)
        for name, training in recipe.trainings.items()
    }
    forward = "bfloat16" if runs_in_bfloat16(recipe.teacher.precision, device) else "float32"
    return {"teacher": forward, **chosen}


def slow_settings(recipe: Recipe, device: torch.device) -> list[str]:
    """Say which settings of a recipe ask for bfloat16 if the device does not multiply it in hardware."""
    if bfloat16_is_faster(device):
        return []
    asked = [f"{name}.bf16: true" for name, training in recipe.trainings.items() if training.bf16 is True]
    asked += ["teacher.weights: bfloat16"] if recipe.teacher.weights == "bfloat16" else []
    asked += ["teacher.precision: bfloat16"] if recipe.teacher.precision == "bfloat16" else []
    return [f"{setting} was asked for; {SLOW}." for setting in asked]


def warn_of_slow_settings(recipe: Recipe, device: torch.device) -> None:
    """Say on standard error what `slow_settings` found."""
    for sentence in slow_settings(recipe, device):
        logger.warning(sentence)
