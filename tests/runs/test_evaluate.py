from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.files import write_json
from geodistill.recipe import Recipe
from geodistill.runs.evaluate import evaluate
from geodistill.runs.folder import RECIPE, RESULTS, read_json
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.train import train


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
    assert len(lines) == 64 and set(lines[0]) == {"split", "row", "text", "prediction", "probability", "reference"}
    right = sum(line["prediction"] == line["reference"] for line in lines)
    assert right / 64 == pytest.approx(results["metrics"]["accuracy"])
    assert all(1 / 6 <= line["probability"] <= 1 for line in lines)
    assert evaluate(run, split="validation")["metrics"] == results["validation_metrics"]
    assert evaluate(run, split="all")["examples"] == 192
    places = [(line["split"], line["row"]) for line in predictions(run)]
    assert len(set(places)) == 192 and {split for split, _ in places} == {"train", "validation", "test"}


def score(run: Path, path: Path, *overrides: str, **options: Any) -> dict[str, Any]:
    return evaluate(run, [f"data.source={path}", *overrides], progress=False, **options)


def test_a_file_is_scored_as_it_is(run: Path, write_csv: Any, questions: list[tuple[str, str]]) -> None:
    """No row is cut from it and no row is moved, although the run has a limit, shares and a seed."""
    rows = [*questions, *questions[:30]]  # a text that comes twice counts twice
    scores = score(run, write_csv(rows))
    assert (scores["source"], scores["split"], scores["examples"]) == (str(write_csv(rows)), None, 90)
    lines = predictions(run)
    assert [(line["text"], line["reference"]) for line in lines] == rows
    assert [line["row"] for line in lines] == list(range(90)) and "split" not in lines[0]
    right = sum(line["prediction"] == line["reference"] for line in lines)
    assert right / 90 == pytest.approx(scores["metrics"]["accuracy"])


