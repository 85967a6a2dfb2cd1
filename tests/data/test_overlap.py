from __future__ import annotations

import pytest

from geodistill.data.instruction_rows import Instruction, InstructionRows
from geodistill.data.overlap import HeldOut, LeftOut, held_out, separate
from geodistill.data.texts import Rows
from geodistill.errors import GeodistillError


def texts(*given: str) -> Rows:
    return Rows(list(range(len(given))), list(given), None, None)


def pairs(*given: tuple[str, str]) -> Rows:
    return Rows(list(range(len(given))), [one for one, _ in given], [two for _, two in given], None)


def prompts(*given: tuple[str, str]) -> InstructionRows:
    return InstructionRows(list(range(len(given))), [Instruction(*row, ["yes"]) for row in given])


def test_texts_are_the_same_in_any_case_and_spacing() -> None:
    measured = held_out({"train": texts("c"), "validation": texts("A  b"), "test": texts("x")})
    assert measured.find([("a b",), ("x",), ("c",)]) == ["validation", "test", None]


def test_a_single_text_is_found_in_either_place_of_a_pair() -> None:
    measured = held_out({"test": pairs(("one", "two"))})
    assert measured.find([("one",), ("two",), ("one two",), ("three",)]) == ["test", "test", "test", None]


def test_pairs_are_the_same_in_either_order_but_not_by_one_text() -> None:
    measured = held_out({"test": pairs(("one", "two"))})
    assert measured.find([("one", "two"), ("two", "one"), ("one", "three")]) == ["test", "test", None]


def test_a_pair_with_a_measured_text_in_it_is_found() -> None:
    measured = held_out({"test": texts("one")})
    assert measured.find([("one", "two"), ("two", "one"), ("two", "three")]) == ["test", "test", None]


def test_an_instruction_is_not_the_same_by_its_instruction_alone() -> None:
    measured = held_out({"test": prompts(("Repeat it.", "river"), ("Sing.", ""))})
    rows = prompts(("Repeat it.", ""), ("repeat it.", "River"), ("Sing.", "a song"), ("Sing.", ""))
    assert measured.find(rows.contents()) == [None, "test", None, "test"]


def test_a_conversation_of_one_turn_is_an_instruction() -> None:
    measured = held_out({"test": prompts(("Repeat it.", "river"))})
    turn = Instruction("", "", ["yes"], messages=[{"role": "user", "content": "Repeat it.\n\nriver"}])
    assert measured.find(InstructionRows([0], [turn]).contents()) == ["test"]


def test_rows_are_taken_from_train_and_validation_only() -> None:
    given = {"train": texts(*"abcde"), "validation": texts(*"bcx"), "test": texts(*"cdy"), "unseen": texts(*"ez")}
    parts, measured, left_out = separate(given)
    assert {name: part.texts for name, part in parts.items()} == {
        "train": ["a"],
        "validation": ["b", "x"],
        "test": ["c", "d", "y"],
        "unseen": ["e", "z"],
    }
    assert left_out == [
        LeftOut("validation", 3, {"test": 1}),
        LeftOut("train", 5, {"test": 2, "unseen": 1, "validation": 1}),
    ]
    assert left_out[1].note == (
        "4 of the 5 train rows were left out: their texts are also in the held-out data (2 in the test part, 1 in the "
        "unseen part, 1 in the validation part)."
    )
    assert LeftOut("train", 1200, {"test": 1}, "task", "student input").note == (
        "1 of the 1,200 train rows was left out: its student input is also in the held-out data (1 in the task's test "
        "part)."
    )
    assert measured.texts == {"test": set("cdy"), "unseen": set("ez"), "validation": set("bx")}


def test_a_stage_loses_rows_of_the_task() -> None:
    task = held_out({"test": texts("a"), "validation": texts("b")})
    parts, _, left_out = separate({"train": texts(*"abcd"), "validation": texts("d")}, task)
    assert (parts["train"].texts, parts["validation"].texts) == (["c"], ["d"])
    assert left_out == [
        LeftOut("train", 4, {"validation": 1}),
        LeftOut("train", 3, {"test": 1, "validation": 1}, "task"),
    ]


def test_nothing_in_common() -> None:
    given = {"train": texts("a"), "test": texts("b")}
    parts, _, left_out = separate(given, HeldOut())
    assert parts == given and left_out == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"train": texts("a"), "validation": texts("b"), "test": texts("b")},
            "No validation row is left: the only one has a text",
        ),
        (
            {"train": texts("a", "b"), "test": texts("A ", "b")},
            r"No train row .*: all 2 have .*\(2 in the test part\)",
        ),
    ],
)
def test_no_row_left(parts: dict[str, Rows], message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        separate(parts)
