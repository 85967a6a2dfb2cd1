"""The pages of studies that train nothing: the theory on synthetic vectors, and an inspection of layers."""

from __future__ import annotations

from pathlib import Path

from geodistill.files import write_text
from geodistill.studies.inspect.inspection import MATRICES, Inspection
from geodistill.studies.report.page import Listing, Notes, Section, SmallPlots, Tables, page, small_plots
from geodistill.studies.report.plots import chart_plot
from geodistill.studies.theory.findings import TheoryResults, claim_table


def write_theory_report(path: Path, results: TheoryResults) -> None:
    """Write theory.html: each part of the theory with its claims, its table and its curves."""
    sections = []
    for number, finding in enumerate(results.findings, start=1):
        figures = {chart.title: chart_plot(chart) for chart in finding.charts}
        sections.append(
            Section(
                finding.title,
                [
                    Tables([claim_table(finding.claims), finding.table]),
                    SmallPlots(small_plots(figures, f"part-{number}", finding.title)),
                    Notes([finding.caveat] if finding.caveat else []),
                ],
            )
        )
    title = "What the theory says, and what holds"
    write_text(path, page(sections, title=title, lead=results.lead, kind="geodistill theory"))


def write_inspection(path: Path, found: Inspection) -> None:
    """Write inspect.html: heat maps with floor and chance on hover, spectra, tables, and the layer map."""
    figures = found.figures()
    pairs = {title: figures.pop(title) for title in list(figures) if title in MATRICES.values()}
    sides = [table for table in found.tables if table.heads[0] in ("student", "teacher", "model")]
    matrices = [table for table in found.tables if table not in sides]
    notes = [
        f"Over {found.rows:,} rows of the kind '{found.row_kind}', centred, of unit Frobenius norm. D_P², D_FG² and "
        "the residual are near if they are low; CKA and the overlap if they are high.",
        f"Neighbours: the {found.k} nearest of {found.examples:,} examples, each one row.",
    ]
    sections = [
        Section("Each layer with each layer", [SmallPlots(small_plots(pairs, "pair", "Heat map")), Notes(notes)]),
        Section("Layer map", [Notes(found.reasons), Listing(found.recipe)] if found.layer_map else []),
        Section("Layers", [Tables(sides), SmallPlots(small_plots(figures, "layer", "Layers"))]),
        Section("Numbers", [Tables(matrices)]),
    ]
    title = found.names[0] if found.alone else f"{found.names[0]} and {found.names[1]}"
    write_text(path, page(sections, title=title, lead=found.lead, kind="geodistill inspect"))
