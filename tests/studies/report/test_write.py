from __future__ import annotations

import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from geodistill.data.record import PartRecord, Record
from geodistill.files import write_text
from geodistill.runs.folder import METRICS, claimed
from geodistill.runs.recipe_file import check_recipe
from geodistill.runs.run_results import TeacherResult
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.report import write as report
from geodistill.studies.report.scores import score_picture, write_score_svg
from geodistill.studies.report.write import write_report, write_run_report
from geodistill.studies.table import ComparedRun, build_table, run_names
from geodistill.studies.table_text import columns, headline, legend

EVIL = "<img src=x onerror=alert('1')></script><script>alert('1')</script>\"&"


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, and its text without scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "input", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def written(path: Path, runs: list[ComparedRun], teacher: TeacherResult | None = None, **changes: Any) -> Reader:
    rows = build_table(runs, baseline=runs[0].variant, main_metric="accuracy", teacher=teacher)
    known: dict[str, Any] = {"title": "A title", "recipe": {}, "environment": {}, "rows": rows, "runs": runs}
    write_report(path, **{**known, "teacher": teacher, **changes})
    return Reader(path)


def loads_nothing(page: Reader) -> bool:
    outward = [value for _, attributes in page.elements for key in ("src", "href") if (value := attributes.get(key))]
    return not outward and not {"link", "iframe", "img", "object", "base"} & page.tags()


CURVE = [{"step": step, "loss": 1 / step, "procrustes": 0.5, "chance/procrustes": 1.7} for step in (1, 2, 3)]


def test_the_page_holds_the_sentence_the_table_and_the_legend(
    runs: list[ComparedRun], teacher: TeacherResult, tmp_path: Path
) -> None:
    rows = build_table(runs, baseline="KD", main_metric="accuracy", teacher=teacher)
    page = written(
        tmp_path / "report.html",
        runs,
        teacher,
        rows=rows,
        recipe={"data": {"source": "bundled:trec"}},
        environment={"cores": 2},
        curves={name: CURVE for name in run_names(runs)},
    )
    cells = {text.strip() for text in page.texts}
    for column in columns(rows):
        assert {cell for cell in column.cells if cell} <= cells
    assert headline(rows) in page.text and all(line in page.text for line in legend(rows))
    assert '"source": "bundled:trec"' in page.text and '"cores": 2' in page.text
    assert {"0.8905", "KD + Procrustes, seed 3", "0.9550"} <= cells
    figures = [attributes for tag, attributes in page.elements if tag == "div" and attributes.get("role") == "img"]
    assert len(figures) == 1 + 1 + 3 + 2 and all(attributes["aria-label"] for attributes in figures)


def test_the_page_loads_nothing_and_is_readable_anywhere(runs: list[ComparedRun], tmp_path: Path) -> None:
    page = written(tmp_path / "report.html", runs, curves={"any": CURVE})
    assert loads_nothing(page)
    assert ("html", {"lang": "en"}) in page.elements
    names = {attributes.get("name") for tag, attributes in page.elements if tag == "meta"}
    assert {"viewport", "color-scheme"} <= names
    regions = [attributes for _, attributes in page.elements if attributes.get("role") == "region"]
    assert all(attributes["aria-label"] and attributes["tabindex"] == "0" for attributes in regions)


