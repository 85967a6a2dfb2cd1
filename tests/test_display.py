from __future__ import annotations

import pytest
from rich.console import Group

from geodistill.display import (
    Drawn,
    Table,
    bullets,
    count,
    duration,
    notebook,
    one_line,
    p_value,
    plain,
    read_template,
    show,
    unit,
    whole_line,
    width_of,
)

EVIL = "</td><script>alert('1')</script>\"'&[red]:smile:"
NAME = "KD + Procrustes with a rather long name, weight=3, 表"
TABLE = Table(["", "accuracy", "p"], [[NAME, "90.05 ± 0.98", "0.250"], ["表表", "", "–"]])


@pytest.mark.parametrize("width", [10, 30, 50, 80, 200])
def test_a_table_keeps_its_numbers_whatever_the_width(width: int) -> None:
    lines = plain(Drawn(TABLE), width).splitlines()
    assert "90.05 ± 0.98  0.250" in lines[2] and lines[-1].startswith("表表") and lines[-1].endswith("–")
    assert "".join(lines).replace(" ", "").count("weight=3") == 1
    assert width_of(lines) <= max(width, 37)
    assert lines[0].endswith("     p") and set(lines[1]) == {"─"}


def test_a_name_column_is_as_narrow_as_it_is_told() -> None:
    lines = plain(Drawn(TABLE, 20), 200).splitlines()
    assert width_of(lines) == 20 + 2 + 12 + 2 + 5 and lines[2].startswith("KD + Procrustes with  90.05")


def test_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(["", ""], [[EVIL, EVIL]])
    assert plain(Drawn(table), 200).splitlines() == [f"{EVIL}  {EVIL}"]
    show(Drawn(table))
    assert capsys.readouterr().out == f"{EVIL}  {EVIL}\n", "no colours where the output is no terminal"


def test_sentences_are_broken_between_words_and_paths_are_not() -> None:
    shown = plain(Group(bullets(["one two three four five", "six"]), whole_line("/a path/to/a folder/somewhere")), 12)
    assert shown.splitlines() == ["- one two", "  three four", "  five", "- six", "/a path/to/a folder/somewhere"]


def test_the_same_table_as_html() -> None:
    table = Table(["", EVIL], [["a", EVIL], ["b", "c"]], "label", [("Group", 1)], ["teacher", "candidate"])
    assert table.starts == {1}
    text = notebook(EVIL, [table], [EVIL], {"Report": EVIL})
    assert "<script" not in text and text.count("&lt;script&gt;") == 5
    assert '<tr class="teacher"><th scope="row">a</th><td class="first">' in text
    assert '<th scope="colgroup" colspan="1">Group</th>' in text and text.count('<th class="first" scope=') == 1
    bare = notebook("", [Table(["", ""], [["a", "b"]])], [], {})
    rows = '<tbody><tr><thscope="row">a</th><td>b</td></tr></tbody>'
    assert "".join(bare.split()) == f'<divclass="geodistill"><table><thead><tr></tr></thead>{rows}</table></div>'


def test_a_file_beside_the_templates_is_read_as_it_is() -> None:
    assert "Plotly.newPlot(name, figure.data" in read_template("studies/report/templates/page.js")


@pytest.mark.parametrize(
    ("number", "text"), [(22_713_216, "22.7 M"), (999_999, "1.0 M"), (1.3e9, "1.3 B"), (512, "512"), (12_300, "12.3 k")]
)
def test_count(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (float("nan"), "–"), (2.34, "2.3 s"), (59.97, "1:00 min"), (312, "5:12 min"), (3725, "1:02 h")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_p_value() -> None:
    assert [p_value(p) for p in (None, 0.0004, 0.001, 0.25)] == ["–", "<0.001", "0.001", "0.250"]


def test_a_name_is_printed_as_one_line_without_characters_that_are_not_seen() -> None:
    assert one_line(" a\u202e\tb ") == "a b" and one_line("a\nb\x1b[31m") == "a b [31m"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (1.234, "1.23 ms"), (54.06, "54.1 ms"), (3729.4, "3,729 ms"), (float("nan"), "–")],
)
def test_unit(value: float | None, text: str) -> None:
    assert unit(value, " ms") == text
