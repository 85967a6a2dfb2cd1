from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from geodistill.distillation.layer_choice import ChosenLayers, LayerMap
from geodistill.recipe import Recipe
from geodistill.runs.automatic_layers import LayerChooser, automatic_terms, keep_layers, known_layers, with_layers
from geodistill.runs.recipe_file import check_recipe

AUTO = {"loss": "procrustes", "layers": "auto"}
CHOSEN = [ChosenLayers("objective.features.1", [[1, 2], [2, 5]], ["because", "so"])]


def recipe(**changes: Any) -> Recipe:
    """The second of three terms of the task, and the first of each objective of a stage, have automatic layers."""
    features = [{"loss": "gram", "layers": [[1, 1]]}, AUTO, {"loss": "cka"}]
    return check_recipe({"student": {"width": 8, "layers": 1}, "objective": {"features": features}, **changes})


def stages() -> list[dict[str, Any]]:
    both = {"objective": {"features": [AUTO]}, "teacher_objective": {"label": {}, "features": [AUTO]}}
    return [{"name": "plain", "objective": {"label": {}}}, {"name": "together", **both}]


def test_terms_are_found_by_their_paths() -> None:
    found = [(path, stage.name, swapped) for path, stage, _, swapped in automatic_terms(recipe(stages=stages()))]
    assert found == [
        ("stages.1.objective.features.0", "together", False),
        ("stages.1.teacher_objective.features.0", "together", True),
        ("objective.features.1", "task", False),
    ]
    assert not list(automatic_terms(recipe(objective={"label": {}})))


def test_chosen_pairs_take_the_place_of_auto_alone() -> None:
    before, after = recipe().objective.features, with_layers(recipe(), CHOSEN).objective.features
    assert after[1].layers == [(1, 2), (2, 5)] and (after[0], after[2]) == (before[0], before[2])
    assert not list(automatic_terms(with_layers(recipe(), CHOSEN)))
    assert with_layers(recipe(), []) == recipe()


def test_what_was_chosen_is_kept_for_the_same_run(tmp_path: Path) -> None:
    assert known_layers(tmp_path, "this run") is None
    keep_layers(tmp_path, "this run", with_layers(recipe(compare={"seeds": [1]}), CHOSEN), CHOSEN)
    assert known_layers(tmp_path, "this run") == CHOSEN
    assert known_layers(tmp_path, "another run") is None
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    assert written["objective"]["features"][1]["layers"] == [[1, 2], [2, 5]] and "compare" not in written


def test_the_same_rows_of_the_same_data_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, str, bool]] = []

    def measure(self: LayerChooser, task: Any, term: Any, swapped: bool) -> LayerMap:
        measured.append((task.fingerprint, str(term.rows), swapped))
        return LayerMap([(1, len(measured))], [f"measured {len(measured)}"])

    monkeypatch.setattr(LayerChooser, "_measure", measure)
    chooser = LayerChooser(SimpleNamespace(), None, SimpleNamespace(reader=None))  # type: ignore[arg-type]  # nothing is run
    features = [
        {**AUTO, "rows": "tokens"},
        {"loss": "gram", "rows": "tokens", "layers": "auto"},
        {**AUTO, "rows": "mean"},
    ]
    given = recipe(objective={"features": features}, stages=stages())
    rows = {"plain": "rows", "task": "rows", "together": "other rows"}
    tasks: Any = {name: SimpleNamespace(fingerprint=each) for name, each in rows.items()}
    found = {each.term: each.pairs for each in chooser.choose(given, tasks)}
    assert len(measured) == len(set(measured)) == 4
    assert found["objective.features.0"] == found["objective.features.1"] != found["objective.features.2"]
    assert {swapped for data, _, swapped in measured if data == "other rows"} == {False, True}
    chooser.choose(given, tasks)
    assert len(measured) == 4
    assert chooser.choose(recipe(objective={"label": {}}), tasks) == []
