"""The shell of every page: a verdict, a few figures, and sections that are made of blocks.

Text that is put into a page is escaped by its template. The content security policy lets the page run its own two
scripts alone, known by their digests, and load nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from geodistill.display import Table, one_line, read_template, render
from geodistill.studies.report.plotly_script import digest, plotly_script
from geodistill.studies.report.plots import Figure
from geodistill.studies.report.scores import Style

TEMPLATES = "studies/report/templates"


@dataclass(frozen=True)
class Plot:
    """A figure in its place on a page.

    name: the id of the element that the figure is drawn into
    label: what a screen reader says of it
    fallback: markup that stands there if no script runs
    """

    name: str
    figure: Figure
    label: str
    caption: str
    fallback: Markup | str = ""


def small_plots(figures: Mapping[str, Figure], name: str, label: str) -> list[Plot]:
    """Return plots that stand side by side, each with its name for a caption."""
    return [
        Plot(f"{name}-{place}", figure, f"{label}: {caption}", caption)
        for place, (caption, figure) in enumerate(figures.items(), start=1)
    ]


@dataclass(frozen=True)
class Tile:
    """A figure at the top of a page: what it is of, the figure, and what it is measured against."""

    name: str
    value: str
    note: str = ""


class Block:
    """A piece of a section; `kind` is the macro of blocks.html.jinja that draws it."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Tables(Block):
    """Tables under one another."""

    kind: ClassVar[str] = "tables"
    tables: Sequence[Table]


@dataclass(frozen=True)
class WidePlot(Block):
    """A plot over the whole width, its caption below."""

    kind: ClassVar[str] = "wide"
    plot: Plot


@dataclass(frozen=True)
class SmallPlots(Block):
    """Plots side by side, each under its caption, and a key to their colours and symbols."""

    kind: ClassVar[str] = "grid"
    plots: Sequence[Plot]
    styles: Mapping[str, Style] = field(default_factory=dict)

    @property
    def key(self) -> list[tuple[Style, str]]:
        return [(style, one_line(name)) for name, style in self.styles.items()]


@dataclass(frozen=True)
class Notes(Block):
    """Sentences about what stands above them."""

    kind: ClassVar[str] = "notes"
    lines: Sequence[str]


@dataclass(frozen=True)
class Listing(Block):
    """Text as it was written, such as a recipe."""

    kind: ClassVar[str] = "listing"
    text: str


@dataclass(frozen=True)
class Folded(Block):
    """Blocks that are shown when someone opens them."""

    kind: ClassVar[str] = "folded"
    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Sample(Block):
    """What was asked, and what each model answered: (who, what) pairs."""

    kind: ClassVar[str] = "sample"
    asked: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """A section of a page."""

    title: str
    blocks: Sequence[Block]

    @property
    def name(self) -> str:
        """The id that a link to the section names."""
        return "section-" + "".join(letter if letter.isalnum() else "-" for letter in self.title.casefold())


def page(sections: Sequence[Section | None], *, title: str, lead: str, kind: str, tiles: Sequence[Tile] = ()) -> str:
    """Return a page.

    Args:
        sections: from the top to the bottom; None, and a section without blocks, is left out.
        title, lead: what was done, and what came out.
        kind: the command that wrote the page.
        tiles: the figures that someone looks for first.
    """
    shown = [section for section in sections if section is not None and section.blocks]
    figures = {plot.name: plot.figure for section in shown for plot in plots_of(section.blocks)}
    plotly = plotly_script() if figures else None
    script = read_template(f"{TEMPLATES}/page.js")
    allowed = [digest(script.encode()), *([plotly.digest] if plotly else [])]
    return render(
        f"{TEMPLATES}/page.html.jinja",
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {' '.join(allowed)}",
        sections=shown,
        title=title,
        lead=lead,
        kind=kind,
        tiles=tiles,
        figures=figures,
        plotly=plotly.packed if plotly else "",
        script=Markup(script),
    )


def plots_of(blocks: Sequence[Any]) -> Iterator[Plot]:
    """Yield all plots of some blocks."""
    for block in blocks:
        if isinstance(block, WidePlot):
            yield block.plot
        elif isinstance(block, SmallPlots):
            yield from block.plots
        elif isinstance(block, Folded):
            yield from plots_of(block.blocks)
