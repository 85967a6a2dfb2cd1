"""Quantised students from a recipe to integers: trained, written, run by ONNX Runtime, and compared."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto
from transformers import AutoModelForSequenceClassification

from geodistill import load_student
from geodistill.errors import GeodistillError
from geodistill.quantization import is_quantized
from geodistill.quantization.onnx import runs_two_bits
from geodistill.recipe import Recipe
from geodistill.runs import train as train_module
from geodistill.runs.evaluate import evaluate
from geodistill.runs.folder import read_json
from geodistill.runs.predict import predict
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.run_results import RunResults
from geodistill.runs.train import train

MakeRecipe = Callable[..., Recipe]
KINDS = {8: "UINT8", 4: "UINT4", 2: "UINT2" if runs_two_bits() else "UINT4"}
STEPS: dict[str, Any] = {"max_steps": 3, "batch_size": 16, "learning_rate": 3e-3, "logging_steps": 1}


def in_bits(weights: int, activations: int) -> dict[str, Any]:
    """A student trained on labels, in float32 and then in few bits."""
    return {
        "objective": {"label": {}},
        "quantization": {"weights": weights, "activations": activations},
        "training": STEPS,
    }


def images(weights: int, activations: int) -> Recipe:
    return check_recipe(
        {
            "task": "images",
            "data": {"source": "bundled:digits", "limit": 60},
            "teacher": {"model": "new:resnet8", "training": STEPS},
            "student": {"model": "new:resnet8"},
            **in_bits(weights, activations),
        }
    )


def run(recipe: Recipe, folder: Path, **options: Any) -> RunResults:
    results = train(recipe, folder, progress=False, **options)
    assert results is not None
    return results


def stored(folder: Path) -> set[str]:
    """The types that weights are stored in."""
    weights = [
        entry
        for entry in onnx.load(folder / "student" / "model.onnx").graph.initializer
        if entry.name.endswith((".integers", ".packed"))
    ]
    return {TensorProto.DataType.Name(entry.data_type) for entry in weights}


def check_integers(results: RunResults, folder: Path, bits: int) -> None:
    plain, fake, integers = results.forms
    assert (plain.name, fake.name, integers.name) == ("float32", "fake-quantised", "integers")
    assert integers.agreement is not None and integers.agreement >= 0.99
    assert integers.difference == results.onnx_difference
    assert plain.agreement is not None and plain.agreement > 0.3 and fake.agreement is None
    assert stored(folder) == {"UINT8", KINDS[bits]}
    assert is_quantized(load_student(folder / "student"))


def test_a_run_is_read_again_and_written_in_all_forms(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(**in_bits(4, 4))
    first = run(recipe, tmp_path)
    assert first.forms == [] and not (tmp_path / "student" / "model.onnx").exists()
    results = run(recipe, tmp_path, onnx=True)
    check_integers(results, tmp_path, 4)
    plain, fake, integers = results.forms
    assert None not in (plain.megabytes, fake.megabytes, integers.megabytes)
    assert integers.megabytes < plain.megabytes / 3 and integers.megabytes * 1e6 == pytest.approx(  # type: ignore[operator]
        (tmp_path / "student" / "model.onnx").stat().st_size
    )
    assert all(form.latency_ms is not None and form.latency_ms > 0 for form in results.forms)
    # Intervals are no parameters of the student.
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert results.parameters == model.num_parameters() and not is_quantized(model)
    assert read_json(tmp_path / "student" / "config.json")["geodistill_quantization"]["layers"]
    # Later commands compute as the student that was scored.
    assert evaluate(tmp_path, progress=False)["metrics"] == results.metrics
    (line,) = predict(tmp_path, str(text_file(tmp_path, "Who wrote Hamlet?")))
    student = load_student(tmp_path / "student")
    with torch.no_grad():
        tokens = {"input_ids": torch.tensor([[101, 2040, 2626, 8429, 1029, 102]])}
        expected = student(**tokens).logits.softmax(1)[0]
    assert list(line["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-4)


def text_file(folder: Path, line: str) -> Path:
    path = folder.parent / f"{folder.name}.txt"
    path.write_text(line + "\n", encoding="utf-8")
    return path


slow = pytest.mark.slow


@slow
@pytest.mark.parametrize(("weights", "activations"), [(2, 2), (8, 8), (4, 8)])
def test_a_text_student_in_integers(
    weights: int, activations: int, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "measure_forms", lambda forms, *_: forms)
    results = run(make_recipe(**in_bits(weights, activations)), tmp_path, onnx=True)
    check_integers(results, tmp_path, weights)


@slow
@pytest.mark.parametrize(("weights", "activations"), [(4, 8), (8, 8), (4, 4), (2, 2)])
def test_an_image_student_in_integers(
    weights: int, activations: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "measure_forms", lambda forms, *_: forms)
    results = run(images(weights, activations), tmp_path, onnx=True)
    check_integers(results, tmp_path, weights)


def test_rounding_after_training(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    start = {"model": str(float_student(make_recipe, tmp_path))}
    recipe = make_recipe(student=start, **{**in_bits(8, 8), "training": {"epochs": 0}})
    results = run(recipe, tmp_path / "rounded")
    student = load_student(tmp_path / "rounded" / "student")
    assert is_quantized(student) and results.training_seconds == 0 and results.tokens_per_second is None
    before = AutoModelForSequenceClassification.from_pretrained(start["model"]).state_dict()
    for name, value in student.state_dict().items():
        if name in before and name.endswith("query.weight"):
            step = before[name].abs().amax(1, keepdim=True) * 2 / 255
            assert ((value - before[name]).abs() <= 0.51 * step).all() and not torch.equal(value, before[name])


def float_student(make_recipe: MakeRecipe, folder: Path) -> Path:
    run(make_recipe(objective={"label": {}}, training=STEPS), folder / "float")
    return folder / "float" / "student"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"training": {"epochs": 0}}, "training"),
        ({"quantization": {}, "student": {"width": 8, "layers": 1, "training": {"epochs": 0}}}, "student.training"),
        ({"quantization": {}, "training": {"epochs": 0}, "teacher_objective": {"label": {}}}, "training"),
    ],
)
def test_no_training_is_for_quantised_stages(make_recipe: MakeRecipe, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(GeodistillError, match=f"'{where}.epochs' is 0, so nothing would be trained"):
        make_recipe(teacher={"cache": True}, **changes)


def test_onnx_is_refused_before_training(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = check_recipe(
        {
            "task": "instructions",
            "data": {"source": "bundled:instructions"},
            "teacher": {"model": "bundled:smollm2-135m"},
            "student": {"teacher_layers": 1},
            "objective": {"label": {}},
            "quantization": {},
        }
    )
    with pytest.raises(GeodistillError, match="quantised language model is not written as ONNX"):
        train(decoder, tmp_path / "decoder", onnx=True)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find_spec(name))
    with pytest.raises(GeodistillError, match=r"pip install geodistill\[onnx\]"):
        train(make_recipe(), tmp_path / "float", onnx=True)
    assert list(tmp_path.iterdir()) == []