def test_nothing_in_the_page_can_become_markup(make_run: Any, teacher: TeacherResult, tmp_path: Path) -> None:
    runs = [
        make_run(f"{EVIL}{i}", seed, 0.8 + seed / 100 + i / 50, sweep={EVIL: EVIL})
        for i in (0, 1)
        for seed in (1, 2, 3)
    ]
    for run in runs:
        run.metrics[EVIL] = 0.5
        run.geometry[-1]["rows"] = EVIL
    page = written(
        tmp_path / "report.html",
        runs,
        TeacherResult({"accuracy": 0.9, EVIL: 0.9}, 1, 1.0, 1.0, EVIL),
        rows=build_table(runs, baseline=f"{EVIL}0", main_metric=EVIL),
        title=EVIL,
        recipe={EVIL: [EVIL]},
        environment={EVIL: EVIL},
        curves={EVIL: [{"step": 1, "stage": EVIL, EVIL: 2.0}]},
    )
    run_page = tmp_path / "run.html"
    results = {"metrics": {EVIL: 0.5}, "geometry": runs[0].geometry, EVIL: EVIL}
    curve = [{"step": 1, EVIL: 2.0}]
    write_run_report(run_page, title=EVIL, results=results, recipe={EVIL: 1}, environment={EVIL: 1}, curves=curve)
    for read in (page, Reader(run_page)):
        assert "img" not in read.tags() and loads_nothing(read)
        assert [tag for tag, _ in read.elements].count("script") == 3
        assert not any(key.startswith("on") for _, attributes in read.elements for key in attributes)
        assert "alert('1')" in read.text


def test_the_report_of_a_comparison_reads_its_folder_and_no_data(
    runs: list[ComparedRun], teacher: TeacherResult, tmp_path: Path
) -> None:
    content = {"data": {"source": "lost.csv"}, "student": {"width": 64, "layers": 2}, "objective": {"label": {}}}
    recipe = check_recipe(content)
    with claimed(tmp_path / "run", recipe.model_dump(mode="json"), "abc"):
        pass
    write_text(tmp_path / "run" / METRICS, '{"stage": "task", "step": 2, "done": 1.0, "loss": 0.5}\n')
    read = {"task": Record(source="the rows").to_dict()}
    metrics = ["accuracy", "macro_f1"]
    report.report_comparison(ComparisonResults(tmp_path / "run", "KD", metrics, None, read, teacher, runs), recipe)
    page = Reader(tmp_path / "run" / "report.html")
    assert "KD + Procrustes" in page.text and "Comparison on lost.csv" in page.text and "source: the rows" in page.text
    assert "Training curves" in page.text and "80.05 ± 0.98" in page.text
    assert (tmp_path / "run" / "scores.svg").read_text(encoding="utf-8").startswith("<svg")


def test_missing_pieces_leave_their_sections_out(make_run: Any, tmp_path: Path) -> None:
    page = written(tmp_path / "report.html", [make_run("KD", 1, 0.8, geometry=[])], curves={})
    assert "KD was run alone: accuracy 80.00." in page.text
    assert "Geometry" not in page.text and "Training curves" not in page.text
    broken = [make_run(name, seed, math.nan) for name in ("KD", "P") for seed in (1, 2, 3)]
    page = written(tmp_path / "report.html", broken)
    assert "No run has a finite score." in page.text and "not finite" in page.text


def test_a_run_report_holds_metrics_geometry_and_facts(make_run: Any, tmp_path: Path) -> None:
    run = make_run("KD", 1, 0.8125)
    facts = {
        "training_seconds": 134.2,
        "parameters": 4386178,
        "megabytes": 17.6,
        "teacher": {"folder": "t"},
        "no": None,
    }
    results = {"metrics": {"accuracy": 0.8125, "per class": {"a": 0.5}}, "geometry": run.geometry, **facts}
    write_run_report(
        tmp_path / "r.html", title="A run", results=results, recipe={"a": 1}, environment={"b": 2}, curves=CURVE
    )
    page = Reader(tmp_path / "r.html")
    cells = {text.strip() for text in page.texts}
    assert {"accuracy", "0.8125", "per class.a", "0.5000"} <= cells
    assert {"0.9000", "0.2000", "1.7000", "53.3 %", "D_FG²"} <= cells
    assert {"2:14 min", "4,386,178", "17.6", "teacher.folder"} <= cells and "no" not in cells
    assert {"loss", "procrustes"} <= cells and loads_nothing(page)


