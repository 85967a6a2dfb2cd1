from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from geodistill.applies import DoesNotApply, refuse_what_does_not_apply
from geodistill.recipe import (
    DataRecipe,
    FeatureTerm,
    LogitTerm,
    ObjectiveRecipe,
    QuantizationRecipe,
    Recipe,
    StageRecipe,
    StudentRecipe,
    TeacherRecipe,
    TrainingRecipe,
)

SMALLEST: dict[str, Any] = {"student": {"width": 64, "layers": 2}, "objective": {"label": {}}}


def test_the_smallest_recipe_is_completed_by_defaults() -> None:
    recipe = Recipe.model_validate(SMALLEST)
    assert (recipe.data.source, recipe.teacher.model) == ("bundled:trec", "bundled:minilm-l6")
    assert recipe.objective.label is not None and recipe.objective.label.weight == 1
    assert recipe.objective.logits is None and recipe.objective.features == [] and recipe.stages == []
    assert recipe.compare is None and recipe.teacher.training is None


def test_a_recipe_survives_being_written_and_read() -> None:
    features = [
        {"loss": "cka", "layers": [[1, 3], [-1, -1]], "normalize": "rows"},
        {"loss": "gram", "layers": [["encoder.layer.0", "encoder.layer.1"]]},
        {"loss": "projection", "layers": "skip", "rows": "last", "orthogonal": True},
    ]
    recipe = Recipe.model_validate({**SMALLEST, "objective": {"features": features}})
    assert recipe.objective.features[0].layers == [(1, 3), (-1, -1)]
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe.model_validate(SMALLEST).training.epochs = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "ways", [{}, {"width": 64}, {"layers": 2}, {"model": "a", "teacher_layers": 2}, {"model": "a", "width": 1}]
)
def test_a_student_is_made_in_exactly_one_way(ways: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"exactly one of|both 'width' and 'layers'"):
        StudentRecipe(**ways)


def test_an_objective_without_terms_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one of 'label', 'logits' and 'features'"):
        ObjectiveRecipe()


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (TrainingRecipe, {"epochs": -1}),
        (TrainingRecipe, {"learning_rate": -1}),
        (TrainingRecipe, {"batch_size": 0}),
        (TrainingRecipe, {"warmup": 1}),
        (TrainingRecipe, {"save_steps": 0}),
        (LogitTerm, {"temperature": 0}),
        (LogitTerm, {"beta": 0}),
        (LogitTerm, {"beta": 1}),
        (LogitTerm, {"skew": 1}),
        (LogitTerm, {"skew": -0.1}),
        (TeacherRecipe, {"cache_top_k": 0}),
        (FeatureTerm, {"loss": "gram", "weight": float("nan")}),
        (FeatureTerm, {"loss": "gram", "weight": -1}),
        (FeatureTerm, {"loss": "gram", "layers": "lats"}),
        (FeatureTerm, {"loss": "gram", "layers": [[1, 2, 3]]}),
        (QuantizationRecipe, {"weights": 1}),
        (QuantizationRecipe, {"weights": 9}),
        (QuantizationRecipe, {"weights": None}),
        (QuantizationRecipe, {"activations": 16}),
        (QuantizationRecipe, {"embeddings": 0}),
        (QuantizationRecipe, {"first_and_last": 1}),
        (QuantizationRecipe, {"include": []}),
        (QuantizationRecipe, {"calibration": "percentile", "percentile": 100}),
        (QuantizationRecipe, {"calibration_examples": 0}),
    ],
)
def test_values_out_of_range_are_refused(section: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section(**values)


@pytest.mark.parametrize("names", [["task"], ["warm", "warm"], ["../up"], ["a/b"], [""], ["."]])
def test_a_stage_needs_a_name_of_its_own(names: list[str]) -> None:
    stage = {"data": {"source": "bundled:trec"}, "objective": {"label": {}}}
    with pytest.raises(ValidationError, match=r"two stages are named|should match pattern"):
        Recipe.model_validate({**SMALLEST, "stages": [{**stage, "name": name} for name in names]})
    allowed = Recipe.model_validate({**SMALLEST, "stages": [{**stage, "name": "geometry first"}]})
    assert allowed.stages[0].name == "geometry first"


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("images", {"text": "a"}),
        ("images", {"text_pair": "a"}),
        ("images", {"problem": "regression"}),
        ("images", {"max_length": 64}),
        ("images", {"instruction": "a"}),
        ("classification", {"image": "a"}),
        ("classification", {"augmentation": "crop"}),
        ("instructions", {"image": "a"}),
        ("instructions", {"label": "a"}),
    ],
)
def test_keys_of_another_task_are_refused(task: str, data: dict[str, Any]) -> None:
    section = DataRecipe(**data)
    (key,) = data
    with pytest.raises(DoesNotApply, match=f"'data.{key}' does not apply here"):
        refuse_what_does_not_apply(Recipe.model_construct(task=task, data=section), Recipe.rules)
    stage = StageRecipe(name="first", data=section, objective=ObjectiveRecipe(label={}))
    with pytest.raises(DoesNotApply, match=f"'stages.0.data.{key}' does not apply here"):
        refuse_what_does_not_apply(Recipe.model_construct(task=task, stages=[stage]), Recipe.rules)


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("images", {"label": "a", "image": "b", "augmentation": "crop_flip"}),
        ("classification", {"label": "a", "max_length": 64}),
        ("instructions", {"max_length": 64}),
    ],
)
def test_keys_of_the_task_itself(task: str, data: dict[str, Any]) -> None:
    refuse_what_does_not_apply(Recipe.model_construct(task=task, data=DataRecipe(**data)), Recipe.rules)


