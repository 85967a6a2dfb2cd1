from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from geodistill.data.label_lists import Gathered
from geodistill.data.scoring import instructions_to_score, match_labels, prompt_columns, rows_to_score, text_columns
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


def score(source: Path, names: list[str] | None = None, **options: Any) -> Any:
    fields = {key: options.pop(key) for key in list(options) if key in DataRecipe.model_fields}
    problem = "regression" if names is None else "classification"
    recipe = DataRecipe(source=str(source), **fields)
    return rows_to_score(recipe, problem=problem, label_names=names or [], **options)


def test_a_file_is_one_split_in_its_order(write_csv: Any) -> None:
    path = write_csv([("b", "no"), ("", "no"), ("a", "yes"), ("c", ""), ("a", "yes")])
    examples = score(path, ["yes", "no"])
    rows = examples.splits["all"].to_list()
    assert [(row["example_id"], row["text"], row["label"]) for row in rows] == [(0, "b", 1), (2, "a", 0), (4, "a", 0)]
    assert examples.label_names == ["yes", "no"] and list(examples.splits) == ["all"]
    assert any("1 of the 5 rows.csv rows have an empty text" in note for note in examples.notes)
    assert any("The label is the column 'label', found by its usual name." in note for note in examples.notes)


def test_labels_are_matched_by_name() -> None:
    def match(values: list[Any], *names: str) -> list[Any]:
        return match_labels(values, "classification", names, "a.csv")

    assert match(["b", "a"], "a", "b") == [1, 0]
    assert match(["US", "us"], "us", "US") == [1, 0]
    assert match(["POSITIVE", "True"], "true", "positive") == [1, 0]
    assert match([1, 1.0, "1", "0.0"], "0", "1") == [1, 1, 1, 0]
    with pytest.raises(GeodistillError, match=r"labels of a.csv: 'Us' \(2 rows\), 'x' \(1 row\)\. .*knows 'us', 'US'"):
        match(["Us", "x", "Us"], "us", "US")
    assert match_labels([1, "2.5"], "regression", [], "a.csv") == [1.0, 2.5]
    with pytest.raises(GeodistillError, match="has several labels, but the student predicts one"):
        match([["a"]], "a", "b")


def test_several_labels_are_matched_by_name() -> None:
    def match(*values: Any) -> list[Any]:
        return match_labels(values, "multi_label", ["toxic", "Insult"], "a.csv")

    assert match(["insult", "toxic"], [], ["toxic", "toxic"]) == [[0, 1], [], [0]]
    assert match(Gathered(insult=1, other=0), Gathered(insult=0, toxic="1.0")) == [[1], [0]]
    with pytest.raises(GeodistillError, match=r"'other' \(2 rows\)"):
        match(["other"], Gathered(toxic=1, other=1))
    with pytest.raises(GeodistillError, match="Write every label as a list"):
        match("toxic")


def test_several_values_are_matched_by_the_names_of_their_columns() -> None:
    def match(value: Any, *names: str) -> Any:
        return match_labels([value], "regression", names, "a.csv")[0]

    assert match(Gathered(x=1, y="2.5"), "y", "x") == [2.5, 1.0]
    assert match(Gathered(x=1, y="2.5"), "LABEL_0", "LABEL_1") == [1.0, 2.5]
    assert match([1, 2], "y", "x") == [1.0, 2.0]
    assert match([3]) == match(Gathered(z=3)) == 3.0
    with pytest.raises(GeodistillError, match="'x', 'y' are not the values that the student predicts: 'x', 'z'"):
        match(Gathered(x=1, y=2), "x", "z")
    with pytest.raises(GeodistillError, match="but should be 2 finite numbers"):
        match([1, 2, 3], "x", "y")


def test_metrics_are_those_of_the_recipe_then_those_of_the_run(write_csv: Any) -> None:
    path = write_csv([("a", "yes")])
    assert score(path, ["yes", "no"]).metrics == ["accuracy", "macro_f1"]
    assert score(path, ["yes", "no"], metrics=["macro_f1"]).metrics == ["macro_f1"]


def test_a_limit_keeps_the_order(write_csv: Any) -> None:
    path = write_csv([(f"text {place}", "yes") for place in range(30)])
    ids = [row["example_id"] for row in score(path, ["yes", "no"], limit=9).splits["all"].to_list()]
    assert len(ids) == 9 and ids == sorted(ids)


def columns(present: list[str], *, named: tuple[str, ...] = (), pairs: bool | None = None, **fields: Any) -> Any:
    notes: list[str] = []
    recipe = DataRecipe(**fields)
    found = text_columns(present, recipe, named=named, pairs=pairs, labels=False, notes=notes)
    return found.text, found.text_pair, notes


def test_a_column_of_the_run_is_taken_where_it_is_there() -> None:
    assert columns(["words", "text"], text="words")[0] == "words"
    text, _, notes = columns(["text"], text="words")
    assert text == "text" and "There is no column 'words', which is data.text of the run" in notes[0]
    with pytest.raises(GeodistillError, match="There is no column 'words'"):
        columns(["text"], text="words", named=("text",))


def test_the_texts_fit_the_student() -> None:
    assert columns(["sentence1", "sentence2"], pairs=True)[:2] == ("sentence1", "sentence2")
    with pytest.raises(GeodistillError, match=r"reads pairs of texts.*the columns are 'text'"):
        columns(["text"], pairs=True)
    with pytest.raises(GeodistillError, match=r"reads single texts, but the columns 'sentence1' and 'sentence2'"):
        columns(["sentence1", "sentence2"], pairs=False)
    assert columns(["sentence1", "sentence2"], pairs=False, text="sentence1", named=("text",))[0] == "sentence1"


def test_instructions_and_prompts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"instruction": "Say.", "output": "word"}, {"instruction": "", "output": "x"}]
    path.write_text("\n".join(map(json.dumps, [*rows, rows[0]])), encoding="utf-8")
    found = instructions_to_score(DataRecipe(source=str(path)))
    assert [row["example_id"] for row in found.splits["all"].to_list()] == [0, 2]
    notes: list[str] = []
    assert prompt_columns(["prompt", "context"], DataRecipe(), (), notes).input == "context"
    assert prompt_columns(["messages"], DataRecipe(output="gone"), (), notes).messages == "messages"
    assert not any("gone" in note for note in notes)
    with pytest.raises(GeodistillError, match="No instruction column is found"):
        prompt_columns(["output"], DataRecipe(), (), notes)
