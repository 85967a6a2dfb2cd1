from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from geodistill.data.examples import load_examples
from geodistill.distillation.sides import ExamplePairs
from geodistill.distillation.signals import FeatureRequest, Teacher, teacher_view
from geodistill.geometry import cka, gram_distance, procrustes_distance
from geodistill.recipe import DataRecipe
from geodistill.runs.measure import compare_rows, measure_geometry
from geodistill.runs.prepare import held_out_examples
from geodistill.tasks.classification import encode
from geodistill.tasks.loading import ModelSource, load_tokenizer
from geodistill.tasks.text_reader import TextReader

PAIRS = [(1, 1), (2, 2)]


def exact(teacher: Any) -> Teacher:
    return Teacher(teacher, [FeatureRequest(t, "tokens") for _, t in PAIRS], precision="float32", logits=False)


def test_each_measure_stands_beside_its_floor_and_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(300, 12, generator=generator)
    student = teacher[:, :5] + 0.1 * torch.randn(300, 5, generator=generator)
    measured = compare_rows(student, teacher)
    assert measured["procrustes"]["value"] == pytest.approx(float(procrustes_distance(student, teacher, squared=True)))
    assert measured["gram"]["value"] == pytest.approx(float(gram_distance(student, teacher, squared=True)))
    assert measured["cka"]["value"] == pytest.approx(float(cka(student, teacher)))
    for name in ("procrustes", "gram"):
        assert measured[name]["floor"] <= measured[name]["value"] < measured[name]["chance"]
    assert measured["cka"]["floor"] >= measured["cka"]["value"] > measured["cka"]["chance"]


def test_the_measures_are_those_of_all_token_rows(
    classifier: Path, write_csv: object, questions: list[tuple[str, str]]
) -> None:
    examples = load_examples(DataRecipe(source=str(write_csv(questions))))  # type: ignore[operator]
    teacher = AutoModelForSequenceClassification.from_pretrained(classifier)
    student = copy.deepcopy(teacher)
    torch.manual_seed(0)
    for parameter in student.bert.encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    reader = TextReader(load_tokenizer(ModelSource(str(classifier))), 16)
    encoded = encode(teacher, examples, reader)["train"]
    measured = measure_geometry(student, exact(teacher), PAIRS, encoded, reader.collate)
    assert [(pair["student_layer"], pair["teacher_layer"]) for pair in measured] == [(1, 1), (2, 2)]

    rows: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    for name, model in (("student", student), ("teacher", teacher)):
        for example in encoded:  # one at a time, so that nothing is padding
            with torch.no_grad():
                output = model.eval()(input_ids=torch.tensor([example["input_ids"]]), output_hidden_states=True)
            rows[name].append(output.hidden_states[2][0])
    expected = compare_rows(torch.cat(rows["student"]), torch.cat(rows["teacher"]))
    for name, values in expected.items():
        assert measured[1][name]["value"] == pytest.approx(values["value"], rel=1e-3, abs=1e-6)


def test_a_copy_is_at_distance_zero(classifier: Path, write_csv: object, questions: list[tuple[str, str]]) -> None:
    examples = load_examples(DataRecipe(source=str(write_csv(questions))))  # type: ignore[operator]
    teacher = AutoModelForSequenceClassification.from_pretrained(classifier)
    reader = TextReader(load_tokenizer(ModelSource(str(classifier))), 16)
    encoded = encode(teacher, examples, reader)["test"]
    for pair in measure_geometry(copy.deepcopy(teacher), exact(teacher), PAIRS, encoded, reader.collate):
        assert pair["procrustes"]["value"] == pytest.approx(0, abs=1e-4)
        assert pair["gram"]["value"] == pytest.approx(0, abs=1e-5)
        assert pair["cka"]["value"] == pytest.approx(1, abs=1e-5)


def test_both_sides_number_the_held_out_examples_alike() -> None:
    """A cache of the teacher's rows holds them in this order, and finds an example by the teacher's number."""
    sides = [[{"values": [0.0] * n, "example_id": place} for place, n in enumerate((2, 5, 3, 4))] for _ in range(2)]
    reading = SimpleNamespace(
        examples={"test": ExamplePairs(*sides)},
        task=SimpleNamespace(metrics=("accuracy",), measured=3),
        reader=SimpleNamespace(length=lambda example: len(example["values"])),
    )
    chosen = held_out_examples(reading)  # type: ignore[arg-type]
    assert [len(example["values"]) for example in chosen] == [5, 3, 2]
    assert [example["example_id"] for example in chosen] == [0, 1, 2]
    assert [teacher_view(example)["example_id"] for example in chosen] == [0, 1, 2]
