"""What students that answer with vectors did on the test split: wrong nearest neighbours, and behaviour over time.

Answers are lines of test_predictions.jsonl, as the tasks `embeddings` and `neural` write them. Lines of other tasks
give no section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from geodistill.studies.report.answers import MOST_SAMPLES, Answers, key_of, shortened, text_of
from geodistill.studies.report.page import Notes, Sample, Section, SmallPlots, small_plots
from geodistill.studies.report.plots import Figure, safe, with_legend
from geodistill.studies.report.scores import GREY, Style


def wrong_neighbours(answers: Answers) -> Section | None:
    """Return examples whose nearest teacher row is not their own: what was read, what is right, and what each student
    retrieved; of the first seeds.

    Those on which students disagree are shown, or if there are none those that all get wrong.
    """
    found = {
        name: {key_of(line): line for line in seeds[0] if "rank" in line} for name, seeds in answers.items() if seeds
    }
    found = {name: lines for name, lines in found.items() if lines}
    if not found:
        return None
    first, *others = found.values()
    ranks = {key: [lines[key]["rank"] for lines in found.values()] for key in first if all(key in o for o in others)}
    wrong = [key for key, own in ranks.items() if max(own) > 1]
    differing = [key for key in wrong if min(ranks[key]) == 1]
    chosen = differing or wrong
    if not chosen:
        return None
    count = min(MOST_SAMPLES, len(chosen))
    blocks = []
    for key in (chosen[place * len(chosen) // count] for place in range(count)):
        line = first[key]
        right = ("right", shortened(line.get("paired") or text_of(line)))
        said = [(name, _neighbour(lines[key])) for name, lines in found.items()]
        blocks.append(Sample(shortened(text_of(line)), [right, *said]))
    told = f"{len(wrong):,} of {len(ranks):,} test examples have a wrong nearest neighbour"
    told += f" under some student; students disagree on {len(differing):,}." if others else "."
    note = (
        f"{told} {count} of these are shown, evenly spread, of the first seed. After ✗ stands the rank of the right "
        "row among all rows, and the row that is nearest."
    )
    return Section("Wrong nearest neighbours", [*blocks, Notes([note])])


def decoded_behaviour(answers: Answers, drawn: Mapping[str, Style]) -> Section | None:
    """Return behaviour over one held-out block of time, true and as it is decoded from each model; of the first seeds.

    Args:
        answers: model → for each seed its lines.
        drawn: model → style.
    """
    figures: dict[str, Figure] = {}
    for name, seeds in answers.items():
        for line in seeds[0] if seeds else ():
            if "stretch" not in line:
                continue
            stretch, behaviour = line["stretch"], str(line["behaviour"])
            title = f"{behaviour}, session {line['session']}"
            if title not in figures:
                true = _curve(stretch["seconds"], stretch["true"], "true", GREY, width=3)
                figures[title] = {"data": [true], "layout": with_legend("seconds", safe(behaviour))}
            label = f"{name}, R² {line['r2']:.2f}"
            colour = drawn[name].colour if name in drawn else GREY
            dash = "dot" if colour == GREY else "solid"
            figures[title]["data"].append(_curve(stretch["seconds"], stretch["decoded"], label, colour, dash=dash))
    if not figures:
        return None
    note = (
        "One held-out block of time, of the first seed: the longest of the first session. The decoder was fitted on "
        "other blocks. R² is over all held-out blocks of the session."
    )
    return Section("Behaviour over time", [SmallPlots(small_plots(figures, "stretch", "Behaviour")), Notes([note])])


def _neighbour(line: Mapping[str, Any]) -> str:
    return "✓" if line["rank"] == 1 else f"✗ {line['rank']:,}: {shortened(str(line['retrieved']))}"


def _curve(
    x: list[float], y: list[float | None], name: str, colour: str, *, width: float = 1.8, dash: str = "solid"
) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": width, "dash": dash},
        "opacity": 0.6 if width > 2 else 1,
        "name": safe(name),
        "hovertemplate": "%{y:.4g} at %{x:.2f} s<extra>%{fullData.name}</extra>",
    }
