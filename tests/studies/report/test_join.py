from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import geodistill
from geodistill import GeodistillError
from geodistill.files import write_json
from geodistill.runs.folder import RESULTS, read_json
from geodistill.runs.run_results import RunResults, TeacherResult
from geodistill.studies.report.join import TEACHERS, members_of, read_results, row_names
from geodistill.studies.table import ComparedRun

from .conftest import MakeComparison, MakeResults, Reader

MakeSeed = Callable[..., RunResults]


@pytest.fixture
def make_seed(make_results: MakeResults, tmp_path: Path) -> MakeSeed:
    """Write a run, named by its recipe and its seed."""

    def make(name: str, seed: int, accuracy: float = 0.8, **changes: Any) -> RunResults:
        recipe = {"objective": name, "training": {"seed": seed}, **changes.pop("recipe", {})}
        folder = tmp_path / f"{name}-seed{seed}"
        return make_results(folder, recipe, seed=seed, metrics={"accuracy": accuracy + seed / 100}, **changes)

    return make


def shown(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def test_the_page_of_a_run_and_of_a_comparison_is_written_anew(
    make_results: MakeResults, make_comparison: MakeComparison, runs: list[ComparedRun], tmp_path: Path
) -> None:
    run, comparison = make_results(), make_comparison(runs)
    assert geodistill.report(run.folder) == run.report and "The student has accuracy 0.8125" in shown(run.report).text
    assert geodistill.report(comparison.folder) == comparison.report
    assert "KD + Procrustes" in shown(comparison.report).text and (comparison.folder / "scores.svg").is_file()
    before = comparison.report.read_text()
    other = geodistill.report(comparison.folder, baseline="KD", output=tmp_path / "new" / "other.html")
    assert other == tmp_path / "new" / "other.html" and "+2.05 points against KD" in shown(other).text
    assert comparison.report.read_text() == before


def test_results_come_back_from_their_file(make_comparison: MakeComparison, runs: list[ComparedRun]) -> None:
    comparison = make_comparison(runs)
    assert read_results(comparison.folder) == comparison


def test_seeds_of_one_recipe_become_a_row(make_seed: MakeSeed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = [make_seed(name, seed, accuracy) for name, accuracy in (("kd", 0.7), ("gram", 0.75)) for seed in (1, 2, 3)]
    path = geodistill.report(*(run.folder for run in made))
    page = shown(path)
    assert path == Path("runs/report.html")
    assert "gram is best by mean: accuracy 77.00 ± 1.00, +5.00 points against kd" in page.text
    assert {"6 runs on lost.csv", "kd", "gram", "teacher", "95.50"} <= page.cells and page.loads_nothing
    assert "Recipe of kd-seed1" in page.text and "Environment of" not in page.text


def test_runs_join_a_comparison_of_the_same_recipe(
    make_comparison: MakeComparison, make_seed: MakeSeed, runs: list[ComparedRun], tmp_path: Path
) -> None:
    comparison = make_comparison(runs, baseline="KD")
    fourth, other = make_seed("KD", 4), make_seed("other", 1)
    page = shown(geodistill.report(fourth.folder, comparison.folder, other.folder, output=tmp_path / "all.html"))
    assert {"KD", "KD + Procrustes", "labels only", "other-seed1"} <= page.cells and "KD-seed4" not in page.cells
    assert "points against KD (" in page.text


def test_rows_of_one_name_are_told_apart_by_their_folders(
    make_comparison: MakeComparison, make_run: Any, tmp_path: Path
) -> None:
    made = [make_comparison([make_run("KD", 1, 0.8)], folder=tmp_path / name) for name in ("one", "two")]
    for place, results in enumerate(made):
        path = results.folder / "runs" / "0" / "recipe.yaml"
        write_json(path, {**read_json(path), "student": place})
    names = row_names([member for results in made for member in members_of(results)])
    assert list(names.values()) == [f"KD ({results.folder})" for results in made]


def test_runs_of_different_teachers_have_no_teacher_beside_them(make_seed: MakeSeed, tmp_path: Path) -> None:
    made = [make_seed("a", 1), make_seed("b", 1, teacher=TeacherResult({"accuracy": 0.99}, 9, 1.0, 1.0, "another"))]
    page = shown(geodistill.report(*(run.folder for run in made), output=tmp_path / "all.html"))
    assert TEACHERS in page.text and "another" not in page.text and "Teacher" not in page.cells


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"task": "images"}}, "is of the task 'classification', and .* of the task 'images'"),
        ({"data_fingerprint": "other"}, "were scored on different data: lost.csv and lost.csv, or other rows of it"),
        ({"metrics": {"perplexity": 2.0}}, "no metric in common"),
    ],
)
def test_runs_that_stand_in_no_table_together(
    change: dict[str, Any], message: str, make_seed: MakeSeed, make_results: MakeResults, tmp_path: Path
) -> None:
    one = make_seed("a", 1)
    recipe = {"objective": "b", **change.pop("recipe", {})}
    two = make_results(tmp_path / "two", recipe, **change)
    with pytest.raises(GeodistillError, match=message):
        geodistill.report(one.folder, two.folder, output=tmp_path / "all.html")
    assert not (tmp_path / "all.html").exists()


def test_what_cannot_be_reported(make_results: MakeResults, tmp_path: Path) -> None:
    run = make_results()
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "begun.json", {})
    for arguments, options, message in (
        ([], {}, "no run to report on"),
        ([tmp_path / "absent"], {}, "There is no folder"),
        ([tmp_path / "empty"], {}, "not the folder of a run"),
        ([run.folder, run.folder], {}, "'a run' with seed 1 was given twice"),
        ([run.folder], {"baseline": "KD"}, "A single run has no other row"),
        ([run.folder], {"output": tmp_path}, "is a folder, not a file"),
    ):
        with pytest.raises(GeodistillError, match=message):
            geodistill.report(*arguments, **options)  # type: ignore[arg-type]
    write_json(run.folder / RESULTS, {"metrics": {}})
    with pytest.raises(GeodistillError, match="another version"):
        geodistill.report(run.folder)
    (run.folder / RESULTS).unlink()
    with pytest.raises(GeodistillError, match="is not finished"):
        geodistill.report(run.folder)
