from __future__ import annotations

import base64
import hashlib
import json
import re

from geodistill.studies.report.page import Page, bullets, details, scroll, table

EVIL = "</script><script>alert('1')</script>\"'&"
FIGURE = {"data": [{"name": EVIL}], "layout": {"height": 300}}


def test_everything_put_into_a_page_is_escaped() -> None:
    page = Page()
    page.section(
        EVIL, table([EVIL, EVIL], [[EVIL, EVIL]], EVIL), bullets([EVIL]), details(EVIL, "x"), scroll("x", EVIL)
    )
    page.section("", page.plot(FIGURE, EVIL, EVIL), page.grid({EVIL: FIGURE}, EVIL))
    text = page.html(EVIL, EVIL, EVIL)
    assert "alert('1')" not in text.replace("\\u003cscript>alert('1')", "")
    assert (
        text.count("<script") == len(re.findall(r"<script(?: type=\"application/json\" id=\"figures\")?>", text)) == 3
    )


def test_the_policy_allows_the_scripts_of_the_page_and_no_other() -> None:
    page = Page()
    page.section("", page.plot(FIGURE, "", ""))
    text = page.html("", "", "")
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy and policy[1].startswith(
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src"
    )
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-(.*?)'", policy[1]) == digests and len(digests) == 2
    assert "unsafe" not in policy[1].split("script-src")[1]


def test_a_page_without_plots_has_no_script_to_run() -> None:
    page = Page()
    page.section("Text", table([""], [["a"]], ""))
    text = page.html("t", "l", "k")
    assert "script-src 'none'" in text and "<script>" not in text and len(text) < 10_000


def test_figures_come_back_from_the_page_as_they_went_in() -> None:
    page = Page()
    page.section("", page.plot(FIGURE, "label", "caption", "<svg></svg>"))
    text = page.html("", "", "")
    stored = re.search(r'id="figures">(.*?)</script>', text, re.S)
    assert stored and json.loads(stored[1]) == {"figure-1": FIGURE}
    assert '<div id="figure-1" class="plot" role="img" aria-label="label"' in text
    assert "<noscript><svg></svg></noscript>" in text


def test_a_table_without_headings_has_an_empty_head() -> None:
    assert "<thead><tr></tr></thead>" in table(["", ""], [["a", "b"]], "")
    assert '<th scope="row">a</th><td>b</td>' in table(["", ""], [["a", "b"]], "")
