"""The interactive plots of a report, as plain Plotly figures: dictionaries of `data` and `layout` that JSON holds.

Colours come from the page's style sheet where they must follow light and dark; those here read well on both.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geodistill.studies.formats import one_line
from geodistill.studies.statistics import mean_interval
from geodistill.studies.table import MEASURES, Row, RunResult, point_names, run_names
from geodistill.studies.table_text import MEASURE_NAMES, score

Figure = dict[str, Any]
Curve = Sequence[Mapping[str, Any]]

GREY = "#808894"
COLOURS = ("#2f7de1", "#d9541e", "#1a9873", "#b757b0", "#a87900", "#7a72d8", "#c8456a", "#4a90a0")
SYMBOLS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("triangle-down", "▼"), ("x", "✖"))
NOT_A_TERM = ("step", "done", "epoch", "total_flos")


@dataclass(frozen=True)
class Style:
    """How a row is drawn wherever it appears; `glyph` is the marker as a character."""

    colour: str
    symbol: str
    glyph: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """One style for each name; colours and symbols repeat at different periods, so that their pair does not."""
    unique = list(dict.fromkeys(names))
    return {
        name: Style(COLOURS[i % len(COLOURS)], *SYMBOLS[(i + i // 24) % len(SYMBOLS)]) for i, name in enumerate(unique)
    }


def score_plot(rows: Sequence[Row], runs: Sequence[RunResult]) -> Figure:
    """The score of each row: seeds as open markers, mean and t interval of the mean, the teacher as a line."""
    students = [row for row in rows if row.is_student]
    drawn = styles([row.name for row in students])
    points = scores_of(students, runs)
    data = []
    for height, row in _from_the_top(students):
        style, values = drawn[row.name], [row.scale * value for value in points[row.name].values()]
        texts = [
            f"{_safe(row.name)}, seed {seed}: {value:.2f}" for seed, value in zip(points[row.name], values, strict=True)
        ]
        data.append(_markers(values, [height - 0.24] * len(values), texts, style, size=8, opaque=False))
        mean = _markers([row.scale * row.score.mean], [height], [f"{_safe(row.name)}: {score(row)}"], style, size=12)
        interval = mean_interval(values)
        if interval:
            reach = (interval[1] - interval[0]) / 2
            mean["error_x"] = {"type": "data", "array": [reach], "thickness": 2, "color": style.colour}
        data.append(mean)
    layout = _row_layout(students, _safe(rows[0].shown_as) if rows else "")
    teachers = [row for row in rows if row.role == "teacher" and math.isfinite(row.score.mean)]
    layout["shapes"] = [_vertical(row.scale * row.score.mean) for row in teachers]
    layout["annotations"] = [_note(row, students) for row in teachers]
    for row in teachers:
        # An invisible point makes the axis reach as far as the teacher's line.
        unseen = {"opacity": 0, "hoverinfo": "skip", "showlegend": False}
        data.append({"type": "scatter", "x": [row.scale * row.score.mean], "y": [0], **unseen})
    return {"data": _clean(data), "layout": layout}


def geometry_plot(rows: Sequence[Row]) -> Figure | None:
    """How far each row came from chance (0) to the floor (100 %), by each measure; None without geometry."""
    students = [row for row in rows if row.geometry]
    if not students:
        return None
    drawn = styles(MEASURES)
    data = []
    for measure in MEASURES:
        found = [(height, row) for height, row in _from_the_top(students) if measure in row.geometry]
        texts = []
        for _, row in found:
            g = row.geometry[measure]
            where = f"{g.value.mean:.4f} (floor {g.floor:.4f}, chance {g.chance:.4f})"
            texts.append(f"{_safe(row.name)}: {MEASURE_NAMES[measure]} {where}")
        shares = [row.geometry[measure].reached for _, row in found]
        percents = [None if share is None else 100 * share for share in shares]
        trace = _markers(percents, [height for height, _ in found], texts, drawn[measure], size=11)
        data.append({**trace, "name": MEASURE_NAMES[measure], "showlegend": True})
    layout = _row_layout(students, "% of the way, chance to floor")
    layout["shapes"] = [_vertical(0), _vertical(100)]
    layout["xaxis"]["range"] = [-5, 105]
    layout |= {"legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}}
    layout["margin"] |= {"t": 40}
    return {"data": _clean(data), "layout": layout}


def scatter_plots(rows: Sequence[Row], runs: Sequence[RunResult]) -> dict[str, Figure]:
    """For each measure the geometry of every run, at its deepest layer pair, against its score."""
    students = [row for row in rows if row.is_student]
    drawn = styles([row.name for row in students])
    names = list(zip(point_names(runs), run_names(runs), runs, strict=True))
    figures = {}
    for measure in MEASURES:
        data = []
        for row in students:
            mine = [(name, run) for point, name, run in names if point == row.name]
            mine = [(name, run) for name, run in mine if run.geometry and run.geometry[-1].get(measure)]
            if mine:
                x = [run.geometry[-1][measure].get("value") for _, run in mine]
                y = [row.scale * run.metrics[row.metric] for _, run in mine]
                data.append(_markers(x, y, [_safe(name) for name, _ in mine], drawn[row.name], size=10))
        if data:
            layout = _layout(MEASURE_NAMES[measure], _safe(rows[0].shown_as), height=320)
            figures[MEASURE_NAMES[measure]] = {"data": _clean(data), "layout": layout}
    return figures


def curve_plots(curves: Mapping[str, Curve], drawn: Mapping[str, Style]) -> dict[str, Figure]:
    """One plot for each logged term (and stage), a line for each run; a `chance/…` term is dotted in its term's plot.

    Args:
        curves: run name → log entries, with `step` and, where a run has stages, `stage`.
        drawn: run name → style; grey for a run that it lacks.
    """
    stages = list(dict.fromkeys(entry.get("stage") for curve in curves.values() for entry in curve))
    figures: dict[str, Figure] = {}
    for run, curve in curves.items():
        style = drawn.get(run, Style(GREY, *SYMBOLS[0]))
        for stage in stages:
            mine = [(index, entry) for index, entry in enumerate(curve) if entry.get("stage") == stage]
            for term in _terms(entry for _, entry in mine):
                plain = term.removeprefix("chance/")
                title = plain if len(stages) == 1 else f"{stage or 'run'}: {plain}"
                points = [(entry.get("step", index), entry[term]) for index, entry in mine if term in entry]
                line = {"color": style.colour, "width": 1.6, "dash": "dot" if term != plain else "solid"}
                trace = {
                    "type": "scatter",
                    "mode": "lines" if len(points) > 1 else "markers",
                    "x": [step for step, _ in points],
                    "y": [value for _, value in points],
                    "line": line,
                    "marker": {"color": style.colour},
                    "name": f"{_safe(run)}: {_safe(term)}",
                    "hovertemplate": "%{y:.4g} at step %{x}<extra>%{fullData.name}</extra>",
                    "showlegend": False,
                }
                empty: Figure = {"data": [], "layout": _layout("step", "", height=260)}
                figures.setdefault(title, empty)["data"] += _clean([trace])
    return figures


def scores_of(rows: Sequence[Row], runs: Sequence[RunResult]) -> dict[str, dict[int, float]]:
    """Row name → seed → score, finite ones only."""
    scores: dict[str, dict[int, float]] = {row.name: {} for row in rows}
    metrics = {row.name: row.metric for row in rows}
    for name, run in zip(point_names(runs), runs, strict=True):
        if name in metrics and math.isfinite(run.metrics[metrics[name]]):
            scores[name][run.seed] = run.metrics[metrics[name]]
    return scores


def _terms(entries: Any) -> list[str]:
    """The logged numbers worth a plot: not the clock, and not what stayed zero throughout."""
    values: dict[str, list[float]] = {}
    for entry in entries:
        for name, value in entry.items():
            clock = name in NOT_A_TERM or name.endswith(("runtime", "_per_second"))
            if not clock and isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append(value)
    return [name for name, series in values.items() if any(series)]


def _from_the_top(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    return [(len(rows) - 1 - index, row) for index, row in enumerate(rows)]


def _markers(
    x: Sequence[float | None], y: Sequence[float], texts: list[str], style: Style, *, size: int, opaque: bool = True
) -> Figure:
    marker = {"color": style.colour, "symbol": style.symbol if opaque else f"{style.symbol}-open", "size": size}
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(y),
        "marker": marker,
        "hovertext": texts,
        "hoverinfo": "text",
        "showlegend": False,
    }


def _layout(x_title: str, y_title: str, *, height: int) -> Figure:
    return {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
        "dragmode": False,
        "hovermode": "closest",
        "xaxis": {"title": {"text": x_title}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": y_title}, "zeroline": False, "automargin": True},
    }


def _row_layout(rows: Sequence[Row], x_title: str) -> Figure:
    """A horizontal plot with one line for each row, its name wrapped so that a phone has room for the plot."""
    labels = ["<br>".join(map(_safe, textwrap.wrap(one_line(row.name), 24))) for row in rows]
    layout = _layout(x_title, "", height=110 + 46 * len(rows))
    heights = [height for height, _ in _from_the_top(rows)]
    layout["yaxis"] |= {"tickvals": heights, "ticktext": labels, "range": [-0.6, len(rows) - 0.4]}
    layout["margin"] |= {"t": 28}
    return layout


def _vertical(x: float) -> Figure:
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _note(row: Row, others: Sequence[Row]) -> Figure:
    """A name and score above the plot, on the side of their line where the others are, so that it is not cut off."""
    side = "left" if all(row.score.mean < other.score.mean for other in others) else "right"
    place = {"x": row.scale * row.score.mean, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": side}
    return {**place, "text": f"{_safe(row.name)} {score(row)}", "showarrow": False}


def _safe(text: str) -> str:
    """Plotly reads a few HTML tags in its labels; a name has none."""
    return html.escape(one_line(text), quote=False)


def _clean(value: Any) -> Any:
    """JSON has no NaN: None, which Plotly leaves out."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value
