from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re

import pytest
from markupsafe import Markup

from geodistill.display import Table, read_template
from geodistill.studies.report.page import (
    TEMPLATES,
    Folded,
    Listing,
    Notes,
    Plot,
    Sample,
    Section,
    SmallPlots,
    Tables,
    Tile,
    WidePlot,
    page,
    plots_of,
    small_plots,
)
from geodistill.studies.report.scores import COLOURS, GREY, styles

EVIL = "</script><script>alert('1')</script>\"'&"
FIGURE = {"data": [{"name": EVIL}], "layout": {"height": 300}}
CSS = read_template(f"{TEMPLATES}/style.css")


def shell(plots: list[Plot], text: str = "") -> str:
    """A page with a block of each kind."""
    blocks = [
        Tables([Table([text, text], [[text, text]], text, prose=True)]),
        *([SmallPlots(plots, styles([text]))] if plots else []),
        Notes([text]),
        Folded(text, [Listing(text)]),
        Sample(text, [(text, text)]),
    ]
    sections = [Section(text, blocks), Section("empty", []), None]
    return page(sections, title=text, lead=text, kind=text, tiles=[Tile(text, text, text)])


def test_everything_put_into_a_page_is_escaped() -> None:
    text = shell([Plot("figure", FIGURE, EVIL, EVIL, EVIL), *small_plots({EVIL: FIGURE}, "small", EVIL)], EVIL)
    assert "alert('1')" not in text and "alert(\\u00271\\u0027)" in text
    assert re.findall(r"<script([^>]*)>", text) == [
        ' type="application/json" id="figures"',
        ' type="text/plain" id="plotly"',
        "",
    ]


def test_the_policy_allows_the_scripts_of_the_page_and_no_other() -> None:
    text = shell([Plot("figure", FIGURE, "", "")])
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy
    allowed = policy[1].replace("&#39;", "'")
    assert allowed.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src")
    own, packed = (re.findall(rf"<script{kind}>(.*?)</script>", text, re.S)[0] for kind in ("", r"[^>]*plotly\""))
    scripts = [own.encode(), gzip.decompress(base64.b64decode(packed))]
    digests = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-(.*?)'", allowed) == digests
    assert "unsafe" not in allowed.split("script-src")[1]


def test_a_page_is_small() -> None:
    assert len(shell([Plot("figure", FIGURE, "", "")])) < 800_000
    text = shell([])
    assert "plotly" not in text.split("<script>")[0] and len(text) < 25_000


def test_sections_without_content_are_left_out() -> None:
    text = shell([], "x")
    assert text.count("<section") == 1 and "empty" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    two = [Section(name, [Notes(["n"])]) for name in ("One & two", "Three", "Four")]
    assert '<a href="#section-one---two">One &amp; two</a>' in page(two, title="", lead="", kind="")


def test_figures_come_back_from_the_page_as_they_went_in() -> None:
    text = shell([Plot("figure", FIGURE, "label", "caption", Markup("<svg></svg>"))])
    stored = re.search(r'id="figures">(.*?)</script>', text, re.S)
    assert stored and json.loads(stored[1]) == {"figure": FIGURE}
    assert '<div id="figure" class="plot" role="img" aria-label="label" style="min-height:300px">' in text
    assert "<noscript><svg></svg></noscript><figcaption>caption</figcaption>" in text


def test_plots_are_found_wherever_they_stand() -> None:
    plots = small_plots({name: FIGURE for name in "abc"}, "p", "")
    blocks = [WidePlot(plots[0]), Folded("f", [SmallPlots(plots[1:])]), Notes([])]
    assert list(plots_of(blocks)) == plots


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


light, dark, paper = (
    dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.S)
)


@pytest.mark.parametrize("theme", [light, {**light, **dark}, {**light, **paper}], ids=["light", "dark", "paper"])
def test_text_and_marks_stand_out(theme: dict[str, str]) -> None:
    for ground in ("page", "card"):
        assert contrast(theme["ink"], theme[ground]) >= 7
        assert contrast(theme["soft"], theme[ground]) >= 4.5
        assert contrast(theme["accent"], theme[ground]) >= 4.5
    assert contrast(theme["ink"], theme["tint"]) >= 7
    for colour in (*COLOURS, GREY):
        assert contrast(colour, theme["card"]) >= 3, colour


def test_the_style_loads_nothing() -> None:
    assert "url(" not in CSS and "@import" not in CSS
