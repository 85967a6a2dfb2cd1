from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodistill.runs.run_results import TeacherResult
from geodistill.studies.report.scores import (
    nice_ticks,
    score_picture,
    score_svg,
    scores_of,
    styles,
    write_score_svg,
)
from geodistill.studies.statistics import mean_interval
from geodistill.studies.table import ComparedRun, Row, build_table

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def rows(runs: list[ComparedRun], teacher: TeacherResult) -> list[Row]:
    return build_table(runs, baseline="KD", main_metric="accuracy", teacher=teacher)


def test_marks_stand_where_the_axis_says(rows: list[Row], runs: list[ComparedRun], tmp_path: Path) -> None:
    write_score_svg(score_picture(rows, runs), tmp_path / "scores.svg")
    root = ElementTree.parse(tmp_path / "scores.svg").getroot()
    grid = [float(line.attrib["x1"]) for line in root.iter(f"{SVG}line") if line.attrib.get("class") == "grid"]
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    ticks = [float(text) for text in texts if re.fullmatch(r"\d+(\.\d+)?", text)]
    scale = (grid[-1] - grid[0]) / (ticks[-1] - ticks[0])

    def value(x: float) -> float:
        return ticks[0] + (x - grid[0]) / scale

    circles = [value(float(circle.attrib["cx"])) for circle in root.iter(f"{SVG}circle")]
    assert circles == pytest.approx([100 * run.metrics["accuracy"] for run in runs], abs=0.1 / scale)
    bars = [line for line in root.iter(f"{SVG}line") if "stroke" in line.attrib]
    expected = mean_interval([90.1, 91.0, 89.05])
    assert [value(float(bars[-1].attrib[key])) for key in ("x1", "x2")] == pytest.approx(expected, abs=0.1 / scale)
    rule = next(line for line in root.iter(f"{SVG}line") if line.attrib.get("class") == "rule")
    assert value(float(rule.attrib["x1"])) == pytest.approx(95.5, abs=0.1 / scale)
    assert "90.05 ± 0.98" in texts and "KD + Procrustes" in texts and "teacher 95.50" in texts


def test_nothing_leaves_the_picture(rows: list[Row], runs: list[ComparedRun]) -> None:
    root = ElementTree.fromstring(score_svg(score_picture(rows, runs)))
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for element in root.iter():
        for key, value in element.attrib.items():
            if key in ("x", "x1", "x2", "cx"):
                assert 0 <= float(value) <= width
            if key in ("y", "y1", "y2", "cy"):
                assert 0 <= float(value) <= height


def test_it_says_in_words_what_it_shows(rows: list[Row], runs: list[ComparedRun]) -> None:
    root = ElementTree.fromstring(score_svg(score_picture(rows, runs)))
    assert root.attrib["role"] == "img"
    assert root.findtext(f"{SVG}title") == "accuracy of each variant"
    assert (root.findtext(f"{SVG}desc") or "").startswith("KD + Procrustes is best by mean")


def test_names_are_escaped_and_shortened(make_run: Any, teacher: TeacherResult) -> None:
    evil = '</text><script>alert(1)</script>&"\x07' + "x" * 60
    runs = [make_run(evil, seed, 0.8 + seed / 100) for seed in (1, 2)]
    rows = build_table(runs, baseline=evil, main_metric="accuracy", teacher=replace(teacher, name="<b>&"))
    text = score_svg(score_picture(rows, runs))
    root = ElementTree.fromstring(text)
    assert "<script" not in text and not list(root.iter(f"{SVG}script"))
    assert max(len(t.text or "") for t in root.iter(f"{SVG}text")) < 90


def test_one_seed_one_variant_and_scores_that_are_not_finite(make_run: Any) -> None:
    for values in ([0.8], [float("nan")], [float("nan"), 0.8], [0.8, 0.8]):
        runs = [make_run("KD", seed, value) for seed, value in enumerate(values)]
        text = score_svg(score_picture(build_table(runs, baseline="KD", main_metric="accuracy"), runs))
        root = ElementTree.fromstring(text)
        assert len(list(root.iter(f"{SVG}circle"))) == sum(map(math.isfinite, values))
        assert "nan" not in text


def test_the_picture_holds_what_both_drawings_show(rows: list[Row], runs: list[ComparedRun]) -> None:
    picture = score_picture(rows, runs)
    assert [line.name for line in picture.lines] == ["labels only", "KD", "KD + Procrustes"]
    assert picture.lines[1].seeds == pytest.approx({1: 88.0, 2: 89.0, 3: 87.0})
    assert picture.ticks[0] <= 80 and picture.ticks[-1] >= 95.5
    (teacher,) = picture.references
    assert (teacher.name, teacher.text, teacher.side) == ("teacher", "95.50", "left")
    weak = [replace(rows[0], score=replace(rows[0].score, mean=0.2)), *rows[1:]]
    assert score_picture(weak, runs).references[0].side == "right"


def test_scores_that_are_not_finite_are_left_out(make_run: Any) -> None:
    runs = [make_run("KD", 1, float("nan")), make_run("KD", 2, 0.8)]
    rows = build_table(runs, baseline="KD", main_metric="accuracy")
    assert scores_of(rows, runs) == {"KD": {2: 0.8}}
    (line,) = score_picture(rows, runs).lines
    assert line.mean is None and line.interval is None and line.seeds == {2: 80.0}


def test_styles_tell_names_apart() -> None:
    names = [f"variant {i}" for i in range(40)]
    assert len(set(styles(names).values())) == 40
    assert styles(names) == styles([*names, *names])


@given(st.floats(-150, 150), st.floats(0, 300))
def test_ticks_are_round_few_and_reach_around(low: float, span: float) -> None:
    high = low + span
    ticks = nice_ticks(low, high)
    step = ticks[1] - ticks[0]
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9
    assert all(b - a == pytest.approx(step) for a, b in itertools.pairwise(ticks))
