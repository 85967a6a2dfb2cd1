from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geodistill.data.record import Record
from geodistill.files import write_json, write_text
from geodistill.recipe import Recipe
from geodistill.recipe_file import check_recipe
from geodistill.runs.folder import METRICS, RESULTS, claimed
from geodistill.studies.conclude import conclude_comparison, conclude_evaluation, conclude_run, describe_scores
from geodistill.studies.plan import Job
from geodistill.studies.table import RunResult, TeacherResult


@pytest.fixture
def recipe(write_csv: Any, questions: list[tuple[str, str]]) -> Recipe:
    return check_recipe(
        {
            "data": {"source": str(write_csv(questions))},
            "student": {"width": 64, "layers": 2},
            "objective": {"label": {}},
            "compare": {"baseline": "KD", "variants": {"labels only": {}, "KD": {}, "KD + Procrustes": {}}},
        }
    )


@pytest.fixture
def folder(recipe: Recipe, tmp_path: Path) -> Path:
    with claimed(tmp_path / "run", recipe.model_dump(mode="json"), "abc"):
        pass
    line = '{"stage": "task", "step": 2, "done": 1.0, "loss": 0.5, "logits": 0.25}\n'
    write_text(tmp_path / "run" / METRICS, line)
    write_json(tmp_path / "run" / RESULTS, {"read": {"task": Record(source="the rows").to_dict()}})
    return tmp_path / "run"


def test_a_comparison_is_concluded(recipe: Recipe, runs: list[RunResult], teacher: TeacherResult, folder: Path) -> None:
    jobs = [Job(run.variant, run.sweep, run.seed, recipe, folder) for run in runs]
    shown = conclude_comparison(folder, recipe, jobs, runs, teacher)
    assert shown.endswith(f"Report: {folder / 'report.html'}")
    assert all(name in shown for name in ("labels only", "KD + Procrustes", "teacher", "95.5"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "KD + Procrustes" in page and recipe.data.source in page and "source: the rows" in page
    assert (folder / "scores.svg").read_text(encoding="utf-8").lstrip().startswith("<")


def test_two_seeds_are_too_few_for_a_test(
    recipe: Recipe, runs: list[RunResult], teacher: TeacherResult, folder: Path
) -> None:
    few = [run for run in runs if run.seed < 3]
    jobs = [Job(run.variant, run.sweep, run.seed, recipe, folder) for run in few]
    shown = conclude_comparison(folder, recipe, jobs, few, teacher).lower()
    assert "no test" in shown or "fewer than 3" in shown or "at least 3" in shown


@pytest.fixture
def results(runs: list[RunResult]) -> dict[str, Any]:
    run = runs[0]
    return {
        "seed": 1,
        "split": "test",
        "metrics": run.metrics,
        "validation_metrics": run.metrics,
        "geometry": run.geometry,
        "parameters": run.parameters,
        "megabytes": run.megabytes,
        "latency_ms": run.latency_ms,
        "training_seconds": 12.0,
        "skipped_steps": 0,
        "starved_terms": 0,
        "notes": ["Two rows were dropped."],
        "onnx_difference": None,
        "teacher": {
            "name": "teacher: minilm",
            "metrics": {"accuracy": 0.955},
            "parameters": 22_713_216,
            "megabytes": 90.9,
            "latency_ms": 6.4,
            "training_seconds": None,
        },
    }


def test_a_run_is_concluded(results: dict[str, Any], folder: Path) -> None:
    shown = conclude_run(folder, results).splitlines()
    assert shown[0] == "student on test: accuracy 0.8700, macro_f1 0.7700"
    assert shown[1] == "teacher: accuracy 0.9550"
    assert shown[2].startswith("layer 1 ↔ teacher layer 3: D_P² 1.600 (floor 0.200, chance 1.700), D_FG² 0.400")
    assert "note: Two rows were dropped." in shown
    assert shown[-2:] == [f"Student: {folder / 'student'}", f"Report: {folder / 'report.html'}"]
    assert "0.870" in (folder / "report.html").read_text(encoding="utf-8")


def test_what_the_metrics_hide_is_told(results: dict[str, Any], folder: Path) -> None:
    teacher = {**results["teacher"], "notes": ["The teacher never predicts 'b' (2), of 4 examples."]}
    shown = conclude_run(folder, {**results, "teacher": teacher}).splitlines()
    assert "note: The teacher never predicts 'b' (2), of 4 examples." in shown
    scores = {"split": "all", "metrics": {"accuracy": 0.5}, "notes": ["The student never predicts 'b'."]}
    scores |= {"source": "b.csv", "predictions": "p.jsonl", "replaced": True}
    assert conclude_evaluation(scores).splitlines() == [
        "student on all: accuracy 0.5000",
        "note: The student never predicts 'b'.",
        "Predictions: p.jsonl (the file that was there is replaced)",
    ]


def test_unlabelled_data_has_no_score(results: dict[str, Any], folder: Path) -> None:
    teacher = {**results["teacher"], "metrics": {}}
    shown = conclude_run(folder, {**results, "metrics": {}, "split": "validation", "teacher": teacher})
    assert shown.startswith("student on validation: no labels, no score\nlayer 1")
    assert (folder / "report.html").is_file()


def test_the_number_of_examples_is_told() -> None:
    scores = {"split": "all", "examples": 60, "metrics": {"accuracy": 0.5}}
    assert describe_scores(scores) == "student on all (60 examples): accuracy 0.5000"
