from __future__ import annotations

from typing import Any

import pytest

from geodistill.data.columns import InstructionColumns
from geodistill.data.instruction_rows import Instruction, InstructionRows, clean_instructions
from geodistill.data.tables import Table
from geodistill.errors import GeodistillError

COLUMNS = InstructionColumns("instruction", "input", "output", task="task")
CHAT = InstructionColumns(messages="messages")


def clean(content: list[dict[str, Any]], columns: InstructionColumns = COLUMNS) -> tuple[InstructionRows, list[str]]:
    notes: list[str] = []
    table = Table(
        {name: [row.get(name) for row in content] for name in dict.fromkeys(n for row in content for n in row)}
    )
    return clean_instructions(table, columns, "test", notes), notes


def turns(*contents: str, first: str = "user") -> list[dict[str, str]]:
    roles = {"user": ["user", "assistant"], "system": ["system", "user", "assistant"]}[first]
    return [{"role": roles[place % len(roles)], "content": content} for place, content in enumerate(contents)]


def test_one_response_and_several() -> None:
    rows, notes = clean(
        [
            {"instruction": " Add. ", "input": "1 2", "output": "3", "task": "sum"},
            {"instruction": "Greet.", "input": None, "output": ["Hello", "Hi ", "", "Hello"], "task": None},
            {"instruction": "Count.", "input": "", "output": 7, "task": "sum"},
        ]
    )
    assert rows.rows == [
        Instruction(" Add. ", "1 2", ["3"], "sum"),
        Instruction("Greet.", "", ["Hello", "Hi "], ""),
        Instruction("Count.", "", ["7"], "sum"),
    ]
    assert notes == []


def test_an_input_of_white_space_is_no_input() -> None:
    assert clean([{"instruction": "a", "input": " \n", "output": "b"}])[0].rows[0].input == ""


def test_code_keeps_its_indentation() -> None:
    rows, _ = clean([{"instruction": "Go on:\n", "input": "    a = 1", "output": "    b = 2\n", "task": " code "}])
    assert rows.rows == [Instruction("Go on:\n", "    a = 1", ["    b = 2\n"], "code")]
    chat, _ = clean([{"messages": turns(" a\n", "  b")}], CHAT)
    assert chat.rows == [Instruction(" a\n", "", ["  b"], "", turns(" a\n"))]


def test_what_lacks_something_is_dropped_and_counted() -> None:
    good = {"instruction": "a", "input": "", "output": "b"}
    rows, notes = clean([{**good, "instruction": " "}, good, {**good, "output": []}, {**good, "output": None}])
    assert rows.ids == [1]
    assert notes == [
        "1 of the 4 test rows have no instruction and were dropped.",
        "2 of the 4 test rows have an empty response and were dropped.",
    ]


def test_the_last_answer_of_a_conversation_is_the_response() -> None:
    rows, notes = clean(
        [
            {"messages": turns("Hello", "Hi", "And now?", "Bye")},
            {"messages": turns("Be brief.", "Hello", "Hi", first="system")},
            {"messages": turns("Hello", "Hi", "Thanks")},
            {"messages": turns("Hello")},
            {"messages": None},
            {"messages": turns("Hello", " ")},
        ],
        CHAT,
    )
    assert rows.rows == [
        Instruction("And now?", "", ["Bye"], "", turns("Hello", "Hi", "And now?")),
        Instruction("Hello", "", ["Hi"], "", turns("Be brief.", "Hello", first="system")),
        Instruction("Hello", "", ["Hi"], "", turns("Hello")),
    ]
    assert [note.split(" test ")[0] for note in notes] == ["1 of the 6", "2 of the 6"]


def test_conversations_as_sharegpt_writes_them() -> None:
    rows, _ = clean([{"messages": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}], CHAT)
    assert rows.rows[0].messages == [{"role": "user", "content": "a"}] and rows.rows[0].references == ["b"]


def test_keys_are_of_the_prompt_alone() -> None:
    rows, _ = clean([{"instruction": "Do it", "input": x, "output": str(n)} for n, x in enumerate(["a", "A ", "b"])])
    first, same, other = rows.keys()
    assert first == same != other
    chats, _ = clean([{"messages": turns("a", "b", "c", end)} for end in "xy"], CHAT)
    assert len(set(chats.keys())) == 1


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ([{"instruction": "a", "input": ""}], COLUMNS, "no column 'output'; its columns are 'instruction', 'input'"),
        ([{"instruction": "a", "input": "", "output": ""}], COLUMNS, "none of its 1 rows has a response.*data.output"),
        ([{"instruction": "", "input": "", "output": "b"}], COLUMNS, "has an instruction.*data.instruction"),
        ([{"instruction": "a", "input": "", "output": {"text": ["b"]}}], COLUMNS, 'holds {"text".*list of equally'),
        ([{"instruction": ["a"], "input": "", "output": "b"}], COLUMNS, "holds a list"),
        ([{"messages": "hello"}], CHAT, 'holds "hello" where a conversation should be'),
        ([{"messages": [{"role": "user", "content": [{"type": "image"}]}]}], CHAT, "where a conversation should be"),
        ([{"messages": turns("a")}], CHAT, "has a response.*data.messages"),
    ],
)
def test_bad_rows(content: list[dict[str, Any]], columns: InstructionColumns, message: str) -> None:
    with pytest.raises(GeodistillError, match=message):
        clean(content, columns)
