from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go
import pytest

from geodistill.studies.report.curves import curve_plots, is_technical
from geodistill.studies.report.scores import GREY, styles


def check(figure: dict[str, Any]) -> None:
    """Plotly itself says whether every property is known, and JSON whether every number is one."""
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)


def test_curves_are_drawn_by_term_with_chance_in_the_plot_of_its_term() -> None:
    curve = [
        {"step": 20, "loss": 2.0, "procrustes": 0.9, "chance/procrustes": 1.7, "starved_terms": 0.0, "epoch": 0.1},
        {"step": 40, "loss": 1.0, "procrustes": 0.7, "chance/procrustes": 1.6, "starved_terms": 0.0, "epoch": 0.2},
        {"step": 40, "train_runtime": 12.0, "train_steps_per_second": 3.0, "note": "text", "flag": True},
    ]
    figures = curve_plots({"a": [curve], "b": [curve[:1]]}, styles(["a"]))
    assert list(figures) == ["loss", "procrustes"]
    for figure in figures.values():
        check(figure)
    a, b = figures["loss"]["data"]
    assert (a["x"], a["y"], a["mode"]) == ([20, 40], [2.0, 1.0], "lines")
    assert (b["x"], b["mode"], b["line"]["color"]) == ([20], "markers", GREY)
    assert [trace["line"]["dash"] for trace in figures["procrustes"]["data"]] == ["solid", "dot", "solid", "dot"]


def test_stages_whose_steps_start_over_get_plots_of_their_own() -> None:
    curve = [{"stage": stage, "step": step, "loss": 1.0} for stage in ("features", "task") for step in (20, 40)]
    figures = curve_plots({"run": [curve]}, {})
    assert list(figures) == ["features: loss", "task: loss"]
    assert all(figure["data"][0]["x"] == [20, 40] for figure in figures.values())


def test_gaps_in_a_curve_stay_gaps() -> None:
    curve = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}, {"step": 3}]
    figure = curve_plots({"run": [curve]}, {})["loss"]
    check(figure)
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([1, 2], [None, 1.0])
    assert curve_plots({"run": [[]]}, {}) == {}


def test_seeds_become_a_mean_and_a_band() -> None:
    seeds = [[{"step": step, "loss": scale / step} for step in (1, 2, 4)] for scale in (1.0, 2.0, 3.0)]
    seeds[2].pop()  # a seed that was interrupted: the mean ends where it does
    band, mean = curve_plots({"KD": seeds}, styles(["KD"]))["loss"]["data"]
    check({"data": [band, mean]})
    assert (mean["x"], mean["y"]) == ([1, 2], pytest.approx([2.0, 1.0]))
    assert (band["x"], band["y"]) == ([1, 2, 2, 1], [3.0, 1.5, 0.5, 1.0]) and band["fill"] == "toself"
    assert "1 to 3 over 3 seeds" in mean["text"][0] and band["hoverinfo"] == "skip"


def test_seeds_without_a_common_step_are_drawn_one_by_one() -> None:
    data = curve_plots({"KD": [[{"step": 1, "loss": 1.0}], [{"step": 2, "loss": 2.0}]]}, {})["loss"]["data"]
    assert [(trace["x"], trace["y"]) for trace in data] == [([1], [1.0]), ([2], [2.0])]


def test_a_seed_that_diverged_leaves_a_gap_in_the_mean() -> None:
    seeds = [
        [{"step": step, "loss": value} for step, value in enumerate(values)] for values in ((1, 1, 1), (1, None, 3))
    ]
    seeds[1][1]["loss"] = float("nan")
    band, mean = curve_plots({"KD": seeds}, {})["loss"]["data"]
    assert mean["y"] == [1, None, 2] and band["x"] == [0, 2, 2, 0]


def test_curves_of_the_training_itself_are_known() -> None:
    assert is_technical("grad_norm") and is_technical("task: learning_rate") and not is_technical("task: procrustes")


def test_names_of_curves_reach_plotly_as_text() -> None:
    text = json.dumps(curve_plots({"<a>": [[{"step": 1, "<a>": 1.0}]]}, {})["<a>"]["data"])
    assert "<a>" not in text and "&lt;a&gt;" in text
