"""A torch model that a function of an installed module makes: from a recipe to a folder and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from geodistill.distillation.trainer import DistillationTrainer
from geodistill.errors import GeodistillError
from geodistill.models import ImageClassifiers, PythonConfig, PythonForImageClassification
from geodistill.recipe import Recipe
from geodistill.runs.evaluate import evaluate
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.train import train

STEPS = {"max_steps": 2, "batch_size": 16, "logging_steps": 1}
SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, num_classes)
        self.register_buffer("scale", torch.full((1,), 3.0), persistent=False)

    def forward(self, pixels):
        return self.head(self.body(pixels).mean(dim=(2, 3)) * self.scale)


def features(num_classes):
    return Net(num_classes).body


number = 3
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of somebody else's, with a network that has a buffer which is not saved."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "somebodys_nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def make_recipe(**changes: Any) -> Recipe:
    content = {
        "task": "images",
        "data": {"source": "bundled:digits", "limit": 60},
        "teacher": {"model": "new:resnet8", "training": STEPS},
        "student": {"model": "python:somebodys_nets:Net", "trust_remote_code": True},
        "objective": {"logits": {}, "features": [{"loss": "procrustes", "layers": [["model.body", "stages.0"]]}]},
        "training": STEPS,
    }
    return check_recipe({**content, **changes})


def test_a_student_is_trained_resumed_saved_loaded_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(training={**STEPS, "max_steps": 4, "save_steps": 2})
    train(recipe, tmp_path / "whole", shared=tmp_path, progress=False)
    step = DistillationTrainer.training_step

    def interrupted(self: DistillationTrainer, *arguments: Any, **more: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *arguments, **more)

    monkeypatch.setattr(DistillationTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", shared=tmp_path, progress=False)
    monkeypatch.setattr(DistillationTrainer, "training_step", step)
    results = train(recipe, tmp_path / "run", shared=tmp_path, onnx=True, progress=False)
    assert results is not None and results.geometry == []
    whole, parts = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("whole", "run"))
    torch.testing.assert_close(parts, whole)
    content = json.loads((tmp_path / "run" / "results.json").read_text())
    assert content["onnx_difference"] < 1e-4
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("procrustes_model.body_stages.0" in entry for entry in logged)
    assert evaluate(tmp_path / "run", progress=False)["metrics"] == pytest.approx(content["metrics"])

    student = tmp_path / "run" / "student"
    again = ImageClassifiers.from_pretrained(str(student), trust_remote_code=True)
    assert again.config.id2label == {number: str(number) for number in range(10)}
    torch.testing.assert_close(dict(again.state_dict()), load_file(student / "model.safetensors"))
    assert again.model.scale.item() == 3, "a buffer that is not saved is as the callable makes it"


def test_a_teacher_is_fine_tuned_and_its_folder_teaches(tmp_path: Path) -> None:
    teacher = {"model": "python:somebodys_nets:Net", "trust_remote_code": True, "training": STEPS}
    features = [{"loss": "gram", "layers": [["stages.0", "model.body"]]}]
    recipe = make_recipe(
        teacher=teacher, student={"model": "new:resnet8"}, objective={"label": {}, "features": features}
    )
    assert train(recipe, tmp_path / "run", progress=False) is not None


def test_code_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    with pytest.raises(GeodistillError, match=r"'student.model' is .* not run .* student.trust_remote_code=true"):
        make_recipe(student={"model": "python:somebodys_nets:Net"})
    with pytest.raises(GeodistillError, match="names a new image model, and the task is classification"):
        make_recipe(task="classification", data={})
    config = PythonConfig(factory="somebodys_nets:Net", num_labels=4)
    PythonForImageClassification(config).save_pretrained(tmp_path / "saved")
    content = json.loads((tmp_path / "saved" / "config.json").read_text())
    (tmp_path / "saved" / "config.json").write_text(json.dumps({**content, "factory": "os:abort"}))
    with pytest.raises(GeodistillError, match="made by the code of 'os:abort', which is not run"):
        ImageClassifiers.from_pretrained(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="PythonConfig"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    with pytest.raises(GeodistillError, match="made by the code of 'os:abort', which is not run"):
        train(make_recipe(student={"model": str(tmp_path / "saved")}), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("somebodys_nets:Nit", "has no attribute 'Nit'.*the callable takes num_classes"),
        ("nobodys_nets:Net", "No module named 'nobodys_nets'"),
        ("somebodys_nets", "cannot be made"),
        ("somebodys_nets:number", "not callable"),
        ("builtins:dict", "which is no torch model"),
    ],
)
def test_what_makes_no_model_is_refused(factory: str, said: str) -> None:
    with pytest.raises(GeodistillError, match=said):
        PythonForImageClassification(PythonConfig(factory=factory, num_labels=2))


def test_a_model_without_logits_and_weights_of_another_one_are_refused(tmp_path: Path) -> None:
    features = PythonForImageClassification(PythonConfig(factory="somebodys_nets:features", num_labels=4))
    with pytest.raises(GeodistillError, match=r"gives \(2, 6, 3, 3\), and its logits should be \(2, 4\)"):
        features(torch.zeros(2, 3, 8, 8))
    model = PythonForImageClassification(PythonConfig(factory="somebodys_nets:Net", num_labels=4))
    model.save_pretrained(tmp_path / "saved")
    load = PythonForImageClassification.from_pretrained
    with pytest.raises(GeodistillError, match="does not fit"):
        load(tmp_path / "saved", num_labels=3)
    other, info = load(tmp_path / "saved", num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True)
    assert info["missing_keys"] == ["model.head.bias", "model.head.weight"]
    assert torch.equal(other.model.body[0].weight, model.model.body[0].weight)
