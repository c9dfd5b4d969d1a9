"""What does a sweep say, on one page? What is drawn, what is written, and that nothing hostile gets through."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from gap_tables import PROVENANCE, Row, mixture_label, plan_of, row, three_components, two_views
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from orchestrator import report, results
from orchestrator.analysis import gaps
from orchestrator.report import figures, page

EVIL = "<script>document.title='owned'</script>"
EVIL_NAME = '"><img src=x onerror=alert(1)>`&amp;$x$'


def render(rows: list[Row], *, sweep_text: str = "name: planted\n", **changes: Any) -> str:
    return report.render(results.table(rows), plan_of(rows, **changes), sweep_text, provenance=PROVENANCE)


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
        self._hidden = tag == "style"

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
        "hard loses 43.",
        "at weight 0 and",
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
        *("answer", "figure-gap-by-weight", "figure-gap-heatmap", "figure-accuracies"),
        *("numbers", "failures", "reading", "provenance"),
    ]


def test_the_page_needs_nothing_beside_itself(two_views_html, two_views_page):
    assert not [tag for tag in ("script", "iframe", "img", "object", "embed") if two_views_page.all(tag)]
    assert [link["href"] for link in two_views_page.all("link")] == ["data:,"]
    assert not re.search(r"https?://|@import|url\((?!#)", two_views_html)
    policy = next(meta["content"] for meta in two_views_page.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


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
    assert len(drawn) == 6  # three, each for wide pages and for phones
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 100 for svg in drawn)
    assert len(two_views_page.all("caption")) == len(two_views_page.all("table"))
    assert all(th.get("scope") in ("row", "col") for th in two_views_page.all("th"))
    assert [level for level in ("h1", "h2") if not two_views_page.all(level)] == []


def test_figures_take_their_ink_and_their_fonts_from_the_page(two_views_html):
    drawn = re.findall(r"<svg.*?</svg>", two_views_html, flags=re.DOTALL)
    assert all("var(--ink)" in svg and "font-family" not in svg for svg in drawn)
    assert not any(colour in svg for svg in drawn for colour in figures.PAGE_COLOURS)


def test_nothing_hostile_gets_through():
    html = render(hostile(), question=EVIL, sweep_text=EVIL, sweep=EVIL_NAME, direct_kind=EVIL_NAME, protocol=EVIL)
    found = Page(html)
    assert not found.all("script")
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
    assert "left out: 1 failed" in text


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
        ([row()], "no seed uncertainty"),
    ],
)
def test_a_page_without_results_says_so(rows, said):
    text = " ".join(Page(render(rows)).text.split())
    assert said in text
    assert ("There are no figures" in text) == (not any(r.get("transfer_accuracy") for r in rows))


def test_a_page_with_accuracies_and_no_baseline_shows_the_accuracies():
    found = Page(render([row(gap=None)]))
    assert [h["id"] for h in found.all("section") if str(h["id"]).startswith("figure")] == ["figure-accuracies"]


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


# The figures


def heat_cells(rows: list[Row], **options: Any) -> tuple[list[Rectangle], list[str]]:
    (axes,) = figures.gap_heatmap(results.table(rows), **options).axes
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_height() > 0.3]
    return boxes, [text.get_text() for text in axes.texts]


def test_the_lines_are_the_means_of_the_table():
    table = results.table(two_views())
    (axes,) = figures.gap_by_weight(table).axes
    found = gaps.by_weight(table)
    for component in ("both", "hard"):
        expected = 100 * found[found["component"] == component]["gap"].to_numpy(dtype=float)
        assert any(len(line.get_ydata()) == 6 and np.allclose(line.get_ydata(), expected) for line in axes.lines), (
            component
        )


def test_small_weights_are_spread_by_their_square_root_and_the_axis_says_so():
    figure = figures.gap_by_weight(results.table(two_views()))
    assert figure.get_supxlabel() == "weight in the mixture, square-root scale"
    assert figures.gap_by_weight(results.table(three_components())).get_supxlabel() == "weight in the mixture"


def test_axes_that_vary_become_panels_and_line_styles_and_the_rest_is_averaged():
    rows = [r | {"steps": s, "trial": f"{r['trial'][:8]}{s}"} for r in three_components() for s in (1000, 2000)]
    table = results.table(rows)
    assert figures.facets(table) == figures.Facets("ordering", "width", ("steps",))
    panels = figures.gap_by_weight(table).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "ordering: shuffled",
        "ordering: clothes then digits then kana",
    ]
    assert "Averaged within each seed over numbers of steps." in page.weight_caption(table)


def test_the_axis_with_most_values_gets_the_panels():
    rows = [row(width=w, architecture=a, trial=f"{w}{a}") for w in (0.25, 0.5, 1, 2, 4) for a in ("mlp", "cnn")]
    assert figures.facets(results.table(rows)) == figures.Facets("width", "architecture", ())


def test_two_seeds_far_apart_do_not_squash_the_rest():
    (axes,) = figures.gap_by_weight(results.table([row(gap=0.1, seed=1), row(gap=0.2, seed=2)])).axes
    assert axes.get_ylim()[1] < 45  # the interval reaches 78.5


def test_cells_show_the_gap_with_its_interval_and_a_loss_is_red():
    boxes, texts = heat_cells([row(gap=g, seed=s) for s, g in ((1, 0.30), (2, 0.31), (3, 0.32))])
    assert "31.0" in texts
    assert "[28.5, 33.5]" in texts
    red, _, blue, _ = boxes[0].get_facecolor()
    assert red > blue
    gained, _ = heat_cells([row(gap=-0.3, seed=s, random_init=0.2) for s in (1, 2)])
    red, _, blue, _ = gained[0].get_facecolor()
    assert blue > red


def test_a_cell_is_hatched_exactly_where_its_interval_as_printed_contains_0():
    rows = [row(gap=g, seed=s) for s, g in ((1, -0.01), (2, 0.02))]
    rows += [row(gap=g, seed=s, component="both") for s, g in ((1, 0.10), (2, 0.11))]
    rows += [row(gap=g, seed=s, component="kana") for s, g in ((1, 0.00129), (2, 0.00111))]  # printed [0.0, 0.2]
    boxes, texts = heat_cells(rows)
    assert [bool(box.get_hatch()) for box in boxes] == [True, False, True]
    assert "[0.0, 0.2]" in texts


def test_a_cell_without_a_gap_is_grey_and_says_why():
    boxes, texts = heat_cells([row(), row(component="both", status="diverged"), row(component="kana", gap=None)])
    assert [to_hex(box.get_facecolor()) == figures.MISSING for box in boxes] == [False, True, True]
    assert "diverged" in texts
    assert "without a baseline" in texts


def test_a_cell_that_rows_were_left_out_of_has_a_star():
    _, texts = heat_cells([row(gap=0.1), row(gap=0.1, seed=2), row(seed=3, status="failed")])
    assert "10.0*" in texts


def test_a_single_mixture_leaves_the_rows_to_the_other_axes():
    _, texts = heat_cells([row(width=width, trial=f"{width}") for width in (0.5, 1.0)])
    assert "width: 0.5" in texts
    assert not any("both" in text for text in texts)


def test_more_designs_than_a_heat_map_holds_are_averaged_and_said():
    table = results.table([r | {"steps": s} for r in three_components() for s in range(1, 9)])
    scope = figures.heatmap_scope(table)
    assert (scope.axes, scope.averaged) == (("ordering", "width"), ("steps",))
    assert "Averaged within each seed over numbers of steps." in page.heatmap_caption(table)


def test_more_mixtures_than_a_heat_map_holds_leave_those_that_lose_most():
    rows = [
        row(gap=n / 100, mixture=mixture_label({"a": n / 100, "b": 1 - n / 100}), trial=f"{n:012x}")
        for n in range(1, 61)
    ]
    scope = figures.heatmap_scope(results.table(rows))
    assert (len(scope.mixtures), scope.left_out) == (48, 12)
    assert scope.mixtures[0].startswith("a 13 %")


@pytest.mark.parametrize("draw", [figures.gap_by_weight, figures.gap_heatmap, figures.accuracies])
@pytest.mark.parametrize("narrow", [False, True])
def test_any_name_can_be_drawn(draw, narrow):
    names = ("$x$ and $", "仮名", "a" * 80, EVIL_NAME, "_^\\frac{1}")
    rows = [row(component=name, mixture=f"{name} 100 %", ordering=f"{name} first", trial=name[:12]) for name in names]
    text = figures.svg(draw(results.table(rows), narrow=narrow))
    assert "仮名" in text
    assert "<img" not in text
    assert text == figures.svg(draw(results.table(rows), narrow=narrow))


@pytest.mark.parametrize("draw", [figures.gap_by_weight, figures.gap_heatmap, figures.accuracies])
@pytest.mark.parametrize("rows", [[row(status="pending")], [row(gap=None)], [row()]])
def test_a_table_with_hardly_a_number_can_be_drawn(draw, rows):
    assert figures.svg(draw(results.table(rows))).startswith("<svg")


def test_figures_for_phones_are_as_wide_as_a_phone():
    table = results.table(three_components())
    for draw in (figures.gap_by_weight, figures.gap_heatmap, figures.accuracies):
        assert 96 * draw(table, narrow=True).get_figwidth() < 358  # 390 pixels without the page's margins
