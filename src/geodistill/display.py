"""How numbers, names and tables are shown: rich draws a table for a terminal, jinja2 the same table as HTML.

print(plain(drawn(Table(["", "accuracy"], [["KD", "88.00 ± 1.00"]]))))
"""

from __future__ import annotations

import io
import math
import shutil
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

ABSENT = "–"
NOT_FINITE = "not finite"
GAP = 2  # blanks between two columns
LEAST_NAME = 16  # a name column is not made narrower than this; its names go over several lines before
WIDTH = 120  # if the output is no terminal
STYLES = {"teacher": "dim", "constant": "dim"}


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, for a terminal and for a page. The first cell of a row is its name.

    heads: the heading of each column; no heading is shown if all are empty
    label: what a screen reader says of the table
    groups: headings over several columns, from the second column on, each with its number of columns
    kinds: for each row what it is about (`teacher`, `constant`, `baseline`, …), which decides how it looks
    prose: whether the cells are texts, which a page breaks over several lines, rather than numbers
    pictures: for each row the data URI of an image that a page shows with the name, or nothing
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    label: str = ""
    groups: Sequence[tuple[str, int]] = ()
    kinds: Sequence[str] = ()
    prose: bool = False
    pictures: Sequence[str] = ()

    @property
    def starts(self) -> set[int]:
        """The columns that begin a group."""
        places = [1]
        for _, span in self.groups:
            places.append(places[-1] + span)
        return set(places[:-1])


class Drawn:
    """A table as rich draws it. Names go over several lines if the terminal is narrow; numbers are never cut, they
    rather go beyond the edge of the terminal."""

    def __init__(self, table: Table, name_width: int | None = None) -> None:
        self.table = RichTable(
            box=box.SIMPLE_HEAD,
            show_header=any(table.heads),
            show_edge=False,
            pad_edge=False,
            padding=(0, 0, 0, GAP - 1),  # the box itself has one blank between two columns
            header_style="bold",
        )
        for place, head in enumerate(table.heads):
            size = width_of([head, *(row[place] for row in table.rows)])
            if place:
                self.table.add_column(Text(head), justify="right", no_wrap=True, min_width=size)
            else:
                size = size if name_width is None else min(size, name_width)
                self.table.add_column(Text(head), overflow="fold", min_width=min(size, LEAST_NAME), max_width=size)
        kinds = table.kinds or [""] * len(table.rows)
        for row, kind in zip(table.rows, kinds, strict=True):
            self.table.add_row(*map(Text, row), style=STYLES.get(kind))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        least = Measurement.get(console, options.update_width(10**6), self.table).minimum
        yield from console.render(self.table, options.update_width(max(options.max_width, least)))


def bullets(lines: Iterable[str]) -> RenderableType:
    """Draw sentences one under another, each with a mark before it."""
    grid = RichTable.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(Text("-"), Text(line))
    return grid


def whole_line(text: str) -> Text:
    """Return a line that is not broken, such as a path that someone will copy."""
    return Text(text, no_wrap=True, overflow="ignore")


def plain(shown: RenderableType, width: int | None = None) -> str:
    """Return what is shown as text without colours, as wide as the terminal, or `width`."""
    file = io.StringIO()
    console = Console(file=file, width=width or _terminal_width(), color_system=None, legacy_windows=False)
    console.print(Group(shown), crop=False, highlight=False)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def show(shown: RenderableType) -> None:
    """Print to the standard output; if that is a terminal, with colours and in its width."""
    console = Console(width=_terminal_width())
    if console.is_terminal:
        console.print(Group(shown), crop=False, highlight=False)
    else:
        print(plain(shown))


def _terminal_width() -> int:
    return shutil.get_terminal_size((WIDTH, 24)).columns


def width_of(texts: Iterable[str]) -> int:
    """Return how many cells of a terminal the widest of the texts takes."""
    return max(map(cell_len, texts), default=0)


@cache
def _templates() -> Environment:
    """The templates of the package, each known by its path in it; what is put into one is escaped."""
    templates = Environment(
        loader=PackageLoader("geodistill", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    return templates


def render(template: str, **content: Any) -> str:
    """Fill a template, named by its path in the package; all text is escaped."""
    return _templates().get_template(template).render(content)


def notebook(lead: str, tables: Sequence[Table], notes: Sequence[str], places: Mapping[str, Any]) -> str:
    """Return results as HTML for a notebook: a sentence, tables, notes, and the names and paths of what was written."""
    return render("templates/notebook.html.jinja", lead=lead, tables=tables, notes=notes, places=places)


def read_template(name: str) -> str:
    """Return the text of a file beside the templates, such as a style sheet, unchanged."""
    templates = _templates()
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point; one that is not finite, which is null in JSON, in words."""
    return NOT_FINITE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def p_value(p: float | None) -> str:
    return ABSENT if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float) -> str:
    """22,713,216 → 22.7 M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.1f} {letter}"
    return f"{number:.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def one_line(text: str) -> str:
    """A name as it may be printed: no line breaks, no control or formatting characters."""
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in str(text)).split())


def unit(value: float | None, name: str) -> str:
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}{name}"
    return f"{value:.{2 if value < 10 else 1}f}{name}" if math.isfinite(value) else ABSENT
