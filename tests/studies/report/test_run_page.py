from __future__ import annotations

import math
from typing import Any

import pytest

from geodistill.data.record import PartRecord, Record
from geodistill.files import write_lines
from geodistill.runs.folder import TEST_PREDICTIONS
from geodistill.runs.forms import Form
from geodistill.runs.run_results import RunResults
from geodistill.studies.report.made_of import Origin
from geodistill.studies.report.run_page import report_run, run_page, verdict
from geodistill.tasks.metrics import Constant

from .conftest import EVIL, MakeResults, Reader, answers


def shown(results: RunResults) -> Reader:
    return Reader(run_page(results, Origin.read(results.folder), title="A run"))


def test_a_run_report_holds_scores_geometry_cost_and_facts(make_results: MakeResults) -> None:
    results = make_results(notes=["A note of the run."])
    report_run(results)
    page = Reader(results.report.read_text(encoding="utf-8"))
    assert {"student on test", "0.8125", "0.9550", "0.7500"} <= page.cells
    assert {"0.9000", "0.2000", "1.7000", "53.3 %", "D_FG²", "2 ↔ 6"} <= page.cells
    assert {"2:14 min", "4.4 M", "22.7 M", "17.6 MB", "1.25 ms", "5,000"} <= page.cells
    assert {"validation.accuracy", "0.5", "precision.student", "float32"} <= page.cells
    assert "peak memory of the training" not in page.cells and page.text.count("A note of the run.") == 1
    assert {"loss", "procrustes", "source: rows"} <= page.cells and page.loads_nothing
    assert "source: None" not in page.text


def test_the_verdict_sets_the_student_beside_its_teacher_and_the_constant(make_results: MakeResults) -> None:
    text = verdict(make_results())
    assert text.startswith("The student has accuracy 0.8125 on test; its teacher has 0.9550.")
    assert text.endswith("Its features went 53 % of the way from chance to the floor in D_P².")
    low = verdict(make_results(constant=Constant("a", {"accuracy": 0.8}, 400), geometry=[]))
    assert low.endswith("But that is at the level of the constant predictor (always a: 0.8000).")
    assert "constant" not in verdict(make_results(constant=Constant("a", {"accuracy": 0.2}, 400)))
    assert (
        verdict(make_results(metrics={}, geometry=[])) == "The student was trained without labels, so it has no score."
    )
    assert "accuracy not finite" in verdict(make_results(metrics={"accuracy": None}))


def test_a_geometry_that_was_measured_in_part(make_results: MakeResults) -> None:
    bare = [{"student_layer": 1, "teacher_layer": 2, "gram": {"value": 0.25, "floor": None, "chance": 0.5}}]
    assert {"0.2500", "not finite", "–"} <= shown(make_results(geometry=bare)).cells


def test_the_forms_of_a_quantised_student(make_results: MakeResults) -> None:
    forms = [Form("fake-quantised", None, None, 17.7, 0.45), Form("integers", 0.9995, 2.5e-4, 4.45, 0.24)]
    page = shown(make_results(forms=forms))
    assert {"Forms of the student", "4.45 MB", "99.95 %"} <= page.cells


def test_what_was_read_is_on_the_page(make_results: MakeResults) -> None:
    task = Record(
        source=EVIL,
        parts={"train": PartRecord(9, 9, "train")},
        columns={"text": EVIL},
        problem="classification",
        labels={EVIL: {"train": 4321}},
        notes=[EVIL],
    )
    stage = Record(source="more.csv", values={"train": {"minimum": 0.5, "mean": 1.0, "maximum": 1.5}})
    page = shown(make_results(read={"task": task.to_dict(), EVIL: stage.to_dict()}))
    assert "What was read" in page.text and "source: more.csv" in page.text and "4,321" in page.text
    assert all(line in page.text for line in (f"source: {EVIL}", "labels (train): from 0.5 to 1.5, 1 on average"))
    assert "img" not in page.tags()


@pytest.mark.parametrize("evil", [EVIL])
def test_nothing_in_the_page_can_become_markup(evil: str, make_results: MakeResults) -> None:
    geometry: list[dict[str, Any]] = [
        {"student_layer": evil, "teacher_layer": evil, "rows": evil, "cka": {"value": 0.5, "floor": 1, "chance": 0}}
    ]
    results = make_results(geometry=geometry, notes=[evil], metrics={evil: math.pi}, epoch=evil)
    lines = [{**line, "text": evil, "reference": evil} for line in answers(evil, "b")]
    write_lines(results.folder / TEST_PREDICTIONS, lines)
    (results.folder / "teacher").mkdir()
    write_lines(results.folder / "teacher" / TEST_PREDICTIONS, [{**line, "prediction": "c"} for line in lines])
    page = Reader(run_page(results, Origin.read(results.folder), title=evil))
    assert "img" not in page.tags() and page.loads_nothing and "Where student and teacher differ" in page.text
    assert [tag for tag, _ in page.elements].count("script") == 3
