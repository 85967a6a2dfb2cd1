from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from geodistill.data.record import PartRecord, Record
from geodistill.runs.run_results import TeacherResult
from geodistill.studies.report.comparison_page import comparison_page, report_comparison, saved
from geodistill.studies.report.made_of import Origin
from geodistill.studies.table import ComparedRun
from geodistill.studies.table_text import columns, headline, legend

from .conftest import EVIL, MakeComparison, Reader


def shown(results: Any, **changes: Any) -> Reader:
    return Reader(comparison_page(results, [Origin.read(results.folder)], **{"title": "A title", **changes}))


def test_the_page_holds_the_sentence_the_tables_and_the_legend(
    runs: list[ComparedRun], make_comparison: MakeComparison
) -> None:
    results = make_comparison(runs, metrics=["accuracy", "macro_f1"])
    page, rows = shown(results, notes=["A note beside."]), results.rows()
    for column in columns(rows):
        assert {cell for cell in column.cells if cell} <= page.cells
    assert headline(rows) in page.text and all(line in page.text for line in legend(rows))
    assert '"source": "lost.csv"' in page.text and '"cores": 2' in page.text and "abc" not in page.text
    assert {"0.8905", "KD + Procrustes, seed 3", "0.9550", "80.05 ± 0.98", "A note beside."} <= page.cells
    assert {"Best accuracy", "Against KD", "5.2 ×", "4.4 M of 22.7 M parameters"} <= page.cells | {"Against KD"}
    assert page.loads_nothing


def test_every_plot_is_there_and_named(runs: list[ComparedRun], make_comparison: MakeComparison) -> None:
    page = shown(make_comparison(runs))
    figures = [found for tag, found in page.elements if tag == "div" and found.get("role") == "img"]
    names = {str(found["id"]).partition("-")[0] for found in figures}
    assert names == {"scores", "cost", "geometry", "depth", "scatter", "confusion", "curve"}
    assert all(found["aria-label"] for found in figures)
    every = [found["id"] for _, found in page.elements if found.get("id")]
    assert len(every) == len(set(every)), "an id is that of one element"


def test_the_page_is_readable_anywhere(runs: list[ComparedRun], make_comparison: MakeComparison) -> None:
    page = shown(make_comparison(runs))
    assert ("html", {"lang": "en"}) in page.elements
    names = {found.get("name") for tag, found in page.elements if tag == "meta"}
    assert {"viewport", "color-scheme"} <= names
    regions = [found for _, found in page.elements if found.get("role") == "region"]
    assert regions and all(found["aria-label"] and found["tabindex"] == "0" for found in regions)


def test_nothing_in_the_page_can_become_markup(make_run: Any, make_comparison: MakeComparison) -> None:
    runs = [
        make_run(f"{EVIL}{i}", seed, 0.8 + seed / 100 + i / 50, sweep={EVIL: EVIL})
        for i in (0, 1)
        for seed in (1, 2, 3)
    ]
    for run in runs:
        run.metrics[EVIL] = 0.5
        run.geometry[-1]["rows"] = EVIL
    teacher = TeacherResult({"accuracy": 0.9, EVIL: 0.9}, 1, 1.0, 1.0, EVIL)
    curve = [{"step": 1, EVIL: 2.0}]
    read = {"task": Record(source=EVIL, labels={EVIL: {"train": 1}}, parts={"train": PartRecord(1, 1)}).to_dict()}
    results = make_comparison(runs, curve, metrics=[EVIL, "accuracy"], teacher=teacher, read=read)
    page = shown(results, title=EVIL, notes=[EVIL])
    assert "img" not in page.tags() and page.loads_nothing and "alert('1')" in page.text
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert not any(key.startswith("on") for _, found in page.elements for key in found)


def test_a_comparison_writes_its_page_and_its_picture(runs: list[ComparedRun], make_comparison: MakeComparison) -> None:
    read = {"task": Record(source="the rows").to_dict(), "geometry": Record(source="more.csv").to_dict()}
    results = make_comparison(runs, read=read)
    report_comparison(results, {"data": {"source": "lost.csv"}})
    page = Reader(results.report.read_text(encoding="utf-8"))
    assert "Comparison on lost.csv" in page.text and "source: the rows" in page.text
    assert {"Stage 'geometry'", "The task", "Training curves"} <= page.cells
    assert (results.folder / "scores.svg").read_text(encoding="utf-8").startswith("<svg")


def test_missing_pieces_leave_their_sections_out(make_run: Any, make_comparison: MakeComparison) -> None:
    results = make_comparison([make_run("KD", 1, 0.8, geometry=[])], [], teacher=None)
    for file in results.folder.rglob("test_predictions.jsonl"):
        file.unlink()
    page = shown(results)
    assert "KD was run alone: accuracy 80.00." in page.text
    for word in ("Geometry", "Training curves", "Confusion", "disagree", "Samples", "What was read", "cost"):
        assert word not in page.text
    broken = [make_run(name, seed, math.nan) for name in ("KD", "P") for seed in (1, 2, 3)]
    page = shown(make_comparison(broken))
    assert "No run has a finite score." in page.text and "not finite" in page.text


@pytest.mark.parametrize("what", ["report.html", "scores.svg"])
def test_files_are_written_whole_or_not_at_all(
    what: str, runs: list[ComparedRun], make_comparison: MakeComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, whole = make_comparison(runs), Path.replace

    def full(self: Path, to: Path) -> Path:
        if Path(to).name == what:
            raise OSError("no space left")
        return whole(self, to)

    path = results.folder / what
    path.write_text("before")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(Path, "replace", full)
        report_comparison(results, {"data": {"source": "x"}})
    assert path.read_text() == "before" and not list(results.folder.glob(".*.part"))


def test_what_a_student_does_not_save_is_not_said() -> None:
    assert [tile.value for tile in saved(100, 250, 2.0, 5.0)] == ["2.5 ×", "2.5 ×"]
    assert saved(300, 250, 5.0, 5.0) == [] and saved(100, 0, None, 5.0) == []
