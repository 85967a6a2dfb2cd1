"""The HTML of a report page: sections, tables, figures, and the shell around them.

Everything that is put into a page is escaped here. Its content security policy lets the page run no script but its own
two, known by their digests, and load nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape

from plotly.offline import get_plotlyjs

from geodistill.studies.report.plots import Figure
from geodistill.studies.report.style import CSS, SCRIPT


class Page:
    """The body of a page as it grows, and the figures that its script draws."""

    def __init__(self) -> None:
        self.body: list[str] = []
        self.figures: dict[str, Figure] = {}

    def section(self, title: str, *parts: str) -> None:
        """Append a section made of markup from this module."""
        self.body.append(f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>")

    def plot(self, figure: Figure, label: str, caption: str, fallback: str = "") -> str:
        """Markup for a figure that is drawn once the page is open; `label` is what a screen reader says of it."""
        name = f"figure-{len(self.figures) + 1}"
        self.figures[name] = figure
        height = f"min-height:{figure['layout']['height']}px"
        return (
            f'<figure><div id="{name}" class="plot" role="img" aria-label="{escape(label)}" style="{height}"></div>'
            f"<noscript>{fallback}</noscript><figcaption>{escape(caption)}</figcaption></figure>"
        )

    def grid(self, figures: Mapping[str, Figure], label: str) -> str:
        """Markup for small plots side by side, each under its name."""
        plots = [self.plot(figure, f"{label}: {name}", name) for name, figure in figures.items()]
        return f'<div class="grid">{"".join(plots)}</div>'

    def html(self, title: str, lead: str, kind: str) -> str:
        """The whole page."""
        scripts = [get_plotlyjs(), SCRIPT] if self.figures else []
        allowed = " ".join(map(_digest, scripts)) or "'none'"
        policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"
        # Inside a script element only `<` could end it, and JSON can spell `<` otherwise.
        figures = json.dumps(self.figures, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
        return "\n".join(
            [
                '<!doctype html><html lang="en"><head><meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>",
                f'<header><p class="kind">{escape(kind)}</p><h1>{escape(title)}</h1>',
                f'<p class="lead">{escape(lead)}</p></header>',
                *self.body,
                "</main>",
                f'<script type="application/json" id="figures">{figures}</script>',
                *(f"<script>{script}</script>" for script in scripts),
                "</body></html>\n",
            ]
        )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """A table of text; the first cell of a row is its heading. Without any heading text there is no head."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads) if any(heads) else ""
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return scroll(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", label)


def scroll(content: str, label: str) -> str:
    """A wide table that a narrow screen, or the keyboard, can scroll."""
    return f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">{content}</div>'


def bullets(lines: Sequence[str]) -> str:
    return f'<ul class="legend">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
