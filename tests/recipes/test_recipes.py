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


def test_the_demo_has_a_recipe_for_each_task() -> None:
    assert {f"demo-{task.value}" for task in DemoTask} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
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
