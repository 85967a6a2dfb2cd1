"""`geodistill theory`: the paper's synthetic section, each claim held or not held with the numbers behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from geodistill.files import write_json
from geodistill.runs.folder import make_folder
from geodistill.studies.report.study_page import write_theory_report
from geodistill.studies.theory.findings import Finding, TheoryResults
from geodistill.studies.theory.sizes import FULL, QUICK, Sizes
from geodistill.studies.theory.theorems import few_rows, identities, theorem_1, theorem_2
from geodistill.studies.theory.vectors import convergence, orthogonal_vectors

PARTS: tuple[Callable[[Sizes], Finding], ...] = (
    orthogonal_vectors,
    theorem_1,
    theorem_2,
    identities,
    few_rows,
    convergence,
)
PAGE, NUMBERS = "theory.html", "theory.json"


def theory(folder: str | Path | None = None, *, quick: bool = False) -> TheoryResults:
    """Check what the paper claims, on synthetic vectors, and say what held.

    The same as `geodistill theory`. Everything is computed in float64 with fixed seeds.

    Args:
        folder: where theory.html and theory.json are written; nothing is written without it.
        quick: smaller sizes and one seed.

    Returns:
        The findings; they print as tables and show as HTML in a notebook.

    Raises:
        GeodistillError: for a folder that cannot be written.

    Example:
        >>> results = geodistill.theory(quick=True)
        >>> [claim.statement for claim in results.claims if not claim.held]

    Reference: arXiv 2509.25253.
    """
    place = None if folder is None else make_folder(Path(folder))
    started, sizes = time.perf_counter(), QUICK if quick else FULL
    findings = [part(sizes) for part in PARTS]
    results = TheoryResults(findings, asdict(sizes), time.perf_counter() - started)
    if place is None:
        return results
    write_json(place / NUMBERS, results.to_dict())
    write_theory_report(place / PAGE, results)
    return replace(results, places={"Report": place / PAGE, "Numbers": place / NUMBERS})
