from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from geodistill.display import p_value, plain, width_of
from geodistill.runs.forms import Form
from geodistill.runs.run_results import TeacherResult
from geodistill.studies.table import ComparedRun, Row, build_table
from geodistill.studies.table_text import (
    ABSENT,
    ComparisonTable,
    _points,
    columns,
    headline,
    legend,
    markdown_table,
    quality_table,
    section_tables,
)
from geodistill.tasks.metrics import Constant


@pytest.fixture
def rows(runs: list[ComparedRun], teacher: TeacherResult) -> list[Row]:
    return build_table(runs, baseline="KD", main_metric="accuracy", teacher=teacher)


def printed(rows: list[Row], width: int = 120) -> str:
    return plain(ComparisonTable(rows), width)


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(name))


def test_the_table_prints_the_numbers_of_the_rows(rows: list[Row]) -> None:
    ours = rows[3]
    assert ours.comparison is not None and ours.comparison.t_interval is not None and ours.holm_p is not None
    cells = line_of(printed(rows), "KD + Procrustes")
    low, high = ours.comparison.t_interval
    assert f"{100 * ours.score.mean:.2f} ± {100 * (ours.score.deviation or 0):.2f}" in cells
    assert f"+2.05  +{100 * low:.2f} … +{100 * high:.2f}" in cells
    assert p_value(ours.holm_p) in cells and "0.250" in cells
    assert "baseline" in line_of(printed(rows), "KD ")
    assert "−0.50" in line_of(printed(rows), "labels only")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_table_is_aligned_and_fits(rows: list[Row], width: int) -> None:
    long = [replace(row, name=f"{row.name} with a rather long name, weight={i}, 表") for i, row in enumerate(rows)]
    for some in (rows, long):
        shown = printed(some, width)
        *blocks, _ = shown.split("\n\n")
        assert len(blocks) >= 2 and "D_P²" in "\n".join(blocks)
        assert width_of(shown.splitlines()) <= width
        for column in columns(some)[1:]:
            assert all(cell in shown for cell in column.cells), "no number is cut"
    assert all(f"weight={place}" in printed(long, width) for place in range(4))


def test_a_section_that_is_too_wide_is_cut_between_its_columns(rows: list[Row]) -> None:
    first, second, geometry, *_ = printed(rows, 80).split("\n\n")
    assert "p Holm" in first and "Wilcoxon" not in first and "Wilcoxon" in second
    assert "D_P²" not in second and "D_P²" in geometry


def test_a_wide_terminal_gets_one_block(rows: list[Row]) -> None:
    table, _ = printed(rows, 400).split("\n\n")
    assert len(table.splitlines()) == 2 + len(rows)


def test_columns_that_say_nothing_are_left_out(rows: list[Row], make_run: Any) -> None:
    assert "skipped" not in [column.heading for column in columns(rows)]
    bare = build_table([make_run("KD", 1, 0.8, geometry=[])], baseline="KD", main_metric="accuracy", teacher=None)
    headings = [column.heading for column in columns(bare)]
    assert headings == ["", "seeds", "accuracy", "diff.", "params", "MB", "latency", "training"]
    skipped = build_table(
        [make_run("KD", 1, 0.8, skipped_steps=4)], baseline="KD", main_metric="accuracy", teacher=None
    )
    assert columns(skipped)[-1].cells == ["4"] and "not finite" in legend(skipped)[-1]


def test_forms_of_quantised_students_have_columns_of_their_own(make_run: Any) -> None:
    def forms(agreement: float, difference: float) -> list[Form]:
        return [
            Form("float32", 0.99, 0.2, 17.64, 0.31),
            Form("fake-quantised", None, None, 17.7, 0.45),
            Form("integers", agreement, difference, 4.45, 0.24),
        ]

    runs = [
        make_run("KD", 1, 0.8),
        make_run("W4A4", 1, 0.8, forms=forms(1.0, 0.001)),
        make_run("W4A4", 2, 0.8, forms=forms(0.999, 0.02)),
    ]
    rows = build_table(runs, baseline="KD", main_metric="accuracy", teacher=None)
    found = {column.heading: column.cells for column in columns(rows) if column.section == "forms"}
    assert found == {
        "file, MB": ["", "17.6 / 17.7 / 4.45"],
        "one example, ms": ["", "0.31 / 0.45 / 0.24"],
        "agreement, %": ["", "99.00 / – / 99.95"],
        "difference": ["", "2.0e-01 / – / 2.0e-02"],
    }
    assert "median by ONNX Runtime" in " ".join(legend(rows))
    assert [table.groups[-1][0] for table in section_tables(rows)][-1].startswith("As ONNX")
    assert len(section_tables(rows[:1])) == 3


