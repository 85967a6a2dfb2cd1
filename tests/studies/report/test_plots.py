from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from geodistill.runs.run_results import TeacherResult
from geodistill.studies.report.plots import curve_plots, geometry_plot, scatter_plots, score_plot
from geodistill.studies.report.scores import GREY, score_picture, styles
from geodistill.studies.statistics import mean_interval
from geodistill.studies.table import ComparedRun, Row, build_table


@pytest.fixture
def rows(runs: list[ComparedRun], teacher: TeacherResult) -> list[Row]:
    return build_table(runs, baseline="KD", main_metric="accuracy", teacher=teacher)


def check(figure: dict[str, Any]) -> None:
    """Plotly itself says whether every property is known, and JSON whether every number is one."""
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)


def test_score_plot_shows_seeds_mean_and_interval(rows: list[Row], runs: list[ComparedRun]) -> None:
    figure = score_plot(score_picture(rows, runs))
    check(figure)
    seeds, mean = figure["data"][-2:]
    ours = [100 * x for x in (0.901, 0.910, 0.8905)]
    assert seeds["x"] == pytest.approx(ours) and mean["x"] == pytest.approx([sum(ours) / 3])
    low, high = mean_interval(ours) or (0.0, 0.0)
    assert mean["error_x"]["array"] == pytest.approx([(high - low) / 2])
    assert figure["layout"]["shapes"][0]["x0"] == pytest.approx(95.5)
    assert figure["layout"]["annotations"][0]["text"] == "teacher 95.50"
    assert figure["layout"]["yaxis"]["ticktext"] == ["labels only", "KD", "KD + Procrustes"]


def test_the_teachers_name_stands_where_there_is_room(rows: list[Row], runs: list[ComparedRun]) -> None:
    weak = [replace(rows[0], score=replace(rows[0].score, mean=0.2)), *rows[1:]]
    assert score_plot(score_picture(rows, runs))["layout"]["annotations"][0]["xanchor"] == "right"
    assert score_plot(score_picture(weak, runs))["layout"]["annotations"][0]["xanchor"] == "left"


def test_score_plot_of_one_seed_has_no_interval(make_run: Any) -> None:
    runs = [make_run("KD", 1, 0.8)]
    figure = score_plot(score_picture(build_table(runs, baseline="KD", main_metric="accuracy"), runs))
    check(figure)
    assert not any("error_x" in trace for trace in figure["data"])


def test_a_diverged_run_leaves_the_plots_whole(make_run: Any) -> None:
    runs = [make_run("KD", 1, float("nan"), distance=float("nan")), make_run("KD", 2, 0.8)]
    rows = build_table(runs, baseline="KD", main_metric="accuracy")
    for figure in (score_plot(score_picture(rows, runs)), geometry_plot(rows), *scatter_plots(rows, runs).values()):
        assert figure is not None
        check(figure)


def test_geometry_plot_runs_from_chance_to_the_floor(rows: list[Row]) -> None:
    figure = geometry_plot(rows)
    assert figure is not None
    check(figure)
    by_name = {trace["name"]: trace for trace in figure["data"]}
    assert list(by_name) == ["D_P²", "D_FG²", "CKA"]
    assert by_name["D_P²"]["x"] == pytest.approx([20.0, 100 * 0.5 / 1.5, 80.0])
    assert "0.5000 (floor 0.2000, chance 1.7000)" in by_name["D_P²"]["hovertext"][2]


def test_without_geometry_there_is_no_such_plot(make_run: Any) -> None:
    runs = [make_run("KD", seed, 0.8, geometry=[]) for seed in (1, 2)]
    rows = build_table(runs, baseline="KD", main_metric="accuracy")
    assert geometry_plot(rows) is None and scatter_plots(rows, runs) == {}


def test_scatter_plots_have_a_point_for_each_run(rows: list[Row], runs: list[ComparedRun]) -> None:
    figures = scatter_plots(rows, runs)
    assert list(figures) == ["D_P²", "D_FG²", "CKA"]
    for figure in figures.values():
        check(figure)
        assert [len(trace["x"]) for trace in figure["data"]] == [3, 3, 3]
    last = figures["D_P²"]["data"][-1]
    assert last["x"] == [0.5] * 3 and last["y"] == pytest.approx([90.1, 91.0, 89.05])
    assert last["hovertext"][1] == "KD + Procrustes, seed 2"


def test_curves_are_drawn_by_term_with_chance_in_the_plot_of_its_term() -> None:
    curve = [
        {"step": 20, "loss": 2.0, "procrustes": 0.9, "chance/procrustes": 1.7, "starved_terms": 0.0, "epoch": 0.1},
        {"step": 40, "loss": 1.0, "procrustes": 0.7, "chance/procrustes": 1.6, "starved_terms": 0.0, "epoch": 0.2},
        {"step": 40, "train_runtime": 12.0, "train_steps_per_second": 3.0, "note": "text", "flag": True},
    ]
    figures = curve_plots({"a": curve, "b": curve[:1]}, styles(["a"]))
    assert list(figures) == ["loss", "procrustes"]
    for figure in figures.values():
        check(figure)
    a, b = figures["loss"]["data"]
    assert (a["x"], a["y"], a["mode"]) == ([20, 40], [2.0, 1.0], "lines")
    assert (b["x"], b["mode"], b["line"]["color"]) == ([20], "markers", GREY)
    assert [trace["line"]["dash"] for trace in figures["procrustes"]["data"]] == ["solid", "dot", "solid", "dot"]


def test_stages_whose_steps_start_over_get_plots_of_their_own() -> None:
    curve = [{"stage": stage, "step": step, "loss": 1.0} for stage in ("features", "task") for step in (20, 40)]
    figures = curve_plots({"run": curve}, {})
    assert list(figures) == ["features: loss", "task: loss"]
    assert all(figure["data"][0]["x"] == [20, 40] for figure in figures.values())


def test_gaps_in_a_curve_stay_gaps() -> None:
    curve = [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}, {"step": 3}]
    figure = curve_plots({"run": curve}, {})["loss"]
    check(figure)
    assert (figure["data"][0]["x"], figure["data"][0]["y"]) == ([1, 2], [None, 1.0])
    assert curve_plots({"run": []}, {}) == {}


def test_names_reach_plotly_as_text(make_run: Any) -> None:
    evil = '<a href="javascript:alert(1)">x</a>'
    runs = [make_run(evil, seed, 0.8 + seed / 100) for seed in (1, 2)]
    rows = build_table(runs, baseline=evil, main_metric="accuracy")
    drawn = [score_plot(score_picture(rows, runs)), geometry_plot(rows), *scatter_plots(rows, runs).values()]
    drawn += curve_plots({evil: [{"step": 1, evil: 1.0}]}, {}).values()
    text = json.dumps(drawn)
    assert "<a" not in text.replace("<br>", "") and "&lt;a" in text
