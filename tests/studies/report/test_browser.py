"""A report in a real browser: it opens from the file system, draws, sorts, and fits a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from geodistill.files import read_lines, write_lines
from geodistill.runs.folder import TEST_PREDICTIONS
from geodistill.studies.comparison_results import ComparisonResults
from geodistill.studies.report.comparison_page import report_comparison
from geodistill.studies.table import ComparedRun

from .conftest import MakeComparison

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# How many folded parts are open while the page is printed, and afterwards.
COUNT_OPEN = """() => {
  window.counted = {};
  const count = (event) => { counted[event.type] = document.querySelectorAll("details[open]").length; };
  for (const name of ["beforeprint", "afterprint"]) addEventListener(name, count);
}"""


def show_an_image(results: ComparisonResults) -> None:
    """Let the examples of a comparison be of one image file."""
    Image.new("RGB", (8, 8), (200, 0, 0)).save(results.folder / "red.png")
    for run in results.runs:
        path = results.folder / run.folder / TEST_PREDICTIONS
        write_lines(path, [{**line, "image": str(results.folder / "red.png")} for line in read_lines(path)])


@pytest.fixture
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("There is no Chromium on this machine, so no page was opened in a browser.")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed, so no browser was driven.")
    with api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_a_report_in_a_browser(
    browser: Any, runs: list[ComparedRun], make_run: Any, make_comparison: MakeComparison
) -> None:
    long = "a variant whose name does not fit into the width of a phone"
    results = make_comparison(
        [*runs, *(make_run(long, seed, 0.85) for seed in (1, 2, 3))], metrics=["accuracy", "macro_f1"]
    )
    show_an_image(results)
    report_comparison(results, {"data": {"source": "lost.csv"}})

    page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="dark")
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(results.report.as_uri())
    page.wait_for_selector("[data-drawn]", state="attached")
    assert page.locator("th img").evaluate_all("found => found.map(e => [e.naturalWidth, e.width])") == [[8, 64]]
    assert page.locator(".plot .main-svg").count() >= page.locator(".plot").count() > 8

    table = page.locator("table").first
    heading, scores = table.locator("th", has_text="accuracy"), table.locator("tbody td:nth-child(3)")
    before = scores.all_text_contents()
    heading.locator("button").focus()
    for direction in ("ascending", "descending", None):
        page.keyboard.press("Enter")
        assert heading.get_attribute("aria-sort") == direction
        found = [float(text.split()[0]) for text in scores.all_text_contents()]
        if direction is not None:
            assert found == sorted(found, reverse=direction == "descending")
    assert scores.all_text_contents() == before != sorted(before)

    page.locator("#scores .scatterlayer .points path").last.hover(force=True)
    assert long in page.locator("#scores .hoverlayer").text_content()

    folded = page.locator("details").count()
    page.evaluate(COUNT_OPEN)
    page.pdf()
    assert page.evaluate("counted") == {"beforeprint": folded, "afterprint": 0} and folded > 2

    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if width == 1200:
            clipped = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
            assert page.evaluate(clipped) == 0
    assert not told and all(url.startswith(("file:", "blob:", "data:")) for url in asked)
