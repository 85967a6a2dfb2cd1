"""Quantisers in whole runs: when they are put in, what they start from, and what is refused before any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from geodistill.errors import GeodistillError
from geodistill.quantization import is_quantized, quantize
from geodistill.recipe import QuantizationRecipe, Recipe
from geodistill.runs import train as train_module
from geodistill.runs.folder import read_metrics
from geodistill.runs.prepare import stages_of
from geodistill.runs.quantize import check_patterns, quantizer_names
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.train import train

MakeRecipe = Callable[..., Recipe]
W4A4 = {"weights": 4, "activations": 4}
KD: dict[str, Any] = {"label": {"weight": 0.5}, "logits": {"weight": 0.5}}
STEPS: dict[str, Any] = {"max_steps": 2, "batch_size": 16, "learning_rate": 1e-3, "logging_steps": 1}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By stage: whether its student had quantisers, and its trainer."""
    seen: dict[str, Any] = {}
    original = train_module.train_stage

    def noted(stage: Any, recipe: Any, student: Any, *more: Any) -> Any:
        seen[stage.name] = is_quantized(student), original(stage, recipe, student, *more)
        return seen[stage.name][1]

    monkeypatch.setattr(train_module, "train_stage", noted)
    return seen


def tiny() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=6, **sizes))


def test_a_stage_puts_quantisers_in_and_they_stay(
    make_recipe: MakeRecipe, tmp_path: Path, trained: dict[str, Any]
) -> None:
    rates = {"*.weight_quantizer.interval": 1e-4, "*.input_quantizer.*": 1e-2}
    stages = [
        {"name": "float", "objective": {"label": {}}, "training": STEPS},
        {"name": "few bits", "objective": {"label": {}}, "quantization": W4A4, "training": {**STEPS, "rates": rates}},
    ]
    train(make_recipe(stages=stages, objective=KD, training=STEPS), tmp_path, progress=False)
    assert {name: quantised for name, (quantised, _) in trained.items()} == {
        "float": False,
        "few bits": True,
        "task": True,
    }
    trainer = trained["few bits"][1]
    inputs = [each for name, each in trainer.student.named_parameters() if "input_quantizer.interval" in name]
    assert inputs and all(torch.isfinite(each) and each != 1.0 for each in inputs), "they were calibrated"
    groups = trainer.optimizer.param_groups
    assert [group["initial_lr"] for group in groups] == [1e-3, 1e-3, 1e-4, 1e-2]
    assert [group["weight_decay"] for group in groups[2:]] == [0.0, 0.0], "intervals are not decayed"


@pytest.mark.parametrize("objective", [{"label": {}}, {**KD, "features": [{"loss": "procrustes"}]}])
def test_one_phase_is_enough(make_recipe: MakeRecipe, tmp_path: Path, objective: dict[str, Any]) -> None:
    """Training with quantisers alone, and with quantisers and a teacher."""
    recipe = make_recipe(objective=objective, quantization={"weights": 2, "activations": None}, training=STEPS)
    results = train(recipe, tmp_path, progress=False)
    assert results is not None and 0 <= results.metrics["accuracy"] <= 1
    assert all(entry["loss"] > 0 for entry in read_metrics(tmp_path) if "loss" in entry)


