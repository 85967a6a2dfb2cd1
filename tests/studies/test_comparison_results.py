from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from geodistill.display import plain
from geodistill.errors import GeodistillError
from geodistill.runs.run_results import TeacherResult
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.table import ComparedRun
from geodistill.studies.table_text import ComparisonTable, headline
from geodistill.tasks.metrics import Constant


@pytest.fixture
def results(runs: list[ComparedRun], teacher: TeacherResult, tmp_path: Path) -> ComparisonResults:
    constant = Constant("'b'", {"accuracy": 0.25, "macro_f1": 0.1}, examples=900)
    return ComparisonResults(tmp_path, "KD", ["accuracy", "macro_f1"], constant, {}, teacher, runs)


def test_they_print_as_the_table_of_each_metric(results: ComparisonResults) -> None:
    shown = str(results)
    assert shown.startswith(plain(ComparisonTable(results.rows())))
    assert "80.05 ± 0.98" in shown and "always 'b'" in shown and "teacher" in shown
    assert shown.splitlines()[-1] == f"Report: {results.report}"


def test_they_show_as_html_in_a_notebook(results: ComparisonResults) -> None:
    evil = replace(results, runs=[replace(run, variant=run.variant.replace("KD +", "<b>&")) for run in results.runs])
    shown = evil._repr_html_()
    assert shown.count("<table>") == 4 and "<b>" not in shown and "&lt;b&gt;&amp; Procrustes" in shown
    assert "90.05 ± 0.98" in shown and headline(results.rows()).split(":")[0][-12:] in shown


def test_they_are_what_the_file_holds(results: ComparisonResults) -> None:
    held = json.loads(json.dumps(results.to_dict()))
    assert list(held) == ["baseline", "metrics", "constant", "read", "teacher", "runs"]
    assert [ComparedRun(**run) for run in held["runs"]] == results.runs
    assert TeacherResult(**held["teacher"]) == results.teacher


def test_rows_are_of_the_metric_that_is_asked_for(results: ComparisonResults) -> None:
    assert [row.metric for row in results.rows("macro_f1")] == ["macro_f1"] * 5
    assert {row.role for row in results.rows()} == {"teacher", "constant", "baseline", "candidate"}
    with pytest.raises(GeodistillError, match="Did you mean 'macro_f1'"):
        results.rows("macro_f")


def test_two_seeds_are_too_few_for_a_test(results: ComparisonResults) -> None:
    few = replace(results, runs=[run for run in results.runs if run.seed < 3])
    assert "No test was made: fewer than 3 seeds." in str(few)
