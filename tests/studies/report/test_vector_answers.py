from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go

from geodistill.studies.report.answers import MOST_SAMPLES
from geodistill.studies.report.page import Notes, Sample, Section, SmallPlots
from geodistill.studies.report.scores import styles
from geodistill.studies.report.vector_answers import decoded_behaviour, wrong_neighbours

from .conftest import EVIL, answers


def ranked(*ranks: int) -> list[dict[str, Any]]:
    """Lines whose nearest neighbour is the next row if the rank is not 1."""
    return [
        {"split": "test", "row": row, "text": f"français {row}", "paired": f"english {row}", "rank": rank}
        | ({"retrieved": f"english {row + 1}"} if rank > 1 else {})
        for row, rank in enumerate(ranks)
    ]


def samples_of(section: Section | None) -> list[Sample]:
    assert section is not None
    return [block for block in section.blocks if isinstance(block, Sample)]


def note(section: Section | None) -> str:
    assert section is not None
    block = section.blocks[-1]
    assert isinstance(block, Notes)
    return block.lines[-1]


def test_students_that_disagree_on_a_neighbour_stand_side_by_side() -> None:
    section = wrong_neighbours({"teacher": [[]], "MSE": [ranked(1, 3, 2), ranked(9, 9, 9)], "P": [ranked(1, 1, 5)]})
    assert samples_of(section) == [
        Sample("français 1", [("right", "english 1"), ("MSE", "✗ 3: english 2"), ("P", "✓")])
    ]
    told = note(section)
    assert told.startswith(
        "2 of 3 test examples have a wrong nearest neighbour under some student; students disagree on 1"
    )


def test_without_disagreement_what_all_get_wrong_is_shown() -> None:
    section = wrong_neighbours({"student": [ranked(*[2] * 50, 1)], "teacher": [[]]})
    found = samples_of(section)
    assert len(found) == MOST_SAMPLES and [each.asked for each in found[:2]] == ["français 0", "français 8"]
    assert note(section).startswith("50 of 51 test examples have a wrong nearest neighbour. 6 of these are shown")
    assert wrong_neighbours({"student": [ranked(1, 1)]}) is None
    assert wrong_neighbours({"student": [answers("a")], "other": []}) is None


def test_a_row_that_both_sides_read_is_right_itself_and_long_texts_are_cut() -> None:
    line = {"split": "test", "row": 7, "text": "x" * 1000, "rank": 2, "retrieved": "y" * 1000}
    (sample,) = samples_of(wrong_neighbours({"student": [[line]]}))
    assert sample.answers[0] == ("right", sample.asked) and len(sample.asked) == 400
    assert len(sample.answers[1][1]) < 420
    bare = {"split": "test", "row": 7, "rank": 2, "paired": "row 7", "retrieved": "row 9"}
    (sample,) = samples_of(wrong_neighbours({"student": [[bare]]}))
    assert sample == Sample("row 7", [("right", "row 7"), ("student", "✗ 2: row 9")])


def test_behaviour_is_drawn_true_and_as_each_model_has_it() -> None:
    def lines(r2: float) -> list[dict[str, Any]]:
        stretch = {"seconds": [0.0, 0.05], "true": [1.0, None], "decoded": [r2, 0.5]}
        told = {"split": "test", "session": "day-0", "session_was": "seen", "behaviour": EVIL, "r2": r2}
        return [{**told, "stretch": stretch}, {**told, "session": "day-1"}]

    section = decoded_behaviour({"teacher": [lines(0.8)], "KD": [lines(0.7), lines(0.1)], "none": [[]]}, styles(["KD"]))
    assert section is not None
    block = section.blocks[0]
    assert isinstance(block, SmallPlots) and len(block.plots) == 1
    figure = block.plots[0].figure
    go.Figure(figure)
    assert [trace["name"] for trace in figure["data"]] == ["true", "teacher, R² 0.80", "KD, R² 0.70"]
    assert figure["data"][0]["y"] == [1.0, None] and figure["data"][2]["line"]["color"] == styles(["KD"])["KD"].colour
    assert "<img" not in json.dumps(figure, allow_nan=False)
    assert decoded_behaviour({"KD": [answers("a")], "P": []}, {}) is None