def test_an_interval_that_collapses_stops_the_run_and_is_named(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    training = {**STEPS, "max_steps": 4, "rates": {"*.interval": 1e4}}
    recipe = make_recipe(objective={"label": {}}, quantization=W4A4, training=training)
    with pytest.raises(GeodistillError, match=r"interval of the (weights|inputs) of '.*' (collapsed|is not finite)"):
        train(recipe, tmp_path, progress=False)


# Refused before anything is trained


def stages(make_recipe: MakeRecipe, **changes: Any) -> Any:
    return stages_of(make_recipe(**changes))


def test_names_of_quantisers_are_known_before_there_are_any() -> None:
    for options in (W4A4, {**W4A4, "symmetric": True}, {"weights": 4, "activations": None}):
        student, recipe = tiny(), QuantizationRecipe(**options)
        expected = quantizer_names(student, recipe)
        quantize(student, recipe)
        assert set(expected) == {name for name, _ in student.named_parameters() if "_quantizer." in name}


def test_a_pattern_of_layers_that_matches_nothing_names_the_nearest(make_recipe: MakeRecipe) -> None:
    quantised = stages(make_recipe, quantization={**W4A4, "exclude": ["*.quary"]})
    with pytest.raises(GeodistillError, match=r"Stage 'task': The pattern '\*\.quary' matches no layer.*query"):
        check_patterns(quantised, tiny(), tiny())


def test_a_pattern_of_rates_knows_the_names_of_its_stage(make_recipe: MakeRecipe) -> None:
    training = {**STEPS, "rates": {"*.interval": 1e-4, "objective.*": 1e-3}}
    early = {"name": "early", "objective": {"label": {}}, "training": training}
    later = {"objective": {"label": {}}, "quantization": W4A4, "training": training}
    check_patterns(stages(make_recipe, **later), tiny(), tiny())
    with pytest.raises(GeodistillError, match=r"Stage 'early': The pattern '\*\.interval' .*matches no parameter"):
        check_patterns(stages(make_recipe, **later, stages=[early]), tiny(), tiny())
    typo = {**later, "training": {**training, "rates": {"*.intervall": 1e-4}}}
    with pytest.raises(GeodistillError, match=r"'\*\.intervall'.*nearest: .*\.interval"):
        check_patterns(stages(make_recipe, **typo), tiny(), tiny())
    teachers = {**later, "training": {**STEPS, "rates": {"teacher.*": 1e-4}}}
    check_patterns(stages(make_recipe, **teachers, teacher_objective={"label": {}}), tiny(), tiny())
    with pytest.raises(GeodistillError, match=r"'teacher\.\*'"):
        check_patterns(stages(make_recipe, **teachers), tiny(), tiny())


def test_a_run_refuses_such_a_pattern_before_its_first_stage(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = {"name": "first", "objective": {"label": {}}, "training": STEPS}
    recipe = make_recipe(stages=[first], quantization={**W4A4, "include": ["*.pooller"]}, training=STEPS)
    with pytest.raises(GeodistillError, match=r"Stage 'task': .*pooller"):
        train(recipe, tmp_path, progress=False)
    assert not (tmp_path / "metrics.jsonl").exists()


# Other tasks


@pytest.mark.parametrize("decoder", ["opt"], indirect=True)
def test_a_decoder_of_few_bits(instruction_file: Path, decoder: Path, tmp_path: Path) -> None:
    steps = {"max_steps": 2, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1}
    recipe = check_recipe(
        {
            "task": "instructions",
            "data": {"source": str(instruction_file), "prompt": "plain", "max_length": 64},
            "teacher": {"model": str(decoder), "training": {"max_steps": 2, "batch_size": 8}, "cache_top_k": 16},
            "student": {"teacher_layers": [2, 4]},
            "objective": {**KD, "features": [{"loss": "gram", "rows": "response"}]},
            "quantization": {"weights": 4, "activations": 8},
            "training": {**steps, "rates": {"*.interval": 1e-4}},
            "generation": {"max_new_tokens": 4, "seeds": [1]},
        }
    )
    results = train(recipe, tmp_path / "run", progress=False)
    assert results is not None and results.metrics["perplexity"] > 1


def test_a_network_of_few_bits(tmp_path: Path) -> None:
    steps = {"max_steps": 2, "batch_size": 16, "logging_steps": 1}
    recipe = check_recipe(
        {
            "task": "images",
            "data": {"source": "bundled:digits", "limit": 60},
            "teacher": {"model": "new:resnet8", "training": steps},
            "student": {"model": "new:resnet8"},
            "stages": [
                {
                    "name": "together",
                    "objective": KD,
                    "teacher_objective": KD,
                    "quantization": {"weights": 2, "activations": 2},
                    "training": steps,
                }
            ],
            "objective": {**KD, "features": [{"loss": "gram", "rows": "positions"}]},
            "training": {**steps, "save_steps": 1},
        }
    )
    results = train(recipe, tmp_path / "run", progress=False)
    assert results is not None and results.learned_teacher is not None