def test_the_order_of_a_file_changes_no_prediction(run: Path, write_csv: Any, questions: list[tuple[str, str]]) -> None:
    first = score(run, write_csv(questions, "ordered.csv"))["metrics"]
    before = {line["text"]: line["prediction"] for line in predictions(run)}
    shuffled = random.Random(3).sample(questions, len(questions))
    assert score(run, write_csv(shuffled, "shuffled.csv"))["metrics"] == pytest.approx(first)
    assert [(line["text"], line["prediction"]) for line in predictions(run)] == [
        (text, before[text]) for text, _ in shuffled
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_one_row_or_one_label_is_enough(
    run: Path, write_csv: Any, questions: list[tuple[str, str]], count: int
) -> None:
    some = [row for row in questions if row[1] == "HUM"][:count]
    scores = score(run, write_csv(some))
    assert scores["examples"] == count and set(scores["metrics"]) == {"accuracy", "macro_f1"}
    assert [line["reference"] for line in predictions(run)] == ["HUM"] * count


def test_dropped_rows_are_told_and_keep_their_numbers(run: Path, write_csv: Any) -> None:
    scores = score(run, write_csv([("Who ?", "HUM"), ("", "HUM"), ("Where ?", ""), ("What ?", "ENTY")]))
    assert scores["examples"] == 2 and [line["row"] for line in predictions(run)] == [0, 3]
    notes = " ".join(scores["notes"])
    assert "1 of the 4 rows.csv rows have an empty text" in notes and "1 of the 4 rows.csv rows have no label" in notes


def test_labels_are_matched_exactly_or_without_case(run: Path, write_csv: Any) -> None:
    score(run, write_csv([("Who ?", "hum"), ("Where ?", "LOC")]))
    assert [line["reference"] for line in predictions(run)] == ["HUM", "LOC"]


@pytest.mark.parametrize("label", ["COLOUR", "9"])
def test_a_label_that_the_student_does_not_know(run: Path, write_csv: Any, label: str) -> None:
    score(run, write_csv([("Who ?", "HUM")]))
    before = predictions(run)
    with pytest.raises(
        GeodistillError, match=rf"does not know labels of rows.csv: '{label}' .*it knows 'ABBR', 'DESC'"
    ):
        score(run, write_csv([("Who ?", "HUM"), ("Red ?", label), ("Blue ?", label)]))
    assert predictions(run) == before


def test_a_folder_is_scored_on_its_test_split(run: Path, tmp_path: Path, write_csv: Any) -> None:
    write_csv([("Who ?", "HUM")], "mine/train.csv")
    write_csv([("Who ?", "HUM"), ("Where ?", "LOC")], "mine/dev.csv")
    with pytest.raises(GeodistillError, match=r"has no split 'test'. Choose one with --split. .*train"):
        score(run, tmp_path / "mine")
    write_csv([("Where ?", "LOC"), ("When ?", "NUM"), ("Who ?", "HUM")], "mine/test.csv")
    assert score(run, tmp_path / "mine")["examples"] == 3
    assert [line["text"] for line in predictions(run)] == ["Where ?", "When ?", "Who ?"]
    assert score(run, tmp_path / "mine", split="validation")["examples"] == 2
    assert score(run, tmp_path / "mine", split="all")["examples"] == 6
    assert {line["split"] for line in predictions(run)} == {"train", "dev", "test"}


def test_a_limit_is_taken_only_where_it_is_asked_for(
    run: Path, write_csv: Any, questions: list[tuple[str, str]]
) -> None:
    rows = [(f"{text} {place}", label) for place in range(2) for text, label in questions]
    assert score(run, write_csv(rows))["examples"] == 120  # the run's own limit is 64
    assert score(run, write_csv(rows), "data.limit=7")["examples"] == 7
    numbers = [line["row"] for line in predictions(run)]
    assert numbers == sorted(numbers)


def test_columns_that_only_the_own_data_has(run: Path, write_csv: Any) -> None:
    recipe = (run / RECIPE).read_text(encoding="utf-8")
    try:
        (run / RECIPE).write_text(recipe.replace("label: null", "label: kind", 1), encoding="utf-8")
        usual = score(run, write_csv([("Who ?", "HUM")]))
        assert any("no column 'kind'" in note for note in usual["notes"])
        both = write_csv([("Who ?", "HUM,LOC")], header="text,label,kind")
        assert score(run, both) and predictions(run)[0]["reference"] == "LOC"
        assert score(run, both, "data.label=label") and predictions(run)[0]["reference"] == "HUM"
    finally:
        (run / RECIPE).write_text(recipe, encoding="utf-8")


def test_predictions_are_written_elsewhere(run: Path, tmp_path: Path, write_csv: Any) -> None:
    evaluate(run)
    before = predictions(run)
    scores = score(run, write_csv([("Who ?", "HUM")]), output=tmp_path / "new" / "said.jsonl")
    assert not scores["replaced"] and predictions(run) == before
    assert json.loads(Path(scores["predictions"]).read_text(encoding="utf-8"))["text"] == "Who ?"
    assert evaluate(run)["replaced"]
    with pytest.raises(GeodistillError, match="is a folder"):
        evaluate(run, output=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.epochs=3"], "'training.epochs' has no effect here"),
        (["objective.label.weight=1"], "'objective.label.weight' has no effect here"),
        (["student={width: 3}"], "'student' has no effect here"),
        (["teacher.cache=false"], "'teacher.cache' has no effect here"),
        (["stages=[]"], "'stages' has no effect here"),
        (["compare={}"], "'compare' has no effect here"),
        (["task=instructions"], "'task' has no effect here"),
        (["generation.seeds=[1]"], "'generation.seeds' in"),
        (["data.prompt=chat"], "it applies only with task: instructions"),
        (["data.seed=1"], "'data.seed' cannot be overridden here: it would cut other splits"),
        (["data.test_share=0.5"], "it would cut other splits"),
        (["data.text=question"], "it chooses a column of other data"),
        (["data.sed=1"], "Did you mean 'seed'"),
        (["data.source=FILE", "data.seed=1"], "nothing is cut from other data"),
        (["data.source=FILE", "data.test_split=x"], "chosen with --split"),
        (["data={source: FILE, test_share: 0.3}"], "nothing is cut from other data"),
        (["data.source=FILE", "data.problem=regression"], "the student's head says"),
        (["data.source=FILE", "data.configuration=x"], "only a data set of the hub"),
        (["data.source=FILE", "data.output=x"], "it applies only with task: instructions"),
    ],
)
def test_an_override_without_effect_is_refused(run: Path, write_csv: Any, overrides: list[str], message: str) -> None:
    path = write_csv([("Who ?", "HUM")])
    with pytest.raises(GeodistillError, match=re.escape(message)):
        evaluate(run, [override.replace("FILE", str(path)) for override in overrides])


