"""The commands as functions of Python, on the bundled weights cut to two layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import geodistill
from geodistill import GeodistillError, api
from geodistill.recipe import Recipe
from geodistill.runs.folder import RESULTS, read_json

MakeRecipe = Callable[..., Recipe]
KD = {"label": {}, "logits": {}}
VARIANTS = {"KD": {"objective": KD}, "Gram": {"objective": {**KD, "features": [{"loss": "gram"}]}}}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Path, dict[str, Any]]]:
    """What would be run."""
    calls: list[tuple[Recipe, Path, dict[str, Any]]] = []
    for name in ("train_run", "compare_runs"):
        monkeypatch.setattr(api, name, lambda recipe, folder, **options: calls.append((recipe, folder, options)))
    return calls


def test_the_names_are_functions_whatever_was_imported() -> None:
    import geodistill.runs.train
    import geodistill.studies.compare

    for name in ("train", "compare"):
        assert callable(getattr(geodistill, name)) and not isinstance(getattr(geodistill, name), ModuleType)


def test_a_recipe_is_a_path_a_mapping_or_a_recipe(
    make_recipe: MakeRecipe, asked: list[tuple[Recipe, Path, dict[str, Any]]]
) -> None:
    recipe = make_recipe()
    Path("mine.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    for given in ("mine.yaml", Path("mine.yaml"), recipe.model_dump(mode="json"), recipe):
        assert geodistill.train(given) is None  # as on every rank but the main one
    assert [found == recipe for found, _, _ in asked] == [True] * 4
    first, second, third, fourth = (folder for _, folder, _ in asked)
    assert first == second == Path("runs/mine")
    assert third == fourth and third.parent == Path("runs") and third.name.startswith("recipe-")
    geodistill.train(make_recipe(training={"epochs": 7}))
    geodistill.train(recipe, "here", fresh=True)
    assert asked[-2][1] != third and asked[-1][1] == Path("here") and asked[-1][2]["fresh"]


def test_overrides_are_strings_or_a_mapping(
    make_recipe: MakeRecipe, asked: list[tuple[Recipe, Path, dict[str, Any]]]
) -> None:
    geodistill.train(make_recipe(), overrides=["training.epochs=3"])
    geodistill.train(make_recipe(), overrides={"training.epochs": 3})
    geodistill.compare(make_recipe(), overrides=["training.epochs=3", "training.learning_rate=0.1,0.2"])
    geodistill.compare(make_recipe(), overrides={"training.epochs": 3}, sweeps={"training.learning_rate": [0.1, 0.2]})
    assert [recipe.training.epochs for recipe, _, _ in asked] == [3] * 4
    assert [options["sweeps"] for _, _, options in asked[2:]] == [{"training.learning_rate": [0.1, 0.2]}] * 2
    with pytest.raises(GeodistillError, match="Did you mean 'epochs'"):
        geodistill.train(make_recipe(), overrides={"training.epoch": 3})
    with pytest.raises(GeodistillError, match=r"There is no recipe file 'none\.yaml'"):
        geodistill.compare("none.yaml")


def test_train_writes_a_report_and_returns_what_the_file_holds(make_recipe: MakeRecipe) -> None:
    results = geodistill.train(make_recipe(training={"max_steps": 1}), "run", progress=False)
    assert results is not None and results.folder == Path("run")
    assert read_json(Path("run") / RESULTS) == results.to_dict()
    assert f"student on test    {results.metrics['accuracy']:.4f}" in str(results)
    assert "Report: run/report.html" in str(results) and Path("run/report.html").is_file()


def test_compare_writes_a_report_and_returns_what_the_file_holds(
    make_recipe: MakeRecipe, without_workers: None
) -> None:
    recipe = make_recipe(training={"max_steps": 1}, compare={"seeds": [1], "variants": VARIANTS, "jobs": 1})
    results = geodistill.compare(recipe, "run", progress=False)
    assert read_json(Path("run") / RESULTS) == results.to_dict()
    assert [row.name for row in results.rows()][-2:] == ["KD", "Gram"] and results.constant is not None
    assert all((results.folder / run.folder / "student").is_dir() for run in results.runs)
    assert {"report.html", "scores.svg"} <= {path.name for path in results.folder.iterdir()}
    assert str(results).endswith("Report: run/report.html")
