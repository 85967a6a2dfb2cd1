"""report.html: one page that tells what was run, what came out and how sure that is. Opens offline, loads nothing.

The page is text first: the sentence, the table and its legend need no script.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from geodistill.data.record import Record
from geodistill.files import with_nan, write_text
from geodistill.recipe import TASK_STAGE
from geodistill.studies.formats import NOT_FINITE, duration, one_line
from geodistill.studies.report.page import Page, bullets, details, heading, scroll, table
from geodistill.studies.report.plots import (
    Curve,
    Style,
    curve_plots,
    geometry_plot,
    scatter_plots,
    score_plot,
    styles,
)
from geodistill.studies.report.svg import score_svg, write_figure_svg
from geodistill.studies.table import MEASURES, Row, RunResult, TeacherResult, point_names, reached, run_names
from geodistill.studies.table_text import MEASURE_NAMES, Column, columns, headline, legend

__all__ = ["write_figure_svg", "write_report", "write_run_report"]

SECTIONS = {"quality": "Quality", "geometry": "Geometry: value (floor, chance)", "cost": "Cost"}
REFERENCES = (
    "Value beside the floor, the best that a student of this width can reach, and chance, what unpaired rows give. "
    "Reached: the share of the way from chance to the floor. Near is low in D_P² and D_FG², high in CKA."
)


def write_report(
    path: Path | str,
    *,
    title: str,
    recipe: Mapping[str, Any],
    environment: Mapping[str, Any],
    rows: Sequence[Row],
    runs: Sequence[RunResult],
    teacher: TeacherResult | None,
    curves: Mapping[str, Curve] | None = None,
    others: Sequence[Sequence[Row]] = (),
    read: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the report of a comparison. `curves` maps the names that `run_names(runs)` gives to log entries, `others`
    are the rows of further metrics, and `read` what was read of the data of each stage, as results.json holds it."""
    page = Page()
    drawn = styles([row.name for row in rows if row.is_student])
    tables = [_comparison_table(rows, sections) for sections in (("quality",), ("geometry", "cost"))]
    page.section("Results", *tables, bullets(legend(rows)))
    for further in others:
        page.section(
            one_line(further[0].metric), _comparison_table(further, ("quality",)), bullets([headline(further)])
        )
    _score_section(page, rows, runs)
    _geometry_sections(page, rows, runs, drawn)
    if curves:
        names = zip(run_names(runs), point_names(runs), strict=True)
        _curve_section(page, curves, {run: drawn[row] for run, row in names if row in drawn}, _key(drawn))
    _read_section(page, read or {})
    page.section("How it was made", details("Every run", _runs_table(runs, teacher)), *_made_with(recipe, environment))
    write_text(Path(path), page.html(title, headline(rows), "geodistill comparison"))


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

    `results` is what results.json holds: `metrics`, `geometry` as in `RunResult`, and further facts, nested or not.
    `curves` are the entries of metrics.jsonl.
    """
    page = Page()
    metrics = {name: _plain(value) for name, value in _flat(with_nan(results.get("metrics") or {})).items()}
    told = ("metrics", "geometry", "read", "notes")
    facts = _flat({name: value for name, value in results.items() if name not in told})
    notes = bullets(results["notes"]) if results.get("notes") else ""
    page.section("Metrics", table(["metric", "value"], list(metrics.items()), "Metrics"), notes)
    if results.get("geometry"):
        page.section("Geometry", _geometry_table(results["geometry"]), bullets([REFERENCES]))
    _curve_section(page, {title: curves}, styles([title]), "")
    _read_section(page, results.get("read") or {})
    if facts:
        page.section("Facts", table(["", ""], [[name, _fact(name, value)] for name, value in facts.items()], "Facts"))
    page.section("How it was made", *_made_with(recipe, environment))
    lead = ", ".join(f"{name} {value}" for name, value in metrics.items()) or "No metric was reported."
    write_text(Path(path), page.html(title, lead, "geodistill run"))


def _score_section(page: Page, rows: Sequence[Row], runs: Sequence[RunResult]) -> None:
    caption = (
        "Open markers: seeds. Filled marker and bar: mean and its 95 % t interval. Bars may overlap and variants still "
        "differ, since seeds share their luck: that is for the paired test to say."
    )
    label = f"Score of each variant. {headline(rows)}"
    page.section("Score", page.plot(score_plot(rows, runs), label, caption, score_svg(rows, runs)))


def _geometry_sections(page: Page, rows: Sequence[Row], runs: Sequence[RunResult], drawn: Mapping[str, Style]) -> None:
    figure = geometry_plot(rows)
    if figure is not None:
        caption = (
            "0: no nearer to the teacher than unpaired rows. 100: the nearest that a student of this width can come."
        )
        label = "Share of the way from chance to the floor, for each variant and measure; the table holds the numbers."
        page.section("Geometry reached", page.plot(figure, label, caption))
    scatters = scatter_plots(rows, runs)
    if scatters:
        page.section("Geometry and score, run by run", _key(drawn), page.grid(scatters, "Score against geometry"))


def _curve_section(page: Page, curves: Mapping[str, Curve], drawn: Mapping[str, Style], key: str) -> None:
    figures = curve_plots(curves, drawn)
    if figures:
        note = "Terms are drawn before their weights. Dotted: chance, what unpaired rows would give."
        page.section("Training curves", key, page.grid(figures, "Training curve"), bullets([note]))


def _read_section(page: Page, read: Mapping[str, Mapping[str, Any]]) -> None:
    """What was read for the task and for each stage: its facts, and the labels with their numbers of rows."""
    parts = []
    for name, content in read.items():
        record = Record.from_dict(content)
        parts.append(heading("The task" if name == TASK_STAGE else f"Stage '{name}'") if len(read) > 1 else "")
        parts.append(bullets(record.lines(labels=not record.labels)))
        if record.labels:
            counts = [
                [label, *(f"{rows.get(part, 0):,}" for part in record.parts)] for label, rows in record.labels.items()
            ]
            parts.append(details("Labels", table(["label", *record.parts], counts, f"Rows of each label, {name}")))
    if parts:
        page.section("What was read", *parts)


def _comparison_table(rows: Sequence[Row], sections: Sequence[str]) -> str:
    names, *others = [column for column in columns(rows) if column.section in ("", *sections)]
    spans = {section: sum(c.section == section for c in others) for section in dict.fromkeys(c.section for c in others)}
    groups = [f'<th scope="colgroup" colspan="{n}">{escape(SECTIONS[section])}</th>' for section, n in spans.items()]
    heads = [f'<th{_edge(others, i)} scope="col">{escape(c.heading)}</th>' for i, c in enumerate(others)]
    body = []
    for index, row in enumerate(rows):
        cells = [f"<td{_edge(others, i)}>{escape(c.cells[index])}</td>" for i, c in enumerate(others)]
        body.append(f'<tr class="{row.role}"><th scope="row">{escape(names.cells[index])}</th>{"".join(cells)}</tr>')
    head = f'<thead><tr><td rowspan="2"></td>{"".join(groups)}</tr><tr>{"".join(heads)}</tr></thead>'
    return scroll(f"<table>{head}<tbody>{''.join(body)}</tbody></table>", f"{' and '.join(sections)} of each variant")


def _edge(others: Sequence[Column], index: int) -> str:
    """The first column of a section carries the line that sets it off."""
    return "" if index and others[index - 1].section == others[index].section else ' class="first"'


def _runs_table(runs: Sequence[RunResult], teacher: TeacherResult | None) -> str:
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    cells = [
        [name, *(_plain(run.metrics.get(m)) for m in metrics), duration(run.training_seconds), str(run.skipped_steps)]
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    if teacher:
        scores = [_plain(teacher.metrics.get(m)) for m in metrics]
        cells.insert(0, [teacher.name, *scores, duration(teacher.training_seconds), ""])
    return table(["run", *metrics, "training", "skipped steps"], cells, "Every run")


def _geometry_table(geometry: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for entry in geometry:
        layers = [str(entry.get(key, "")) for key in ("student_layer", "teacher_layer", "rows")]
        for measure in MEASURES:
            if entry.get(measure):
                numbers = [entry[measure].get(key) for key in ("value", "floor", "chance")]
                share = None if None in numbers else reached(*numbers)
                percent = "–" if share is None else f"{100 * share:.1f} %"
                cells.append([*layers, MEASURE_NAMES[measure], *map(_plain, numbers), percent])
    heads = ["student layer", "teacher layer", "rows", "measure", "value", "floor", "chance", "reached"]
    return table(heads, cells, "Geometry of each matched layer pair")


def _made_with(recipe: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    parts = {"Recipe": recipe, "Environment": environment}
    dumped = {name: json.dumps(part, indent=2, ensure_ascii=False, default=str) for name, part in parts.items()}
    return [details(name, f'<pre tabindex="0">{escape(text)}</pre>') for name, text in dumped.items()]


def _key(drawn: Mapping[str, Style]) -> str:
    items = [
        f'<li><span style="color:{style.colour}" aria-hidden="true">{style.glyph}</span> {escape(one_line(name))}</li>'
        for name, style in drawn.items()
    ]
    return f'<ul class="key">{"".join(items)}</ul>'


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
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return NOT_FINITE
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
