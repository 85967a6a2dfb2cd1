from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from geodistill.distillation.students.build import build_student
from geodistill.distillation.students.head_labels import few, match_labels, name_outputs, output_names, reorder_outputs
from geodistill.errors import GeodistillError
from geodistill.recipe import StudentRecipe


@pytest.mark.parametrize(
    ("outputs", "labels", "numbers"),
    [
        (["a", "b", "c"], ["c", "a"], [2, 0]),
        (["NEG", "POS"], ["pos", "neg"], [1, 0]),
        (["US", "us"], ["us", "US"], [1, 0]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["a", "A", "b"], ["b", "a"], [2, 0]),
    ],
)
def test_by_name(outputs: list[str], labels: list[str], numbers: list[int]) -> None:
    found = match_labels(outputs, labels, "m")
    assert (found.numbers, found.by_place, found.notes) == (numbers, False, [])


@pytest.mark.parametrize(
    ("outputs", "labels", "numbers", "told"),
    [
        (["LABEL_0", "LABEL_1"], ["ham", "spam"], [0, 1], "'ham' is 'LABEL_0', 'spam' is 'LABEL_1'"),
        (["neg", "pos"], ["0", "1"], [0, 1], "'0' is 'neg', '1' is 'pos'"),
        (["neg", "pos"], ["-1", "1"], [0, 1], "'-1' is 'neg', '1' is 'pos'"),
        (["LABEL_0", "LABEL_1"], ["1", "2"], [0, 1], "'1' is 'LABEL_0', '2' is 'LABEL_1'"),
        (["LABEL_1", "LABEL_0"], ["0", "1"], [1, 0], "'0' is 'LABEL_0', '1' is 'LABEL_1'"),
        (["Class 0", "class-1"], ["x", "y"], [0, 1], "'x' is 'Class 0', 'y' is 'class-1'"),
    ],
)
def test_names_that_say_nothing_are_matched_by_place_and_told(
    outputs: list[str], labels: list[str], numbers: list[int], told: str
) -> None:
    found = match_labels(outputs, labels, "m")
    assert (found.numbers, found.by_place) == (numbers, True)
    assert found.notes == [f"The labels are matched to the outputs of 'm' by number or place: {told}."]


@pytest.mark.parametrize(
    ("outputs", "labels"),
    [
        (["neg", "pos"], ["ham", "spam"]),
        (["neg", "pos"], ["neg", "positive"]),
        (["US", "us"], ["Us", "uS"]),
        (["US", "us"], ["US", "Us"]),
        (["us", "uk"], ["US", "us"]),
        (["0", "1"], ["1", "2"]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["a", "b"]),
        (["neg", "pos"], ["0"]),
        (["a", "a"], ["a", "b"]),
    ],
)
def test_other_names_are_refused(outputs: list[str], labels: list[str]) -> None:
    with pytest.raises(GeodistillError, match=r"cannot be matched to those of the model 'm'.*Rename") as caught:
        match_labels(outputs, labels, "m")
    for name in (*outputs, *labels):
        assert f"'{name}'" in caught.value.problem


def test_many_names_are_listed_in_short() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([str(number) for number in range(12)]).endswith("9 and 2 more")


def tiny(names: list[str], seed: int = 0, **settings: Any) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(**sizes, vocab_size=50, num_labels=len(names), **settings)
    name_outputs(config, names)
    return BertForSequenceClassification(config).eval()


def test_names_of_a_head() -> None:
    model = tiny(["x", "y", "z"])
    assert output_names(model.config) == ["x", "y", "z"]
    assert model.config.label2id == {"x": 0, "y": 1, "z": 2}


def test_a_trained_head_is_brought_into_the_order_of_other_names() -> None:
    model, ids = tiny(["neg", "neutral", "pos"]), torch.tensor([[1, 2, 3]])
    model.classifier.bias.data = torch.tensor([1.0, 2.0, 3.0])
    before = model(ids).logits
    reorder_outputs(model, ["neg", "neutral", "pos"], ["POS", "NEG", "NEUTRAL"])
    torch.testing.assert_close(model(ids).logits, before[:, [2, 0, 1]])


@pytest.mark.parametrize("wanted", [["LABEL_0", "LABEL_1"], ["neg", "pos"]])
def test_a_head_without_other_names_stays_as_it_is(wanted: list[str]) -> None:
    model = tiny(["neg", "pos"])
    before = model.classifier.weight.clone()
    reorder_outputs(model, ["neg", "pos"], wanted)
    assert torch.equal(model.classifier.weight, before)


def test_a_student_loaded_by_name_has_its_outputs_in_the_order_of_its_teacher(tmp_path: Any) -> None:
    trained, ids = tiny(["neg", "pos"]), torch.tensor([[1, 2, 3]])
    trained.save_pretrained(tmp_path)
    recipe = StudentRecipe(model=str(tmp_path))
    teacher = tiny(["pos", "neg"], seed=1, problem_type="multi_label_classification")
    student = build_student(recipe, teacher, seed=0)
    torch.testing.assert_close(student(ids).logits, trained(ids).logits[:, [1, 0]])
    assert student.config.id2label == {0: "pos", 1: "neg"}
    assert student.config.problem_type == "multi_label_classification"
    other = build_student(recipe, tiny(["ham", "spam"]), seed=0)
    assert not torch.isclose(other.classifier.weight, trained.classifier.weight).any(), "a head of other labels is new"
    torch.testing.assert_close(other.bert.pooler.dense.weight, trained.bert.pooler.dense.weight)
