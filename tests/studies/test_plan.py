from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe
from geodistill.runs.recipe_file import check_recipe
from geodistill.studies.plan import default_comparison, plan_jobs, split_sweeps

GRAM, CKA = {"loss": "gram", "weight": 2}, {"loss": "cka", "weight": 3}


def recipe(**compare: Any) -> Recipe:
    variants = {"KD": {"objective": {"logits": {}}}, "Gram": {"objective": {"logits": {}, "features": [GRAM]}}}
    return check_recipe(
        {
            "student": {"width": 64, "layers": 2},
            "objective": {"label": {}, "logits": {"temperature": 3}, "features": [CKA]},
            "compare": {"seeds": [1, 2], "variants": variants, **compare},
        }
    )


def test_sweeps_are_told_from_overrides() -> None:
    plain, sweeps = split_sweeps(
        ["training.epochs=3", "training.learning_rate=1e-4, 1e-3", "data.metrics=[a,b]", "objective.label={weight: 1,}"]
    )
    assert plain == ["training.epochs=3", "data.metrics=[a,b]", "objective.label={weight: 1,}"]
    assert sweeps == {"training.learning_rate": [1e-4, 1e-3]}


def test_jobs_come_seed_by_seed_each_with_a_folder_of_its_own(tmp_path: Path) -> None:
    jobs = plan_jobs(recipe(), tmp_path)
    assert [(job.variant, job.seed) for job in jobs] == [("KD", 1), ("Gram", 1), ("KD", 2), ("Gram", 2)]
    assert [job.recipe.training.seed for job in jobs] == [1, 1, 2, 2]
    assert len({job.folder for job in jobs}) == 4 and all(job.folder.parent == tmp_path / "runs" for job in jobs)
    assert all(job.recipe.compare is None for job in jobs)


def test_the_objective_of_a_variant_replaces_that_of_the_recipe(tmp_path: Path) -> None:
    kd, gram = (job.recipe.objective for job in plan_jobs(recipe(), tmp_path)[:2])
    assert kd.label is None and kd.features == [] and kd.logits is not None and kd.logits.temperature == 2
    assert [term.loss for term in gram.features] == ["gram"]


def test_a_sweep_touches_the_variants_that_have_the_field(tmp_path: Path) -> None:
    jobs = plan_jobs(recipe(), tmp_path, {"objective.features.0.weight": [0.1, 10]})
    weights = [(job.variant, [term.weight for term in job.recipe.objective.features], job.sweep) for job in jobs[:3]]
    path = "objective.features.0.weight"
    assert weights == [("KD", [], {}), ("Gram", [0.1], {path: 0.1}), ("Gram", [10], {path: 10})]
    assert len(jobs) == 6 == len({job.folder for job in jobs})


def test_sweeps_multiply(tmp_path: Path) -> None:
    jobs = plan_jobs(recipe(), tmp_path, {"training.epochs": [1, 2], "objective.features.0.weight": [1, 2, 3]})
    assert len(jobs) == 2 * (2 + 6)


def test_a_whole_term_may_be_swept(tmp_path: Path) -> None:
    jobs = plan_jobs(recipe(), tmp_path, {"objective.features.0": [GRAM, CKA]})
    assert [[term.loss for term in job.recipe.objective.features] for job in jobs[:3]] == [[], ["gram"], ["cka"]]


def test_default_rows_follow_a_swept_loss(tmp_path: Path) -> None:
    images = check_recipe(
        {
            "task": "images",
            "student": {"model": "new:resnet8"},
            "objective": {"features": [{"loss": "procrustes", "layers": "uniform"}]},
            "compare": {"seeds": [1], "baseline": "ours", "variants": {"ours": {}}},
        }
    )

    def rows(sweeps: dict[str, list[Any]]) -> list[str | None]:
        return [job.recipe.objective.features[0].rows for job in plan_jobs(images, tmp_path, sweeps)]

    losses = {"objective.features.0.loss": ["procrustes", "pcka", "rcka"]}
    assert rows(losses) == ["positions", "map", "samples"]
    with pytest.raises(GeodistillError, match="'positions', which 'pcka' does not compare"):
        rows({**losses, "objective.features.0.rows": ["positions"]})


