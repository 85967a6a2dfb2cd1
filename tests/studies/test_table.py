from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.runs.run_results import TeacherResult
from geodistill.studies.statistics import compare_paired, holm
from geodistill.studies.table import ComparedRun, build_table, reached, run_names


def table(runs: list[ComparedRun], teacher: TeacherResult | None = None, baseline: str = "KD") -> dict[str, Any]:
    rows = build_table(runs, baseline=baseline, main_metric="accuracy", teacher=teacher)
    return {row.name: row for row in rows}


def test_rows_are_means_over_seeds_tested_against_the_baseline(runs: list[ComparedRun], teacher: TeacherResult) -> None:
    rows = table(runs, teacher)
    assert list(rows) == ["teacher", "labels only", "KD", "KD + Procrustes"]
    assert [row.role for row in rows.values()] == ["teacher", "candidate", "baseline", "candidate"]
    ours = rows["KD + Procrustes"]
    assert ours.score.mean == pytest.approx((0.901 + 0.910 + 0.8905) / 3)
    assert ours.against == "KD" and ours.seeds == (1, 2, 3)
    assert ours.comparison == compare_paired([0.901, 0.910, 0.8905], [0.880, 0.890, 0.870])
    p_values = [rows[name].comparison.t_p for name in ("labels only", "KD + Procrustes")]
    assert [rows[name].holm_p for name in ("labels only", "KD + Procrustes")] == holm(p_values)
    assert (ours.parameters, ours.megabytes) == (4_386_178, 17.6)
    assert ours.latency_ms == pytest.approx(1.2) and ours.training_seconds == pytest.approx(72)


def test_the_teacher_has_a_score_and_a_cost_but_no_seeds(runs: list[ComparedRun], teacher: TeacherResult) -> None:
    row = table(runs, teacher)["teacher"]
    assert row.score.mean == 0.955 and row.score.deviation is None and row.seeds == ()
    assert row.comparison is None and row.geometry == {} and row.parameters == 22_713_216
    assert "teacher" not in table(runs)


def test_geometry_is_that_of_the_deepest_pair(runs: list[ComparedRun]) -> None:
    row = table(runs)["KD + Procrustes"]
    assert row.layers == (2, 6, "tokens")
    assert row.geometry["procrustes"].value.mean == pytest.approx(0.5)
    assert (row.geometry["procrustes"].floor, row.geometry["procrustes"].chance) == (pytest.approx(0.2), 1.7)
    assert row.geometry["procrustes"].reached == pytest.approx(1.2 / 1.5)
    assert row.geometry["cka"].reached == pytest.approx((0.75 - 0.08) / (0.98 - 0.08))


def test_reached_runs_from_chance_to_the_floor() -> None:
    assert reached(1.7, 0.2, 1.7) == 0.0 and reached(0.2, 0.2, 1.7) == pytest.approx(1.0)
    assert reached(0.08, 0.98, 0.08) == 0.0 and reached(0.98, 0.98, 0.08) == pytest.approx(1.0)
    assert reached(0.5, 0.3, 0.3) is None
    assert reached(0.5, float("nan"), 0.3) is None


def test_missing_geometry_is_left_out(make_run: Any) -> None:
    some = make_run("KD", 1, 0.8)
    del some.geometry[-1]["cka"]
    some.geometry[-1]["gram"]["floor"] = None
    row = table([some, make_run("KD", 2, 0.8, geometry=[])])["KD"]
    assert set(row.geometry) == {"procrustes", "gram"} and row.geometry["procrustes"].value.n == 1
    assert row.geometry["gram"].reached is None
    assert table([make_run("KD", 1, 0.8, geometry=[])])["KD"].layers is None


def test_only_seeds_that_both_have_are_paired(runs: list[ComparedRun], make_run: Any) -> None:
    more = [*runs, make_run("KD + Procrustes", 9, 0.1)]
    row = table(more)["KD + Procrustes"]
    assert row.score.n == 4 and row.comparison == table(runs)["KD + Procrustes"].comparison


