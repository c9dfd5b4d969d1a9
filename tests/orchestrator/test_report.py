"""What does a sweep say, on one page? What is drawn, what is written, and that nothing hostile gets through."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
from gap_tables import COST, PROVENANCE, Row, curves_of, plan_of, row, two_views

from orchestrator import report, results
from orchestrator.analysis import find
from orchestrator.report import figures, page

EVIL = "<script>document.title='owned'</script>"
EVIL_NAME = '"><img src=x onerror=alert(1)>`&amp;$x$'


def render(rows: list[Row], *, sweep_text: str = "name: planted\n", **changes: Any) -> str:
    found = report.Evidence(results.table(rows))
    return report.render(found, plan_of(rows, **changes), sweep_text, provenance=PROVENANCE, cost=COST)


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text without style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def two_views_html() -> str:
    return render(two_views(), question="Does it keep the hard view?")


@pytest.fixture(scope="module")
def two_views_page(two_views_html: str) -> Page:
    return Page(two_views_html)


def hostile() -> list[Row]:
    rows = [
        row(component=EVIL_NAME, ordering=EVIL, mixture=f"{EVIL_NAME} 100 %", gap=g, seed=s)
        for s, g in ((1, 0.1), (2, 0.2))
    ]
    bad = {"component": EVIL_NAME, "mixture": f"{EVIL_NAME} 100 %", "trial": "b" * 12, "width": 2.0}
    return [*rows, row(status="failed", error=f"Traceback\n{EVIL}", ordering=EVIL, **bad)]


# The page


def test_the_page_gives_question_answer_figures_numbers_failures_and_provenance(two_views_page):
    text = " ".join(two_views_page.text.split())
    for expected in (
        "Does it keep the hard view?",
        "At weight 0, pretraining without it loses 43.",
        "Raising the weight of hard from 0 to 0.5 recovers 42.",
        "Train hard directly",
        "This sweep spent 2.1 hours of cpu. Trials that share stages spared 1.02 hours",
        "36 of 36 rows measured",
        "Every trial ran to its end.",
        "same_steps: trained on all training data of the component",
        "bottleneck run sweeps/quickstart.yaml",
        "git checkout 3f2a91c",
        "9f2c41d07be3",
        "name: planted",
        f"{'0' * 64}",
    ):
        assert expected in text
    assert [h["id"] for h in two_views_page.all("section")] == [
        *("answer", "figure-gap-by-weight", "findings", "judged", "figure-gap-by-mixture", "figure-accuracies"),
        *("figure-pareto", "numbers", "failures", "cost", "reading", "provenance"),
    ]


def test_the_page_needs_nothing_beside_itself(two_views_html, two_views_page):
    assert not [tag for tag in ("iframe", "img", "object", "embed") if two_views_page.all(tag)]
    assert not [script for script in two_views_page.all("script") if "src" in script]
    assert [link["href"] for link in two_views_page.all("link")] == ["data:,"]
    assert not re.search(r"https?://|@import|url\((?!#)", two_views_html)
    policy = next(meta["content"] for meta in two_views_page.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    (script,) = re.findall(r"<script>(.*?)</script>", two_views_html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'"), "no other script runs"


def test_equal_tables_give_equal_pages(two_views_html):
    assert render(two_views(), question="Does it keep the hard view?") == two_views_html


def test_no_two_elements_share_an_id_and_every_reference_has_its_target(two_views_page):
    ids = Counter(attributes["id"] for _, attributes in two_views_page.elements if attributes.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    links = [a["href"] for a in two_views_page.all("a")] + [u["xlink:href"] for u in two_views_page.all("use")]
    clips = re.findall(r"url\(#([^)]*)\)", " ".join(str(attributes) for _, attributes in two_views_page.elements))
    assert {link.removeprefix("#") for link in links} | set(clips) <= set(ids)


def test_figures_are_described_and_tables_are_captioned_for_screen_readers(two_views_page):
    drawn = two_views_page.all("svg")
    assert len(drawn) == 2 * len(two_views_page.all("figure"))  # each for wide pages and for phones
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 100 for svg in drawn)
    assert len(two_views_page.all("caption")) == len(two_views_page.all("table"))
    assert all(th.get("scope") in ("row", "col") for th in two_views_page.all("th"))
    assert [level for level in ("h1", "h2") if not two_views_page.all(level)] == []


def test_what_a_figure_says_where_it_is_pointed_at_has_no_minus_zero_and_no_word_twice():
    data = pd.DataFrame(
        {"panel": ["a"], "of": ["a"], "mixture": ["a 100 %"], "gap_points": [-0.04], "low_points": [-0.04]}
        | {"high_points": [1.0], "n": [3]}
    )
    assert page.value_texts(data) == ("a, a 100 %: gap 0.0 points [0.0, 1.0], n = 3",)


def test_a_component_may_be_called_like_a_mark_of_the_page():
    rows = [found | {"component": "data-row"} if found["component"] == "hard" else found for found in two_views()]
    assert "data-row" in Page(render(rows)).text


def test_the_slider_says_how_many_seeds_there_are_at_each_step():
    rows = two_views()
    curves = curves_of(rows)
    curves = curves[(curves["step"] < 1000) | (curves["seed"] == 1)]
    found = report.Evidence(results.table(rows), curves)
    (view,) = [view for view in page.figure_views(found) if view.slider]
    assert [step[0] for step in view.slider.values["cells"][0]] == ["3", "3", "3", "1"]
    assert view.slider.table.rows[0][2:4] == ("1", "80.1")


def test_figures_whose_numbers_are_in_no_table_have_one_of_their_own(two_views_page):
    tables = {table["id"] for table in two_views_page.all("table")}
    assert "pareto-numbers" in tables
    assert "gap-by-weight-numbers" not in tables


def test_a_figure_of_more_values_than_a_page_holds_is_left_to_the_command(monkeypatch):
    monkeypatch.setattr(page, "MOST_VALUES", 20)
    drawn = [view.anchor for view in page.figure_views(report.Evidence(results.table(two_views())))]
    assert drawn == ["gap-by-mixture", "pareto"]


def test_figures_take_their_ink_and_their_fonts_from_the_page(two_views_html):
    drawn = re.findall(r"<svg.*?</svg>", two_views_html, flags=re.DOTALL)
    assert all("var(--ink)" in svg and "font-family" not in svg for svg in drawn)
    assert not any(colour in svg for svg in drawn for colour in figures.PAGE_COLOURS)


def test_nothing_hostile_gets_through():
    html = render(hostile(), question=EVIL, sweep_text=EVIL, sweep=EVIL_NAME, direct_kind=EVIL_NAME, protocol=EVIL)
    found = Page(html)
    assert len([script for script in found.all("script") if script.get("type") != "application/json"]) == 1
    assert not found.all("img")
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert found.text.count(EVIL) >= 5
    assert EVIL_NAME.replace("`", "") in found.text.replace("`", "")


def test_failed_and_diverged_trials_are_listed_with_their_error_and_counted():
    rows = two_views()
    failure = {"status": "failed", "error": "RuntimeError: out of memory\n  in step 7"}
    for found in rows[:2]:
        found |= failure
    rows[8] |= {"status": "diverged", "error": "pretraining on the mixture diverged at step 31"}
    text = " ".join(Page(render(rows)).text.split())
    assert "Of 36 rows, 2 failed, 1 diverged." in text
    assert "seeds 1, components both, hard" in text
    assert text.count("RuntimeError: out of memory") == 1
    assert "diverged at step 31" in text
    assert "At weight 0.02, the mixture loses" in text, "weight 0 has two seeds left, and they are not tested"


def test_the_end_of_a_long_error_is_kept():
    rows = [row(status="failed", error="x" * 10_000 + "the cause")]
    (failure,) = page.failure_views(results.table(rows), {})
    assert failure.error.endswith("the cause")
    assert len(failure.error) < 5_000


def test_an_error_in_terminal_colours_is_readable():
    (failure,) = page.failure_views(results.table([row(status="failed", error="\x1b[31mValueError\x1b[0m: no")]), {})
    assert failure.error == "ValueError: no"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "The table has no rows."),
        ([row(status="pending", seed=s) for s in (1, 2)], "No gap has been measured: of 2 rows, 2 pending."),
        ([row(gap=None)], "No gap has been measured: of 1 rows, 1 without a baseline."),
        ([row(status="failed", error=None)], "no error was recorded"),
        ([row()], "Nothing can be said: of 1 rows, 1 of one seed alone. Two seeds have an interval; three are tested."),
    ],
)
def test_a_page_without_results_says_so(rows, said):
    text = " ".join(Page(render(rows)).text.split())
    assert said in text
    assert ("There are no figures" in text) == (not any(r.get("transfer_accuracy") for r in rows))


def test_a_page_with_accuracies_and_no_baseline_shows_the_accuracies():
    found = Page(render([row(gap=None)]))
    assert [h["id"] for h in found.all("section") if str(h["id"]).startswith("figure")] == ["figure-accuracies"]


def test_of_many_findings_the_first_ones_are_shown_and_all_are_there():
    rows = [row(component=f"part{n}", gap=0.01 * n + 0.001 * seed, seed=seed) for n in range(25) for seed in (1, 2, 3)]
    leading, whole = page.findings_views(find(results.table(rows)))
    assert (len(leading.rows), leading.folded, whole.folded) == (page.MOST_LEADING, False, True)
    assert leading.rows == whole.rows[: page.MOST_LEADING]
    assert leading.caption == f"The 10 most important of {len(whole.rows)} statements"
    (few,) = page.findings_views(find(results.table(rows[:6])))
    assert not few.folded


def test_without_a_command_the_sweep_file_is_named_and_quoted():
    rows = two_views()
    found = page.commands(results.table(rows), plan_of(rows, sweep="a b"), {})
    assert found[-1] == ("Save the sweep file below as 'a b.yaml' and run it.", "bottleneck run 'a b.yaml'")


def test_a_table_longer_than_a_page_holds_says_how_much_is_missing(monkeypatch):
    monkeypatch.setattr(page, "MOST_RESULT_ROWS", 10)
    view = page.results_view(results.table(two_views()))
    assert view is not None
    assert len(view.rows) == 10
    assert view.remark == "The first 10 of 12 rows; the results table has all of them."


def test_numbers_have_a_true_minus_sign_and_names_keep_their_hyphens():
    assert figures.typeset("-0.4 [-1.2, 0.3]") == "−0.4 [−1.2, 0.3]"
    assert figures.typeset("view-2 of 3-4") == "view-2 of 3-4"
    assert page.sentence("`a-1` loses -0.4 [-1.2, 0.3]") == (
        '<code>a-1</code> loses −0.4 <span class="whole">[−1.2, 0.3]</span>'
    )


def test_a_table_of_more_rows_than_a_page_can_hold_is_cut_and_says_so(monkeypatch):
    monkeypatch.setattr(page, "MOST_RESULT_ROWS", 3)
    whole = page.TableView("many", "Many", ("n",), (True,), tuple((str(n),) for n in range(5)), "Whole numbers.")
    found = page.cut(whole)
    assert found.rows == (("0",), ("1",), ("2",))
    assert found.remark == "The first 3 of 5 rows; the results table has what they come from. Whole numbers."
    assert page.cut(found) is found
