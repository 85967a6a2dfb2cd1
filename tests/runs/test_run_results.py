from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geodistill.errors import GeodistillError
from geodistill.runs.run_results import GEOMETRY, RunResults, describe_details, describe_evaluation

EVIL = "<b>&'"


def pair(student: int, teacher: int, distance: float | None) -> dict[str, Any]:
    return {
        "student_layer": student,
        "teacher_layer": teacher,
        "rows": "tokens",
        "procrustes": {"value": distance, "floor": 0.2, "chance": 1.7},
        "gram": {"value": 0.4, "floor": 0.02, "chance": 0.34},
        "cka": {"value": 0.2, "floor": 0.98, "chance": 0.08},
    }


@pytest.fixture
def content() -> dict[str, Any]:
    """What results.json holds."""
    return {
        "fingerprint": "abc",
        "seed": 1,
        "data_fingerprint": "def",
        "positions": 512,
        "epoch": "last",
        "precision": {"teacher": "float32", "training": "float32"},
        "split": "test",
        "metrics": {"accuracy": 0.87, "macro_f1": None},
        "constant": {"answer": "'b'", "metrics": {"accuracy": 0.25, "macro_f1": 0.1}, "examples": 4},
        "validation_metrics": {"accuracy": 0.9, "macro_f1": 0.8},
        "details": {},
        "geometry": [pair(1, 3, 1.6), pair(2, 6, None)],
        "parameters": 4_386_178,
        "megabytes": 17.6,
        "latency_ms": 1.5,
        "read": {},
        "notes": ["Two rows were dropped."],
        "teacher": {
            "name": "teacher: minilm",
            "metrics": {"accuracy": 0.955, "macro_f1": 0.94},
            "notes": ["The teacher never predicts 'b'."],
            "parameters": 22_713_216,
            "megabytes": 90.9,
            "latency_ms": 6.4,
            "training_seconds": None,
        },
        "training_seconds": 12.0,
        "tokens_per_second": 1000.0,
        "peak_megabytes": None,
        "feature_batch": {"task": "the batch"},
        "skipped_steps": 0,
        "starved_terms": 0,
        "onnx_difference": None,
        "forms": [],
        "layers": [],
        "learned_teacher": None,
    }


@pytest.fixture
def results(content: dict[str, Any], tmp_path: Path) -> RunResults:
    (tmp_path / "student").mkdir()
    return RunResults.from_dict(tmp_path, content)


def test_they_are_typed_and_go_back_to_what_the_file_holds(content: dict[str, Any], results: RunResults) -> None:
    assert results.teacher.metrics["accuracy"] == 0.955 and results.constant is not None
    assert results.constant.answer == "'b'"
    assert json.loads(json.dumps(results.to_dict())) == content
    with pytest.raises(AttributeError):
        results.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_file_of_another_version_is_refused_by_name(content: dict[str, Any], tmp_path: Path, change: str) -> None:
    other = {**content, "novelty": 1}
    if change == "missing":
        other = {name: value for name, value in content.items() if name != "split"}
    with pytest.raises(GeodistillError, match=r"'(novelty|split)' is missing or unknown.*--fresh"):
        RunResults.from_dict(tmp_path, other)


def test_they_print_as_tables(results: RunResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # a sentence that is longer than a line is folded
    lines = str(results).splitlines()
    assert lines[0].split() == ["accuracy", "macro_f1"]
    assert lines[2].split() == ["student", "on", "test", "0.8700", "not", "finite"]
    assert lines[3].split() == ["teacher", "0.9550", "0.9400"]
    assert lines[4].split() == ["always", "'b'", "0.2500", "0.1000"]
    assert lines[6].split() == ["layers", "D_P²", "D_FG²", "CKA"]
    assert (
        lines[8].split()[:6] == ["1", "↔", "3", "1.600", "(0.200,", "1.700)"]
        and "not finite (0.200, 1.700)" in lines[9]
    )
    assert lines[11] == GEOMETRY and max(map(len, lines[:11])) <= 80, "a usual terminal is wide enough"
    assert lines[-3:] == [
        "note: Two rows were dropped.",
        "note: The teacher never predicts 'b'.",
        f"Student: {tmp_path / 'student'}",
    ], "a report that is not there is not named"


def test_they_show_as_html_in_a_notebook(results: RunResults) -> None:
    shown = replace(results, notes=[EVIL], metrics={EVIL: 0.5})._repr_html_()
    assert shown.count("<table>") == 2 and "1.600 (0.200, 1.700)" in shown
    assert "<b>" not in shown and shown.count("&lt;b&gt;") == 2


def test_without_labels_there_is_no_score(results: RunResults) -> None:
    unlabelled = replace(results, metrics={}, split="validation", constant=None)
    assert str(unlabelled).startswith("student on validation: no labels, no score\nlayers")
    assert "no labels, no score" in unlabelled._repr_html_() and unlabelled._repr_html_().count("<table>") == 1


def test_responses_are_described_by_part(results: RunResults) -> None:
    detail = {"prompts": 8, "seeds": [1, 2], "deviation": {"rouge_l": 0.01, "perplexity": None}}
    detail |= {"tokens_per_second": 41.6, "unfinished": 0.25}
    (line,) = describe_details({"test": detail})
    assert line == "test: 8 prompts, 2 seeds (rouge_l ± 0.0100), 42 tokens/s, 25% not ended"
    assert line in str(replace(results, details={"test": detail})) and describe_details(None) == []


def test_an_evaluation_is_described() -> None:
    scores = {"split": "all", "metrics": {"accuracy": 0.5}, "notes": ["The student never predicts 'b'."]}
    scores |= {"source": "b.csv", "predictions": "p.jsonl", "replaced": True, "examples": 60, "details": {}}
    assert describe_evaluation(scores).splitlines() == [
        "student on all (60 examples): accuracy 0.5000",
        "note: The student never predicts 'b'.",
        "Predictions: p.jsonl (the file that was there is replaced)",
    ]
    one = {**scores, "split": None, "metrics": {}, "examples": 1, "replaced": False, "notes": []}
    assert describe_evaluation(one) == "student on b.csv (1 example): no labels, no score\nPredictions: p.jsonl"


def test_the_forms_of_a_quantised_student_are_a_table(content: dict[str, Any], tmp_path: Path) -> None:
    content["forms"] = [
        {"name": "float32", "agreement": 0.991, "difference": 0.25, "megabytes": 17.64, "latency_ms": 0.31},
        {"name": "fake-quantised", "agreement": None, "difference": None, "megabytes": 17.7, "latency_ms": 0.45},
        {"name": "integers", "agreement": 0.9995, "difference": 2.5e-4, "megabytes": 4.45, "latency_ms": None},
    ]
    results = RunResults.from_dict(tmp_path, content)
    assert results.forms[2].agreement == 0.9995 and results.to_dict() == content
    shown = {line.split("  ")[0]: line.split()[1:] for line in str(results).splitlines()}
    assert shown["float32"] == ["17.6", "MB", "0.31", "ms", "99.10", "%", "2.5e-01"]
    assert shown["fake-quantised"] == ["17.7", "MB", "0.45", "ms"]
    assert shown["integers"] == ["4.45", "MB", "99.95", "%", "2.5e-04"]
    assert "by ONNX Runtime on one thread" in " ".join(str(results).split())
    content["forms"] = []
    assert "ONNX Runtime" not in str(RunResults.from_dict(tmp_path, content))
