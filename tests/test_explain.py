"""What pydantic says of a recipe, in two sentences; see also tests/runs/test_recipe_file.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from geodistill.explain import dotted_path, explain
from geodistill.recipe import FeatureTerm, LogitTerm, StudentRecipe, TrainingRecipe


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (LogitTerm, {"temp": 1}, "Unknown key 'a.0.temp' in it. In a.0: Did you mean 'temperature'? Valid: weight, "),
        (LogitTerm, {"beta": 2}, "'a.0.beta' in it is not valid: Input should be less than 1. It was 2; change it."),
        (FeatureTerm, {}, "The key 'a.0.loss' is missing in it. Add it."),
        (FeatureTerm, {"loss": "x", "layers": "lats"}, "'lats' is no valid value of 'a.0.layers' in it. Did you mean"),
        (FeatureTerm, {"loss": "x", "layers": [[1, "b"]]}, "'a.0.layers.0.1' in it is not valid: "),
        (StudentRecipe, {"teacher_layers": 1, "heads": 2}, "'a.0.heads' in it would change nothing. Leave it out"),
        (
            TrainingRecipe,
            {"arguments": {"seed": 1}},
            "'a.0.arguments' in it is not valid: 'seed' has a key of its own.",
        ),
    ],
)
def test_a_section_is_explained_by_its_place_in_the_recipe(section: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        section(**values)
    assert str(explain(caught.value, "it", section, ["a", 0])).startswith(message)


def test_keys_are_written_as_one_path() -> None:
    assert dotted_path(["objective", "features", 0, "loss"]) == "objective.features.0.loss"
