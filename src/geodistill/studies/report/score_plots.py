"""The plots of results: scores, and what they are set against, which is geometry, size and latency."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from geodistill.display import count, one_line
from geodistill.runs.run_results import MEASURE_NAMES
from geodistill.studies.report.plots import Figure, base_layout, clean, markers, safe
from geodistill.studies.report.scores import GREY, SYMBOLS, Reference, ScorePicture, Style, styles
from geodistill.studies.table import MEASURES, ComparedRun, Row, point_names, run_names
from geodistill.studies.table_text import score

Item = TypeVar("Item")
Pairs = Sequence[Mapping[str, Any]]

TEACHER = Style(GREY, "star", "★")
PLAIN = Style(GREY, *SYMBOLS[0])
_KEYS = ("value", "floor", "chance")


def score_plot(picture: ScorePicture) -> Figure:
    """The score of each row: seeds as open markers, mean and t interval of the mean, the teacher as a line."""
    data = []
    for height, line in _from_the_top(picture.lines):
        values = list(line.seeds.values())
        texts = [f"{safe(line.name)}, seed {seed}: {value:.2f}" for seed, value in line.seeds.items()]
        data.append(markers(values, [height - 0.24] * len(values), texts, line.style, size=8, opaque=False))
        mean = markers([line.mean], [height], [f"{safe(line.name)}: {line.text}"], line.style, size=12)
        if line.interval:
            reach = (line.interval[1] - line.interval[0]) / 2
            mean["error_x"] = {"type": "data", "array": [reach], "thickness": 2, "color": line.style.colour}
        data.append(mean)
    layout = _row_layout([line.name for line in picture.lines], safe(picture.axis))
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
            texts.append(f"{safe(row.name)}: {MEASURE_NAMES[measure]} {where}")
        shares = [row.geometry[measure].reached for _, row in found]
        percents = [None if share is None else 100 * share for share in shares]
        trace = markers(percents, [height for height, _ in found], texts, drawn[measure], size=11)
        data.append({**trace, "name": MEASURE_NAMES[measure], "showlegend": True})
    layout = _row_layout([row.name for row in students], "% of the way to the floor")
    layout["shapes"] = [_vertical(0), _vertical(100)]
    layout["xaxis"]["range"] = [-5, 105]
    layout |= {"legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"}}
    layout["margin"] |= {"t": 40}
    return {"data": clean(data), "layout": layout}


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
                data.append(markers(x, y, [safe(name) for name, _ in mine], drawn[row.name], size=10))
        if data:
            layout = base_layout(MEASURE_NAMES[measure], safe(rows[0].shown_as), height=320)
            figures[MEASURE_NAMES[measure]] = {"data": clean(data), "layout": layout}
    return figures


def cost_plots(rows: Sequence[Row]) -> dict[str, Figure]:
    """The score of each row, with the deviation over its seeds, against its size and its latency.

    The teacher is a star, and its score a line.
    """
    shown = [row for row in rows if row.is_student or row.role == "teacher"]
    drawn = styles([row.name for row in rows if row.is_student])
    figures = {}
    for title, unit, cost in (
        ("Parameters", "parameters", lambda row: row.parameters),
        ("Latency of one example", "ms", lambda row: row.latency_ms),
    ):
        known = [(row, value) for row in shown if (value := cost(row)) is not None and 0 < value < math.inf]
        if len({value for _, value in known}) < 2:
            continue
        data = []
        figure = base_layout(title if unit == "parameters" else f"{title}, {unit}", safe(rows[0].shown_as), height=340)
        for row, value in known:
            style = drawn.get(row.name, TEACHER)
            text = f"{safe(row.name)}: {score(row)}, {value:,.4g} {unit}"
            trace = markers(
                [value], [row.scale * row.score.mean], [text], style, size=14 if row.role == "teacher" else 11
            )
            if row.score.deviation is not None:
                reach = {"array": [row.scale * row.score.deviation], "thickness": 1.5, "color": style.colour}
                trace["error_y"] = {"type": "data", **reach}
            if row.role == "teacher":
                figure["shapes"] = [_level(row.scale * row.score.mean)]
            data.append(trace)
        ticks = _round_values(min(value for _, value in known), max(value for _, value in known))
        figure["xaxis"] |= {"type": "log", "tickvals": ticks, "ticktext": [_tick(tick) for tick in ticks]}
        figures[title] = {"data": clean(data), "layout": figure}
    return figures


def depth_plots(measured: Mapping[str, Sequence[Pairs]], drawn: Mapping[str, Style]) -> dict[str, Figure]:
    """Each measure at each matched layer pair: a line for each row, the mean over its seeds, with dashes at the floor
    and at chance.

    Args:
        measured: for each row the `geometry` of its runs; see `ComparedRun`.
        drawn: for each row its style; grey for a row that it lacks.
    """
    figures = {}
    for measure in MEASURES:
        data: list[Figure] = []
        ends: dict[str, tuple[list[str], list[float]]] = {"floor": ([], []), "chance": ([], [])}
        for name, runs in measured.items():
            found: dict[str, list[Mapping[str, Any]]] = {}
            for pair in (pair for run in runs for pair in run if pair.get(measure)):
                found.setdefault(f"{pair['student_layer']} ↔ {pair['teacher_layer']}", []).append(pair[measure])
            means = {at: {key: _mean(each.get(key) for each in of) for key in _KEYS} for at, of in found.items()}
            if not means:
                continue
            texts = [
                f"{safe(name)}, layers {safe(at)}: {each['value']:.4f} "
                f"(floor {each['floor']:.4f}, chance {each['chance']:.4f})"
                for at, each in means.items()
            ]
            values = [each["value"] for each in means.values()]
            trace = markers(list(map(safe, means)), values, texts, drawn.get(name, PLAIN), size=9)
            data.append({**trace, "mode": "lines+markers", "line": {"color": trace["marker"]["color"], "width": 1.8}})
            for end, (x, y) in ends.items():
                x += map(safe, means)
                y += [each[end] for each in means.values()]
        for end, (x, y) in ends.items():
            texts = [f"{end} {value:.4f} at layers {at}" for at, value in zip(x, y, strict=True)]
            trace = markers(x, y, texts, PLAIN, size=22)
            trace["marker"] |= {"symbol": "line-ew-open", "line": {"width": 2, "color": GREY}}
            data.append(trace)
        if len(data) > len(ends):
            figure = base_layout("student layer ↔ teacher layer", MEASURE_NAMES[measure], height=320)
            figure["xaxis"] |= {"type": "category"}
            figures[MEASURE_NAMES[measure]] = {"data": clean(data), "layout": figure}
    return figures


def _round_values(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from below `low` to above `high`; powers of ten alone if they are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 3 else (1,)
    return [step * 10.0**power for power in powers for step in steps]


def _tick(value: float) -> str:
    return count(value).replace(".0 ", " ") if value >= 1000 else f"{value:g}"


def _mean(values: Iterable[float | None]) -> float:
    known = [math.nan if value is None else value for value in values]
    return sum(known) / len(known)


def _from_the_top(lines: Sequence[Item]) -> list[tuple[int, Item]]:
    return [(len(lines) - 1 - index, line) for index, line in enumerate(lines)]


def _row_layout(names: Sequence[str], x_title: str) -> Figure:
    """A horizontal plot with one line for each row, its name wrapped so that a phone has room for the plot."""
    labels = ["<br>".join(map(safe, textwrap.wrap(one_line(name), 24))) for name in names]
    layout = base_layout(x_title, "", height=110 + 46 * len(names))
    heights = [height for height, _ in _from_the_top(names)]
    layout["yaxis"] |= {"tickvals": heights, "ticktext": labels, "range": [-0.6, len(names) - 0.4]}
    layout["margin"] |= {"t": 28}
    return layout


def _vertical(x: float) -> Figure:
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _level(y: float) -> Figure:
    line = {"color": GREY, "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": y, "y1": y, "line": line}


def _note(reference: Reference) -> Figure:
    """A name and score above the plot, on the side of their line that has room."""
    anchor = "right" if reference.side == "left" else "left"  # the edge of the text that touches the line
    place = {"x": reference.value, "y": 1, "yref": "paper", "yanchor": "bottom", "xanchor": anchor}
    return {**place, "text": f"{safe(reference.name)} {reference.text}", "showarrow": False}
