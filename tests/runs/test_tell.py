from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from geodistill.data.record import PartRecord, Record
from geodistill.runs.tell import Teller, records_of
from geodistill.tasks.task import Task

RECORD = Record(source="rows.csv", parts={"train": PartRecord(5, 5, "train")}, problem="unlabelled")


def test_what_is_known_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller(progress=True)
    teller.tell({"task": RECORD, "warm": replace(RECORD, notes=["A note."])})
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[:3] == ["Read for the task:", "  source: rows.csv", "  rows: train 5"]
    assert "Read for the stage 'warm':" in told.err and told.err.endswith("  A note.\n")
    teller.tell({"task": replace(RECORD, cut={"train": 2}, max_length=8)}, " with the teacher")
    assert capsys.readouterr().err.splitlines() == [
        "Read for the task with the teacher:",
        "  2 of the 5 train texts are longer than 8 tokens and were cut.",
    ]
    teller.tell({"task": RECORD})
    assert capsys.readouterr().err == ""


def test_nothing_is_told_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    Teller(progress=False).tell({"task": RECORD})
    assert capsys.readouterr() == ("", "")


def test_the_task_comes_first() -> None:
    tasks: Any = {name: SimpleNamespace(record=RECORD) for name in ("warm", "cool", "task")}
    assert list(records_of(cast(dict[str, Task], tasks))) == ["task", "warm", "cool"]