def test_a_run_report_shows_the_forms_of_a_quantised_student(tmp_path: Path) -> None:
    forms = [
        {"name": "fake-quantised", "agreement": None, "difference": None, "megabytes": 17.7, "latency_ms": 0.45},
        {"name": "integers", "agreement": 0.9995, "difference": 2.5e-4, "megabytes": 4.45, "latency_ms": 0.24},
    ]
    write_run_report(tmp_path / "run.html", title="A run", results={"forms": forms}, recipe={}, environment={})
    page = (tmp_path / "run.html").read_text(encoding="utf-8")
    assert "Forms of the student" in page and "4.45 MB" in page and "99.95 %" in page
    assert "'megabytes'" not in page and "&#39;megabytes&#39;" not in page


def test_a_run_report_of_nothing_but_a_title(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    write_run_report(path, title="A run", results={}, recipe={}, environment={})
    page = Reader(path)
    assert "No metric was reported." in page.text and "Geometry" not in page.text
    bare = [{"student_layer": 1, "teacher_layer": 2, "gram": {"value": 0.25, "floor": None, "chance": 0.5}}]
    write_run_report(path, title="A run", results={"geometry": bare}, recipe={}, environment={})
    assert {"0.2500", "–"} <= {text.strip() for text in Reader(path).texts}


@pytest.mark.parametrize("write", ["report", "run", "figure"])
def test_files_are_written_whole_or_not_at_all(
    write: str, runs: list[ComparedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    rows = build_table(runs, baseline="KD", main_metric="accuracy")

    def act() -> None:
        if write == "report":
            write_report(path, title="t", recipe={}, environment={}, rows=rows, runs=runs, teacher=None)
        elif write == "run":
            write_run_report(path, title="t", results={}, recipe={}, environment={})
        else:
            write_score_svg(score_picture(rows, runs), path)

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(Path, "replace", full)
        act()
    assert path.read_text() == "before"
    act()
    assert path.read_text() != "before" and [p.name for p in tmp_path.iterdir() if p.name[0] != "."] == ["file"]


def test_the_page_draws_the_numbers_of_the_plots(
    runs: list[ComparedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        report, "page", lambda template, plots, **_: [drawn.update({plot.name: plot.figure for plot in plots}), ""][1]
    )
    write_report(
        tmp_path / "r.html",
        title="t",
        recipe={},
        environment={},
        rows=build_table(runs, baseline="KD", main_metric="accuracy"),
        runs=runs,
        teacher=None,
        curves={run_names(runs)[8]: CURVE, "stranger": CURVE},
    )
    own, stranger = drawn["curve-1"]["data"]
    assert own["y"] == [1, 0.5, 1 / 3]
    assert own["line"]["color"] == drawn["scores"]["data"][-1]["marker"]["color"] != stranger["line"]["color"]


def test_what_was_read_is_on_the_page(runs: list[ComparedRun], tmp_path: Path) -> None:
    task = Record(
        source=EVIL,
        parts={"train": PartRecord(9, 9, "train")},
        columns={"text": EVIL},
        problem="classification",
        labels={EVIL: {"train": 4321}},
        notes=[EVIL],
    )
    stage = Record(source="more.csv", values={"train": {"minimum": 0.5, "mean": 1.0, "maximum": 1.5}})
    read = {"task": task.to_dict(), EVIL: stage.to_dict()}
    run = {"metrics": {"accuracy": 0.5}, "notes": ["A note of the run."], "read": read}
    write_run_report(tmp_path / "run.html", title="run", results=run, recipe={}, environment={})
    for page in (written(tmp_path / "report.html", runs, read=read), Reader(tmp_path / "run.html")):
        assert "What was read" in page.text and "source: more.csv" in page.text and "4,321" in page.text
        assert all(line in page.text for line in (f"source: {EVIL}", "labels (train): from 0.5 to 1.5, 1 on average"))
        assert "img" not in page.tags()
    assert page.text.count("A note of the run.") == 1 and "source: None" not in page.text
