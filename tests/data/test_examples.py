from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from geodistill.data import sources
from geodistill.data.examples import Examples, load_examples
from geodistill.data.parts import text_key
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe


def rows(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {i}", "label": i % 2, **more} for i in range(start, start + count)]


def jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in content))
    return path


def load(path: Path, **recipe: Any) -> Examples:
    return load_examples(DataRecipe(source=str(path), **recipe))


def sizes(examples: Examples) -> dict[str, int]:
    return {name: len(split) for name, split in examples.splits.items()}


def test_one_file_is_cut_in_three(tmp_path: Path) -> None:
    examples = load(jsonl(tmp_path / "a.jsonl", rows(100)))
    assert sizes(examples) == {"train": 70, "validation": 10, "test": 20}
    assert examples.problem == "classification"
    assert examples.label_names == ["0", "1"]
    assert examples.metrics == ["accuracy", "macro_f1"]
    assert examples.notes == []
    for split in examples.splits.values():
        assert set(split.column_names) == {"example_id", "text", "label"}
        assert list(split["example_id"]) == list(range(len(split)))
        assert sum(split["label"]) == len(split) // 2
        assert all(int(row["text"].split()[1]) % 2 == row["label"] for row in split)
    texts = [row["text"] for split in examples.splits.values() for row in split]
    assert sorted(texts) == sorted(row["text"] for row in rows(100))


def test_shares_and_seed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(100))
    first = load(path, validation_share=0.2, test_share=0.4)
    assert sizes(first) == {"train": 40, "validation": 20, "test": 40}
    assert load(path, validation_share=0.2, test_share=0.4).splits["test"].to_dict() == first.splits["test"].to_dict()
    assert (
        load(path, validation_share=0.2, test_share=0.4, seed=1).splits["test"]["text"] != first.splits["test"]["text"]
    )


def test_three_files_are_used_as_they_are(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("dev", 10), ("test", 20)):
        jsonl(tmp_path / f"{name}.jsonl", rows(10, start))
    examples = load(tmp_path)
    assert sizes(examples) == {"train": 10, "validation": 10, "test": 10}
    assert list(examples.splits["validation"]["text"]) == [f"text {i}" for i in range(10, 20)]
    assert examples.notes == []


def test_validation_is_cut_when_only_a_test_file_is_there(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(100))
    jsonl(tmp_path / "test.jsonl", rows(10, 100))
    assert sizes(load(tmp_path)) == {"train": 90, "validation": 10, "test": 10}


@pytest.mark.parametrize("test_rows", [None, rows(10, 200, label=-1), [{"text": "a"}]])
def test_validation_is_reported_on_when_no_labelled_test_is_there(tmp_path: Path, test_rows: list | None) -> None:
    jsonl(tmp_path / "train.jsonl", rows(100))
    jsonl(tmp_path / "validation.jsonl", rows(10, 100))
    if test_rows:
        jsonl(tmp_path / "test.jsonl", [{**row, **({"label": -1} if "label" in row else {})} for row in test_rows])
    examples = load(tmp_path)
    assert sizes(examples) == {"train": 90, "validation": 10, "test": 10}
    assert list(examples.splits["test"]["text"]) == [f"text {i}" for i in range(100, 110)]
    assert any("reported on as test" in note for note in examples.notes)
    assert any("has no labels" in note for note in examples.notes) == (test_rows is not None)


def test_asking_for_validation_as_test_tunes_on_another_part(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("validation", 100), ("test", 200)):
        jsonl(tmp_path / f"{name}.jsonl", rows(100, start))
    examples = load(tmp_path, test_split="validation")
    assert list(examples.splits["test"]["text"]) == [f"text {i}" for i in range(100, 200)]
    assert not set(examples.splits["validation"]["text"]) & set(examples.splits["test"]["text"])


