from __future__ import annotations

import base64
import gzip
from importlib.resources import files
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from geodistill.studies.report import plotly_script as module
from geodistill.studies.report.plotly_script import BUNDLE, plotly_script, version_of


def bundled() -> bytes:
    return gzip.decompress(files("geodistill").joinpath(BUNDLE).read_bytes())


def test_the_bundle_has_the_version_of_the_installed_plotly() -> None:
    """To renew it: npm pack plotly.js-cartesian-dist-min@VERSION, and gzip -9 -n its plotly-cartesian.min.js."""
    assert version_of(bundled()) == get_plotlyjs_version()
    assert gzip.decompress(base64.b64decode(plotly_script().packed)) == bundled()


def test_another_plotly_brings_its_own_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_plotlyjs_version", lambda: "0.1")
    monkeypatch.setattr(module, "get_plotlyjs", lambda: "the whole script")
    script = module.plotly_script.__wrapped__()
    assert gzip.decompress(base64.b64decode(script.packed)) == b"the whole script"
    assert script.digest == module.digest(b"the whole script")


def test_the_version_is_read_from_the_first_lines() -> None:
    assert version_of(get_plotlyjs()[:400].encode()) == get_plotlyjs_version()
    assert version_of(b"a script of another kind") is None


def test_the_licence_is_kept_and_named() -> None:
    licence = files("geodistill").joinpath(BUNDLE).parent.joinpath("LICENSE")  # type: ignore[attr-defined]
    assert "MIT License" in licence.read_text()
    notice = (Path(__file__).parents[3] / "NOTICE").read_text()
    assert "plotly.js" in notice and "MIT" in notice
