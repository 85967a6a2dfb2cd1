from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from geodistill.data.examples import Examples, load_examples
from geodistill.distillation.signals import model_inputs
from geodistill.distillation.students.build import build_student
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe, StudentRecipe
from geodistill.tasks.classification import (
    Classification,
    encode,
    load_classifier,
    numbered,
    predict,
    score,
)
from geodistill.tasks.heads import head_settings
from geodistill.tasks.loading import ModelSource, load_tokenizer
from geodistill.tasks.task import batches
from geodistill.tasks.text_reader import TextReader


def tiny(labels: dict[int, str] | None = None, **changes: Any) -> BertForSequenceClassification:
    names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}} if labels else {}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**sizes, **names, **changes}))


@pytest.fixture
def examples(write_csv: Any, questions: list[tuple[str, str]]) -> Examples:
    return load_examples(DataRecipe(source=str(write_csv(questions))))


def test_a_new_head_carries_the_names_of_the_labels(encoder: Path, examples: Examples) -> None:
    model = load_classifier(ModelSource(str(encoder)), examples, new_head=True)
    assert model.config.num_labels == 6
    assert model.config.id2label == dict(enumerate(["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]))
    assert model.config.problem_type == "single_label_classification"


def test_a_new_head_replaces_one_of_another_size(encoder: Path, classifier: Path, write_csv: Any) -> None:
    two = load_examples(DataRecipe(source=str(write_csv([(f"text {i}", "ab"[i % 2]) for i in range(40)]))))
    model = load_classifier(ModelSource(str(classifier)), two, new_head=True)
    assert model.config.num_labels == 2 and model.classifier.weight.shape[0] == 2
    kept = load_classifier(
        ModelSource(str(classifier)), two.__class__(**{**vars(two), "problem": "unlabelled"}), new_head=False
    )
    assert torch.equal(model.bert.encoder.layer[1].output.dense.weight, kept.bert.encoder.layer[1].output.dense.weight)


def test_a_teacher_without_a_head_is_refused(encoder: Path, examples: Examples) -> None:
    with pytest.raises(GeodistillError, match=r"has no trained head: .*classifier.*teacher\.training"):
        load_classifier(ModelSource(str(encoder)), examples, new_head=False)


def load_task(examples: Examples, name: Path) -> tuple[Classification, PreTrainedModel]:
    task = Classification(examples)
    return task, task.load_model(ModelSource(str(name)), new_head=False)


@pytest.mark.parametrize("labels", [["a", "b"], ["0", "1"], ["a", "b", "c", "d", "e", "f"]])
def test_a_teacher_of_other_labels_is_refused(classifier: Path, write_csv: Any, labels: list[str]) -> None:
    """Also where it has as many."""
    rows = [(f"text {place}", labels[place % len(labels)]) for place in range(60)]
    other = load_examples(DataRecipe(source=str(write_csv(rows))))
    with pytest.raises(GeodistillError, match=rf"data has {len(labels)} \('{labels[0]}', .*has 6 \('ABBR', .*Rename"):
        load_task(other, classifier)


def test_data_with_some_of_the_labels_is_matched_by_name(
    classifier: Path, write_csv: Any, questions: list[tuple[str, str]]
) -> None:
    some = load_examples(DataRecipe(source=str(write_csv([row for row in questions if row[1] in ("HUM", "NUM")]))))
    task, model = load_task(some, classifier)
    encoded = encode(model, some, TextReader(load_tokenizer(ModelSource(str(classifier))), 128))["train"]
    assert {model.config.id2label[example["labels"]] for example in encoded} == {"HUM", "NUM"}
    assert task.notes == some.notes


def test_a_teacher_without_names_takes_those_of_the_data(
    encoder: Path, tmp_path: Path, write_csv: Any, examples: Examples
) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    tiny(num_labels=6, vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    task, model = load_task(examples, tmp_path)
    assert task.notes == [
        *examples.notes,
        f"The labels are matched to the outputs of '{tmp_path}' by number or place: 'ABBR' is 'LABEL_0', "
        "'DESC' is 'LABEL_1', 'ENTY' is 'LABEL_2', 'HUM' is 'LABEL_3', 'LOC' is 'LABEL_4', 'NUM' is 'LABEL_5'.",
    ]
    assert model.config.id2label == dict(enumerate(examples.label_names))
    assert model.config.problem_type == "single_label_classification"
    task.encode(model, TextReader(tokenizer))
    task.load_model(ModelSource(str(tmp_path)), new_head=False)
    assert len(task.notes) == len(examples.notes) + 1
    student = build_student(StudentRecipe(width=8, layers=1), model, seed=0)
    assert student.config.id2label == model.config.id2label
    assert student.config.problem_type == "single_label_classification"


def test_a_stage_tells_how_its_labels_are_matched(encoder: Path, examples: Examples) -> None:
    """Its teacher was loaded for the task, and may have outputs without names."""
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    task = Classification(examples)
    task.encode(tiny(num_labels=6, vocab_size=len(tokenizer)), TextReader(tokenizer))
    assert "by number or place" in task.notes[-1]


@pytest.mark.parametrize("said", ["multi_label_classification", "regression"])
def test_a_teacher_of_another_problem_is_refused(tmp_path: Path, examples: Examples, said: str) -> None:
    tiny(dict(enumerate(examples.label_names)), problem_type=said).save_pretrained(tmp_path)
    with pytest.raises(GeodistillError, match=r"is for a (classification with any|regression).*one label an example"):
        load_task(examples, tmp_path)


def test_a_model_that_is_not_there(tmp_path: Path, examples: Examples) -> None:
    with pytest.raises(GeodistillError, match="There is no model folder"):
        load_classifier(ModelSource(str(tmp_path / "none")), examples, new_head=False)
    with pytest.raises(GeodistillError, match=r"cannot be loaded.*Look whether its files are whole"):
        load_classifier(ModelSource(str(tmp_path)), examples, new_head=True)


def test_damaged_weights_are_an_error(tmp_path: Path, examples: Examples) -> None:
    tiny().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GeodistillError, match=r"cannot be loaded.*Look whether its files are whole"):
        load_classifier(ModelSource(str(tmp_path)), examples, new_head=True)


def test_encoded_labels_follow_the_model(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    model = tiny(dict(enumerate(["NUM", "LOC", "HUM", "ENTY", "DESC", "ABBR"])), vocab_size=len(tokenizer))
    encoded = encode(model, examples, TextReader(tokenizer, 12))
    for name, split in examples.splits.items():
        assert [example["example_id"] for example in encoded[name]] == list(range(len(split)))
        for example, row in zip(encoded[name], split, strict=True):
            assert model.config.id2label[example["labels"]] == examples.label_names[row["label"]]
            assert len(example["input_ids"]) <= 12
            assert tokenizer.decode(example["input_ids"], skip_special_tokens=True) in row["text"].lower()
            assert sum(example["special_tokens_mask"]) == 2


def test_texts_are_cut_to_the_positions_of_the_model(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    encoded = encode(tiny(num_labels=6), examples, TextReader(tokenizer, 128).within(6))
    assert {len(example["input_ids"]) for example in encoded["train"]} == {6}


def test_the_record_tells_what_was_cut_and_how_labels_were_matched(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    task = Classification(examples)
    assert task.record.cut is None and task.record.outputs == {}
    task.encode(tiny(max_position_embeddings=6, num_labels=6), TextReader(tokenizer))
    long = sum(len(tokenizer(text)["input_ids"]) > 6 for text in examples.splits["train"]["text"])
    assert task.record.cut is not None and task.record.cut["train"] == long > 0
    assert task.record.max_length == 6
    assert task.record.by_place and task.record.outputs["DESC"] == "LABEL_1"
    assert task.record.notes == task.notes


def test_pairs_are_encoded_as_pairs(encoder: Path, write_csv: Any) -> None:
    rows = [(f"first {i},second {i}", "ab"[i % 2]) for i in range(40)]
    examples = load_examples(DataRecipe(source=str(write_csv(rows, header="sentence1,sentence2,label"))))
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    example = encode(tiny(), examples, TextReader(tokenizer, 128))["train"][0]
    assert sum(example["special_tokens_mask"]) == 3
    assert set(example["token_type_ids"]) == {0, 1}


def test_predictions_come_back_in_the_order_of_the_examples(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    model = tiny(vocab_size=len(tokenizer), num_labels=6).train()
    reader = TextReader(tokenizer, 128)
    encoded = encode(model, examples, reader)["train"]
    together = predict(model, encoded, reader, batch_size=7)
    assert model.training
    one_by_one = np.concatenate([predict(model, [{**example, "example_id": 0}], reader) for example in encoded])
    assert np.allclose(together, one_by_one, atol=1e-6)
    longest = next(batches(encoded, reader, 7))
    assert longest["input_ids"].shape[1] == max(len(example["input_ids"]) for example in encoded)
    assert sum(len(batch["input_ids"]) for batch in batches(encoded, reader, 7)) == len(encoded)


def test_score_takes_the_best_label(examples: Examples) -> None:
    encoded = [{"labels": 2}, {"labels": 0}, {"labels": 1}, {"labels": 1}]
    logits = np.eye(6, dtype=np.float32)[[2, 0, 1, 3]]
    assert score(logits, encoded, examples)["accuracy"] == 0.75


def test_labels_as_a_head_has_them() -> None:
    assert numbered(1, "classification", [2, 0], 3) == 0
    assert numbered([0, 1], "multi_label", [3, 0], 4) == [1.0, 0.0, 0.0, 1.0]
    assert numbered([], "multi_label", [0, 1], 2) == [0.0, 0.0]
    assert numbered(0.5, "regression", [0], 1) == 0.5
    assert numbered([0.5, 2.0], "regression", [1, 0], 2) == [2.0, 0.5]


@pytest.fixture
def several(write_jsonl: Any) -> Examples:
    """Forty texts with none, one or both of two labels."""
    lists: list[list[str]] = [[], ["red"], ["blue"], ["blue", "red"]]
    return load_examples(DataRecipe(source=str(write_jsonl((f"text {i}", lists[i % 4]) for i in range(40)))))


def test_several_labels_are_scored_one_by_one(encoder: Path, several: Examples) -> None:
    tokenizer, task = load_tokenizer(ModelSource(str(encoder))), Classification(several)
    model = tiny(vocab_size=len(tokenizer), **head_settings(several))
    assert model.config.problem_type == "multi_label_classification"
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([1.0, -1.0])
    encoded = task.encode(model, TextReader(tokenizer))
    scores = task.score(model, TextReader(tokenizer), encoded, "test")
    references = [line["reference"] for line in scores.lines]
    assert {"split", "row", "text", "prediction", "probabilities", "reference"} == set(scores.lines[0])
    assert all(line["prediction"] == ["blue"] for line in scores.lines)
    blue, red = (sum(name in labels for labels in references) for name in ("blue", "red"))
    false = len(references) - blue
    f1 = 2 * blue / (2 * blue + false)
    assert scores.metrics == {
        "micro_f1": pytest.approx(2 * blue / (2 * blue + false + red)),
        "macro_f1": pytest.approx(f1 / 2),
        "subset_accuracy": pytest.approx(references.count(["blue"]) / len(references)),
    }
    assert scores.notes == [f"never predicts 'red' ({red}), of {len(references)} examples"]
    batch = TextReader(tokenizer).collate(encoded["train"][:4])
    assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (4, 2)
    assert torch.isfinite(model(**model_inputs(model, batch), labels=batch["labels"]).loss)


def test_labels_that_a_head_has_and_the_data_lacks_count_as_absent(encoder: Path, several: Examples) -> None:
    tokenizer, task = load_tokenizer(ModelSource(str(encoder))), Classification(several)
    names = {0: "red", 1: "green", 2: "blue"}
    model = tiny(names, vocab_size=len(tokenizer), problem_type="multi_label_classification")
    encoded = task.encode(model, TextReader(tokenizer))
    assert task.notes[-1].endswith("which count as absent: 'green'.")
    assert {tuple(example["labels"]) for example in encoded["train"]} <= {
        (0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0),
        (1.0, 0.0, 1.0),
    }


def test_a_regression_of_several_values(encoder: Path, write_csv: Any) -> None:
    path = write_csv([(f"text {i}", f"{i / 7},{-i}") for i in range(40)], header="text,x,y")
    values = load_examples(DataRecipe(source=str(path), label=["x", "y"]))
    tokenizer, task = load_tokenizer(ModelSource(str(encoder))), Classification(values)
    model = tiny(vocab_size=len(tokenizer), **head_settings(values))
    assert (model.config.num_labels, model.config.problem_type) == (2, "regression")
    scores = task.score(model, TextReader(tokenizer), task.encode(model, TextReader(tokenizer)), "test")
    assert list(scores.metrics) == ["pearson", "spearman"]
    assert all(len(line["prediction"]) == len(line["reference"]) == 2 for line in scores.lines)
    swapped = tiny({0: "y", 1: "x"}, vocab_size=len(tokenizer), problem_type="regression")
    encoded = task.encode(swapped, TextReader(tokenizer))["train"][0]["labels"]
    assert encoded == task.encode(model, TextReader(tokenizer))["train"][0]["labels"][::-1]


def test_the_scores_tell_of_a_blind_spot(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(ModelSource(str(encoder)))
    task = Classification(examples)
    model = tiny(vocab_size=len(tokenizer), **head_settings(examples))
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.arange(6.0)
    notes = task.score(model, TextReader(tokenizer), task.encode(model, TextReader(tokenizer)), "test").notes
    assert len(notes) == 1 and notes[0].startswith("never predicts '") and notes[0].count("(") == 5


def test_the_fine_tuned_teacher_loads_whole(classifier: Path) -> None:
    model, info = AutoModelForSequenceClassification.from_pretrained(classifier, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.num_hidden_layers == 2 and model.config.id2label[3] == "HUM"
