"""What a check of the theory found: claims with their verdicts and numbers, a table, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from geodistill.display import Drawn, Table, bullets, duration, notebook, plain, whole_line

VERDICTS = {True: "held", False: "not held"}


@dataclass(frozen=True)
class Claim:
    """A statement of the theory, whether it held here, and the numbers that say so."""

    statement: str
    held: bool
    numbers: str

    @property
    def verdict(self) -> str:
        return VERDICTS[self.held]


@dataclass(frozen=True)
class Line:
    """One curve of a chart; a reference, such as a floor, is dotted."""

    name: str
    x: list[float]
    y: list[float]
    dotted: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over one axis."""

    title: str
    x: str
    y: str
    lines: list[Line]
    log_x: bool = False


@dataclass(frozen=True)
class Finding:
    """One part of the theory: its claims, and what they rest on.

    caveat: what the numbers do not say
    """

    title: str
    claims: list[Claim]
    table: Table
    charts: list[Chart] = field(default_factory=list)
    caveat: str = ""


@dataclass(frozen=True)
class TheoryResults:
    """What `geodistill.theory` returns. It prints as tables and shows as HTML in a notebook.

    Attributes:
        findings: one for each part of the theory, in the order of the paper.
        settings: sizes and seeds of the experiments.
        seconds: how long all of it took.
        places: the files that were written, by name; empty without an output folder.
    """

    findings: list[Finding]
    settings: dict[str, Any]
    seconds: float
    places: dict[str, Path] = field(default_factory=dict)

    @property
    def claims(self) -> list[Claim]:
        """All claims, in order."""
        return [claim for finding in self.findings for claim in finding.claims]

    @property
    def lead(self) -> str:
        """The outcome in one sentence."""
        held = sum(claim.held for claim in self.claims)
        return f"{held} of {len(self.claims)} claims held, in {duration(self.seconds)}."

    def to_dict(self) -> dict[str, Any]:
        """Return what theory.json holds."""
        findings = [
            {**asdict(finding), "claims": [{**asdict(each), "verdict": each.verdict} for each in finding.claims]}
            for finding in self.findings
        ]
        return {"lead": self.lead, "settings": self.settings, "seconds": self.seconds, "findings": findings}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for finding in self.findings:
            yield Text(finding.title, style="bold")
            yield Drawn(claim_table(finding.claims))
            yield ""
            yield Drawn(finding.table)
            if finding.caveat:
                yield bullets([finding.caveat])
            yield ""
        yield Text(self.lead)
        for name, place in self.places.items():
            yield whole_line(f"{name}: {place}")

    def __str__(self) -> str:
        return plain(self)

    def _repr_html_(self) -> str:
        tables = [table for each in self.findings for table in (claim_table(each.claims), each.table)]
        return notebook(self.lead, tables, [each.caveat for each in self.findings if each.caveat], self.places)


def claim_table(claims: Sequence[Claim]) -> Table:
    """Return claims with their numbers in the first column and their verdicts in the second."""
    rows = [[f"{claim.statement} [{claim.numbers}]", claim.verdict] for claim in claims]
    return Table(["claim [numbers]", "verdict"], rows, "Claims")
