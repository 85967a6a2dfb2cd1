"""report.html: one page that tells what was run, what came out and how sure that is. Opens offline, loads nothing.

The page is text first: the sentence, the table and its legend need no script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from geodistill.data.record import Record
from geodistill.display import ABSENT, NOT_FINITE, Table, duration, one_line
from geodistill.files import with_nan, write_text
from geodistill.recipe import TASK_STAGE, Recipe
from geodistill.runs.folder import ENVIRONMENT, FIGURE, RECIPE, REPORT, read_json, read_metrics, read_recipe
from geodistill.runs.forms import Form
from geodistill.runs.run_results import FORMS, MEASURE_NAMES, RunResults, TeacherResult, forms_table
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.report.page import Plot, page, small_plots
from geodistill.studies.report.plots import Curve, curve_plots, geometry_plot, scatter_plots, score_plot
from geodistill.studies.report.scores import ScorePicture, score_picture, score_svg, styles, write_score_svg
from geodistill.studies.table import MEASURES, ComparedRun, Row, point_names, reached, run_names
from geodistill.studies.table_text import comparison_table, headline, legend, section_tables

REFERENCES = (
    "Value beside the floor, the best that a student of this width can reach, and chance, what unpaired rows give. "
    "Reached: the share of the way from chance to the floor. Near is low in D_P² and D_FG², high in CKA."
)


def report_comparison(results: ComparisonResults, recipe: Recipe) -> None:
    """Write report.html and scores.svg of a comparison into its folder."""
    folder = results.folder
    rows, *others = map(results.rows, results.metrics)
    names = zip(run_names(results.runs), results.runs, strict=True)
    curves = {name: read_metrics(folder / run.folder) for name, run in names}
    write_report(
        folder / REPORT,
        title=f"Comparison on {recipe.data.source}",
        recipe=recipe.model_dump(mode="json"),
        environment=read_json(folder / ENVIRONMENT),
        rows=rows,
        runs=results.runs,
        teacher=results.teacher,
        curves=curves,
        others=others,
        read=results.read,
        picture=folder / FIGURE,
    )


def report_run(results: RunResults) -> None:
    """Write report.html of a run into its folder."""
    folder = results.folder
    write_run_report(
        folder / REPORT,
        title=folder.name,
        results=results.to_dict(),
        recipe=read_recipe(folder / RECIPE),
        environment=read_json(folder / ENVIRONMENT),
        curves=read_metrics(folder),
    )


@dataclass(frozen=True)
class ReadPart:
    """What the page says of the data of the task, or of a stage."""

    title: str
    lines: list[str]
    labels: Table | None


def write_report(
    path: Path | str,
    *,
    title: str,
    recipe: Mapping[str, Any],
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    runs: Sequence[ComparedRun],
    teacher: TeacherResult | None,
    curves: Mapping[str, Curve] | None = None,
    others: Sequence[Sequence[Row]] = (),
    read: Mapping[str, Mapping[str, Any]] | None = None,
    picture: Path | str | None = None,
) -> None:
    """Write the report of a comparison, and the picture of its scores as SVG to `picture` where that is given.

    `curves` maps the names that `run_names(runs)` gives to log entries, `others` are the rows of further metrics, and
    `read` what was read of the data of each stage, as results.json holds it.
    """
    drawn = styles([row.name for row in rows if row.is_student])
    names = zip(run_names(runs), point_names(runs), strict=True)
    of_runs = {run: drawn[row] for run, row in names if row in drawn}
    seen = score_picture(rows, runs)
    scores = _score_plot(seen)
    geometry = _geometry_plot(rows)
    scatters = small_plots(scatter_plots(rows, runs), "scatter", "Score against geometry")
    lines = small_plots(curve_plots(curves or {}, of_runs), "curve", "Training curve")
    text = page(
        "comparison.html.jinja",
        [scores, *([geometry] if geometry else []), *scatters, *lines],
        title=title,
        lead=seen.headline,
        kind="geodistill comparison",
        results=section_tables(rows),
        legend=legend(rows),
        further=[(one_line(each[0].metric), comparison_table(each, ("quality",)), headline(each)) for each in others],
        scores=scores,
        geometry=geometry,
        scatters=scatters,
        styles={one_line(name): style for name, style in drawn.items()},
        curves=lines,
        read=_read_parts(read or {}),
        runs=_runs_table(runs, teacher),
        recipe=_json(recipe),
        environment=_json(environment),
    )
    write_text(Path(path), text)
    if picture is not None:
        write_score_svg(seen, picture)


def write_run_report(
    path: Path | str,
    *,
    title: str,
    results: Mapping[str, Any],
    recipe: Mapping[str, Any],
    environment: Mapping[str, Any],
    curves: Curve = (),
) -> None:
    """Write the report of one training run: its metrics, geometry, cost and curves.

    `results` is what results.json holds: `metrics`, `geometry` as in `ComparedRun`, and further facts, nested or not.
    `curves` are the entries of metrics.jsonl.
    """
    metrics = {name: _plain(value) for name, value in _flat(with_nan(results.get("metrics") or {})).items()}
    told = ("metrics", "geometry", "read", "notes", "forms")
    facts = _flat({name: value for name, value in results.items() if name not in told})
    lines = small_plots(curve_plots({title: curves}, styles([title])), "curve", "Training curve")
    text = page(
        "run.html.jinja",
        lines,
        title=title,
        lead=", ".join(f"{name} {value}" for name, value in metrics.items()) or "No metric was reported.",
        kind="geodistill run",
        metrics=Table(["metric", "value"], list(metrics.items()), "Metrics"),
        notes=results.get("notes") or [],
        geometry=_geometry_table(results["geometry"]) if results.get("geometry") else None,
        references=REFERENCES,
        forms=forms_table([Form(**form) for form in results["forms"]]) if results.get("forms") else None,
        of_forms=FORMS,
        curves=lines,
        read=_read_parts(results.get("read") or {}),
        facts=Table(["", ""], [[name, _fact(name, value)] for name, value in facts.items()], "Facts"),
        recipe=_json(recipe),
        environment=_json(environment),
    )
    write_text(Path(path), text)


def _score_plot(seen: ScorePicture) -> Plot:
    caption = (
        "Open markers: seeds. Filled marker and bar: mean and its 95 % t interval. Bars may overlap and variants still "
        "differ, since seeds share their luck: that is for the paired test to say."
    )
    label = f"Score of each variant. {seen.headline}"
    return Plot("scores", score_plot(seen), label, caption, Markup(score_svg(seen)))  # its template has escaped it


def _geometry_plot(rows: Sequence[Row]) -> Plot | None:
    figure = geometry_plot(rows)
    if figure is None:
        return None
    caption = "0: no nearer to the teacher than unpaired rows. 100: the nearest that a student of this width can come."
    label = "Share of the way from chance to the floor, for each variant and measure; the table holds the numbers."
    return Plot("geometry", figure, label, caption)


def _read_parts(read: Mapping[str, Mapping[str, Any]]) -> list[ReadPart]:
    parts = []
    for name, content in read.items():
        record = Record.from_dict(content)
        counts = [[label, *(f"{n.get(part, 0):,}" for part in record.parts)] for label, n in record.labels.items()]
        labels = Table(["label", *record.parts], counts, f"Rows of each label, {name}") if counts else None
        title = "The task" if name == TASK_STAGE else f"Stage '{name}'"
        parts.append(ReadPart(title, record.lines(labels=not record.labels), labels))
    return parts


def _runs_table(runs: Sequence[ComparedRun], teacher: TeacherResult | None) -> Table:
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    cells = [
        [name, *(_plain(run.metrics.get(m)) for m in metrics), duration(run.training_seconds), str(run.skipped_steps)]
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    if teacher:
        scores = [_plain(teacher.metrics.get(m)) for m in metrics]
        cells.insert(0, [teacher.name, *scores, duration(teacher.training_seconds), ""])
    return Table(["run", *metrics, "training", "skipped steps"], cells, "Every run")


def _geometry_table(geometry: Sequence[Mapping[str, Any]]) -> Table:
    cells = []
    for entry in geometry:
        layers = [str(entry.get(key, "")) for key in ("student_layer", "teacher_layer", "rows")]
        for measure in MEASURES:
            if entry.get(measure):
                numbers = [entry[measure].get(key) for key in ("value", "floor", "chance")]
                share = None if None in numbers else reached(*numbers)
                percent = ABSENT if share is None else f"{100 * share:.1f} %"
                cells.append([*layers, MEASURE_NAMES[measure], *map(_plain, numbers), percent])
    heads = ["student layer", "teacher layer", "rows", "measure", "value", "floor", "chance", "reached"]
    return Table(heads, cells, "Geometry of each matched layer pair")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, default=str)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names; what is None is left out."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = value
    return flat


def _fact(name: str, value: Any) -> str:
    is_time = name.endswith("seconds") and isinstance(value, int | float)
    return duration(value) if is_time else f"{value:.5g}" if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ABSENT if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return NOT_FINITE
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
