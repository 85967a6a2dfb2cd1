"""`geodistill theory`, from the command line to its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from geodistill.errors import GeodistillError
from geodistill.studies.theory import check
from geodistill.studies.theory.sizes import QUICK

TINY = replace(QUICK, rows=12, widths=(4, 6), steps=20, pairs=8, noise_rows=(16, 64))


def test_it_prints_every_verdict_and_writes_a_page_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "QUICK", TINY)
    results = check.theory(tmp_path / "out", quick=True)
    shown = str(results)
    for claim in results.claims:
        assert claim.verdict in ("held", "not held")
        assert claim.statement.split()[0] in shown
    assert "Theorem 1" in shown and "not held" in shown and str(tmp_path) in shown.replace("\n", "")
    assert "no counter-example" in results._repr_html_()
    stored = json.loads((tmp_path / "out" / "theory.json").read_text())
    assert stored["lead"] == results.lead and len(stored["findings"]) == 6
    assert stored["findings"][1]["claims"][2]["verdict"] == "not held"
    page = (tmp_path / "out" / "theory.html").read_text()
    assert "Plotly.newPlot" in page and "part-1-1" in page and results.lead in page


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(GeodistillError, match="is a file, not a folder"):
        check.theory(place)