def test_the_legend_says_how_it_was_done(rows: list[Row]) -> None:
    text = " ".join(legend(rows))
    assert "last epoch" in text and "not used to choose" in text
    assert "corrected for 1 test, all tests of accuracy" in " ".join(legend(rows[:3]))
    assert "from KD" in text and "corrected for 2 tests" in text and "below 0.25" in text and "percentile" in text
    assert "student layer 2 against teacher layer 6" in text and "Floor" in text and "Chance" in text


def test_without_three_seeds_it_says_that_no_test_was_made(runs: list[ComparedRun], teacher: TeacherResult) -> None:
    rows = build_table(runs[::3], baseline="KD", main_metric="accuracy", teacher=teacher)
    text = printed(rows)
    assert "No test was made: fewer than 3 seeds." in text
    assert "Wilcoxon" not in text and "interval" not in text
    assert "no test was made: fewer than 3 seeds" in headline(rows)


def test_the_legend_names_what_is_amiss(runs: list[ComparedRun], make_run: Any) -> None:
    odd = make_run("odd", 1, 0.5, sweep={"a.b": 1})
    swept = [replace(run, sweep={"a.b": 2}) for run in runs if run.variant == "KD"]
    broken = [make_run("nan", seed, float("nan"), sweep={"a.b": 2}) for seed in (1, 2, 7)]
    rows = build_table([*swept, *broken, odd], baseline="KD", main_metric="accuracy", teacher=None)
    text = "\n".join(legend(rows))
    assert "No baseline at the sweep point of odd, b=1." in text
    assert "to choose on the test split" in text and "not used to choose" not in text
    assert "No test was made: a score is not finite." in text
    assert "nan, b=2: 2 of 3 seeds have a partner." in text
    assert "not finite" in line_of(printed(rows), "nan") and "–" in line_of(printed(rows), "odd")


def test_headline_of_a_candidate_that_wins(rows: list[Row]) -> None:
    ours = rows[3]
    assert headline(rows).startswith(
        "KD + Procrustes is best by mean: accuracy 90.05 ± 0.98, +2.05 points against KD (95 %"
    )
    assert headline(rows).endswith(f"Holm p {p_value(ours.holm_p)}): significant with 3 seeds.")
    doubtful = [*rows[:3], replace(ours, holm_p=0.12)]
    assert headline(doubtful).endswith("Holm p 0.120): not significant with 3 seeds.")


def test_headline_of_a_baseline_that_wins(rows: list[Row]) -> None:
    text = headline(rows[:3])
    assert text.startswith(
        "KD is best by mean: accuracy 88.00 ± 1.00. Next comes labels only: 87.50 ± 1.80, −0.50 points"
    )
    assert text.endswith("not significant with 3 seeds.")


def test_headline_names_the_others_that_differ(rows: list[Row]) -> None:
    text = headline([*rows[:1], replace(rows[1], holm_p=0.01), *rows[2:]])
    assert text.endswith("Significant against the baseline: labels only (−0.50, Holm p 0.010).")


def test_headline_of_a_tie_of_one_and_of_none(rows: list[Row]) -> None:
    tied = replace(rows[3], score=rows[2].score)
    assert headline([rows[2], tied]) == "KD and KD + Procrustes share the best mean: accuracy 88.00 ± 1.00."
    assert headline(rows[:1] + rows[2:3]) == "KD was run alone: accuracy 88.00 ± 1.00."
    assert headline(rows[:1]) == "No run has a finite score."


def test_markdown_holds_the_same_cells(rows: list[Row]) -> None:
    lines = markdown_table(rows).splitlines()
    cells = [
        [cell.strip() for cell in line.replace("\\", "").strip("|").split(" | ")] for line in lines[2 : 2 + len(rows)]
    ]
    assert [row[0] for row in cells] == [row.name for row in rows]
    assert [list(row) for row in zip(*(column.cells for column in columns(rows)), strict=True)] == cells