def test_formats_agree(tmp_path: Path) -> None:
    content = [{"sentence1": f"a {i}", "sentence2": f"b {i}", "label": ["no", "yes"][i % 2]} for i in range(20)]
    jsonl(tmp_path / "a.jsonl", content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [separator.join(content[0]), *(separator.join(row.values()) for row in content)]
        (tmp_path / name).write_text("\n".join(lines))
    datasets.Dataset.from_list(content).to_parquet(tmp_path / "a.parquet")
    loaded = [load(tmp_path / f"a.{suffix}") for suffix in ("jsonl", "json", "csv", "tsv", "parquet")]
    assert len({examples.fingerprint for examples in loaded}) == 1
    assert loaded[0].label_names == ["no", "yes"]
    assert loaded[0].splits["train"].column_names == ["example_id", "text", "text_pair", "label"]


def test_regression(tmp_path: Path) -> None:
    examples = load(jsonl(tmp_path / "a.jsonl", [{"text": f"text {i}", "label": i / 4} for i in range(40)]))
    assert examples.problem == "regression"
    assert examples.label_names == []
    assert examples.metrics == ["pearson", "spearman"]
    assert isinstance(examples.splits["train"][0]["label"], float)


def test_whole_numbers_as_regression_on_request(tmp_path: Path) -> None:
    assert load(jsonl(tmp_path / "a.jsonl", rows(40)), problem="regression").problem == "regression"


def test_lists_of_labels(tmp_path: Path) -> None:
    content = rows(60)
    for place, row in enumerate(content):
        row["label"] = [[], ["red"], ["blue", "red"]][place % 3]
    content[5]["label"] = None
    content[8]["label"] = ["blue", None]
    examples = load(jsonl(tmp_path / "a.jsonl", content))
    assert (examples.problem, examples.label_names) == ("multi_label", ["blue", "red"])
    assert examples.metrics == ["micro_f1", "macro_f1", "subset_accuracy"]
    assert sum(sizes(examples).values()) == 58
    assert "2 of the 60 train rows have no label and were dropped." in examples.notes
    by_text = {row["text"]: row["label"] for split in examples.splits.values() for row in split}
    assert [by_text[row["text"]] for row in content[:3]] == [[], [1], [0, 1]]


def test_lists_of_class_numbers(tmp_path: Path) -> None:
    """As hub data sets have them, with the names of the classes in the features."""
    kind = datasets.Features({"text": datasets.Value("string"), "labels": [datasets.ClassLabel(names=["b", "a", "c"])]})
    content = {"text": [f"text {i}" for i in range(30)], "labels": [[0, 2], [1], []] * 10}
    datasets.Dataset.from_dict(content, features=kind).to_parquet(tmp_path / "a.parquet")
    examples = load(tmp_path / "a.parquet")
    assert examples.label_names == ["b", "a", "c"]
    by_text = {row["text"]: row["label"] for split in examples.splits.values() for row in split}
    assert [by_text[f"text {i}"] for i in range(3)] == [[0, 2], [1], []]


def csv(path: Path, header: str, lines: list[str]) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_label_columns_of_zeros_and_ones(tmp_path: Path) -> None:
    lines = [f"text {place},{place % 2},{int(place % 3 == 0)}" for place in range(60)]
    path = csv(tmp_path / "a.csv", "text,toxic,insult", lines)
    examples = load(path, label=["insult", "toxic"])
    assert (examples.problem, examples.label_names) == ("multi_label", ["insult", "toxic"])
    by_text = {row["text"]: row["label"] for split in examples.splits.values() for row in split}
    assert [by_text[f"text {place}"] for place in range(4)] == [[0], [1], [], [0, 1]]
    values = load(path, label=["insult", "toxic"], problem="regression")
    assert (values.problem, values.width, values.label_names) == ("regression", 2, ["insult", "toxic"])
    for wrong, message in (
        (["toxic", "rude"], "no column 'rude'"),
        ("insult", "asks for a list of labels in each row"),
    ):
        with pytest.raises(GeodistillError, match=message):
            load(path, label=wrong, problem="multi_label")
    with pytest.raises(GeodistillError, match=r"one label in each row.*multi_label"):
        load(path, label=["insult", "toxic"], problem="classification")


def test_label_columns_of_a_test_split_without_labels(tmp_path: Path) -> None:
    lines = [f"text {place},{place % 2},{int(place % 3 == 0)}" for place in range(60)]
    csv(tmp_path / "train.csv", "text,toxic,insult", lines)
    csv(tmp_path / "test.csv", "text,toxic,insult", [f"other {place},-1,-1" for place in range(5)])
    examples = load(tmp_path, label=["toxic", "insult"])
    assert "The test split has no labels and is not used." in examples.notes
    csv(tmp_path / "test.csv", "text", [f"other {place}" for place in range(5)])
    assert "The test split has no labels and is not used." in load(tmp_path, label=["toxic", "insult"]).notes


def test_columns_of_numbers(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "text,x,y", [f"text {place},{place / 4},{-place}" for place in range(60)])
    examples = load(path, label=["x", "y"])
    assert (examples.problem, examples.width, examples.label_names) == ("regression", 2, ["x", "y"])
    assert examples.metrics == ["pearson", "spearman"]
    by_text = {row["text"]: row["label"] for split in examples.splits.values() for row in split}
    assert by_text["text 6"] == [1.5, -6.0]


def test_a_rare_label_that_no_training_row_has_is_told(tmp_path: Path) -> None:
    content = [{**row, "label": ["common"]} for row in rows(60)]
    examples = load(jsonl(tmp_path / "a.jsonl", [*content, {"text": "one", "label": ["rare"]}]))
    held = set(examples.splits["test"]["text"])
    for row in content:
        row["label"] = ["common", "rare"] if row["text"] in held else ["common"]
    found = load(jsonl(tmp_path / "b.jsonl", [*content, {"text": "one", "label": ["common"]}]))
    assert "No training row has the label 'rare'." in found.notes


def test_unlabelled(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"text {i}"} for i in range(100)])
    examples = load(path)
    assert (examples.problem, examples.label_names, examples.metrics) == ("unlabelled", [], [])
    assert sizes(examples) == {"train": 95, "validation": 5}
    assert examples.splits["train"].column_names == ["example_id", "text"]


