"""Plotly figures, as dictionaries of `data` and `layout` that JSON holds: what all figures share, charts and heat maps.

Colours come from the page's style sheet where they must follow light and dark; those here read well on both.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from geodistill.display import one_line
from geodistill.studies.report.scores import GREY, Style, styles
from geodistill.studies.theory.findings import Chart, Line

Figure = dict[str, Any]


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
                "name": safe(line.name),
                "hovertemplate": "%{y:.4g} at %{x}<extra>%{fullData.name}</extra>",
            }
        )
    layout = with_legend(safe(chart.x), safe(chart.y))
    layout["xaxis"]["type"] = "log" if chart.log_x else "linear"
    return {"data": clean(data), "layout": layout}


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
            others = "".join(f"<br>{safe(name)} {float(table[i][j]):.4f}" for name, table in beside.items())
            where = f"{safe(row_title)} {safe(row)} ↔ {safe(column_title)} {safe(column)}"
            texts[-1].append(f"{where}<br>{float(values[i][j]):.4f}{others}")
    trace = {
        "type": "heatmap",
        "z": [[float(value) for value in row] for row in values],
        "x": [safe(column) for column in columns],
        "y": [safe(row) for row in rows],
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "colorscale": "Viridis",
        "reversescale": not dark_is_low,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 12, "outlinewidth": 0},
    }
    layout = base_layout(safe(column_title), safe(row_title), height=max(260, 110 + 26 * len(rows)))
    layout["xaxis"] |= {"type": "category", "showgrid": False}
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False}
    return {"data": clean([trace]), "layout": layout}


def line_chart(lines: Mapping[str, tuple[list[float], list[float]]], x: str, y: str, *, log: bool = False) -> Figure:
    """Curves by name, over x and y values; with `log`, both axes are logarithmic."""
    figure = chart_plot(Chart("", x, y, [Line(name, *points) for name, points in lines.items()], log_x=log))
    figure["layout"]["yaxis"]["type"] = "log" if log else "linear"
    return figure


def markers(
    x: Sequence[float | None] | Sequence[str],
    y: Sequence[float],
    texts: list[str],
    style: Style,
    *,
    size: int,
    opaque: bool = True,
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


def base_layout(x_title: str, y_title: str, *, height: int) -> Figure:
    return {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": GREY},
        "dragmode": False,
        "hovermode": "closest",
        "xaxis": {"title": {"text": x_title}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": y_title, "standoff": 10}, "zeroline": False, "automargin": True},
    }


def with_legend(x_title: str, y_title: str) -> Figure:
    """The layout of a plot with the names of its curves above it."""
    layout = base_layout(x_title, y_title, height=340)
    layout["margin"] |= {"t": 56}
    return layout | {"legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}}


def safe(text: str) -> str:
    """Plotly reads a few HTML tags in its labels; a name has none."""
    return html.escape(one_line(text), quote=False)


def clean(value: Any) -> Any:
    """JSON has no NaN: None, which Plotly leaves out."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list) else value
