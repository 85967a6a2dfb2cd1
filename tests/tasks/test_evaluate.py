from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.recipe import Recipe
from geodistill.recipe_file import check_recipe
from geodistill.tasks.evaluate import evaluate
from geodistill.tasks.run_folder import RECIPE, RESULTS, read_json
from geodistill.tasks.train import train


@pytest.fixture(scope="module")
def run(content: dict[str, Any], classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe: Recipe = check_recipe({**content, "teacher": {"model": str(classifier)}})
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    train(recipe, folder, progress=False)
    return folder


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_score_is_that_of_the_run(run: Path) -> None:
    results = read_json(run / RESULTS)
    scores = evaluate(run)
    assert scores["metrics"] == results["metrics"]
    assert (scores["split"], scores["examples"]) == ("test", 64)
    lines = predictions(run)
    assert len(lines) == 64 and set(lines[0]) == {"text", "prediction", "probability", "reference"}
    right = sum(line["prediction"] == line["reference"] for line in lines)
    assert right / 64 == pytest.approx(results["metrics"]["accuracy"])
    assert all(1 / 6 <= line["probability"] <= 1 for line in lines)
    assert evaluate(run, split="validation")["metrics"] == results["validation_metrics"]
    assert evaluate(run, split="all")["examples"] == 192


def test_every_row_of_another_file_is_scored(run: Path, write_csv: Any, questions: list[tuple[str, str]]) -> None:
    path = write_csv(questions)
    scores = evaluate(run, [f"data.source={path}"])
    assert (scores["split"], scores["examples"]) == ("all", 60)
    lines = predictions(run)
    assert {(line["text"], line["reference"]) for line in lines} == set(questions)
    right = sum(line["prediction"] == line["reference"] for line in lines)
    assert right / 60 == pytest.approx(scores["metrics"]["accuracy"])
    assert evaluate(run, [f"data.source={path}"], split="test")["examples"] < 60


def test_a_file_with_some_of_the_labels_is_scored(run: Path, write_csv: Any, questions: list[tuple[str, str]]) -> None:
    some = [row for row in questions if row[1] in ("HUM", "NUM")]
    assert evaluate(run, [f"data.source={write_csv(some)}"])["examples"] == len(some)
    assert {line["reference"] for line in predictions(run)} == {"HUM", "NUM"}


@pytest.mark.parametrize("label", ["COLOUR", "9"])
def test_labels_that_the_student_does_not_know(
    run: Path, write_csv: Any, questions: list[tuple[str, str]], label: str
) -> None:
    rows = [(text, label if given == "HUM" else given) for text, given in questions if given in ("HUM", "NUM")]
    with pytest.raises(GeodistillError, match=r"cannot be matched .*the data has 2 .*the model has 6"):
        evaluate(run, [f"data.source={write_csv(rows)}"])


def test_what_cannot_be_evaluated(run: Path, tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    for folder in (tmp_path, tmp_path / "none", run / "student"):
        with pytest.raises(GeodistillError, match="is not the folder of a finished run"):
            evaluate(folder)
    with pytest.raises(GeodistillError, match=r"There is no split 'tests'. Did you mean 'test'"):
        evaluate(run, split="tests")
    unlabelled = write_csv([(f"text {i}", "") for i in range(40)])
    with pytest.raises(GeodistillError, match="Data without labels cannot be scored"):
        evaluate(run, [f"data.source={unlabelled}", "data.problem=unlabelled"], split="train")
    nameless = write_csv([(f"text {i}", i % 2) for i in range(40)], header="words,label")
    with pytest.raises(GeodistillError, match="the columns are 'words', 'label'"):
        evaluate(run, [f"data.source={nameless}"])
    assert (run / RECIPE).is_file()
