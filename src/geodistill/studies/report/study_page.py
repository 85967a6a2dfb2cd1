"""The page of a study that is no training: sections of tables, small plots and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geodistill.display import Table
from geodistill.files import write_text
from geodistill.studies.inspect.inspection import MATRICES, Inspection
from geodistill.studies.report.page import Plot, page, small_plots
from geodistill.studies.report.plots import chart_plot
from geodistill.studies.theory.findings import TheoryResults, claim_table


@dataclass(frozen=True)
class Section:
    """A section of the page.

    text: shown as it is written, such as a part of a recipe
    """

    title: str
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = field(default_factory=list)
    text: str = ""


def write_study(path: Path, sections: Sequence[Section], *, title: str, lead: str, kind: str) -> None:
    """Write a page of these sections."""
    plots = [plot for section in sections for plot in section.plots]
    write_text(path, page("study.html.jinja", plots, title=title, lead=lead, kind=kind, parts_of_study=sections))


def write_theory_report(path: Path, results: TheoryResults) -> None:
    """Write theory.html: each part of the theory with its claims, its table and its curves."""
    sections = []
    for number, finding in enumerate(results.findings, start=1):
        figures = {chart.title: chart_plot(chart) for chart in finding.charts}
        sections.append(
            Section(
                finding.title,
                [claim_table(finding.claims), finding.table],
                small_plots(figures, f"part-{number}", finding.title),
                [finding.caveat] if finding.caveat else [],
            )
        )
    write_study(
        path, sections, title="What the theory says, and what holds", lead=results.lead, kind="geodistill theory"
    )


def write_inspection(path: Path, found: Inspection) -> None:
    """Write inspect.html: heat maps with floor and chance on hover, spectra, tables, and the layer map."""
    figures = found.figures()
    pairs = {title: figures.pop(title) for title in list(figures) if title in MATRICES.values()}
    sides = [table for table in found.tables if table.heads[0] in ("student", "teacher", "model")]
    matrices = [table for table in found.tables if table not in sides]
    notes = [
        f"Over {found.rows:,} rows of the kind '{found.row_kind}', centred, of unit Frobenius norm. D_P², D_FG² and "
        "the residual are near where they are low; CKA and the overlap where they are high.",
        f"Neighbours: the {found.k} nearest of {found.examples:,} examples, each one row.",
    ]
    sections = [Section("Each layer with each layer", [], small_plots(pairs, "pair", "Heat map"), notes)]
    if found.layer_map:
        sections.append(Section("Layer map", notes=found.reasons, text=found.recipe))
    sections.append(Section("Layers", sides, small_plots(figures, "layer", "Layers")))
    sections.append(Section("Numbers", matrices))
    title = found.names[0] if found.alone else f"{found.names[0]} and {found.names[1]}"
    write_study(path, sections, title=title, lead=found.lead, kind="geodistill inspect")
