"""Image classifiers of transformers distilled end to end on scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification

from geodistill.distillation.trainer import DistillationTrainer
from geodistill.recipe import Recipe
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.run_results import RunResults
from geodistill.runs.train import train
from geodistill.tasks.image_reader import default_processor

DATA = {"source": "bundled:digits", "limit": 60}
CNN = {"hidden_sizes": [8, 8], "depths": [1, 1]}
FAMILIES: dict[str, dict[str, Any]] = {
    "ResNet": {"embedding_size": 8, **CNN},
    "ViT": {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "image_size": 8,
        "patch_size": 2,
    },
    "RegNet": {"embedding_size": 8, "groups_width": 8, **CNN},
    "MobileNetV2": {"depth_multiplier": 0.1},
    "ConvNext": {"num_stages": 2, "patch_size": 2, **CNN},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A resnet8 that was trained for two steps."""
    folder = tmp_path_factory.mktemp("teacher")
    steps = {"max_steps": 2, "batch_size": 20}
    recipe = {"task": "images", "data": DATA, "student": {"model": "new:resnet8"}, "objective": {"label": {}}}
    train(check_recipe({**recipe, "teacher": {"model": "new:resnet8", "training": steps}, "training": steps}), folder)
    return str(folder / "teacher")


def recipe_of(family: str, teacher: str, folder: Path, **training: Any) -> Recipe:
    """A tiny student of a family with random weights, which reads 16 × 16 pixels, or 8 × 8 where it is a ViT."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(num_channels=3, num_labels=10, **FAMILIES[family])
    side = FAMILIES[family].get("image_size", 16)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    default_processor((side, side), [0.5] * 3, [0.2] * 3).save_pretrained(folder)
    features = [{"loss": "procrustes", "layers": "last"}, {"loss": "rcka", "layers": "last"}]
    return check_recipe(
        {
            "task": "images",
            "data": DATA,
            "teacher": {"model": teacher},
            "student": {"model": str(folder)},
            "objective": {"label": {}, "logits": {}, "features": features},
            "training": {"batch_size": 20, "learning_rate": 1e-3, **training},
        }
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForImageClassification.from_pretrained(folder / "student").state_dict())


def check(results: RunResults | None) -> None:
    assert results is not None
    assert results.onnx_difference is not None and results.onnx_difference < 1e-4
    assert results.geometry and all(0 <= value <= 1 for value in results.metrics.values())


@pytest.mark.parametrize("family", ["ResNet", "ViT"])
def test_a_student_is_distilled_resumed_and_exported(
    family: str, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(family, teacher, tmp_path / "begin", epochs=2, save_steps=2)
    train(recipe, tmp_path / "whole", progress=False)
    step = DistillationTrainer.training_step

    def interrupted(self: DistillationTrainer, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **more)

    monkeypatch.setattr(DistillationTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "parts", progress=False)
    monkeypatch.undo()
    check(train(recipe, tmp_path / "parts", onnx=True, progress=False))
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("family", ["RegNet", "ConvNext", pytest.param("MobileNetV2", marks=pytest.mark.slow)])
def test_other_families_are_distilled_and_exported(family: str, teacher: str, tmp_path: Path) -> None:
    recipe = recipe_of(family, teacher, tmp_path / "begin", max_steps=2)
    check(train(recipe, tmp_path / "run", onnx=True, progress=False))
    began = AutoModelForImageClassification.from_pretrained(tmp_path / "begin").state_dict()
    ended = weights(tmp_path / "run")
    assert any(not torch.equal(began[name], ended[name]) for name in began if name.endswith("weight"))
