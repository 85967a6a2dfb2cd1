"""Training curves: a plot for each term that was logged, and in it a line for each row with a band over its seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from geodistill.studies.report.plots import Figure, base_layout, clean, safe
from geodistill.studies.report.scores import GREY, SYMBOLS, Style

Curve = Sequence[Mapping[str, Any]]

NOT_A_TERM = ("step", "done", "epoch", "total_flos")
TECHNICAL = ("grad_norm", "learning_rate", "num_input_tokens_seen", "train_loss", "starved_terms", "skipped_steps")
CHANCE = "chance/"


def curve_plots(curves: Mapping[str, Sequence[Curve]], drawn: Mapping[str, Style]) -> dict[str, Figure]:
    """One plot for each logged term (and stage).

    For each row it has the mean over its seeds, and a band from the lowest seed to the highest. A `chance/…` term is
    dotted, in the plot of its term.

    A mean is over the steps that all seeds logged; seeds that logged no step in common are drawn one by one.

    Args:
        curves: row → for each seed its log entries, with `step` and, if a run has stages, `stage`.
        drawn: row → style; grey for a row that it lacks.
    """
    stages = list(dict.fromkeys(entry.get("stage") for runs in curves.values() for run in runs for entry in run))
    figures: dict[str, Figure] = {}
    for name, runs in curves.items():
        colour = drawn.get(name, Style(GREY, *SYMBOLS[0])).colour
        for stage in stages:
            own = [[entry for entry in run if entry.get("stage") == stage] for run in runs]
            for term in _terms(entry for run in own for entry in run):
                plain = term.removeprefix(CHANCE)
                title = plain if len(stages) == 1 else f"{stage or 'run'}: {plain}"
                seeds = [found for run in own if (found := _series(run, term))]
                empty: Figure = {"data": [], "layout": base_layout("step", "", height=260)}
                label = f"{safe(name)}: {safe(term)}"
                traces = _traces(seeds, label, colour, "dot" if term != plain else "solid")
                figures.setdefault(title, empty)["data"] += clean(traces)
    return figures


def is_technical(title: str) -> bool:
    """Tell whether a plot is of the training itself rather than of what is learned."""
    return title.rpartition(": ")[2] in TECHNICAL


def _series(run: Curve, term: str) -> dict[float, float]:
    """Step → value; what is not a number is NaN."""
    found = {entry.get("step", place): entry[term] for place, entry in enumerate(run) if term in entry}
    return {step: math.nan if value is None else value for step, value in found.items()}


def _traces(seeds: Sequence[Mapping[float, float]], label: str, colour: str, dash: str) -> list[Figure]:
    shared = [step for step in seeds[0] if all(step in other for other in seeds)]
    if len(seeds) == 1 or not shared:
        return [_line(list(seed), list(seed.values()), label, colour, dash) for seed in seeds]
    found = [[seed[step] for seed in seeds] for step in shared]
    mean = _line(shared, [sum(values) / len(values) for values in found], label, colour, dash)
    texts = [f"{min(values):.4g} to {max(values):.4g} over {len(values)} seeds" for values in found]
    mean |= {"text": texts, "hovertemplate": "%{y:.4g} at step %{x}, %{text}<extra>%{fullData.name}</extra>"}
    whole = [(step, values) for step, values in zip(shared, found, strict=True) if all(map(math.isfinite, values))]
    there_and_back = [
        *((step, max(values)) for step, values in whole),
        *((step, min(values)) for step, values in whole[::-1]),
    ]
    band = {
        "type": "scatter",
        "mode": "lines",
        "x": [step for step, _ in there_and_back],
        "y": [value for _, value in there_and_back],
        "fill": "toself",
        "fillcolor": f"{colour}2e",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return [band, mean]


def _line(x: list[float], y: list[float], label: str, colour: str, dash: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 1.6, "dash": dash},
        "marker": {"color": colour},
        "name": label,
        "hovertemplate": "%{y:.4g} at step %{x}<extra>%{fullData.name}</extra>",
        "showlegend": False,
    }


def _terms(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The logged numbers worth a plot: not the clock, and not what stayed zero throughout."""
    values: dict[str, list[float]] = {}
    for entry in entries:
        for name, value in entry.items():
            clock = name in NOT_A_TERM or name.endswith(("runtime", "_per_second"))
            if not clock and isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append(value)
    return [name for name, series in values.items() if any(series)]
