from __future__ import annotations

import re

import pytest

from geodistill.studies.report.plots import COLOURS, GREY
from geodistill.studies.report.style import CSS


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