def test_without_variants_the_recipe_is_compared_with_labels_and_logits(tmp_path: Path) -> None:
    alone = recipe().model_copy(update={"compare": None})
    jobs = plan_jobs(alone, tmp_path)
    assert [job.variant for job in jobs[:3]] == ["labels", "KD", "recipe"] and len(jobs) == 9
    assert jobs[0].recipe.objective.logits is None
    assert jobs[1].recipe.objective.logits is not None and jobs[1].recipe.objective.logits.temperature == 3
    assert jobs[2].recipe.objective == alone.objective
    assert default_comparison(alone).baseline == "KD"


def test_seeds_alone_leave_the_default_variants(tmp_path: Path) -> None:
    jobs = plan_jobs(recipe(seeds=[7], variants={}), tmp_path)
    assert [(job.variant, job.seed) for job in jobs] == [("labels", 7), ("KD", 7), ("recipe", 7)]


def test_names_of_the_same_words_have_different_folders(tmp_path: Path) -> None:
    variants = {"KD": {}, "K D": {}, "k-d": {}, "β": {}, "γ": {}}
    jobs = plan_jobs(recipe(variants=variants), tmp_path)
    assert len({str(job.folder).lower() for job in jobs}) == 10


def test_a_variant_may_make_its_student_in_another_way(tmp_path: Path) -> None:
    variants = {"KD": {}, "cut": {"student": {"teacher_layers": 2}}, "wide": {"student": {"width": 128}}}
    kd, cut, wide = (job.recipe.student for job in plan_jobs(recipe(variants=variants), tmp_path)[:3])
    assert (kd.width, kd.layers, cut.teacher_layers, cut.width, cut.layers) == (64, 2, 2, None, None)
    assert (wide.width, wide.layers) == (128, 2)


@pytest.mark.parametrize(
    ("compare", "sweeps", "message"),
    [
        ({"baseline": "KB"}, {}, "The baseline 'KB' is none of the variants. Did you mean 'KD'"),
        ({"variants": {}, "baseline": "KB"}, {}, "baseline 'KB' is none of the variants"),
        ({"variants": {"KD": {"objectiv": {}}}}, {}, "Unknown key 'objectiv' in the variant 'KD'.*'objective'"),
        ({"variants": {"KD": {"objective": {}}}}, {}, "'objective' in the variant 'KD' is not valid"),
        ({"variants": {"KD": {"data": {"limit": 5}}}}, {}, "one task, data set and teacher, but 'data'"),
        ({"variants": {"KD": {"teacher": {}}}}, {}, "one task, data set and teacher, but 'teacher'"),
        ({"variants": {"KD": {"task": "instructions"}}}, {}, "one task, data set and teacher, but 'task'"),
        ({"variants": {"KD": {"generation": {"limit": 5}}}}, {}, "one task, data set and teacher, but 'generation'"),
        ({}, {"generation.limit": [1, 2]}, "one task, data set and teacher, but 'generation.limit'"),
        ({"variants": {"KD": {"training": {"seed": 3}}}}, {}, "the variant 'KD' sets 'training.seed'.*compare.seeds"),
        ({"seeds": [1, 2, 1]}, {}, "'compare.seeds' holds 1 twice"),
        ({}, {"data.limit": [1, 2]}, "one task, data set and teacher, but 'data.limit'"),
        ({}, {"training.seed": [1, 2]}, "'training.seed' is swept.*compare.seeds"),
        ({}, {"training.epochs": [1, 2, 1]}, "'training.epochs' holds 1 twice"),
        ({}, {"training.epoch": [1, 2]}, "Unknown key 'training.epoch' .*'epochs'"),
        ({}, {"training.epochs": [1, None]}, "'training.epochs' in the variant 'KD' is not valid"),
        ({}, {"objective.features.1.weight": [1, 2]}, "No variant has the swept field 'objective.features.1.weight'"),
        ({}, {"objective.features.1": [GRAM, CKA]}, "No variant has the swept field"),
        ({}, {"objective.label.weight": [1, 2]}, "No variant has the swept field"),
        ({}, {"stages.0.training.epochs": [1, 2]}, "No variant has the swept field"),
    ],
)
def test_a_comparison_that_cannot_be(
    compare: dict[str, Any], sweeps: dict[str, list[Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(GeodistillError, match=message):
        plan_jobs(recipe(**compare), tmp_path, sweeps)