def test_labels_are_left_out_on_request(tmp_path: Path) -> None:
    examples = load(jsonl(tmp_path / "a.jsonl", rows(100)), problem="unlabelled")
    assert "label" not in examples.splits["train"].column_names


def test_labels_of_different_formats_are_one_label(tmp_path: Path) -> None:
    """Whole numbers with a gap, as pandas writes them, are the labels of the other splits."""
    lines = ["text,label", *(f"text {i},{i % 2}.0" for i in range(20)), "gap,"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    jsonl(tmp_path / "validation.jsonl", rows(4, 20))
    datasets.Dataset.from_list([{"text": f"text {i}", "label": float(i % 2)} for i in range(24, 28)]).to_parquet(
        tmp_path / "test.parquet"
    )
    examples = load(tmp_path)
    assert examples.label_names == ["0", "1"] and sizes(examples) == {"train": 20, "validation": 4, "test": 4}
    assert [list(examples.splits[name]["label"]) for name in ("validation", "test")] == [[0, 1, 0, 1]] * 2
    assert examples.notes == ["1 of the 21 train rows have no label and were dropped."]


def test_labels_that_differ_in_case_only_are_two(tmp_path: Path) -> None:
    content = [{"text": f"text {i}", "label": ["US", "us"][i % 2]} for i in range(40)]
    assert load(jsonl(tmp_path / "a.jsonl", content)).label_names == ["US", "us"]


def numbered_and_named(folder: Path, named: str) -> Path:
    """Two splits with class numbers and one, `named`, that knows the names of the classes."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for start, name in enumerate(("train", "validation", "test")):
        if name == named:
            content = rows(20, 20 * start)
            datasets.Dataset.from_list(content, features=features).to_parquet(folder / f"{name}.parquet")
        else:
            lines = ["text,label", *(f"{row['text']},{row['label']}" for row in rows(20, 20 * start))]
            (folder / f"{name}.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("named", ["train", "validation", "test"])
def test_class_numbers_and_class_names_in_different_splits(tmp_path: Path, named: str) -> None:
    examples = load(numbered_and_named(tmp_path, named))
    assert examples.label_names == ["no", "yes"]
    assert all(list(split["label"]) == [0, 1] * 10 for split in examples.splits.values())


def test_class_names_as_text_meet_class_numbers(tmp_path: Path) -> None:
    numbered_and_named(tmp_path, "train")
    (tmp_path / "test.csv").write_text("text,label\na,yes\nb,no\nc,1\n")
    assert list(load(tmp_path).splits["test"]["label"]) == [1, 0, 1]


def test_each_split_numbers_its_classes_by_itself(tmp_path: Path) -> None:
    numbering = {"train": ["no", "yes"], "validation": ["yes", "no"], "test": ["maybe", "yes", "no"]}
    for name, names in numbering.items():
        content = [{"text": f"{name} {i}", "label": names.index(["no", "yes"][i % 2])} for i in range(20)]
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        datasets.Dataset.from_list(content, features=features).to_parquet(tmp_path / f"{name}.parquet")
    examples = load(tmp_path)
    assert examples.label_names == ["no", "yes"]
    assert all(list(split["label"]) == [0, 1] * 10 for split in examples.splits.values())


def test_a_number_that_no_class_has_is_refused(tmp_path: Path) -> None:
    numbered_and_named(tmp_path, "validation")
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\nc,7\n")
    with pytest.raises(GeodistillError, match="not classes of the data set: '7'"):
        load(tmp_path)


def test_minus_one_in_the_test_split_is_a_label_where_training_has_it(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}", "label": [-1, 1][i % 2]} for i in range(20)])
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": -1}])
    assert list(load(tmp_path).splits["test"]["label"]) == [0]


def test_texts_keep_their_spaces(tmp_path: Path) -> None:
    content = [{"text": f"  text {i}\n", "label": i % 2} for i in range(40)]
    examples = load(jsonl(tmp_path / "a.jsonl", [*content, {"text": " \t", "label": 1}]))
    texts = [text for split in examples.splits.values() for text in split["text"]]
    assert sorted(texts) == sorted(row["text"] for row in content)
    assert examples.notes == ["1 of the 41 train rows have an empty text and were dropped."]


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "n/a"])
def test_words_that_other_readers_take_for_a_gap_are_labels_and_texts(tmp_path: Path, word: str) -> None:
    lines = ["text,label", *(f"{word if i == 0 else i},{[word, 'other'][i % 2]}" for i in range(40))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    examples = load(tmp_path / "a.csv")
    assert word in examples.label_names and sum(sizes(examples).values()) == 40
    assert word in [text for split in examples.splits.values() for text in split["text"]]


def test_limit(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(100))
    whole, limited = load(path), load(path, limit=15)
    assert sizes(limited) == {"train": 15, "validation": 10, "test": 15}
    by_id = {row["example_id"]: row["text"] for row in whole.splits["train"]}
    assert all(by_id[row["example_id"]] == row["text"] for row in limited.splits["train"])
    assert limited.label_names == whole.label_names


def test_ids_are_places_in_the_file_when_rows_are_dropped(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(20))
    jsonl(tmp_path / "validation.jsonl", rows(20, 20))
    jsonl(tmp_path / "test.jsonl", [{"text": "", "label": 0}, *rows(3, 40)])
    examples = load(tmp_path)
    assert list(examples.splits["test"]["example_id"]) == [1, 2, 3]
    assert examples.notes == ["1 of the 4 test rows have an empty text and were dropped."]


def test_metrics_of_the_recipe(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(40))
    assert load(path, metrics=["matthews_correlation"]).metrics == ["matthews_correlation"]


def test_fingerprint_follows_what_matters(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(100))
    (tmp_path / "copy").mkdir()
    copy = jsonl(tmp_path / "copy" / "b.jsonl", rows(100))
    changed = jsonl(tmp_path / "c.jsonl", [*rows(99), {"text": "another", "label": 1}])
    base = load(path).fingerprint
    assert len(base) == 64
    assert load(path).max_length == 128 and load(path, max_length=128).fingerprint == base
    assert load(copy).fingerprint == base
    others = [
        load(changed),
        load(path, seed=1),
        load(path, limit=50),
        load(path, max_length=64),
        load(path, metrics=["f1"]),
    ]
    assert len({base, *(examples.fingerprint for examples in others)}) == 6


def test_half_an_emoji_does_no_harm(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"text {i} \ud83d", "label": i % 2} for i in range(40)])
    assert load(path).splits["train"][0]["text"].endswith(" ?")


def test_training_rows_that_are_measured_on_are_left_out(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [*rows(20), {"text": " TEXT  15", "label": 1}])
    jsonl(tmp_path / "validation.jsonl", rows(22, 18))
    jsonl(tmp_path / "test.jsonl", rows(10, 15))
    examples = load(tmp_path)
    assert sizes(examples) == {"train": 15, "validation": 15, "test": 10}
    assert list(examples.splits["train"]["example_id"]) == list(range(15))
    assert list(examples.splits["validation"]["text"]) == [f"text {i}" for i in range(25, 40)]
    assert examples.notes == [
        "7 of the 22 validation rows were left out: their texts are also in the held-out data (7 in the test part).",
        "6 of the 21 train rows were left out: their texts are also in the held-out data (6 in the test part).",
    ]
    assert [each.places for each in examples.record.left_out] == [{"test": 7}, {"test": 6}]


def test_what_is_left_out_does_not_depend_on_the_limit(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", rows(40))
    jsonl(tmp_path / "test.jsonl", rows(30, 20))
    jsonl(tmp_path / "dev.jsonl", rows(10, 60))
    whole, limited = load(tmp_path), load(tmp_path, limit=5)
    assert sizes(limited) == {"train": 5, "validation": 5, "test": 5}
    assert whole.notes == limited.notes and whole.held_out == limited.held_out
    assert set(limited.splits["train"]["text"]) <= {f"text {i}" for i in range(20)}


def test_a_pair_that_is_turned_around_is_the_same_text(tmp_path: Path) -> None:
    def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
        numbers = range(start, start + count)
        return [{"sentence1": "one premise", "sentence2": f"claim {i}", "label": i % 2} for i in numbers]

    turned = {"sentence1": "claim 60", "sentence2": "one premise", "label": 0}
    jsonl(tmp_path / "train.jsonl", [*pairs(40), turned])
    jsonl(tmp_path / "dev.jsonl", pairs(10, 50))
    jsonl(tmp_path / "test.jsonl", pairs(10, 60))
    examples = load(tmp_path)
    assert sizes(examples) == {"train": 40, "validation": 10, "test": 10}, "a premise may be in several pairs"
    assert "1 of the 41 train rows" in examples.notes[0]


def test_a_stage_loses_what_its_task_is_measured_on(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", rows(100))
    task = load(path)
    for recipe in ({"seed": 1}, {"test_share": 0.1}, {"problem": "unlabelled"}, {"seed": 1, "limit": 30}):
        alone = load(path, **recipe)
        stage = load_examples(DataRecipe(source=str(path), **recipe), task.held_out)
        assert not set(stage.splits["train"]["text"]) & {
            *task.splits["validation"]["text"],
            *task.splits["test"]["text"],
        }
        assert stage.splits["validation"].to_dict() == alone.splits["validation"].to_dict()
        assert "in the task's " in stage.notes[0] and stage.fingerprint != alone.fingerprint
    same = load_examples(DataRecipe(source=str(path)), task.held_out)
    assert same.notes == [] and same.fingerprint == task.fingerprint


def test_bundled_sentences_under_another_seed() -> None:
    task = load_examples(DataRecipe(source="bundled:reviews"))
    measured = {text_key(text) for part in ("validation", "test") for text in task.splits[part]["text"]}
    recipe = DataRecipe(source="bundled:sentences", seed=1)
    alone, stage = load_examples(recipe), load_examples(recipe, task.held_out)
    shared = sum(text_key(text) in measured for text in alone.splits["train"]["text"])
    assert shared > 1000
    assert len(stage.splits["train"]) == len(alone.splits["train"]) - shared
    assert sum(sum(each.places.values()) for each in stage.record.left_out) == shared


def test_a_label_whose_rows_are_all_measured_on_is_an_error(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", [*rows(20), {"text": "rare", "label": 2}])
    jsonl(tmp_path / "dev.jsonl", rows(10, 20))
    jsonl(tmp_path / "test.jsonl", [*rows(10, 30), {"text": "Rare", "label": 2}])
    with pytest.raises(GeodistillError, match=r"the label '2' is left: the texts of all 1 are also in"):
        load(tmp_path)


def test_glue_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["unacceptable", "acceptable"]),
            "idx": datasets.Value("int32"),
        }
    )

    def split(start: int, count: int, label: int | None = None) -> datasets.Dataset:
        numbers = range(start, start + count)
        labels = [i % 2 if label is None else label for i in numbers]
        columns = {"sentence": [f"text {i}" for i in numbers], "label": labels, "idx": list(range(count))}
        return datasets.Dataset.from_dict(columns, features=features)

    hub = datasets.DatasetDict(train=split(0, 100), validation=split(100, 20), test=split(200, 30, label=-1))
    monkeypatch.setattr(sources, "load_dataset", lambda name, configuration: hub)
    examples = load_examples(DataRecipe(source="glue/cola"))
    assert sizes(examples) == {"train": 90, "validation": 10, "test": 20}
    assert examples.label_names == ["unacceptable", "acceptable"]
    assert examples.metrics == ["matthews_correlation"]
    assert examples.splits["test"]["label"][:2] == [0, 1]


@pytest.mark.parametrize(
    ("splits", "recipe", "message"),
    [
        (
            {"train": rows(20), "validation": rows(4, 20, other=1), "test": [{"text": "a", "label": 2}]},
            {},
            "test split has labels",
        ),
        (
            {"train": rows(20), "validation": [{"text": "a", "label": 7}]},
            {},
            "validation split has labels that training lacks: '7'",
        ),
        ({"train": rows(20), "validation": [{"text": "a"}]}, {}, "validation split has no column 'label'"),
        (
            {"train": rows(20), "test": [{"sentence": "a", "label": 1}]},
            {},
            "the text is 'text' in the train split and 'sentence' in",
        ),
        ({"train": rows(20), "test": [{"words": "a", "label": 1}]}, {}, "test split has no column 'text'"),
        ({"train": rows(20), "test": [{"text": "a", "Label": 1}]}, {}, "'label' in the train split and 'Label' in the"),
        ({"train": [{"text": "a", "label": -1}] * 9}, {}, "labels are the same: '-1'.*data.problem=unlabelled"),
        ({"train": [{"text": "a", "label": ""}] * 9}, {}, "none of its 9 rows has a label.*data.problem=unlabelled"),
        ({"train": rows(20)}, {"test_split": "held_out"}, "no split 'held_out'. Valid: train"),
        ({"train": rows(20)}, {"test_split": "train"}, "used twice"),
        ({"train": [{"text": "", "label": 1}]}, {}, "train split is empty"),
        ({"train": rows(2)}, {}, "2 training rows are too few"),
        ({"train": [{"text": "a", "label": 1}] * 9}, {}, "All training labels are the same"),
    ],
)
def test_bad_data(tmp_path: Path, splits: dict[str, list], recipe: dict[str, Any], message: str) -> None:
    for name, content in splits.items():
        jsonl(tmp_path / f"{name}.jsonl", content)
    with pytest.raises(GeodistillError, match=message):
        load(tmp_path, **recipe)