def test_the_options_of_a_loss_are_flat_keys_of_its_term() -> None:
    term = FeatureTerm(loss="gram", weight=2, center=False, anything=[1])  # type: ignore[call-arg]
    assert term.options == {"center": False, "anything": [1]} and term.rows is None
    with pytest.raises(ValidationError, match="frozen"):
        term.center = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options",
    [
        {"activations": None, "biases": False},
        {"activations": None, "symmetric": True},
        {"activations": None, "calibration": "percentile"},
        {"percentile": 99},
    ],
    ids=str,
)
def test_an_option_of_quantisers_that_are_not_there_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises((DoesNotApply, ValidationError), match="does not apply here"):
        QuantizationRecipe(**options)


@pytest.mark.parametrize("weights", ["bfloat16", "8bit", "4bit"])
def test_a_teacher_in_few_bits_does_not_learn(weights: str) -> None:
    learning = {**SMALLEST, "teacher_objective": {"label": {}}}
    assert Recipe.model_validate(learning).learning_stages == ["task"]
    with pytest.raises(ValidationError, match=rf"learns in the stage 'task', and teacher\.weights is '{weights}'"):
        Recipe.model_validate({**learning, "teacher": {"weights": weights}})


def test_objectives_are_those_of_all_stages_and_of_both_models() -> None:
    stage = {"name": "first", "objective": {"label": {}}, "teacher_objective": {"logits": {}}}
    recipe = Recipe.model_validate({**SMALLEST, "stages": [stage]})
    assert recipe.stages[0].data is None and recipe.learning_stages == ["first"]
    assert recipe.objectives == [recipe.stages[0].objective, recipe.stages[0].teacher_objective, recipe.objective]


@pytest.mark.parametrize("rate", [0.0, -1e-3])
def test_a_rate_is_above_zero(rate: float) -> None:
    assert TrainingRecipe(rates={"*.bias": 1e-3}).rates == {"*.bias": 1e-3}
    with pytest.raises(ValidationError):
        TrainingRecipe(rates={"*.bias": rate})


def quantised(**sections: Any) -> dict[str, Any]:
    stage = {"name": "first", "objective": {"label": {}}, "quantization": {"weights": 4, "activations": 4}}
    return {**SMALLEST, "stages": [stage], **sections}


def test_quantisers_stay_as_they_are() -> None:
    again = {"weights": 4, "activations": 4, "per_channel": True}
    recipe = Recipe.model_validate(quantised(quantization=again))
    assert list(recipe.quantizations) == ["first", "task"]
    with pytest.raises(ValidationError, match="stages 'first' and 'task' quantise the student differently"):
        Recipe.model_validate(quantised(quantization={"weights": 2, "activations": 4}))


def test_adapters_are_not_quantised() -> None:
    student = {"model": "someone/student", "lora": {}}
    with pytest.raises(ValidationError, match=r"'first' quantises the student, and 'student\.lora'"):
        Recipe.model_validate(quantised(student=student))