def test_names_cannot_break_the_table(rows: list[Row]) -> None:
    evil = [*rows[:3], replace(rows[3], name="a|b\nc\x1b[31m <b>*x*")]
    assert "a|b c [31m <b>*x*" in printed(evil) and "\x1b" not in printed(evil)
    assert r"| a\|b c \[31m \<b\>\*x\* |" in markdown_table(evil)


def test_a_metric_of_its_own_unit_is_shown_as_it_is_and_the_smallest_is_best() -> None:
    def run(variant: str, seed: int, perplexity: float) -> ComparedRun:
        return ComparedRun(variant, seed, {}, {"unseen_perplexity": perplexity}, [], 1.0, 10, 1.0, 1.0, 0)

    values = {"KD": (12.0, 12.5, 12.2), "KD + Gram": (11.0, 11.6, 11.1)}
    runs = [run(name, seed, value) for name, each in values.items() for seed, value in enumerate(each)]
    rows = build_table(runs, baseline="KD", main_metric="unseen_perplexity")
    assert headline(rows).startswith("KD + Gram is best by mean: unseen_perplexity 11.23 ± 0.32, −1.00 against KD")
    assert legend(rows)[0].startswith("unseen_perplexity on the test split")
    assert "points" not in " ".join(legend(rows))
    table = plain(quality_table(rows))
    assert "12.23 ± 0.25" in table and "params" not in table


def test_what_a_score_hides_is_told_with_the_rows_that_it_is_true_of(
    runs: list[ComparedRun], teacher: TeacherResult
) -> None:
    blind = "The student never predicts 'b' (2), of 4 examples."
    noted = [
        replace(run, notes=["2 train rows were dropped.", *([blind] if run.variant == "KD" and run.seed < 3 else [])])
        for run in runs
    ]
    text = legend(build_table(noted, baseline="KD", main_metric="accuracy", teacher=teacher))
    assert "2 train rows were dropped." in text
    assert f"KD (2 of 3 seeds): {blind}" in text
    assert "never predicts" not in " ".join(
        legend(build_table(runs, baseline="KD", main_metric="accuracy", teacher=teacher))
    )


def test_a_blind_spot_is_called_inherited_only_where_a_student_has_it(
    runs: list[ComparedRun], teacher: TeacherResult
) -> None:
    told = replace(teacher, notes=["The teacher never predicts 'b' (2), of 4 examples."])
    text = legend(build_table(runs, baseline="KD", main_metric="accuracy", teacher=told))
    assert "The teacher never predicts 'b' (2), of 4 examples." in text
    heirs = [
        replace(run, notes=["The student never predicts 'b' (2), of 4 examples."] if run.variant == "KD" else [])
        for run in runs
    ]
    text = legend(build_table(heirs, baseline="KD", main_metric="accuracy", teacher=told))
    assert "The teacher never predicts 'b' (2), of 4 examples. So do students of KD (3 of 3 seeds)." in text


@pytest.mark.parametrize(("reached", "low"), [(0.85, "labels only and KD are"), (0.89, "all students are"), (0.5, "")])
def test_a_page_of_students_at_the_constant_predictor_says_so(
    runs: list[ComparedRun], teacher: TeacherResult, reached: float, low: str
) -> None:
    constant = Constant("'b'", {"accuracy": reached}, examples=900)
    rows = build_table(runs, baseline="KD", main_metric="accuracy", teacher=teacher, constant=constant)
    line = line_of(plain(quality_table(rows)), "always")
    assert line.split() == ["always", "'b'", f"{100 * reached:.2f}"]
    said = f"{low} at the level of the constant predictor (always 'b': {100 * reached:.2f})"
    assert (said in headline(rows)) == bool(low) == ("constant predictor (" in headline(rows))
    other = build_table(runs, baseline="KD", main_metric="macro_f1", teacher=teacher, constant=constant)
    assert all(row.role != "constant" and not row.at_constant for row in other)


def test_a_difference_that_rounds_to_zero_is_not_negative() -> None:
    assert [_points(value, 100) for value in (-1e-9, 0.0, -0.001, None)] == ["+0.00", "+0.00", "−0.10", ABSENT]
