"""The score of each variant as a static SVG picture, for a README: no script, no font, follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from geodistill.files import write_text
from geodistill.studies.formats import one_line
from geodistill.studies.report.plots import scores_of, styles
from geodistill.studies.statistics import mean_interval
from geodistill.studies.table import Row, RunResult
from geodistill.studies.table_text import headline, score

WIDTH, LINE, TOP, BOTTOM, VALUES = 860, 36, 44, 62, 120
LETTER = 7.4
STYLE = """
svg { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; }
.page { fill: #ffffff; } .ink { fill: #1c2127; } .soft { fill: #5b6570; } .grid { stroke: #e3e7eb; }
.rule { stroke: #5b6570; stroke-dasharray: 4 4; } .small { font-size: 12px; }
@media (prefers-color-scheme: dark) {
  .page { fill: #14181d; } .ink { fill: #e8ecf0; } .soft { fill: #9aa5b1; } .grid { stroke: #2b323a; }
  .rule { stroke: #9aa5b1; }
}
"""


def write_figure_svg(rows: Sequence[Row], runs: Sequence[RunResult], path: Path | str) -> None:
    """Write the picture: seeds as dots, mean and 95 % t interval of the mean, the teacher as a line."""
    write_text(Path(path), score_svg(rows, runs))


def score_svg(rows: Sequence[Row], runs: Sequence[RunResult]) -> str:
    students = [row for row in rows if row.is_student]
    teachers = [row for row in rows if row.role == "teacher" and math.isfinite(row.score.mean)]
    drawn = styles([row.name for row in students])
    scale = rows[0].scale if rows else 1.0
    points = {name: [scale * v for v in seeds.values()] for name, seeds in scores_of(students, runs).items()}
    intervals = {row.name: mean_interval(points[row.name]) for row in students if math.isfinite(row.score.mean)}
    reach = [x for values in points.values() for x in values]
    reach += [x for interval in intervals.values() if interval for x in interval]
    reach += [scale * row.score.mean for row in teachers]
    ticks = nice_ticks(min(reach, default=0.0), max(reach, default=1.0))
    names = {row.name: _shorten(one_line(row.name)) for row in students}
    left = 24 + LETTER * max(map(len, names.values()), default=0)
    right = WIDTH - VALUES
    bottom = TOP + LINE * len(students)

    def place(x: float) -> float:
        return left + (x - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)

    parts = [f'<rect class="page" width="{WIDTH}" height="{bottom + BOTTOM}" rx="8"/>']
    for tick in ticks:
        parts.append(_line(place(tick), TOP - 8, place(tick), bottom, "grid"))
        parts.append(_text(place(tick), bottom + 18, f"{tick:g}".replace("-", "−"), "soft small", "middle"))
    for row in teachers:
        x = place(scale * row.score.mean)
        parts.append(_line(x, TOP - 8, x, bottom, "rule"))
        anchor = "end" if x > (left + right) / 2 else "start"
        parts.append(_text(x, TOP - 16, f"{_shorten(one_line(row.name))} {score(row)}", "soft small", anchor))
    for index, row in enumerate(students):
        y = TOP + LINE * (index + 0.5)
        colour = drawn[row.name].colour
        parts.append(_text(left - 14, y + 5, names[row.name], "ink", "end"))
        parts.append(_text(WIDTH - 16, y + 5, score(row), "ink", "end"))
        interval = intervals.get(row.name)
        if interval:
            x0, x1 = place(interval[0]), place(interval[1])
            parts.append(f'<line x1="{x0:.1f}" y1="{y}" x2="{x1:.1f}" y2="{y}" stroke="{colour}" stroke-width="3"/>')
        for value in points[row.name]:
            parts.append(f'<circle cx="{place(value):.1f}" cy="{y + 11}" r="4" fill="none" stroke="{colour}"/>')
        if math.isfinite(row.score.mean):
            x = place(scale * row.score.mean)
            parts.append(f'<path d="M{x - 7:.1f} {y}l7 -7l7 7l-7 7z" fill="{colour}"/>')
    metric = one_line(rows[0].metric) if rows else ""
    parts.append(
        _text((left + right) / 2, bottom + 36, one_line(rows[0].shown_as) if rows else "", "soft small", "middle")
    )
    caption = "circles: seeds · diamond and bar: mean and its 95 % t interval"
    parts.append(_text((left + right) / 2, bottom + 53, caption, "soft small", "middle"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="img">'
        f"<title>{escape(metric)} of each variant</title><desc>{escape(headline(rows))}</desc>"
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) from below `low` to above `high`, few enough to read."""
    size = max(abs(low), abs(high), 1.0)
    span = high - low if high - low > 1e-6 * size else size / 10  # equal values still need an axis
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most - 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]


def _shorten(text: str, most: int = 34) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"


def _line(x0: float, y0: float, x1: float, y1: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x0:.1f}" y1="{y0}" x2="{x1:.1f}" y2="{y1}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
