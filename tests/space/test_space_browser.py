"""The page in headless Chromium: what a visitor types, presses and reads, on a desk and on a phone.

Playwright drives the system's own Chromium (Debian's package `chromium`).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_servers import CHROMIUM, SpaceProcess

pytestmark = pytest.mark.slow

PATIENCE = 120_000
HOSTILE = "<img src=x onerror=document.title='owned'> vision"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium. CI must have it: proofs that are skipped there prove nothing."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """A visitor's window on the page; it notes what is asked of other hosts and what fails."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.foreign: list[str] = []
        self.errors: list[str] = []
        own = (url, "data:", "blob:")
        self.page.on("request", lambda r: None if r.url.startswith(own) else self.foreign.append(r.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#title textarea")

    def classify(self, title: str, abstract: str) -> None:
        """Types and presses the button."""
        self.page.fill("#title textarea", title)
        self.page.fill("#abstract textarea", abstract)
        self.page.get_by_role("button", name="Classify", exact=True).click()

    def tab(self, name: str) -> None:
        """Opens a tab."""
        self.page.get_by_role("tab", name=name).click()

    def classify_all(self, source: Path) -> None:
        """Uploads a CSV on its tab and presses the button."""
        self.tab("Many papers")
        self.page.set_input_files("#upload input[type=file]", str(source))
        self.page.locator("#upload").get_by_text(source.stem).first.wait_for()
        self.page.get_by_role("button", name="Classify all").click()

    def category(self) -> str:
        """The heading of the label chart, once it is there."""
        return self.page.locator("#label h2").inner_text()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def visit(browser: Any, page: SpaceProcess) -> Iterator[Visit]:
    """A desk."""
    visit = Visit(browser, page.url, viewport={"width": 1200, "height": 900})
    yield visit
    visit.context.close()


class TestOnePaper:
    """The first tab."""

    def test_type_press_read(self, visit: Visit, tmp_path: Path) -> None:
        """Category, its share, the prediction set and the word that decided; nothing from another host."""
        visit.classify("Vision", "of nothing")
        assert visit.category() == "Computer Vision and Pattern Recognition (cs.CV)"
        assert "One category is enough" in visit.page.locator("#verdict").inner_text()
        chart = visit.page.locator("#label").inner_text()
        assert all(f"({code})" in chart for code in ("cs.AI", "cs.CL", "cs.LG", "stat.ML"))
        # The heaviest word has the full colour, without transparency.
        decided = visit.page.locator("#words .highlighted[style*='rgb(']")
        decided.first.wait_for()
        assert {word.strip().lower() for word in decided.all_inner_texts()} == {"vision"}
        visit.page.screenshot(path=tmp_path / "paper.png")
        assert (visit.foreign, visit.errors) == ([], [])

    def test_example_fills_the_boxes_and_is_classified(self, visit: Visit) -> None:
        """One press on an example is enough."""
        visit.page.get_by_role("button", name="Optimisers").click()
        assert visit.category() == "Machine Learning (cs.LG)"
        assert "Warm restarts" in visit.page.input_value("#title textarea")

    def test_out_of_scope_and_empty(self, visit: Visit) -> None:
        """A clear word for a paper of no known category, and for nothing at all; Clear clears."""
        visit.classify("Frogs", "Ponds and reeds.")
        visit.page.locator("#verdict .warning").wait_for()
        assert "Out of scope" in visit.page.locator("#verdict").inner_text()
        visit.page.get_by_role("button", name="Clear", exact=True).click()
        visit.page.locator("#verdict .warning").wait_for(state="detached")
        visit.page.get_by_role("button", name="Classify", exact=True).click()
        visit.page.locator("#verdict .error").wait_for()
        assert "Type a title and an abstract" in visit.page.locator("#verdict").inner_text()

    def test_typed_markup_is_text(self, visit: Visit) -> None:
        """Shown as it was typed, never run."""
        visit.classify(HOSTILE, HOSTILE)
        visit.page.locator("#words .highlighted").first.wait_for()
        assert HOSTILE in " ".join(visit.page.locator("#words .textfield").inner_text().split())
        assert visit.page.locator("img[src='x']").count() == 0
        assert visit.page.title() != "owned"


class TestManyPapers:
    """The CSV tab."""

    def test_csv_of_200_rows(self, visit: Visit, tmp_path: Path) -> None:
        """A row for each row comes back, in order, to download and to look at."""
        source = tmp_path / "papers.csv"
        with source.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "title", "summary"])
            writer.writerows(
                [f"p{number}", "On vision" if number % 2 else "On language", "" if number == 3 else "A text."]
                for number in range(200)
            )
        visit.classify_all(source)
        visit.page.get_by_text("199 rows have a category. 1 row has none").wait_for()
        link = visit.page.locator("#result a[download]").first
        with visit.page.expect_download() as download:
            link.click()
        assert download.value.suggested_filename == "papers_categories.csv"
        with Path(download.value.path()).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == [f"p{number}" for number in range(200)]
        assert [row["label"] for row in rows[:5]] == ["cs.CL", "cs.CV", "cs.CL", "", "cs.CL"]
        assert rows[3]["error"].endswith("summary: missing or empty")
        assert "summary: missing or empty" in visit.page.locator("#preview").inner_text()
        visit.page.set_viewport_size({"width": 390, "height": 844})
        assert visit.overflow() <= 0
        visit.page.screenshot(path=tmp_path / "batch.png")
        assert (visit.foreign, visit.errors) == ([], [])

    def test_bad_csv_is_one_clear_message(self, visit: Visit, tmp_path: Path) -> None:
        """Wrong columns: what was expected, what was found, markup in it shown as text; no result."""
        source = tmp_path / "bad.csv"
        source.write_text(f"name,{HOSTILE.replace(' ', '_')}\nx,1\n", encoding="utf-8")
        visit.classify_all(source)
        visit.page.locator("#batch-notice .error").wait_for()
        told = visit.page.locator("#batch-notice").inner_text()
        assert told.startswith(
            "bad.csv, line 1: missing columns: title; summary or abstract (or text in their place)"
        )
        assert "<img" in told
        assert visit.page.locator("img[src='x']").count() == 0
        assert visit.page.locator("#result a[download]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1200, 900)])
def test_no_sideways_scroll_and_the_scheme_is_followed(
    browser: Any, page: SpaceProcess, tmp_path: Path, width: int, height: int, scheme: str
) -> None:
    """On each tab, filled; the background is light or dark as the visitor's system is."""
    visit = Visit(browser, page.url, viewport={"width": width, "height": height}, color_scheme=scheme)
    try:
        visit.classify("Vision " * 12, "A vision of language and of bayes. " * 20)
        assert visit.category()
        visit.page.locator("#words .highlighted").first.wait_for()
        for name in ("One paper", "Many papers", "The model"):
            visit.tab(name)
            visit.page.screenshot(path=tmp_path / f"{name}.png")
            assert visit.overflow() <= 0, name
        colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in colour.strip("rgba()").split(",")[:3]) / 3
        assert (brightness > 128) == (scheme == "light"), colour
        assert (visit.foreign, visit.errors) == ([], [])
    finally:
        visit.context.close()
