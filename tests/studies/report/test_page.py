from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import pytest
from markupsafe import Markup

from geodistill.display import Table, read_template
from geodistill.studies.report.page import TEMPLATES, Plot, page, small_plots
from geodistill.studies.report.scores import COLOURS, GREY

EVIL = "</script><script>alert('1')</script>\"'&"
FIGURE = {"data": [{"name": EVIL}], "layout": {"height": 300}}
CSS = read_template(f"{TEMPLATES}/style.css")


def shell(plots: list[Plot], text: str = "") -> str:
    """The page of a run that has these plots and nothing else."""
    content: dict[str, Any] = {"metrics": Table([text, text], [[text, text]], text), "notes": [text]}
    content |= {"geometry": None, "references": "", "curves": plots, "read": [], "facts": Table([], []), "forms": None}
    return page("run.html.jinja", plots, title=text, lead=text, kind=text, recipe=text, environment=text, **content)


def test_everything_put_into_a_page_is_escaped() -> None:
    text = shell([Plot("figure", FIGURE, EVIL, EVIL, EVIL), *small_plots({EVIL: FIGURE}, "small", EVIL)], EVIL)
    assert "alert('1')" not in text and "alert(\\u00271\\u0027)" in text
    scripts = re.findall(r"<script(?: type=\"application/json\" id=\"figures\")?>", text)
    assert text.count("<script") == len(scripts) == 3


def test_the_policy_allows_the_scripts_of_the_page_and_no_other() -> None:
    text = shell([Plot("figure", FIGURE, "", "")])
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy
    allowed = policy[1].replace("&#39;", "'")
    assert allowed.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-(.*?)'", allowed) == digests and len(digests) == 2
    assert "unsafe" not in allowed.split("script-src")[1]


def test_a_page_without_plots_has_no_script_to_run() -> None:
    text = shell([])
    assert "script-src &#39;none&#39;" in text and "<script>" not in text and len(text) < 10_000


def test_figures_come_back_from_the_page_as_they_went_in() -> None:
    text = shell([Plot("figure", FIGURE, "label", "caption", Markup("<svg></svg>"))])
    stored = re.search(r'id="figures">(.*?)</script>', text, re.S)
    assert stored and json.loads(stored[1]) == {"figure": FIGURE}
    assert '<div id="figure" class="plot" role="img" aria-label="label" style="min-height:300px">' in text
    assert "<noscript><svg></svg></noscript><figcaption>caption</figcaption>" in text


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.S))


@pytest.mark.parametrize("theme", [light, dark], ids=["light", "dark"])
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
