"""Runs whose teacher learns in a stage: trained with the student, kept in checkpoints, and cached anew after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification

from geodistill.files import sha256
from geodistill.recipe import Recipe
from geodistill.runs.folder import read_metrics
from geodistill.runs.recipe_file import check_recipe, merge
from geodistill.runs.train import train
from geodistill.studies.compare import compare
from geodistill.tasks.image_reader import default_processor

MakeRecipe = Callable[..., Recipe]
KD: dict[str, Any] = {"label": {"weight": 0.5}, "logits": {"weight": 0.5}}
TRAINING: dict[str, Any] = {"max_steps": 3, "batch_size": 16, "learning_rate": 1e-3, "logging_steps": 1}
PHASES: dict[str, Any] = {
    "stages": [
        {"name": "self-studying", "objective": {"label": {}}, "training": TRAINING},
        {
            "name": "co-studying",
            "objective": {**KD, "features": [{"loss": "gram"}]},
            "teacher_objective": {**KD, "features": [{"loss": "procrustes"}]},
            "training": {**TRAINING, "rates": {"teacher.*": 1e-4}},
        },
    ],
    "objective": {**KD, "features": [{"loss": "cka", "rows": "mean"}]},
    "training": TRAINING,
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_an_interrupted_run_ends_with_the_same_weights_of_both_models(
    make_recipe: MakeRecipe, classifier: Path, interrupt: Callable[[str, int], None], tmp_path: Path
) -> None:
    """The three phases of QKD: labels alone with quantisers, both models together, the new teacher alone."""
    saving = {"stages": [merge(stage, {"training": {"save_steps": 2}}) for stage in PHASES["stages"]]}
    saving["stages"][0]["quantization"] = {"weights": 4, "activations": 4}
    recipe = make_recipe(**{**PHASES, **saving})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    given = sha256(classifier / "model.safetensors")
    results = train(recipe, whole, progress=False)
    assert results is not None
    for stage, step in (("co-studying", 3), ("task", 1)):
        interrupt(stage, step)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, cut)
    again = train(recipe, cut, progress=False)
    assert again is not None
    assert same(cut / "student", whole / "student")
    learned = "checkpoints/co-studying/checkpoint-3/teacher"
    assert same(cut / learned, whole / learned) and not same(whole / learned, classifier)
    assert again.metrics == results.metrics and again.geometry == results.geometry
    assert sha256(classifier / "model.safetensors") == given, "the teacher's own files are left alone"
    assert not (whole / "cache").exists() and not (cut / "cache").exists()
    assert any("learned in 'co-studying'" in note for note in results.notes)
    assert results.learned_teacher is not None and again.learned_teacher == results.learned_teacher
    assert {"accuracy"} <= results.learned_teacher["before"].keys() == results.learned_teacher["after"].keys()
    logged = {entry["stage"]: entry for entry in read_metrics(whole) if "loss" in entry}
    assert {"teacher/label", "teacher/logits", "teacher/procrustes_2_1"} <= set(logged["co-studying"])
    assert not any(name.startswith("teacher/") for name in {**logged["self-studying"], **logged["task"]})
    assert list(results.read) == ["task"], "stages without data read the task's"


def test_the_teacher_of_the_last_stage_is_the_one_that_learned(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """With its new signals on disk, the student learns what it learns from the very model beside it."""
    plain = merge(PHASES, {"objective": {"logits": {}}, "stages": PHASES["stages"][1:]})
    train(make_recipe(**plain, teacher={"cache_dtype": "float32"}), tmp_path / "cached", progress=False)
    train(make_recipe(**plain, teacher={"cache": False}), tmp_path / "beside", progress=False)
    beside = weights(tmp_path / "beside" / "student")
    for name, value in weights(tmp_path / "cached" / "student").items():
        torch.testing.assert_close(beside[name], value, rtol=1e-3, atol=1e-4)


def test_in_a_comparison_the_other_runs_keep_the_teacher_as_it_was_given(
    make_recipe: MakeRecipe, tmp_path: Path, without_workers: None
) -> None:
    variants = {"three phases": {}, "KD": {"stages": []}}
    recipe = make_recipe(**PHASES, compare={"seeds": [1], "jobs": 1, "variants": variants})
    results = compare(recipe, tmp_path / "compared", progress=False)
    by_name = {run.variant: run for run in results.runs}
    alone = make_recipe(**merge(PHASES, {"stages": [], "training": {"seed": 1}}))
    train(alone, tmp_path / "alone", progress=False)
    folder = tmp_path / "compared" / by_name["KD"].folder
    assert same(folder / "student", tmp_path / "alone" / "student")
    learned = tmp_path / "compared" / by_name["three phases"].folder
    assert not (learned / "cache").exists()
    assert any("learned in 'co-studying'" in note for note in by_name["three phases"].notes)


def test_a_teacher_of_images_learns_each_side_in_its_own_size(tmp_path: Path) -> None:
    """The student reads 16 × 16 in colour, and the teacher 8 × 8 in grey; both have running means and variances."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "num_labels": 10}
    ResNetForImageClassification(ResNetConfig(num_channels=3, **sizes)).save_pretrained(tmp_path / "student")
    default_processor((16, 16), [0.5] * 3, [0.2] * 3).save_pretrained(tmp_path / "student")
    steps = {"max_steps": 2, "batch_size": 16, "logging_steps": 1}
    features = [{"loss": "gram", "rows": "pooled"}]
    recipe = check_recipe(
        {
            "task": "images",
            "data": {"source": "bundled:digits", "limit": 60},
            "teacher": {"model": "new:resnet8", "training": steps},
            "student": {"model": str(tmp_path / "student")},
            "stages": [
                {
                    "name": "together",
                    "objective": {**KD, "features": features},
                    "teacher_objective": {**KD, "features": features},
                    "training": steps,
                }
            ],
            "objective": {**KD, "features": features},
            "training": steps,
        }
    )
    results = train(recipe, tmp_path / "run", progress=False)
    assert results is not None and results.learned_teacher is not None
    entry = next(each for each in read_metrics(tmp_path / "run") if each["stage"] == "together")
    assert {"teacher/label", "teacher/logits", "teacher/gram_3_2", "gram_2_3"} <= set(entry)


def test_a_decoder_learns_with_its_student(instruction_file: Path, decoder: Path, tmp_path: Path) -> None:
    steps = {"max_steps": 2, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1, "gradient_accumulation": 2}
    objective = {**KD, "features": [{"loss": "gram", "rows": "response"}]}
    recipe = check_recipe(
        {
            "task": "instructions",
            "data": {"source": str(instruction_file), "prompt": "plain", "max_length": 64},
            "teacher": {"model": str(decoder), "training": {"max_steps": 2, "batch_size": 8}, "cache_top_k": 16},
            "student": {"teacher_layers": [2, 4]},
            "stages": [{"name": "together", "objective": objective, "teacher_objective": objective, "training": steps}],
            "objective": objective,
            "training": steps,
            "generation": {"max_new_tokens": 4, "seeds": [1]},
        }
    )
    results = train(recipe, tmp_path / "run", progress=False)
    assert results is not None and results.learned_teacher is not None
    before, after = (results.learned_teacher[time]["perplexity"] for time in ("before", "after"))
    assert before is not None and after is not None and 1 < after < before
    entry = next(each for each in read_metrics(tmp_path / "run") if each["stage"] == "together")
    assert {"teacher/label", "teacher/logits", "teacher/gram_4_2", "gram_2_4"} <= set(entry)
