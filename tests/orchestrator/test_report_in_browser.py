"""What does a reader see? The report in headless Chromium, without a network, on a desk and on a phone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gap_tables import COST, PROVENANCE, Row, curves_of, plan_of, row, three_components, two_views

from orchestrator import results
from orchestrator.report import Evidence, page

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
    "trajectories": two_views,
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
        found = Evidence(results.table(rows), curves_of(rows) if name == "trajectories" else None)
        text = page.render(found, plan, "name: planted\n", provenance=PROVENANCE, cost=COST)
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
    assert browser.execute_script("return [...document.scripts].filter(script => !script.type).length") == 1
    assert not browser.execute_script("return window.owned")
    assert f"What does {name} lose?" in browser.execute_script("return document.querySelector('h1').textContent")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", ["two_views", "three_components"])
def test_every_figure_is_shown_once_whole_and_legible(browser, reports, name, width):
    open_page(browser, reports[name], width)
    drawn = browser.execute_script(FIGURES)
    assert len(drawn) == browser.execute_script("return document.querySelectorAll('figure').length") > 2
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
    assert browser.execute_script(shown.format("wide")) == len(browser.find_elements("css selector", "figure")) > 2
    assert browser.execute_script(shown.format("narrow")) == 0
    background = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    a4 = {"width": 673, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # less margins of 16 mm
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", a4)
    assert all(figure["width"] <= 673 for figure in browser.execute_script(FIGURES))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


# What the page's script adds


def column(browser: Any, table: str, header: str, *, visible: bool = True) -> list[str]:
    """The texts of a column, in the order of the rows that are shown."""
    return browser.execute_script(
        """
        const [id, header, visible] = arguments, table = document.getElementById(id);
        const column = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === header);
        return [...table.tBodies[0].rows].filter(row => !visible || row.checkVisibility())
          .map(row => row.cells[column].textContent);
        """,
        table,
        header,
        visible,
    )


def press(browser: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(key).perform()


def gap_of(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.mark.parametrize("width", [1440, 390])
def test_a_table_sorts_by_numbers_and_by_words_and_returns_to_its_order(browser, reports, width):
    open_page(browser, reports["three_components"], width)
    browser.execute_script("document.querySelectorAll('details').forEach(found => found.open = true)")
    before = column(browser, "results", "gap, points")
    numbers = browser.find_element("xpath", "//table[@id='results']//button[.='gap, points']")
    header = numbers.find_element("xpath", "..")
    orders = []
    for _ in range(3):
        browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", numbers)
        numbers.click()
        orders.append((header.get_attribute("aria-sort"), column(browser, "results", "gap, points")))
    (up, rising), (down, falling), (neither, again) = orders
    assert (up, down, neither) == ("ascending", "descending", None)
    assert [gap_of(text) for text in rising] == sorted(map(gap_of, before))
    assert [gap_of(text) for text in falling] == sorted(map(gap_of, before), reverse=True)
    assert rising != before == again
    words = browser.find_element("xpath", "//table[@id='results']//button[.='component']")
    words.send_keys("\ue007")  # the enter key
    assert column(browser, "results", "component") == sorted(column(browser, "results", "component"))


def test_numbers_that_are_absent_come_last_in_either_direction(browser, reports):
    open_page(browser, reports["troubled"], 1440)
    button = browser.find_element("xpath", "//table[@id='results']//button[.='gap, points']")
    for _ in range(2):
        button.click()
        assert column(browser, "results", "gap, points")[-1] == "-"


def test_a_filter_keeps_the_rows_that_hold_every_word_and_says_how_many(browser, reports):
    open_page(browser, reports["three_components"], 1440)
    region = "//table[@id='results']/ancestor::div[@class='scroll']/preceding-sibling::div[@class='tools'][1]"
    field, count = (browser.find_element("xpath", f"{region}//{tag}") for tag in ("input", "output"))
    whole = column(browser, "results", "component")
    field.send_keys("SHUFFLED 33.3")
    assert set(column(browser, "results", "ordering")) == {"shuffled"}
    assert all("33.3" in mixture for mixture in column(browser, "results", "mixture"))
    assert len(column(browser, "results", "component")) == len(whole) / 2 / 3
    assert count.text == f"{len(whole) // 6} of {len(whole)} rows"
    for _ in "SHUFFLED 33.3":
        field.send_keys("\ue003")  # backspace
    assert column(browser, "results", "component") == whole
    assert count.text == f"{len(whole)} rows"


TIP = "return document.querySelector('[role=status]').textContent"


def test_a_value_is_shown_under_the_pointer_and_with_the_arrow_keys(browser, reports):
    from selenium.webdriver.common.action_chains import ActionChains

    open_page(browser, reports["three_components"], 1440)
    frame = browser.find_element("css selector", "#figure-gap-by-mixture .frame.wide")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", frame)
    cell = frame.find_element("css selector", "[data-row]")
    ActionChains(browser).move_to_element(cell).perform()
    shown = browser.execute_script(TIP)
    assert re.search(r"gap −?\d+\.\d points \[.*\], n = 3", shown), shown
    ActionChains(browser).move_to_element(browser.find_element("css selector", "h1")).perform()
    assert browser.execute_script(TIP) == ""
    frame.send_keys("\ue014")  # the right arrow
    first = browser.execute_script(TIP)
    frame.send_keys("\ue014")
    assert first
    assert first != browser.execute_script(TIP) != ""
    frame.send_keys("\ue00c")  # escape
    assert browser.execute_script(TIP) == ""


def test_a_slider_goes_through_the_steps_of_the_trajectories(browser, reports):
    open_page(browser, reports["trajectories"], 1440)
    slider = browser.find_element("css selector", ".slider input")
    said = browser.find_element("css selector", ".slider output")
    x = "return document.querySelector('.wide [data-cursor]').getBoundingClientRect().x"
    last = said.text, browser.execute_script(x), column(browser, "trajectory-values", "accuracy, %")
    slider.send_keys("\ue011")  # home
    first = said.text, browser.execute_script(x), column(browser, "trajectory-values", "accuracy, %")
    assert (first[0], last[0]) == ("step 0", "step 1,000")
    assert first[1] < last[1] - 100
    assert first[2][0].startswith("50.2 [")
    assert last[2][0].startswith("80.2 [")
    slider.send_keys("\ue014")  # the right arrow
    assert said.text == "step 10"
    assert slider.get_attribute("aria-valuetext") == "step 10"


def test_after_sorting_the_slider_still_writes_each_value_beside_its_component(browser, reports):
    open_page(browser, reports["trajectories"], 1440)
    slider = browser.find_element("css selector", ".slider input")
    names = ("panel", "component", "accuracy, %")
    rows = lambda: set(zip(*(column(browser, "trajectory-values", name) for name in names), strict=True))  # noqa: E731
    slider.send_keys("\ue011")  # home
    before = rows()
    slider.send_keys("\ue010")  # end
    button = browser.find_element("xpath", "//table[@id='trajectory-values']//button[.='component']")
    button.click()
    button.click()
    slider.send_keys("\ue011")
    assert rows() == before


def test_a_page_turns_dark_and_light_at_a_button(browser, reports):
    open_page(browser, reports["two_views"], 1440)
    paper = "return getComputedStyle(document.documentElement).backgroundColor"
    light = browser.execute_script(paper)
    button = browser.find_element("css selector", ".theme")
    assert button.text == "Dark page"
    button.click()
    assert browser.execute_script(paper) != light == "rgb(255, 255, 255)"
    assert button.text == "Light page"
    button.click()
    assert browser.execute_script(paper) == light


def test_without_its_script_the_page_has_every_table_and_nothing_that_does_not_work(browser, reports):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_page(browser, reports["trajectories"], 1440)
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        shown = "return [...document.querySelectorAll('button, input')].filter(e => e.checkVisibility()).length"
        assert browser.execute_script(shown) == 0
        assert browser.execute_script("return document.querySelectorAll('table').length") > 3
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


AXE = os.environ.get("BOTTLENECK_AXE", "")


@pytest.mark.skipif(not AXE, reason="BOTTLENECK_AXE does not say where axe.min.js of axe-core lies")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(browser, reports, name, scheme):
    open_page(browser, reports[name], 1440, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(found => found.open = true)")
    browser.execute_script(Path(AXE).read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    assert len(found["passes"]) > 20
    serious = [
        (one["id"], node["html"][:200])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    assert serious == []
