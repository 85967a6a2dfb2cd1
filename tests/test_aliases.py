from __future__ import annotations

import pytest

from geodistill.aliases import _ELSEWHERE, _TRAINING, known_elsewhere
from geodistill.explain import _valid_keys
from geodistill.recipe import Recipe, TrainingRecipe


@pytest.mark.parametrize(
    ("name", "section", "meant"),
    [
        ("lr", ["training"], "training.learning_rate"),
        ("lr", ["teacher", "training"], "teacher.training.learning_rate"),
        ("lr", ["stages", "0", "training"], "stages.0.training.learning_rate"),
        ("lr", [], "training.learning_rate"),
        ("T", ["objective", "logits"], "objective.logits.temperature"),
        ("model_name_or_path", ["student"], "student.model"),
        ("model_name_or_path", [], None),
        ("something", ["training"], None),
    ],
)
def test_a_name_is_found_under_the_key_of_a_recipe(name: str, section: list[str], meant: str | None) -> None:
    assert known_elsewhere(name, section) == meant


@pytest.mark.parametrize("path", sorted({*_ELSEWHERE.values(), "teacher.model", "student.model"}))
def test_each_name_leads_to_a_key_that_there_is(path: str) -> None:
    *section, key = path.split(".")
    assert key in _valid_keys(Recipe, section)


def test_names_of_training_lead_to_keys_of_a_training_section() -> None:
    assert set(_TRAINING.values()) <= set(TrainingRecipe.model_fields)