def test_a_section_as_one_override_keeps_the_rest(run: Path, write_csv: Any) -> None:
    scores = evaluate(run, [f"data={{source: {write_csv([('Who ?', 'HUM')])}, max_length: 8}}"])
    assert scores["examples"] == 1


def test_texts_are_cut_where_the_shorter_of_both_models_ended(run: Path, write_csv: Any) -> None:
    results = read_json(run / RESULTS)
    path = write_csv([("Who is the painter of the river near the island ?", "HUM")])
    score(run, path, "data.max_length=5")
    short = predictions(run)
    score(run, path)
    assert predictions(run) != short and results["positions"] == 512
    try:
        write_json(run / RESULTS, {**results, "positions": 5})
        score(run, path)
        assert predictions(run) == short
    finally:
        write_json(run / RESULTS, results)


def test_references_that_do_not_differ(rated: Path, write_csv: Any) -> None:
    scores = score(rated, write_csv([("a river,the river", 1)], header="left,right,score"))
    assert scores["metrics"] == {"pearson": 0, "spearman": 0}
    assert "All references are the same, and pearson and spearman can tell nothing then" in " ".join(scores["notes"])


def test_data_that_changed_since_the_run(rated: Path) -> None:
    """A row more moves others between the parts, so the test part may hold rows that were trained on."""
    data = rated.parent / "pairs.csv"
    before = data.read_text(encoding="utf-8")
    try:
        data.write_text(before + "one more,row,0.5\n", encoding="utf-8")
        for overrides in ([], ["data.limit=5"]):
            with pytest.raises(GeodistillError, match="has changed since the run"):
                evaluate(rated, overrides)
        assert score(rated, data)["examples"] == 41
    finally:
        data.write_text(before, encoding="utf-8")
    assert evaluate(rated, ["data.limit=2"])["examples"] == 2


def test_what_cannot_be_evaluated(run: Path, tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    for folder in (tmp_path, tmp_path / "none", run / "student"):
        with pytest.raises(GeodistillError, match="is not the folder of a finished run"):
            evaluate(folder)
    with pytest.raises(GeodistillError, match=r"There is no split 'tests'. Did you mean 'test'"):
        evaluate(run, split="tests")
    with pytest.raises(GeodistillError, match="none of its 3 rows has a label"):
        score(run, write_csv([(f"text {i}", "") for i in range(3)]))
    with pytest.raises(GeodistillError, match=r"one file, which has no split 'test'. Leave --split out"):
        score(run, write_csv([("Who ?", "HUM")]), split="test")
    with pytest.raises(GeodistillError, match="the columns are 'words', 'label'"):
        score(run, write_csv([("Who ?", "HUM")], header="words,label"))
    with pytest.raises(GeodistillError, match=r"No label column .*'geodistill predict'"):
        score(run, write_csv([("Who ?", "HUM")], header="text,kind"))


@pytest.fixture(scope="module")
def rated(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression on pairs of texts."""
    folder = tmp_path_factory.mktemp("rated")
    rows = [f"river {place},the river {place},{place / 10}" for place in range(40)]
    (folder / "pairs.csv").write_text("\n".join(["left,right,score", *rows]) + "\n", encoding="utf-8")
    data = {"source": str(folder / "pairs.csv"), "text": "left", "text_pair": "right", "label": "score"}
    recipe = check_recipe({**content, "data": {**data, "problem": "regression", "max_length": 16}})
    train(recipe, folder / "run", progress=False)
    return folder / "run"


def test_a_regression_on_pairs(rated: Path, write_csv: Any) -> None:
    assert evaluate(rated)["metrics"] == read_json(rated / RESULTS)["metrics"]
    path = write_csv([("a river,the river", 1), ("an engine,a motor", 2.5), ("a boat,", 3)], header="left,right,score")
    scores = score(rated, path)
    assert scores["examples"] == 2 and [line["row"] for line in predictions(rated)] == [0, 1]
    assert predictions(rated)[1]["text_pair"] == "a motor" and predictions(rated)[1]["reference"] == 2.5
    assert score(rated, write_csv([("a river,the river", 1)], header="sentence1,sentence2,label"))["examples"] == 1
    with pytest.raises(GeodistillError, match="The student reads pairs of texts"):
        score(rated, write_csv([("a river", 1)]))
    with pytest.raises(GeodistillError, match="'high' is not a finite number"):
        score(rated, write_csv([("a river,the river", "high")], header="left,right,score"))
