"""report.html of a comparison, and the page that joins several runs: which objective helped, and how sure that is.

The page is text first: the sentence, the tables and their legend need no script.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from geodistill.display import ABSENT, NOT_FINITE, Table, count, duration, one_line, unit
from geodistill.files import write_text
from geodistill.runs.folder import FIGURE, read_metrics
from geodistill.runs.run_results import MEASURE_NAMES
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.report.answers import (
    Lines,
    confusion,
    disagreement,
    read_answers,
    read_teachers_answers,
    samples,
)
from geodistill.studies.report.curves import Curve, curve_plots, is_technical
from geodistill.studies.report.made_of import Origin, origin_blocks, read_section
from geodistill.studies.report.page import (
    Folded,
    Notes,
    Plot,
    Section,
    SmallPlots,
    Tables,
    Tile,
    WidePlot,
    page,
    small_plots,
)
from geodistill.studies.report.plots import Figure
from geodistill.studies.report.score_plots import (
    TEACHER,
    cost_plots,
    depth_plots,
    geometry_plot,
    scatter_plots,
    score_plot,
)
from geodistill.studies.report.scores import ScorePicture, Style, score_picture, score_svg, styles, write_score_svg
from geodistill.studies.report.thumbnails import Thumbnails
from geodistill.studies.report.vector_answers import decoded_behaviour, wrong_neighbours
from geodistill.studies.table import Row, point_names, run_names
from geodistill.studies.table_text import (
    against,
    best_rows,
    comparison_table,
    headline,
    legend,
    score,
    section_tables,
)
from geodistill.tasks.metrics import is_share

CURVES = "Terms are drawn before their weights. Dotted: chance, what unpaired rows would give."
BANDS = "Line: the mean over the seeds. Band: from the lowest seed to the highest."
TEACHER_NAME = "teacher"


def report_comparison(results: ComparisonResults, recipe: Mapping[str, Any]) -> None:
    """Write report.html and scores.svg of a comparison into its folder."""
    title = f"Comparison on {recipe['data']['source']}"
    write_text(results.report, comparison_page(results, [Origin.read(results.folder)], title=title))
    write_score_svg(score_picture(results.rows(), results.runs), results.folder / FIGURE)


def comparison_page(
    results: ComparisonResults, origins: Sequence[Origin], *, title: str, notes: Sequence[str] = ()
) -> str:
    """Return the page of a comparison.

    Args:
        results: of runs whose folders hold their curves and answers.
        origins: the recipes and environments behind the runs.
        title: of the page.
        notes: what has to be known beside the legend.
    """
    rows, *others = map(results.rows, results.metrics)
    drawn = styles([row.name for row in rows if row.is_student])
    picture = score_picture(rows, results.runs)
    points: dict[str, list[Any]] = {name: [] for name in drawn}
    for name, run in zip(point_names(results.runs), results.runs, strict=True):
        points[name].append(run)
    curves = {name: [read_metrics(results.folder / run.folder) for run in runs] for name, runs in points.items()}
    answers: dict[str, list[Lines]] = {
        TEACHER_NAME: [read_teachers_answers(results.folder)],
        **{name: [read_answers(results.folder / run.folder) for run in runs] for name, runs in points.items()},
    }
    chosen = [TEACHER_NAME, results.baseline, *(row.name for row in best_rows(rows)[:1])]
    compared = [name for name in dict.fromkeys(chosen) if name in answers]
    pairs = {name: [run.geometry for run in runs] for name, runs in points.items()}
    further = [
        Folded(one_line(each[0].metric), [Tables([comparison_table(each, ("quality",))]), Notes([headline(each)])])
        for each in others
    ]
    return page(
        [
            Section("Results", [Tables(section_tables(rows)), Notes([*legend(rows), *notes]), *further]),
            Section("Score", [WidePlot(_score_plot(picture))]),
            cost_section(rows, drawn),
            geometry_section(rows, depth_plots(pairs, drawn), scatter_plots(rows, results.runs), drawn),
            confusion(answers, compared),
            disagreement(answers, TEACHER_NAME, Thumbnails(results.folder / results.runs[0].folder)),
            wrong_neighbours(answers),
            decoded_behaviour({name: answers[name] for name in compared}, drawn),
            samples(answers),
            curve_section(curves, drawn),
            read_section(results.read),
            Section(
                "How it was made", [Folded("Every run", [Tables([_runs_table(results)])]), *origin_blocks(origins)]
            ),
        ],
        title=title,
        lead=picture.headline,
        kind="geodistill comparison",
        tiles=_tiles(rows),
    )


def cost_section(rows: Sequence[Row], drawn: Mapping[str, Style]) -> Section | None:
    """Return the score against size and latency; None if nothing differs in them."""
    plots = small_plots(cost_plots(rows), "cost", "Score against cost")
    teacher = {row.name: TEACHER for row in rows if row.role == "teacher"}
    notes = ["Bars: the deviation over the seeds. Dashed: the teacher's score. Costs are on a logarithmic axis."]
    return Section("Score and cost", [SmallPlots(plots, {**drawn, **teacher}), Notes(notes)]) if plots else None


def geometry_section(
    rows: Sequence[Row], depths: Mapping[str, Figure], scatters: Mapping[str, Figure], drawn: Mapping[str, Style]
) -> Section | None:
    """Return the share of the way to the floor, each measure by depth, and the geometry of each run with its score."""
    figure = geometry_plot(rows)
    if figure is None:
        return None
    caption = "0: no nearer to the teacher than unpaired rows. 100: the nearest that a student of this width can come."
    label = "Share of the way from chance to the floor, for each variant and measure; the table holds the numbers."
    by_depth = small_plots(depths, "depth", "Geometry of each layer pair")
    by_score = small_plots(scatters, "scatter", "Score against geometry")
    return Section(
        "Geometry",
        [
            WidePlot(Plot("geometry", figure, label, caption)),
            SmallPlots(by_depth, drawn),
            Notes(["Each matched layer pair, the mean over the seeds. Dashes: the floor and chance."]),
            Folded("Geometry and score, run by run", [SmallPlots(by_score, drawn)]),
        ],
    )


def curve_section(curves: Mapping[str, Sequence[Curve]], drawn: Mapping[str, Style]) -> Section | None:
    """Return the training curves; those of the training itself, such as the learning rate, are folded."""
    plots = small_plots(curve_plots(curves, drawn), "curve", "Training curve")
    if not plots:
        return None
    technical = [plot for plot in plots if is_technical(plot.caption)]
    learned = [plot for plot in plots if plot not in technical]
    key = drawn if len(drawn) > 1 else {}
    told = [*([BANDS] if any(len(runs) > 1 for runs in curves.values()) else []), CURVES]
    folded = [Folded("Gradient, rate and counts", [SmallPlots(technical, key)])] if technical else []
    shown = [SmallPlots(learned, key), Notes(told)] if learned else []
    return Section("Training curves", [*shown, *folded])


def _score_plot(picture: ScorePicture) -> Plot:
    caption = (
        "Open markers: seeds. Filled marker and bar: mean and its 95 % t interval. Bars may overlap and variants still "
        "differ, since seeds share their luck: that is for the paired test to say."
    )
    label = f"Score of each variant. {picture.headline}"
    # The template of the SVG has escaped it.
    return Plot("scores", score_plot(picture), label, caption, Markup(score_svg(picture)))


def _tiles(rows: Sequence[Row]) -> list[Tile]:
    """The best row, what it gains, and what it saves."""
    best = next(iter(best_rows(rows)), None)
    if best is None:
        return []
    teacher = next((row for row in rows if row.role == "teacher"), None)
    tiles = [Tile(f"Best {one_line(best.metric)}", score(best), one_line(best.name))]
    if best.comparison is not None:
        tiles.append(Tile(f"Against {one_line(best.against or '')}", *against(best)))
    if teacher is not None:
        kept = best.score.mean / teacher.score.mean if is_share(best.metric) and teacher.score.mean > 0 else math.nan
        tiles.append(
            Tile("Teacher", score(teacher), f"the student has {100 * kept:.1f} % of it" if kept == kept else "")
        )
        tiles += saved(best.parameters, teacher.parameters, best.latency_ms, teacher.latency_ms)
    found = best.geometry.get("procrustes")
    if found is not None and found.reached is not None:
        note = f"of the way from chance to the floor in {MEASURE_NAMES['procrustes']}"
        tiles.append(Tile("Geometry", f"{100 * found.reached:.0f} %", note))
    return tiles


def saved(parameters: int, of_teacher: int, latency: float | None, latency_of_teacher: float | None) -> list[Tile]:
    """Return what a student saves: how many times smaller and faster it is than its teacher."""
    tiles = []
    if parameters and of_teacher > parameters:
        note = f"{count(parameters)} of {count(of_teacher)} parameters"
        tiles.append(Tile("Smaller", f"{of_teacher / parameters:.1f} ×", note))
    if latency and latency_of_teacher and latency_of_teacher > latency:
        note = f"{unit(latency, ' ms')} in place of {unit(latency_of_teacher, ' ms')} for one example"
        tiles.append(Tile("Faster", f"{latency_of_teacher / latency:.1f} ×", note))
    return tiles


def _runs_table(results: ComparisonResults) -> Table:
    runs, teacher = results.runs, results.teacher
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    cells = [
        [name, *(_number(run.metrics.get(m)) for m in metrics), duration(run.training_seconds), str(run.skipped_steps)]
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    kinds = [""] * len(cells)
    if teacher is not None:
        scores = [_number(teacher.metrics.get(m)) for m in metrics]
        cells.insert(0, [teacher.name, *scores, duration(teacher.training_seconds), ""])
        kinds.insert(0, "teacher")
    return Table(["run", *metrics, "training", "skipped steps"], cells, "Every run", kinds=kinds)


def _number(value: float | None) -> str:
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return NOT_FINITE
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
