from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from geodistill.runs.run_results import TeacherResult
from geodistill.studies.report.score_plots import cost_plots, depth_plots, geometry_plot, scatter_plots, score_plot
from geodistill.studies.report.scores import score_picture, styles
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


def test_cost_plots_set_scores_beside_the_teachers(rows: list[Row]) -> None:
    figures = cost_plots(rows)
    assert list(figures) == ["Parameters", "Latency of one example"]
    for figure in figures.values():
        check(figure)
    teacher, *students = figures["Parameters"]["data"]
    assert teacher["marker"]["symbol"] == "star" and teacher["x"] == [22_713_216]
    assert [trace["x"] for trace in students] == [[4_386_178]] * 3
    assert students[-1]["error_y"]["array"] == pytest.approx([100 * rows[-1].score.deviation])  # type: ignore[operator]
    assert figures["Parameters"]["layout"]["shapes"][0]["y0"] == pytest.approx(95.5)
    axis = figures["Parameters"]["layout"]["xaxis"]
    assert dict(zip(axis["ticktext"], axis["tickvals"], strict=True))["5 M"] == 5e6


def test_what_costs_the_same_is_not_drawn_against_its_cost(make_run: Any) -> None:
    runs = [make_run("KD", 1, 0.8), make_run("KD", 2, 0.8)]
    assert cost_plots(build_table(runs, baseline="KD", main_metric="accuracy")) == {}


def test_depth_plots_have_each_layer_pair_with_floor_and_chance(runs: list[ComparedRun]) -> None:
    measured = {"KD": [run.geometry for run in runs[3:6]], "other": [runs[8].geometry], "nothing": [[]]}
    figures = depth_plots(measured, styles(["KD", "other"]))
    assert list(figures) == ["D_P²", "D_FG²", "CKA"]
    for figure in figures.values():
        check(figure)
    kd, other, floor, chance = figures["D_P²"]["data"]
    assert kd["x"] == ["1 ↔ 3", "2 ↔ 6"] and kd["y"] == pytest.approx([1.6, 1.2]) and other["y"][-1] == 0.5
    assert floor["y"] == pytest.approx([0.2] * 4) and chance["y"] == pytest.approx([1.7] * 4)
    assert depth_plots({"KD": [[]]}, {}) == {}


def test_names_reach_plotly_as_text(make_run: Any) -> None:
    evil = '<a href="javascript:alert(1)">x</a>'
    runs = [make_run(evil, seed, 0.8 + seed / 100) for seed in (1, 2)]
    rows = build_table(runs, baseline=evil, main_metric="accuracy")
    drawn = [score_plot(score_picture(rows, runs)), geometry_plot(rows), *scatter_plots(rows, runs).values()]
    drawn += [*cost_plots(rows).values(), *depth_plots({evil: [run.geometry for run in runs]}, {}).values()]
    text = json.dumps(drawn)
    assert "<a" not in text.replace("<br>", "") and "&lt;a" in text
