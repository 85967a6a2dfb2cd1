from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from geodistill.cli import DemoTask
from geodistill.recipes import recipe_path
from geodistill.runs.recipe_file import load_recipe
from geodistill.studies.plan import plan_jobs

SHIPPED = sorted(
    file.name.removesuffix(".yaml") for file in files("geodistill.recipes").iterdir() if ".yaml" in file.name
)


DEMOS = [name for name in SHIPPED if name.startswith("demo-")]


def test_the_demo_has_a_recipe_for_each_task() -> None:
    assert {f"demo-{task.value}" for task in DemoTask} == set(DEMOS)


@pytest.mark.parametrize("name", DEMOS)
def test_a_shipped_recipe_plans_every_variant_with_every_seed(name: str, tmp_path: Path) -> None:
    with recipe_path(name) as path:
        recipe = load_recipe(path)
    assert recipe.compare is not None and len(recipe.compare.seeds) >= 3
    jobs = plan_jobs(recipe, tmp_path)
    assert len(jobs) == len(recipe.compare.seeds) * len(recipe.compare.variants)
    assert len({job.folder for job in jobs}) == len(jobs)


def test_the_tasks_differ_in_nothing_but_the_data() -> None:
    recipes = []
    for name in ("demo-trec", "demo-reviews"):
        with recipe_path(name) as path:
            recipes.append(load_recipe(path).model_dump(exclude={"data"}))
    assert recipes[0] == recipes[1]


def test_qkd_is_three_stages_with_the_settings_of_the_paper() -> None:
    """As others report them of arXiv 1911.12491: labels alone, both models together, the new teacher alone."""
    with recipe_path("qkd") as path:
        recipe = load_recipe(path)
    alone, together = recipe.stages
    assert (alone.name, together.name) == ("self-studying", "co-studying")
    assert alone.objective.logits is None and recipe.learning_stages == ["co-studying"]
    assert list(recipe.quantizations) == ["self-studying"] and alone.data is together.data is None
    for objective in (together.objective, together.teacher_objective, recipe.objective):
        assert objective is not None and objective.label is not None and objective.logits is not None
        assert (objective.logits.temperature, objective.logits.weight, objective.label.weight) == (2.0, 0.5, 0.5)
    trainings = alone.training, together.training, recipe.training
    assert [training.epochs for training in trainings] == [30, 100, 70]
    for training in trainings:
        assert training.learning_rate == 1e-2
        assert training.rates == {"*.weight_quantizer.interval": 1e-4, "*.input_quantizer.*": 1e-2}
