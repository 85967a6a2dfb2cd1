from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from geodistill.data.examples import Examples, load_examples
from geodistill.errors import GeodistillError
from geodistill.recipe import DataRecipe
from geodistill.tasks.classification import (
    Classification,
    collator,
    encode,
    head_settings,
    label_order,
    load_classifier,
    never_predicted,
    predict,
    score,
)
from geodistill.tasks.loading import load_tokenizer
from geodistill.tasks.task import batches


def tiny(labels: dict[int, str] | None = None, **changes: Any) -> BertForSequenceClassification:
    names = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}} if labels else {}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**sizes, **names, **changes}))


@pytest.fixture
def examples(write_csv: Any, questions: list[tuple[str, str]]) -> Examples:
    return load_examples(DataRecipe(source=str(write_csv(questions))))


def test_a_new_head_carries_the_names_of_the_labels(encoder: Path, examples: Examples) -> None:
    model = load_classifier(str(encoder), examples, new_head=True)
    assert model.config.num_labels == 6
    assert model.config.id2label == dict(enumerate(["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]))
    assert model.config.problem_type == "single_label_classification"


def test_a_new_head_replaces_one_of_another_size(encoder: Path, classifier: Path, write_csv: Any) -> None:
    two = load_examples(DataRecipe(source=str(write_csv([(f"text {i}", "ab"[i % 2]) for i in range(40)]))))
    model = load_classifier(str(classifier), two, new_head=True)
    assert model.config.num_labels == 2 and model.classifier.weight.shape[0] == 2
    kept = load_classifier(str(classifier), two.__class__(**{**vars(two), "problem": "unlabelled"}), new_head=False)
    assert torch.equal(model.bert.encoder.layer[1].output.dense.weight, kept.bert.encoder.layer[1].output.dense.weight)


def test_a_regression_has_one_output(write_csv: Any) -> None:
    values = load_examples(DataRecipe(source=str(write_csv([(f"text {i}", i / 7) for i in range(40)]))))
    assert label_order(tiny(), values) == []
    assert head_settings(values) == {"num_labels": 1, "problem_type": "regression"}


def test_a_teacher_without_a_head_is_refused(encoder: Path, examples: Examples) -> None:
    with pytest.raises(GeodistillError, match=r"has no trained head: .*classifier.*teacher\.training"):
        load_classifier(str(encoder), examples, new_head=False)


def test_a_teacher_with_another_number_of_labels_is_refused(classifier: Path, write_csv: Any) -> None:
    two = load_examples(DataRecipe(source=str(write_csv([(f"text {i}", "ab"[i % 2]) for i in range(40)]))))
    with pytest.raises(GeodistillError, match=r"has 6 labels, the data 2.*teacher\.training"):
        load_classifier(str(classifier), two, new_head=False)


def test_data_with_some_of_the_labels_is_matched_by_name(
    classifier: Path, write_csv: Any, questions: list[tuple[str, str]]
) -> None:
    some = load_examples(DataRecipe(source=str(write_csv([row for row in questions if row[1] in ("HUM", "NUM")]))))
    model = load_classifier(str(classifier), some, new_head=False)
    assert [model.config.id2label[number] for number in label_order(model, some)] == ["HUM", "NUM"]


def test_a_model_that_is_not_there(tmp_path: Path, examples: Examples) -> None:
    with pytest.raises(GeodistillError, match="There is no model folder"):
        load_classifier(str(tmp_path / "none"), examples, new_head=False)
    with pytest.raises(GeodistillError, match=r"cannot be loaded.*Look whether its files are whole"):
        load_classifier(str(tmp_path), examples, new_head=True)


def test_damaged_weights_are_an_error(tmp_path: Path, examples: Examples) -> None:
    tiny().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(GeodistillError, match=r"cannot be loaded.*Look whether its files are whole"):
        load_classifier(str(tmp_path), examples, new_head=True)


def test_labels_are_matched_by_name_in_any_case_or_else_by_place(examples: Examples) -> None:
    names = ["NUM", "LOC", "HUM", "ENTY", "DESC", "ABBR"]
    turned = tiny(dict(enumerate(name.lower() for name in names)))
    assert label_order(turned, examples) == [5, 4, 3, 2, 1, 0]
    assert label_order(tiny(dict(enumerate(f"LABEL_{i}" for i in range(6)))), examples) == [0, 1, 2, 3, 4, 5]


def test_encoded_labels_follow_the_model(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(str(encoder))
    model = tiny(dict(enumerate(["NUM", "LOC", "HUM", "ENTY", "DESC", "ABBR"])), vocab_size=len(tokenizer))
    encoded = encode(model, examples, tokenizer, 12)
    for name, split in examples.splits.items():
        assert [example["example_id"] for example in encoded[name]] == list(range(len(split)))
        for example, row in zip(encoded[name], split, strict=True):
            assert model.config.id2label[example["labels"]] == examples.label_names[row["label"]]
            assert len(example["input_ids"]) <= 12
            assert tokenizer.decode(example["input_ids"], skip_special_tokens=True) in row["text"].lower()
            assert sum(example["special_tokens_mask"]) == 2


def test_texts_are_cut_to_the_positions_of_the_model(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(str(encoder))
    encoded = encode(tiny(max_position_embeddings=6), examples, tokenizer, 128)
    assert {len(example["input_ids"]) for example in encoded["train"]} == {6}


def test_pairs_are_encoded_as_pairs(encoder: Path, write_csv: Any) -> None:
    rows = [(f"first {i},second {i}", "ab"[i % 2]) for i in range(40)]
    examples = load_examples(DataRecipe(source=str(write_csv(rows, header="sentence1,sentence2,label"))))
    tokenizer = load_tokenizer(str(encoder))
    example = encode(tiny(), examples, tokenizer, 128)["train"][0]
    assert sum(example["special_tokens_mask"]) == 3
    assert set(example["token_type_ids"]) == {0, 1}


def test_predictions_come_back_in_the_order_of_the_examples(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(str(encoder))
    model = tiny(vocab_size=len(tokenizer), num_labels=6).train()
    encoded, collate = encode(model, examples, tokenizer, 128)["train"], collator(tokenizer)
    together = predict(model, encoded, collate, batch_size=7)
    assert model.training
    one_by_one = np.concatenate([predict(model, [{**example, "example_id": 0}], collate) for example in encoded])
    assert np.allclose(together, one_by_one, atol=1e-6)
    longest = next(batches(encoded, collate, 7))
    assert longest["input_ids"].shape[1] == max(len(example["input_ids"]) for example in encoded)
    assert sum(len(batch["input_ids"]) for batch in batches(encoded, collate, 7)) == len(encoded)


def test_score_takes_the_best_label(examples: Examples) -> None:
    encoded = [{"labels": 2}, {"labels": 0}, {"labels": 1}, {"labels": 1}]
    logits = np.eye(6, dtype=np.float32)[[2, 0, 1, 3]]
    assert score(logits, encoded, examples)["accuracy"] == 0.75


def test_a_label_that_is_never_predicted_is_named() -> None:
    """The commonest first, and not all of very many."""
    lines = [{"prediction": "a", "reference": name} for name in "abcc"]
    assert never_predicted(lines) == ["never predicts 'c' (2), 'b' (1), of 4 examples"]
    assert never_predicted([*lines, {"prediction": "c", "reference": "a"}, {"prediction": "b", "reference": "a"}]) == []
    many = [{"prediction": "0", "reference": str(number)} for number in range(9)]
    named = "'1' (1), '2' (1), '3' (1), '4' (1), '5' (1)"
    assert never_predicted(many) == [f"never predicts {named} and 3 more, of 9 examples"]


def test_the_scores_tell_of_a_blind_spot(encoder: Path, examples: Examples) -> None:
    tokenizer = load_tokenizer(str(encoder))
    task = Classification(examples)
    model = tiny(vocab_size=len(tokenizer), **head_settings(examples))
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.arange(6.0)
    notes = task.score(model, tokenizer, task.encode(model, tokenizer), "test").notes
    assert len(notes) == 1 and notes[0].startswith("never predicts '") and notes[0].count("(") == 5


def test_the_fine_tuned_teacher_loads_whole(classifier: Path) -> None:
    model, info = AutoModelForSequenceClassification.from_pretrained(classifier, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.num_hidden_layers == 2 and model.config.id2label[3] == "HUM"