def test_the_order_of_the_runs_does_not_change_a_pairing(runs: list[ComparedRun]) -> None:
    forward, backward = table(runs), table(runs[::-1])
    assert {name: row.comparison for name, row in forward.items()} == {n: r.comparison for n, r in backward.items()}


def test_each_sweep_point_meets_the_baseline_at_its_point_or_else_the_unswept(make_run: Any) -> None:
    def points(variant: str, accuracy: float, sweep: dict[str, Any]) -> list[ComparedRun]:
        return [make_run(variant, seed, accuracy + seed / 100, sweep=sweep) for seed in (1, 2, 3)]

    weight, rate = "objective.features.0.weight", "training.learning_rate"
    swept = [*points("P", 0.6, {weight: 1, rate: 1e-3}), *points("P", 0.7, {weight: 5, rate: 1e-4})]
    rows = table([*points("KD", 0.5, {}), *swept])
    assert rows["P, weight=1, learning_rate=0.001"].against == "KD"
    rows = table([*points("KD", 0.5, {rate: 1e-3}), *points("KD", 0.4, {rate: 1e-4}), *swept])
    assert rows["P, weight=1, learning_rate=0.001"].comparison.mean_difference == pytest.approx(0.1)
    assert rows["P, weight=5, learning_rate=0.0001"].comparison.mean_difference == pytest.approx(0.3)
    rows = table([*points("KD", 0.5, {rate: 1e-3}), *swept])
    lonely = rows["P, weight=5, learning_rate=0.0001"]
    assert lonely.role == "candidate" and lonely.comparison is None and lonely.against is None


def test_a_swept_field_is_named_by_its_shortest_ending_that_tells_it_apart(make_run: Any) -> None:
    first, second = "objective.features.0.weight", "objective.features.1.weight"
    runs = [make_run("KD", 1, 0.5, sweep={first: 1.0, second: 2.5})]
    assert run_names(runs) == ["KD, 0.weight=1, 1.weight=2.5, seed 1"]
    assert run_names([make_run("KD", 1, 0.5, sweep={first: [1, 2]})]) == ["KD, weight=[1, 2], seed 1"]


def test_two_seeds_are_compared_without_a_test(runs: list[ComparedRun]) -> None:
    row = table([run for run in runs if run.seed < 3])["KD + Procrustes"]
    assert row.comparison.t_p is None and row.holm_p is None and "fewer than 3" in row.comparison.note
    assert row.comparison.mean_difference == pytest.approx(0.0205)


def test_skipped_steps_are_added_up(make_run: Any) -> None:
    assert table([make_run("KD", seed, 0.5, skipped_steps=seed) for seed in (1, 2)])["KD"].skipped_steps == 3


def test_a_teacher_has_no_row_for_a_metric_that_it_was_not_scored_by(
    runs: list[ComparedRun], teacher: TeacherResult
) -> None:
    unscored = replace(teacher, metrics={"r2": 0.5})
    assert list(table(runs, unscored)) == ["labels only", "KD", "KD + Procrustes"]


def test_a_run_survives_json(runs: list[ComparedRun], teacher: TeacherResult) -> None:
    assert ComparedRun(**json.loads(json.dumps(asdict(runs[0])))) == runs[0]
    assert TeacherResult(**json.loads(json.dumps(asdict(teacher)))) == teacher


def test_mistakes_are_named(runs: list[ComparedRun], teacher: TeacherResult) -> None:
    with pytest.raises(GeodistillError, match="no runs"):
        table([])
    with pytest.raises(GeodistillError, match="Did you mean 'KD'"):
        table(runs, baseline="KDD")
    with pytest.raises(GeodistillError, match=r"'acuracy'.*Did you mean 'accuracy'"):
        build_table(runs, baseline="KD", main_metric="acuracy", teacher=teacher)
    with pytest.raises(GeodistillError, match="two results of 'KD, seed 2'"):
        table([*runs, runs[4]])
