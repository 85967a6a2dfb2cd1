from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe, TrainingRecipe
from geodistill.runs.settings import check_settings, check_training
from geodistill.runs.train import train
from geodistill.studies.compare import compare


def refused(arguments: dict[str, Any], **more: Any) -> GeodistillError:
    with pytest.raises(GeodistillError, match="The training settings are refused: ") as caught:
        check_training(TrainingRecipe(arguments=arguments, **more))
    assert caught.value.__cause__ is not None and "'training' section" in caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    "arguments",
    [
        {"report_to": "neptune_of_nowhere"},
        {"save_strategy": "best"},
        {"save_strategy": "epoch", "load_best_model_at_end": True},
        {"optim": "adamm"},
        {"lr_scheduler_kwargs": {"no_such_argument": 1}},
        {"dataloader_prefetch_factor": 2},
        {"accelerator_config": {"no_such_key": True}},
    ],
)
def test_what_a_trainer_refuses_is_refused_before_it(arguments: dict[str, Any]) -> None:
    refused(arguments)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    error = refused({"report_to": "wandb"})
    assert "wandb" in error.problem


def test_a_schedule_that_lacks_an_argument_is_refused() -> None:
    refused({}, schedule="warmup_stable_decay")


@pytest.mark.parametrize("training", [{}, {"schedule": "cosine"}, {"arguments": {"optim": "adafactor"}}])
def test_good_settings_pass_and_draw_no_random_number(training: dict[str, Any]) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    check_training(TrainingRecipe(**training))
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("section", ["training", "teacher", "student", "stages"])
def test_each_section_is_looked_at_before_anything_is_trained(
    section: str, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    bad = {"arguments": {"save_strategy": "best"}}
    changes: dict[str, Any] = {
        "training": {"training": bad},
        "teacher": {"teacher": {"training": bad}},
        "student": {"student": {"training": bad}},
        "stages": {
            "stages": [
                {
                    "name": "first",
                    "data": {"source": "bundled:sentences", "limit": 8},
                    "objective": {"features": [{"loss": "gram"}]},
                    "training": bad,
                }
            ]
        },
    }[section]
    recipe = make_recipe(**changes)
    for start in (check_settings, lambda recipe: train(recipe, tmp_path / "run", progress=False)):
        with pytest.raises(GeodistillError, match="training settings are refused"):
            start(recipe)
    assert not (tmp_path / "run").exists()


def test_a_comparison_looks_at_its_variants_first(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    variants = {"KD": {}, "other": {"training": {"arguments": {"save_strategy": "best"}}}}
    with pytest.raises(GeodistillError, match="training settings are refused"):
        compare(make_recipe(compare={"variants": variants}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
