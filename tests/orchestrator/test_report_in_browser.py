"""What does a reader see? The report in headless Chromium, without a network, on a desk and on a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from gap_tables import PROVENANCE, Row, plan_of, row, three_components, two_views

from orchestrator import results
from orchestrator.report import page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed"),
]

SMALLEST_TEXT = 8.5  # CSS pixels, of text in a figure


def troubled() -> list[Row]:
    """Failed, diverged and pending trials, one seed, no baseline, and names that would like to be markup."""
    evil = "<script>window.owned = true</script>"
    return [
        row(component=evil, ordering=evil),
        row(component="b" * 90, ordering=evil, gap=None, trial="b" * 12),
        row(component=evil, status="failed", error=f"{evil}{'x' * 300}\n" * 30, trial="c" * 12, width=2.0),
        row(component=evil, status="diverged", error="diverged at step 3", trial="d" * 12, width=2.0),
        row(component=evil, status="pending", trial="e" * 12, width=4.0),
    ]


PAGES = {
    "two_views": two_views,
    "three_components": three_components,
    "troubled": troubled,
    "pending": lambda: [row(status="pending")],
    "empty": lambda: [],
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of each page."""
    folder = tmp_path_factory.mktemp("reports")
    for name, rows in ((name, make()) for name, make in PAGES.items()):
        plan, path = plan_of(rows, question=f"What does {name} lose?"), folder / f"{name}.html"
        text = page.render(results.table(rows), plan, "name: planted\n", provenance=PROVENANCE)
        path.write_text(text, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that is offline and writes down what it would have fetched."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver
    finally:
        driver.quit()


def open_page(browser: Any, address: str, width: int, scheme: str = "light") -> None:
    browser.get_log("performance")  # what happened before
    browser.get_log("browser")
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(address)


def requested(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


# Every visible figure: its size, how far its texts reach over its edges, and its smallest text as it is shown.
FIGURES = """
return [...document.querySelectorAll('figure svg')].filter(svg => svg.checkVisibility()).map(svg => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')];
  const boxes = texts.map(text => text.getBoundingClientRect());
  const scale = svg.getScreenCTM().a;
  return {
    width: box.width, height: box.height, texts: texts.length,
    over: Math.max(...boxes.flatMap(
      b => [box.left - b.left, b.right - box.right, box.top - b.top, b.bottom - box.bottom])),
    smallest: Math.min(...texts.map(text => scale * parseFloat(getComputedStyle(text).fontSize))),
  };
});
"""


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_offline_without_errors_and_never_scrolls_sideways(browser, reports, name, width):
    open_page(browser, reports[name], width)
    found = requested(browser)
    assert reports[name] in found
    assert all(url.startswith(("file:", "data:")) for url in found)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.scripts.length + (window.owned ? 1 : 0)") == 0
    assert f"What does {name} lose?" in browser.execute_script("return document.querySelector('h1').textContent")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", ["two_views", "three_components"])
def test_every_figure_is_shown_once_whole_and_legible(browser, reports, name, width):
    open_page(browser, reports[name], width)
    drawn = browser.execute_script(FIGURES)
    assert len(drawn) == 3
    for figure in drawn:
        assert figure["height"] > 150
        assert 250 < figure["width"] <= width
        assert figure["texts"] > 5
        assert figure["over"] < 2
        assert figure["smallest"] >= SMALLEST_TEXT


def test_ink_is_light_in_the_dark_and_dark_in_the_light(browser, reports):
    colour = "return getComputedStyle(document.querySelector('figure svg text')).fill.match(/\\d+/g).map(Number)"
    lightness = {}
    for scheme in ("light", "dark"):
        open_page(browser, reports["two_views"], 1440, scheme)
        paper = browser.execute_script(
            "return getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g)"
        )
        lightness[scheme] = (sum(browser.execute_script(colour)), sum(int(part) for part in paper[:3]))
    assert lightness["light"][0] < 150 < 700 < lightness["light"][1]
    assert lightness["dark"][1] < 150 < 600 < lightness["dark"][0]


def test_a_table_wider_than_a_phone_scrolls_within_itself_and_by_keyboard(browser, reports):
    open_page(browser, reports["three_components"], 390)
    scrollable = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')]"
        ".filter(region => region.scrollWidth > region.clientWidth).map(region => region.tabIndex)"
    )
    assert scrollable
    assert set(scrollable) == {0}


def test_the_printed_page_is_white_and_holds_the_wide_figures_whole(browser, reports):
    open_page(browser, reports["three_components"], 1440, "dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return [...document.querySelectorAll('.{}')].filter(e => e.checkVisibility()).length"
    assert browser.execute_script(shown.format("wide")) == 3
    assert browser.execute_script(shown.format("narrow")) == 0
    background = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    a4 = {"width": 673, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # less margins of 16 mm
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", a4)
    assert all(figure["width"] <= 673 for figure in browser.execute_script(FIGURES))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
