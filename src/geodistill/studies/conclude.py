"""What is left when the runs are done: the table on the screen, the report and the picture in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geodistill.display import decimal, plain
from geodistill.recipe import Recipe
from geodistill.runs.folder import ENVIRONMENT, RECIPE, RESULTS, read_json, read_metrics, read_recipe
from geodistill.studies.plan import Job, default_comparison
from geodistill.studies.report.write import write_report, write_run_report
from geodistill.studies.table import RunResult, TeacherResult, build_table, run_names
from geodistill.studies.table_text import ComparisonTable, quality_table
from geodistill.tasks.choose import task_of

REPORT, FIGURE = "report.html", "scores.svg"


def conclude_comparison(
    folder: Path, recipe: Recipe, jobs: Sequence[Job], runs: Sequence[RunResult], teacher: TeacherResult
) -> str:
    """Write report.html and scores.svg of a comparison, and return its table for the screen."""
    baseline = (recipe.compare or default_comparison(recipe)).baseline
    task = task_of(recipe)
    constant = task.constant("test") if task.labelled else None
    rows, *others = (
        build_table(runs, baseline=baseline, main_metric=metric, teacher=teacher, constant=constant)
        for metric in task.metrics
    )
    curves = {name: read_metrics(job.folder) for name, job in zip(run_names(runs), jobs, strict=True)}
    write_report(
        folder / REPORT,
        title=f"Comparison on {recipe.data.source}",
        recipe=recipe.model_dump(mode="json"),
        environment=read_json(folder / ENVIRONMENT),
        rows=rows,
        runs=runs,
        teacher=teacher,
        curves=curves,
        others=others,
        read=read_json(folder / RESULTS).get("read"),
        picture=folder / FIGURE,
    )
    further = "".join(f"\n\n{plain(quality_table(each))}" for each in others)
    return f"{plain(ComparisonTable(rows))}{further}\n\nReport: {folder / REPORT}"


def conclude_run(folder: Path, results: Mapping[str, Any]) -> str:
    """Write report.html of one run, and return its scores for the screen."""
    write_run_report(
        folder / REPORT,
        title=folder.name,
        results=results,
        recipe=read_recipe(folder / RECIPE),
        environment=read_json(folder / ENVIRONMENT),
        curves=read_metrics(folder),
    )
    lines = [describe_scores(results)]
    if teacher := results["teacher"]["metrics"]:
        lines.append("teacher: " + _scores(teacher))
    if constant := results.get("constant"):
        lines.append(f"always {constant['answer']}: " + _scores(constant["metrics"]))
    for pair in results["geometry"]:
        values = ", ".join(
            f"{label} {decimal(pair[key]['value'])} (floor {decimal(pair[key]['floor'])}, "
            f"chance {decimal(pair[key]['chance'])})"
            for key, label in (("procrustes", "D_P²"), ("gram", "D_FG²"), ("cka", "CKA"))
        )
        lines.append(f"layer {pair['student_layer']} ↔ teacher layer {pair['teacher_layer']}: {values}")
    lines += _notes(results) + _notes(results["teacher"])
    return "\n".join([*lines, f"Student: {folder / 'student'}", f"Report: {folder / REPORT}"])


def conclude_evaluation(results: Mapping[str, Any]) -> str:
    """Return the scores of a student on other data, or another split, for the screen."""
    replaced = " (the file that was there is replaced)" if results["replaced"] else ""
    predictions = f"Predictions: {results['predictions']}{replaced}"
    return "\n".join([describe_scores(results), *_notes(results), predictions])


def describe_scores(results: Mapping[str, Any]) -> str:
    """Return the metrics of a student on a split, in one line."""
    count = results.get("examples")
    counted = f" ({count} {'example' if count == 1 else 'examples'})" if count is not None else ""
    place = results["split"] or results["source"]
    text = f"student on {place}{counted}: {_scores(results['metrics']) or 'no labels, no score'}"
    for part, detail in (results.get("details") or {}).items():
        deviations = ", ".join(f"{k} ± {v:.4f}" for k, v in detail["deviation"].items() if v is not None)
        text += f"\n{part}: {detail['prompts']} prompts, {len(detail['seeds'])} seeds"
        text += f" ({deviations})" if deviations else ""
        text += f", {detail['tokens_per_second']:.0f} tokens/s, {detail['unfinished']:.0%} not ended"
    return text


def _notes(results: Mapping[str, Any]) -> list[str]:
    return [f"note: {note}" for note in results.get("notes", [])]


def _scores(metrics: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {decimal(value, 4)}" for name, value in metrics.items())
