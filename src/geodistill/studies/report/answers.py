"""What models answered on the test split: whom they confuse, where they differ, and samples side by side.

Answers are lines of test_predictions.jsonl: `prediction` and `reference` of classes, labels or values, or `prompt`,
`responses` and `references` of instructions. Lines of other tasks have neither, and give no section.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geodistill.display import Table
from geodistill.files import read_lines
from geodistill.runs.folder import TEST_PREDICTIONS
from geodistill.studies.report.page import Block, Notes, Sample, Section, SmallPlots, Tables, small_plots
from geodistill.studies.report.plots import Figure, base_layout, clean, heat_map, markers, safe
from geodistill.studies.report.scores import GREY, Style, styles

Lines = Sequence[Mapping[str, Any]]
Answers = Mapping[str, Sequence[Lines]]
Picture = Callable[[Mapping[str, Any]], str]

MOST_EXAMPLES, MOST_SAMPLES, MOST_POINTS, MOST_WRITTEN = 20, 6, 1000, 12
TALLEST = 560  # pixels of a confusion matrix
LONGEST = 400


def no_picture(line: Mapping[str, Any]) -> str:
    """Stand for images that are not shown."""
    return ""


def read_answers(folder: Path) -> Lines:
    """Read what the student of a run answered when it was scored."""
    return read_lines(folder / TEST_PREDICTIONS)


def read_teachers_answers(folder: Path) -> Lines:
    """Read what the teacher of a run, or of a comparison, answered; runs of a comparison share its teacher."""
    places = (place / "teacher" / TEST_PREDICTIONS for place in (folder, folder.parent.parent))
    return next((lines for place in places if (lines := read_lines(place))), [])


def confusion(answers: Answers, shown: Sequence[str]) -> Section | None:
    """Return what models take for what: a confusion matrix each of classes, a scatter plot of values.

    Args:
        answers: model → for each seed its lines.
        shown: the models that are drawn.
    """
    known = {name: [line for lines in answers[name] for line in lines] for name in shown if answers.get(name)}
    known = {name: lines for name, lines in known.items() if lines}
    every = [line for lines in known.values() for line in lines]
    if _all_of(every, str):
        figures = {name: confusion_plot(lines) for name, lines in known.items()}
        notes = ["Rows: what is right. Columns: what was predicted, counted over all seeds. Colours: shares of a row."]
        return Section("Confusion", [SmallPlots(small_plots(figures, "confusion", "Confusion matrix")), Notes(notes)])
    if _all_of(every, (int, float)):
        drawn = styles(shown)
        figures = {name: value_plot(lines, drawn[name]) for name, lines in known.items()}
        notes = ["Each point is an example, of all seeds; the line is where both are the same."]
        title = "Predictions and references"
        return Section(title, [SmallPlots(small_plots(figures, "values", title)), Notes(notes)])
    return None


def confusion_plot(lines: Lines) -> Figure:
    """The confusion matrix of classes: counts, coloured by the share of the row."""
    labels = sorted({line[key] for line in lines for key in ("reference", "prediction")})
    place = {label: index for index, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for line in lines:
        counts[place[line["reference"]], place[line["prediction"]]] += 1
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    figure = heat_map(shares.round(4), labels, labels, "right", "predicted", {}, dark_is_low=True)
    figure["data"][0] |= {
        "colorscale": SHADES,
        "reversescale": False,
        "zmin": 0,
        "zmax": 1,
        "customdata": counts.tolist(),
        "hovertemplate": "right %{y}<br>predicted %{x}<br>%{customdata} of the row, %{z:.1%}<extra></extra>",
        # Of many labels the colours alone are read.
        "text": [[str(count or "") for count in row] for row in counts] if len(labels) <= MOST_WRITTEN else None,
        "texttemplate": "%{text}" if len(labels) <= MOST_WRITTEN else None,
        "showscale": len(labels) > MOST_WRITTEN,
    }
    figure["layout"]["height"] = min(figure["layout"]["height"], TALLEST)
    return figure


SHADES = [[0, "rgba(47,125,225,0.04)"], [0.5, "rgba(47,125,225,0.5)"], [1, "rgba(47,125,225,0.95)"]]


def value_plot(lines: Lines, style: Style) -> Figure:
    """Predicted values against their references."""
    step = max(1, len(lines) // MOST_POINTS)
    drawn = lines[::step]
    x, y = [line["reference"] for line in drawn], [line["prediction"] for line in drawn]
    texts = [
        f"{safe(shortened(text_of(line)))}<br>predicted {line['prediction']:.4g}, right {line['reference']:.4g}"
        for line in drawn
    ]
    ends = [min(x), max(x)]
    equal = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "line": {"color": GREY, "dash": "dash", "width": 1},
    }
    points = markers(x, y, texts, style, size=6)
    points["marker"]["opacity"] = 0.6
    data = [{**equal, "hoverinfo": "skip", "showlegend": False}, points]
    return {"data": clean(data), "layout": base_layout("right", "predicted", height=320)}


def disagreement(answers: Answers, teacher: str, picture: Picture = no_picture) -> Section | None:
    """Return the examples that the seeds of one student get right more often than another student's do.

    Args:
        answers: model → for each seed its lines, the teacher's among them.
        teacher: the name of the teacher.
        picture: the image of a line, as a data URI.
    """
    found = {
        name: [{key_of(line): line for line in lines} for lines in seeds if lines] for name, seeds in answers.items()
    }
    found = {name: seeds for name, seeds in found.items() if seeds}
    students = [name for name in found if name != teacher]
    if not students or not _all_of([line for seed in found[students[0]] for line in seed.values()], (str, list)):
        return None
    right: dict[Any, list[float]] = {}
    for key in found[students[0]][0]:
        if all(key in seed for name in students for seed in found[name]):
            right[key] = [sum(map(_right, (seed[key] for seed in found[name]))) / len(found[name]) for name in students]
    differing = [key for key, shares in right.items() if max(shares) > min(shares)]
    differing.sort(key=lambda key: min(right[key]) - max(right[key]))  # keeps the order of the split among equals
    if len(students) < 2 or not differing:
        return None
    columns = [*([teacher] if teacher in found else []), *students]
    lines = [found[students[0]][0][key] for key in differing[:MOST_EXAMPLES]]
    rows = []
    for line in lines:
        cells = [_verdict([seed[key_of(line)] for seed in found[name] if key_of(line) in seed]) for name in columns]
        rows.append([shortened(text_of(line)), _said(line["reference"]), *cells])
    heads, pictures = ["example", "right", *columns], [picture(line) for line in lines]
    table = Table(heads, rows, "Examples where students disagree", prose=True, pictures=pictures)
    told = f"{len(differing):,} of {len(right):,} test examples are right more often for one student than for another."
    which = "These differ most" if len(differing) > MOST_EXAMPLES else "All are here"
    note = f"{told} {which}. ✓ right, ✗ wrong; a number says in how many seeds an answer was given, if they differ."
    return Section("Where students disagree", [Tables([table]), Notes([note])])


def against_teacher(student: Lines, teacher: Lines, picture: Picture = no_picture) -> Section | None:
    """Return the examples on which a student and its teacher differ; `picture` is as for `disagreement`."""
    theirs = {key_of(line): line for line in teacher}
    pairs = [(line, theirs[key_of(line)]) for line in student if key_of(line) in theirs]
    if not pairs or not _all_of([line for pair in pairs for line in pair], (str, list)):
        return None
    differing = [pair for pair in pairs if pair[0]["prediction"] != pair[1]["prediction"]]
    if not differing:
        return None
    differing.sort(key=lambda pair: -pair[0].get("probability", 0.0))
    rows = [
        [shortened(text_of(own)), _said(own["reference"]), _verdict([other]), _verdict([own]), _percent(own)]
        for own, other in differing[:MOST_EXAMPLES]
    ]
    heads = ["example", "right", "teacher", "student", "student's probability"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    won, lost = (sum(_right(pair[a]) > _right(pair[1 - a]) for pair in differing) for a in (0, 1))
    note = (
        f"Student and teacher answer {len(differing):,} of {len(pairs):,} test examples differently: the student alone "
        f"is right in {won:,}, the teacher alone in {lost:,}."
    )
    if len(differing) > MOST_EXAMPLES:
        note += f" The {MOST_EXAMPLES} with the student's highest probabilities are shown."
    pictures = [picture(own) for own, _ in differing[:MOST_EXAMPLES]]
    table = Table(heads, rows, "Examples where student and teacher differ", prose=True, pictures=pictures)
    return Section("Where student and teacher differ", [Tables([table]), Notes([note])])


def samples(answers: Answers) -> Section | None:
    """Return responses to the same prompts side by side, evenly spread over the prompts; of the first seeds."""
    found = {name: seeds[0] for name, seeds in answers.items() if seeds and seeds[0] and "responses" in seeds[0][0]}
    if not found:
        return None
    by_key = {name: {key_of(line): line for line in lines} for name, lines in found.items()}
    first = next(iter(found.values()))
    asked = [line for line in first if all(key_of(line) in lines for lines in by_key.values())]
    count = min(MOST_SAMPLES, len(asked))
    blocks: list[Block] = []
    for line in (asked[place * len(asked) // count] for place in range(count)):
        said = [("reference", shortened(line["references"][0]))]
        said += [
            (name, shortened(lines[key_of(line)]["responses"][0]) or "(nothing)") for name, lines in by_key.items()
        ]
        blocks.append(Sample(shortened(line["prompt"]), said))
    note = f"{count} of {len(asked):,} prompts, evenly spread; each response is the first of the first seed."
    return Section("Samples", [*blocks, Notes([note])]) if blocks else None


def _all_of(lines: Lines, kind: Any) -> bool:
    return bool(lines) and all(isinstance(line.get(key), kind) for line in lines for key in ("reference", "prediction"))


def key_of(line: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what lines of the same example share."""
    return line.get("split"), line.get("row")


def _right(line: Mapping[str, Any]) -> bool:
    return bool(line["prediction"] == line["reference"])


def _verdict(lines: Lines) -> str:
    """The most frequent answer of some seeds, and in how many it was given if they differ."""
    if not lines:
        return ""
    (said, times), *_ = Counter((_said(line["prediction"]), _right(line)) for line in lines).most_common(1)
    text = f"{'✓' if said[1] else '✗'} {said[0]}"
    return text if times == len(lines) else f"{text} {times}/{len(lines)}"


def _said(answer: Any) -> str:
    return (", ".join(answer) or "none") if isinstance(answer, list) else str(answer)


def _percent(line: Mapping[str, Any]) -> str:
    return f"{100 * line['probability']:.1f} %" if "probability" in line else ""


def text_of(line: Mapping[str, Any]) -> str:
    """Return what was read: the texts, the file of the image, or else the number of the row."""
    texts = [str(line[key]) for key in ("text", "text_pair", "image") if key in line]
    return " ‖ ".join(texts) or f"row {line.get('row')}"


def shortened(text: str) -> str:
    """Return a text that is cut if it is long."""
    text = text.strip()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1].rstrip()}…"
