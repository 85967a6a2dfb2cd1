from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from geodistill.distillation import signals as teacher_module
from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe, TrainingRecipe
from geodistill.recipes import recipe_path
from geodistill.runs import precision as precision_module
from geodistill.runs.arguments import training_arguments
from geodistill.runs.folder import ENVIRONMENT, RESULTS, read_json
from geodistill.runs.precision import describe_precision, slow_settings, training_precision
from geodistill.runs.recipe_file import check_recipe, load_recipe
from geodistill.runs.train import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(params=[True, False], ids=["with bfloat16", "without"])
def in_hardware(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A machine that multiplies bfloat16 in hardware, and one that does not, whatever this one does."""
    for module in (precision_module, teacher_module):
        monkeypatch.setattr(module, "bfloat16_is_faster", lambda device: request.param)
    return bool(request.param)


def test_auto_is_bfloat16_where_that_is_faster(in_hardware: bool, tmp_path: Path) -> None:
    chosen = "bfloat16" if in_hardware else "float32"
    assert training_precision(TrainingRecipe(bf16="auto"), CPU) == chosen
    assert training_precision(TrainingRecipe(bf16="auto"), CUDA) == chosen
    assert training_arguments(TrainingRecipe(bf16="auto"), tmp_path).bf16 is in_hardware
    assert training_precision(TrainingRecipe(), CUDA) == "float32"
    assert training_precision(TrainingRecipe(bf16=True), CPU) == "bfloat16"


def test_float16_is_for_cuda_devices_and_after_bfloat16(in_hardware: bool) -> None:
    both = TrainingRecipe(bf16="auto", fp16="auto")
    assert training_precision(both, CUDA) == ("bfloat16" if in_hardware else "float16")
    assert training_precision(both, CPU) == ("bfloat16" if in_hardware else "float32")
    assert training_precision(TrainingRecipe(fp16="auto"), CUDA) == "float16"
    assert training_precision(TrainingRecipe(bf16="auto", fp16=True), CUDA) == "float16"


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(GeodistillError, match=r"float16 was asked for.*CPU.*fp16: auto"):
        training_precision(TrainingRecipe(fp16=True), CPU)


def test_both_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="'bf16' and 'fp16' are both true"):
        TrainingRecipe(bf16=True, fp16=True)


def test_the_default_is_auto_for_a_teacher_and_float32_for_a_student(content: dict[str, Any]) -> None:
    recipe = check_recipe({**content, "teacher": {"training": {}}, "student": {"teacher_layers": 1, "training": {}}})
    assert recipe.teacher.training is not None and recipe.teacher.training.bf16 == "auto"
    assert recipe.student.training is not None and recipe.student.training.bf16 is False
    assert recipe.training.bf16 is False
    said = check_recipe({**content, "teacher": {"training": {"bf16": False}}})
    assert said.teacher.training is not None and said.teacher.training.bf16 is False


@pytest.mark.parametrize("name", ["demo-trec", "demo-reviews", "demo-instructions"])
def test_no_shipped_recipe_insists_on_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (precision_module, teacher_module):
        monkeypatch.setattr(module, "bfloat16_is_faster", lambda device: False)
    with recipe_path(name) as path:
        recipe = load_recipe(path)
    assert set(describe_precision(recipe, CPU).values()) == {"float32"}
    assert slow_settings(recipe, CPU) == []


def test_what_is_slow_on_this_machine_is_said(in_hardware: bool, make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(teacher={"weights": "bfloat16"}, training={"bf16": True})
    said = slow_settings(recipe, CPU)
    assert [sentence.partition(" was asked")[0] for sentence in said] == (
        [] if in_hardware else ["training.bf16: true", "teacher.weights: bfloat16"]
    )


def test_a_run_says_what_was_chosen(make_recipe: Callable[..., Recipe], in_hardware: bool, tmp_path: Path) -> None:
    recipe = make_recipe(training={"max_steps": 1, "bf16": "auto"})
    results = train(recipe, tmp_path / "run", progress=False)
    chosen = "bfloat16" if in_hardware else "float32"
    assert results.precision == {"teacher": chosen, "training": chosen}
    assert read_json(tmp_path / "run" / ENVIRONMENT)["precision"] == results.precision
    assert read_json(tmp_path / "run" / RESULTS)["precision"] == results.precision
