from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go

from geodistill.studies.report.answers import (
    MOST_EXAMPLES,
    MOST_SAMPLES,
    against_teacher,
    confusion,
    confusion_plot,
    disagreement,
    samples,
)
from geodistill.studies.report.page import Notes, Sample, Section, SmallPlots, Tables

from .conftest import EVIL, answers


def table(section: Section | None) -> list[list[str]]:
    assert section is not None
    block = section.blocks[0]
    assert isinstance(block, Tables)
    return [list(block.tables[0].heads), *map(list, block.tables[0].rows)]


def note(section: Section | None) -> str:
    assert section is not None
    block = section.blocks[-1]
    assert isinstance(block, Notes)
    return block.lines[-1]


def test_a_confusion_matrix_counts_and_shares() -> None:
    lines = [{**line, "reference": right} for line, right in zip(answers("a", "b", "b", "b"), "aaab", strict=True)]
    figure = confusion_plot(lines)
    go.Figure(figure)
    json.dumps(figure, allow_nan=False)
    drawn = figure["data"][0]
    assert drawn["z"] == [[0.3333, 0.6667], [0, 1]] and drawn["text"] == [["1", "2"], ["", "1"]]
    assert drawn["customdata"] == [[1, 2], [0, 1]] and drawn["x"] == drawn["y"] == ["a", "b"]


def test_the_confusion_of_a_hundred_labels_takes_little_room() -> None:
    lines = [{**line, "reference": f"label {row}"} for row, line in enumerate(answers(*["label 7"] * 100))]
    figure = confusion_plot(lines)
    go.Figure(figure)
    assert figure["data"][0]["text"] is None and len(json.dumps(figure)) < 120_000


def test_confusion_is_drawn_of_the_models_that_are_shown_and_known() -> None:
    seeds = [answers("a", "b"), answers("b", "b")]
    section = confusion({"teacher": [[]], "KD": seeds, "other": seeds}, ["teacher", "KD"])
    assert section is not None
    block = section.blocks[0]
    assert isinstance(block, SmallPlots)
    assert [plot.caption for plot in block.plots] == ["KD"] and block.plots[0].figure["data"][0]["text"][0] == [
        "1",
        "3",
    ]
    assert confusion({"KD": [[]]}, ["KD"]) is None
    assert confusion({"KD": [[{"split": "test", "r2": 0.5}]]}, ["KD"]) is None


def test_values_are_drawn_against_their_references() -> None:
    lines = [{"split": "test", "row": i, "text": EVIL, "prediction": i / 2, "reference": float(i)} for i in range(3)]
    section = confusion({"KD": [lines]}, ["KD"])
    assert section is not None and section.title == "Predictions and references"
    block = section.blocks[0]
    assert isinstance(block, SmallPlots)
    figure = block.plots[0].figure
    go.Figure(figure)
    assert figure["data"][1]["x"] == [0, 1, 2] and figure["data"][1]["y"] == [0, 0.5, 1]
    assert "<img" not in json.dumps(figure)


def test_students_disagree_where_one_is_right_more_often() -> None:
    found = {
        "teacher": [answers("a", "a", "b")],
        "KD": [answers("a", "b", "a"), answers("a", "b", "b")],
        "KD + P": [answers("a", "a", "b"), answers("a", "a", "b")],
    }
    section = disagreement(found, "teacher")
    assert table(section) == [
        ["example", "right", "teacher", "KD", "KD + P"],
        ["question 1", "a", "✓ a", "✗ b", "✓ a"],
        ["question 2", "a", "✗ b", "✓ a 1/2", "✗ b"],
    ]
    assert note(section).startswith("2 of 3 test examples are right more often for one student than for another. All")
    assert disagreement({"teacher": found["teacher"], "KD": found["KD"]}, "teacher") is None
    assert disagreement({"KD": found["KD"], "same": found["KD"]}, "teacher") is None
    assert disagreement({}, "teacher") is None


def test_only_the_examples_that_differ_most_are_shown() -> None:
    many = MOST_EXAMPLES + 5
    section = disagreement({"KD": [answers(*["a"] * many)], "P": [answers(*["b"] * many)]}, "teacher")
    assert len(table(section)) == 1 + MOST_EXAMPLES and "These differ most." in note(section)


def test_labels_of_several_are_told() -> None:
    lines = [
        {"split": "test", "row": 0, "text": "t", "prediction": each, "reference": ["a", "b"]}
        for each in ([], ["a", "b"])
    ]
    section = disagreement({"KD": [lines[:1]], "P": [lines[1:]]}, "teacher")
    assert table(section)[1] == ["t", "a, b", "✗ none", "✓ a, b"]


def test_a_student_and_its_teacher() -> None:
    student = [{**line, "probability": p} for line, p in zip(answers("a", "b", "a"), (0.9, 0.8, 0.95), strict=True)]
    section = against_teacher(student, answers("b", "a", "a"))
    assert table(section)[1:] == [
        ["question 0", "a", "✗ b", "✓ a", "90.0 %"],
        ["question 1", "a", "✓ a", "✗ b", "80.0 %"],
    ]
    assert "2 of 3 test examples differently: the student alone is right in 1, the teacher alone in 1." in note(section)
    assert against_teacher(student, student) is None and against_teacher(student, []) is None


def test_samples_stand_side_by_side() -> None:
    def lines(who: str, count: int = 20) -> list[dict[str, Any]]:
        return [
            {"split": "test", "row": row, "prompt": f"p{row}", "responses": [f"{who}{row}", "-"], "references": ["r"]}
            for row in range(count)
        ]

    section = samples({"teacher": [lines("t")], "KD": [lines("k"), lines("other")], "none": [[]]})
    assert section is not None and len(section.blocks) == MOST_SAMPLES + 1
    first, second = section.blocks[:2]
    assert first == Sample("p0", [("reference", "r"), ("teacher", "t0"), ("KD", "k0")])
    assert isinstance(second, Sample) and second.asked == f"p{20 // MOST_SAMPLES}"
    long = [{**line, "prompt": "x" * 1000, "responses": [" "]} for line in lines("t", 1)]
    section = samples({"KD": [long]})
    assert section is not None and isinstance(section.blocks[0], Sample)
    assert len(section.blocks[0].asked) == 400 and section.blocks[0].answers[-1] == ("KD", "(nothing)")
    assert samples({"KD": [answers("a")]}) is None and samples({"KD": [[]]}) is None
