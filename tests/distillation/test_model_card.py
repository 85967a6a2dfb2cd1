from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import BertConfig, BertForSequenceClassification, BertModel

from geodistill.distillation.model_card import StudentFacts, front_matter, is_hub_name, write_model_card
from geodistill.quantization import quantize
from geodistill.recipe import QuantizationRecipe, Recipe

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}


def facts(results: dict[str, Any] | None = None, **recipe: Any) -> StudentFacts:
    """What a run of three token rows would know, and what a test lays over it."""
    pair = {"student_layer": 1, "teacher_layer": 3}
    measured = {name: {"value": 0.25, "floor": 0.125, "chance": 0.5} for name in ("procrustes", "gram", "cka")}
    content = {
        "read": {"task": {"parts": {"test": {"rows": 50}}}},
        "split": "test",
        "seed": 7,
        "metrics": {"accuracy": 0.9, "macro_f1": 0.8},
        "constant": {"answer": "HUM", "metrics": {"accuracy": 0.25}},
        "teacher": {
            "metrics": {"accuracy": 0.95, "macro_f1": 0.9},
            "notes": ["The teacher's note."],
            "parameters": 1234,
        },
        "geometry": [{**pair, **measured}, {**pair, "procrustes": measured["procrustes"]}],
        "notes": ["The student says 'a & b'\nin two lines."],
        "parameters": 321,
    }
    given = {"student": {"model": "some/student"}, "objective": {"label": {}, "features": [{"loss": "gram"}]}, **recipe}
    return StudentFacts(Recipe.model_validate(given), {**content, **(results or {})})


def card_of(folder: Path, student: Any, *given: Any) -> tuple[dict[str, Any], str]:
    write_model_card(student, folder, *given)
    _, matter, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(matter), text


def test_accuracy_has_wilsons_interval_and_nothing_else_has_one() -> None:
    (accuracy, f1) = facts().scores
    p, n, z = 0.9, 50, 1.959963984540054
    middle, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z / (1 + z**2 / n) * sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2),
    )
    assert accuracy == ["accuracy", f"0.9000 ({middle - half:.4f} to {middle + half:.4f})", "0.9500", "0.2500"]
    assert f1 == ["macro_f1", "0.8000", "0.9000", ""]


@pytest.mark.parametrize("read", [{"task": {}}, {"task": {"parts": None}}, {"task": {"parts": {"train": {"rows": 9}}}}])
def test_without_a_number_of_examples_there_is_no_interval(read: dict[str, Any]) -> None:
    unknown = facts({"read": read, "constant": None})
    assert unknown.examples is None and unknown.scores[0] == ["accuracy", "0.9000", "0.9500", ""]


def test_only_pairs_with_all_measures_are_told() -> None:
    assert [row[0] for row in facts().geometry] == ["1 ↔ 3"]
    assert facts().geometry[0][1:] == [facts().geometry[0][1]] * 3 and facts().geometry[0][1].startswith("0.250, 0.125")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name", True),
        ("bert-base-uncased", False),
        ("bundled:minilm-l6", False),
        ("new:resnet8", False),
        ("python:package.module:make", False),
        ("/a/folder", False),
        ("some/deeper/folder", False),
        ("../folder", False),
    ],
)
def test_names_of_the_hub(name: str, expected: bool) -> None:
    assert is_hub_name(name) == expected


def test_a_folder_of_this_machine_is_no_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert not is_hub_name("owner/name") and is_hub_name("owner/other")


def test_what_is_not_known_is_left_out_of_the_front_matter() -> None:
    tags = ["geodistill", "knowledge-distillation"]
    assert front_matter(None, None, quantized=False) == {"library_name": "transformers", "tags": tags}
    known = front_matter("text-classification", facts(data={"source": "owner/data"}), quantized=True)
    assert (known["base_model"], known["datasets"]) == ("some/student", ["owner/data"])
    assert known["tags"] == [*tags, "quantization"]
    cut = facts(student={"width": 8, "layers": 1}, teacher={"model": "some/teacher"}, data={"source": "glue/sst2"})
    made = front_matter("text-classification", cut, quantized=False)
    assert made["base_model"] == "some/teacher" and "datasets" not in made


def test_a_card_tells_what_a_run_knows(tmp_path: Path) -> None:
    student = BertForSequenceClassification(BertConfig(**SIZES))
    matter, text = card_of(tmp_path, student, facts())
    assert matter["pipeline_tag"] == "text-classification" and matter["base_model"] == "some/student"
    assert "scored on the 50 examples of the split `test`" in text and "1,234 parameters, the student 321" in text
    assert "| macro_f1 | 0.8000 | 0.9000 |  |" in text and "## Geometry" in text and "with seed 7" in text
    assert "- The student says 'a &amp; b' in two lines.\n- The teacher's note.\n" in text
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["features"][0]["loss"] == "gram"
    assert "## Quantisation" not in text and "AutoModelForSequenceClassification.from_pretrained" in text


def test_a_card_without_a_run_tells_how_to_load_the_student(tmp_path: Path) -> None:
    matter, text = card_of(tmp_path, BertModel(BertConfig(**SIZES)))
    assert matter["pipeline_tag"] == "feature-extraction" and "base_model" not in matter
    assert "AutoModel.from_pretrained" in text and "## Scores" not in text and "import geodistill  #" not in text


def test_layers_with_quantisers_are_counted(tmp_path: Path) -> None:
    student = BertForSequenceClassification(BertConfig(**SIZES))
    names = quantize(
        student, QuantizationRecipe(weights=4, activations=None, first_and_last=None, include=["*attention*"])
    )
    matter, text = card_of(tmp_path, student)
    assert names and "quantization" in matter["tags"] and f"| Linear | {len(names)} | 4 bits | float |" in text
