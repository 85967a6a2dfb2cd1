"""The interactive plots of a report, as plain Plotly figures: dictionaries of `data` and `layout` that JSON holds.

Colours come from the page's style sheet where they must follow light and dark; those here read well on both.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from geodistill.display import one_line
from geodistill.runs.run_results import MEASURE_NAMES
from geodistill.studies.report.scores import GREY, SYMBOLS, Reference, ScorePicture, Style, styles
from geodistill.studies.table import MEASURES, ComparedRun, Row, point_names, run_names
from geodistill.studies.theory.findings import Chart, Line

Figure = dict[str, Any]
Curve = Sequence[Mapping[str, Any]]
Item = TypeVar("Item")

NOT_A_TERM = ("step", "done", "epoch", "total_flos")


def score_plot(picture: ScorePicture) -> Figure:
    """The score of each row: seeds as open markers, mean and t interval of the mean, the teacher as a line."""
    data = []
    for height, line in _from_the_top(picture.lines):
        values = list(line.seeds.values())
        texts = [f"{_safe(line.name)}, seed {seed}: {value:.2f}" for seed, value in line.seeds.items()]
        data.append(_markers(values, [height - 0.24] * len(values), texts, line.style, size=8, opaque=False))
        mean = _markers([line.mean], [height], [f"{_safe(line.name)}: {line.text}"], line.style, size=12)
        if line.interval:
            reach = (line.interval[1] - line.interval[0]) / 2
            mean["error_x"] = {"type": "data", "array": [reach], "thickness": 2, "color": line.style.colour}
        data.append(mean)
    layout = _row_layout([line.name for line in picture.lines], _safe(picture.axis))
    layout["xaxis"]["range"] = [picture.ticks[0], picture.ticks[-1]]
    layout["shapes"] = [_vertical(reference.value) for reference in picture.references]
    layout["annotations"] = [_note(reference) for reference in picture.references]
    return {"data": data, "layout": layout}


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
    layout = _row_layout([row.name for row in students], "% of the way, chance to floor")
    layout["shapes"] = [_vertical(0), _vertical(100)]
    layout["xaxis"]["range"] = [-5, 105]
    layout |= {"legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}}
    layout["margin"] |= {"t": 40}
    return {"data": _clean(data), "layout": layout}


def scatter_plots(rows: Sequence[Row], runs: Sequence[ComparedRun]) -> dict[str, Figure]:
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


def chart_plot(chart: Chart) -> Figure:
    """Curves with their names above them; a reference is dotted and grey."""
    drawn = styles([line.name for line in chart.lines if not line.dotted])
    data = []
    for line in chart.lines:
        colour = GREY if line.dotted else drawn[line.name].colour
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if len(line.x) > 12 or line.dotted else "lines+markers",
                "x": line.x,
                "y": line.y,
                "line": {"color": colour, "width": 1.8, "dash": "dot" if line.dotted else "solid"},
                "name": _safe(line.name),
                "hovertemplate": "%{y:.4g} at %{x}<extra>%{fullData.name}</extra>",
            }
        )
    layout = _layout(_safe(chart.x), _safe(chart.y), height=340)
    layout["xaxis"]["type"] = "log" if chart.log_x else "linear"
    layout |= {"legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}}
    layout["margin"] |= {"t": 56}
    return {"data": _clean(data), "layout": layout}


def heat_map(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    beside: Mapping[str, Any],
    *,
    dark_is_low: bool,
) -> Figure:
    """A matrix (r, c) of numbers as colours, the first row at the top; the hover tells the entries of `beside` too."""
    texts: list[list[str]] = []
    for i, row in enumerate(rows):
        texts.append([])
        for j, column in enumerate(columns):
            others = "".join(f"<br>{_safe(name)} {float(table[i][j]):.4f}" for name, table in beside.items())
            where = f"{_safe(row_title)} {_safe(row)} ↔ {_safe(column_title)} {_safe(column)}"
            texts[-1].append(f"{where}<br>{float(values[i][j]):.4f}{others}")
    trace = {
        "type": "heatmap",
        "z": [[float(value) for value in row] for row in values],
        "x": [_safe(column) for column in columns],
        "y": [_safe(row) for row in rows],
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "colorscale": "Viridis",
        "reversescale": not dark_is_low,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 12, "outlinewidth": 0},
    }
    layout = _layout(_safe(column_title), _safe(row_title), height=max(260, 110 + 26 * len(rows)))
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"type": "category", "autorange": "reversed"}
    return {"data": _clean([trace]), "layout": layout}


def line_chart(lines: Mapping[str, tuple[list[float], list[float]]], x: str, y: str, *, log: bool = False) -> Figure:
    """Curves by name, over x and y values; with `log`, both axes are logarithmic."""
    figure = chart_plot(Chart("", x, y, [Line(name, *points) for name, points in lines.items()], log_x=log))
    figure["layout"]["yaxis"]["type"] = "log" if log else "linear"
    return figure


def _terms(entries: Any) -> list[str]:
    """The logged numbers worth a plot: not the clock, and not what stayed zero throughout."""
    values: dict[str, list[float]] = {}
    for entry in entries:
        for name, value in entry.items():
            clock = name in NOT_A_TERM or name.endswith(("runtime", "_per_second"))
            if not clock and isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append(value)
    return [name for name, series in values.items() if any(series)]


def _from_the_top(lines: Sequence[Item]) -> list[tuple[int, Item]]:
    return [(len(lines) - 1 - index, line) for index, line in enumerate(lines)]


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


def _row_layout(names: Sequence[str], x_title: str) -> Figure:
    """A horizontal plot with one line for each row, its name wrapped so that a phone has room for the plot."""
    labels = ["<br>".join(map(_safe, textwrap.wrap(one_line(name), 24))) for name in names]
    layout = _layout(x_title, "", height=110 + 46 * len(names))
    heights = [height for height, _ in _from_the_top(names)]
    layout["yaxis"] |= {"tickvals": heights, "ticktext": labels, "range": [-0.6, len(names) - 0.4]}
    layout["margin"] |= {"t": 28}
    return layout


def _vertical(x: float) -> Figure:
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _note(reference: Reference) -> Figure:
    """A name and score above the plot, on the side of their line that has room."""
    anchor = "right" if reference.side == "left" else "left"  # the edge of the text that touches the line
    place = {"x": reference.value, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": anchor}
    return {**place, "text": f"{_safe(reference.name)} {reference.text}", "showarrow": False}


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
