"""The shell of a report page, and the figures that its script draws.

Text that is put into a page is escaped by its template. The content security policy lets the page run no script but its
own two, known by their digests, and load nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from geodistill.display import read_template, render
from geodistill.studies.report.plots import Figure

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


def page(template: str, plots: Sequence[Plot], *, title: str, lead: str, kind: str, **content: Any) -> str:
    """Fill the template of a page; `plots` are all the plots that its content has."""
    scripts = [get_plotlyjs(), read_template(f"{TEMPLATES}/draw.js")] if plots else []
    allowed = " ".join(map(_digest, scripts)) or "'none'"
    return render(
        f"{TEMPLATES}/{template}",
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}",
        title=title,
        lead=lead,
        kind=kind,
        figures={plot.name: plot.figure for plot in plots},
        scripts=list(map(Markup, scripts)),
        **content,
    )


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
