"""The score of each variant as a picture. What the picture shows is computed once, in `score_picture`; `plots` draws it
for the script of a page, and this file as a static SVG for a README: no script, no font, follows light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geodistill.display import one_line, render
from geodistill.files import write_text
from geodistill.studies.statistics import mean_interval
from geodistill.studies.table import ComparedRun, Row, point_names
from geodistill.studies.table_text import headline, score

GREY = "#808894"
COLOURS = ("#2f7de1", "#d9541e", "#1a9873", "#b757b0", "#a87900", "#7a72d8", "#c8456a", "#4a90a0")
SYMBOLS = (("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("triangle-down", "▼"), ("x", "✖"))
SVG = "studies/report/templates/scores.svg.jinja"
WIDTH, LINE, TOP, BOTTOM, VALUES = 860, 36, 44, 62, 120
LETTER = 7.4
LONGEST = 34


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


@dataclass(frozen=True)
class ScoreLine:
    """What is drawn of one row: its seeds, their mean and the 95 % t interval of the mean, as the table scales them.

    mean: None if a score is not finite
    interval: None for fewer than two finite scores
    text: the mean and the deviation as the table shows them
    """

    name: str
    style: Style
    seeds: dict[int, float]
    mean: float | None
    interval: tuple[float, float] | None
    text: str


@dataclass(frozen=True)
class Reference:
    """A vertical line: the teacher's score. `side` says where its name has room, `left` or `right` of the line."""

    name: str
    value: float
    text: str
    side: str


@dataclass(frozen=True)
class ScorePicture:
    """The picture: a line for each row from the top to the bottom, and an axis that ends at its first and last tick."""

    metric: str
    axis: str
    headline: str
    lines: list[ScoreLine]
    references: list[Reference]
    ticks: list[float]


def score_picture(rows: Sequence[Row], runs: Sequence[ComparedRun]) -> ScorePicture:
    """Compute what the picture of the scores shows."""
    students = [row for row in rows if row.is_student]
    drawn, found = styles([row.name for row in students]), scores_of(students, runs)
    lines = []
    for row in students:
        seeds = {seed: row.scale * value for seed, value in found[row.name].items()}
        known = math.isfinite(row.score.mean)
        mean, interval = (row.scale * row.score.mean, mean_interval(list(seeds.values()))) if known else (None, None)
        lines.append(ScoreLine(one_line(row.name), drawn[row.name], seeds, mean, interval, score(row)))
    teachers = [row for row in rows if row.role == "teacher" and math.isfinite(row.score.mean)]
    reach = [value for line in lines for value in (*line.seeds.values(), *(line.interval or ()))]
    reach += [row.scale * row.score.mean for row in teachers]
    ticks = nice_ticks(min(reach, default=0.0), max(reach, default=1.0))
    middle = (ticks[0] + ticks[-1]) / 2
    references = [
        Reference(one_line(row.name), value, score(row), "left" if value > middle else "right")
        for row in teachers
        for value in [row.scale * row.score.mean]
    ]
    metric, axis = (one_line(rows[0].metric), one_line(rows[0].shown_as)) if rows else ("", "")
    return ScorePicture(metric, axis, headline(rows), lines, references, ticks)


def scores_of(rows: Sequence[Row], runs: Sequence[ComparedRun]) -> dict[str, dict[int, float]]:
    """Row name → seed → score, finite ones only."""
    scores: dict[str, dict[int, float]] = {row.name: {} for row in rows}
    metrics = {row.name: row.metric for row in rows}
    for name, run in zip(point_names(runs), runs, strict=True):
        if name in metrics and math.isfinite(run.metrics[metrics[name]]):
            scores[name][run.seed] = run.metrics[metrics[name]]
    return scores


def write_score_svg(picture: ScorePicture, path: Path | str) -> None:
    """Write the picture: seeds as circles, mean and 95 % t interval of the mean, the teacher as a line."""
    write_text(Path(path), score_svg(picture))


def score_svg(picture: ScorePicture) -> str:
    """Draw the picture as SVG."""
    names = {line.name: _shorten(line.name) for line in picture.lines}
    names |= {reference.name: _shorten(reference.name) for reference in picture.references}
    left = 24 + LETTER * max((len(names[line.name]) for line in picture.lines), default=0)
    right = WIDTH - VALUES
    first, last = picture.ticks[0], picture.ticks[-1]

    def place(value: float) -> float:
        return left + (value - first) / (last - first) * (right - left)

    return render(
        SVG,
        picture=picture,
        names=names,
        place=place,
        number=lambda tick: f"{tick:g}".replace("-", "−"),
        width=WIDTH,
        top=TOP,
        line_height=LINE,
        bottom=TOP + LINE * len(picture.lines),
        below=BOTTOM,
        left=left,
        right=right,
    )


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) from below `low` to above `high`, few enough to read."""
    size = max(abs(low), abs(high), 1.0)
    span = high - low if high - low > 1e-6 * size else size / 10  # equal values still need an axis
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most - 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2 - 1]}…{text[-LONGEST // 2 :]}"
