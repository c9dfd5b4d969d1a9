"""What do the results look like? Every kind of figure: its numbers, its look, and why it cannot be drawn."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from claim_tables import climbed
from claim_tables import row as reading
from gap_tables import Row, mixture_label, row, three_components, two_views
from made_up_sweeps import made_up
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from orchestrator import cli, results
from orchestrator.analysis import gaps
from orchestrator.report import figures
from orchestrator.report.figures import Evidence, heatmap, pareto
from orchestrator.report.figures.kind import Facets, facets
from orchestrator.report.figures.style import MISSING, NARROW, WIDE, styled
from trainables.errors import UserError
from trainables.store import Store

EVIL_NAME = '"><img src=x onerror=alert(1)>`&amp;$x$'
T1 = 12.7062047  # Student's t for 95 % and one degree of freedom


def of(rows: list[Row]) -> Evidence:
    return Evidence(results.table(rows))


def data(name: str, found: Evidence) -> pd.DataFrame:
    return figures.FIGURES[name].data(found)


def both_seeds(first: float, second: float, **columns: Any) -> list[Row]:
    """Two seeds that transfer with these accuracies."""
    return [reading(transfer=value, seed=seed, **columns) for seed, value in ((1, first), (2, second))]


def widths(gap_of: Callable[[float], float], **columns: Any) -> list[Row]:
    return [
        reading(transfer=0.9 - gap_of(width) - shift, width=width, seed=seed, trial=f"w{width}", **columns)
        for width in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
        for seed, shift in ((1, -0.0001), (2, 0.0), (3, 0.0001))
    ]


def scales() -> Evidence:
    """One gap of 4 points + 2 / width, and one that does not fall."""
    return of(widths(lambda w: 0.04 + 0.02 / w, component="hard") + widths(lambda w: 0.01, component="flat"))


def orderings() -> Evidence:
    rows = []
    for ordering, first, second in (("shuffled", 0.80, 0.70), ("sequential:hard,easy", 0.60, 0.71)):
        rows += both_seeds(first, first + 0.01, ordering=ordering, component="hard")
        rows += both_seeds(second, second + 0.01, ordering=ordering, component="easy")
    return of(rows)


def ensembles() -> Evidence:
    """One network and two of half the steps for 100 FLOPs, four of a quarter of 200; 100 and 101 are one budget."""
    rows = []
    for kind, members, flops, reached in (
        ("single", 1, 100, 0.7),
        ("time_cat:2", 2, 101, 0.75),
        ("cat:4", 4, 200, 0.8),
        ("wide:2", 1, 400, 0.6),
    ):
        design = {"representation": kind, "members": members, "training_flops": float(flops)}
        rows += both_seeds(reached, reached + 0.02, component="target", weight=0.0, **design)
        rows += both_seeds(0.9, 0.9, component="source", weight=1.0, **design)
    return of(rows)


def trajectories() -> Evidence:
    rows = both_seeds(0.8, 0.82, trial="t1", predictability_ceiling=0.9)
    curves = {"step": [0, 10, 100], "accuracy": [0.5, 0.7, 0.8], "saturation": [1.0, 0.1, 0.01]}
    frames = [
        pd.DataFrame({**curves, "predictability": [0.1, 0.5, 0.9], "trial": "t1", "component": "hard", "seed": seed})
        for seed in (1, 2)
    ]
    frames[1]["accuracy"] += 0.02
    return Evidence(results.table(rows), curves=pd.concat(frames, ignore_index=True))


def sources() -> Evidence:
    rows = []
    for decay, head, reached in ((0, 0.8, 0.5), (0.01, 0.9, 0.4)):
        design = {"training": f"weight_decay {decay}", "mixture": "a 25 % + b 75 %"}
        for part, share, own in (("a", 0.25, head), ("b", 0.75, head - 0.2)):
            rows += both_seeds(0.7, 0.7, component=part, weight=share, head_accuracy=own, **design)
        rows += both_seeds(reached, reached + 0.02, component="c", weight=0.0, **design)
    return of(rows)


def ladders() -> Evidence:
    reached = {"head": 0.7, "linear_probe": 0.8, "mlp_probe": 0.9, "full fine-tuning": 0.91}
    return Evidence(climbed(reached))  # type: ignore[arg-type]


def retentions() -> Evidence:
    rows = both_seeds(0.8, 0.82, component="hard")
    rows[0]["retention"], rows[1]["retention"] = 0.5, 0.7
    return of([*rows, reading(transfer=0.8, component="easy")])


def layerwise() -> Evidence:
    rows = both_seeds(0.8, 0.82, trial="t1")
    found = [
        {"trial": "t1", "component": "hard", "seed": seed, "layer": layer, "accuracy": reached + shift}
        | {"direct_accuracy": possible, "shots_accuracy": reached - 0.1}
        for seed, shift in ((1, 0.0), (2, 0.02))
        for layer, reached, possible in (("conv1", 0.5, 0.5), ("conv2", 0.6, 0.8))
    ]
    return Evidence(results.table(rows), layers=pd.DataFrame(found))


def designs() -> Evidence:
    """The first loses least, the second is cheapest, the third is beaten by the first in everything."""
    rows = []
    for width, mean, flops in ((1.0, 0.02, 10.0), (2.0, 0.03, 5.0), (4.0, 0.04, 10.0)):
        for component, gap in (("a", mean - 0.01), ("b", mean + 0.01)):
            design = {"component": component, "width": width, "training_flops": flops, "trial": f"w{width}"}
            rows += both_seeds(0.9 - gap, 0.9 - gap, **design)
    return of(rows)


def members() -> Evidence:
    rows = both_seeds(0.80, 0.82, members=1)
    return of([*rows, *both_seeds(0.80, 0.81, representation="cat:2", members=2)])


def deficits() -> Evidence:
    rows = []
    for training, gap in (
        (None, 0.0),
        ("deficit blur 0-0.25", 0.02),
        ("deficit blur 0-0.5", 0.05),
        ("deficit blur 0.5-0.75", 0.01),
        ("deficit flip 0-0.5", 0.01),
    ):
        rows += both_seeds(0.9 - gap, 0.9 - gap - 0.01, training=training, component="images", weight=1.0)
    return of(rows)


def simplex() -> Evidence:
    rows = []
    for shares, gap in (((0.8, 0.1, 0.1), 0.03), ((0.1, 0.8, 0.1), 0.06), ((0.1, 0.1, 0.8), 0.09)):
        label = mixture_label(dict(zip("abc", shares, strict=True)))
        for component, share in zip("abc", shares, strict=True):
            lost = gap if component == "c" else 0.01
            rows += both_seeds(0.9 - lost, 0.9 - lost, component=component, weight=share, mixture=label, trial=label)
    return of(rows)


PLANTED: dict[str, Callable[[], Evidence]] = {
    "gap-by-weight": lambda: of(two_views()),
    "gap-by-mixture": lambda: of(three_components()),
    "accuracies": lambda: of(two_views()),
    "gap-by-scale": scales,
    "ordering": orderings,
    "ensembles": ensembles,
    "trajectories": trajectories,
    "source-transfer": sources,
    "ladder": ladders,
    "retention": retentions,
    "layers": layerwise,
    "pareto": designs,
    "seeds": members,
    "deficits": deficits,
    "ternary": simplex,
}


# Every kind


def text_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Every text that is drawn, with its box; ticks beyond the ends of an axis are not drawn."""
    canvas = FigureCanvasAgg(figure)
    with styled():
        canvas.draw()
    hidden: set[Any] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not (axes.axison and low <= tick.get_loc() <= high):
                    hidden |= {tick.label1, tick.label2}
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and text not in hidden]
    drawn = [text for text in texts if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in drawn]


def outside(figure: Figure) -> list[str]:
    page = figure.bbox
    return [
        text
        for text, box in text_boxes(figure)
        if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1
    ]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other by more than a pixel either way."""
    boxes = text_boxes(figure)
    return [
        (first, second)
        for (first, one), (second, other) in itertools.combinations(boxes, 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]


def test_every_kind_has_planted_evidence_here():
    assert set(PLANTED) == set(figures.FIGURES)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("name", PLANTED)
def test_the_texts_of_a_figure_lie_within_it_and_beside_each_other_at_both_widths(name, narrow):
    figure = figures.figure(name, PLANTED[name](), narrow=narrow)
    assert outside(figure) == []
    assert overlapping(figure) == []
    assert figure.get_figwidth() <= (NARROW if narrow else WIDE)
    assert [axes for axes in figure.axes if axes.axison and not (axes.lines or axes.collections)] == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_caption_says_how_many_seeds_and_which_interval(name):
    found = data(name, PLANTED[name]())
    caption = figures.FIGURES[name].caption(found)
    assert re.search(r"n\u00a0=\u00a0\d+( to \d+)? seed", caption)
    assert "interval" in caption
    assert caption.endswith(".")


@pytest.mark.parametrize("name", PLANTED)
def test_long_names_with_markup_and_mathematics_are_harmless_and_cut(name):
    found = PLANTED[name]()
    names = {old: f"{old}{EVIL_NAME}" for old in found.table["component"].unique()}
    frames = [f if f is None else f.assign(component=f["component"].map(names)) for f in (found.curves, found.layers)]
    table = found.table.assign(component=found.table["component"].map(names).astype("string"))
    assert outside(figures.figure(name, Evidence(table, *frames), narrow=True)) == []


@pytest.mark.parametrize("name", PLANTED)
def test_without_rows_or_numbers_the_figure_is_refused_with_a_reason(name):
    with pytest.raises(figures.Refused, match="no rows"):
        data(name, of([]))
    with pytest.raises(figures.Refused, match=r"2 pending|one protocol"):
        data(name, of([row(status="pending", seed=seed) for seed in (1, 2)]))


@pytest.mark.parametrize("name", PLANTED)
def test_a_figure_is_refused_as_long_as_no_row_has_all_that_belongs_to_it(name):
    found = PLANTED[name]()
    early = Evidence(found.table.assign(status="pending"), found.curves, found.layers)  # with accuracies and gaps
    with pytest.raises(figures.Refused, match=r"pending|no rung of any ladder has been measured"):
        data(name, early)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("gap-by-scale", "vary width, depth, steps or train_examples"),
        ("ordering", "vary.ordering"),
        ("ensembles", "time_cat"),
        ("trajectories", "`trajectory: true`"),
        ("source-transfer", "own head"),
        ("ladder", "only linear_probe"),
        ("retention", "`retention: true`"),
        ("layers", "layers: true"),
        ("pareto", "fewer than two designs"),
        ("seeds", "cat: 2"),
        ("deficits", "deficit"),
        ("ternary", "simplex of three"),
    ],
)
def test_a_refusal_says_what_the_sweep_would_have_to_have(name, lacking):
    with pytest.raises(figures.Refused, match=re.escape(lacking)):
        data(name, of([row(members=1), row(members=1, seed=2)]))


def test_an_unknown_figure_lists_the_known_ones():
    with pytest.raises(figures.UnknownFigure, match="no figure 'gap'; the figures are gap-by-weight, gap-by-mixture"):
        figures.figure("gap", of([]))


def test_several_sweeps_have_a_panel_each_and_those_that_cannot_fill_it_have_none():
    one, other = orderings().table, scales().table.assign(sweep="scale")
    found = data("ordering", Evidence(pd.concat([one, other], ignore_index=True)))
    assert found["panel"].unique().tolist() == ["planted"]
    both = data("gap-by-weight", Evidence(pd.concat([one, other], ignore_index=True)))
    assert both["panel"].str.partition(",")[0].unique().tolist() == ["planted", "scale"]
    with pytest.raises(figures.Refused, match=r"planted: .*vary.ordering; scale: .*vary.ordering"):
        data("ordering", Evidence(pd.concat([other.assign(sweep="planted"), other], ignore_index=True)))


def test_more_sweeps_than_panels_are_refused():
    table = results.table([row(sweep=f"s{n}") for n in range(10)])
    with pytest.raises(figures.Refused, match="10 panels do not fit"):
        data("gap-by-weight", Evidence(table))


# Their numbers, worked by hand


def one(found: pd.DataFrame, **wanted: Any) -> dict[str, Any]:
    """The only row with these values."""
    for name, value in wanted.items():
        found = found[found[name].isna() if value is None else found[name] == value]
    (only,) = found.to_dict("records")
    return only


def numbers(line: dict[str, Any], *names: str) -> Any:
    return pytest.approx([float(line[name]) for name in names])


def test_gap_by_weight_has_means_with_intervals_and_every_seed():
    found = data("gap-by-weight", of([row(gap=0.10, seed=1), row(gap=0.20, seed=2)]))
    mean = one(found, seed=None)
    half = T1 * 5  # the standard error of 10 and 20 is 5
    assert [15, 15 - half, 15 + half] == numbers(mean, "gap_points", "low_points", "high_points")
    assert mean["n"] == 2
    assert pytest.approx(found.loc[found["seed"].notna(), "gap_points"].tolist()) == [10, 20]


def test_accuracies_are_in_percent_for_each_kind_of_features():
    found = data("accuracies", of([row(gap=0.1), row(gap=0.1, seed=2)]))
    reached = {line["features"]: line["accuracy_percent"] for line in found.to_dict("records")}
    assert reached == pytest.approx({"transfer": 80, "direct": 90, "random init": 50, "chance": 10})


def test_accuracies_at_one_weight_are_no_average_over_what_varies():
    with pytest.raises(figures.Refused, match="every component has one weight"):
        data("accuracies", orderings())


def test_gap_by_scale_has_the_fit_of_a_curve_or_why_there_is_none():
    found = data("gap-by-scale", scales())
    hard = one(found, component="hard", scale=0.25)
    assert hard["gap_points"] == pytest.approx(12)
    assert pytest.approx([hard["floor_points"], hard["fit_b"], hard["fit_a_points"]], rel=0.01) == [4, 1, 2]
    assert hard["floor_low_points"] < 4 < hard["floor_high_points"]
    flat = one(found, component="flat", scale=8.0)
    assert pd.isna(flat["floor_points"])
    assert "does not fall with scale" in flat["no_fit"]
    caption = figures.FIGURES["gap-by-scale"].caption(found)
    assert "No fit of 1 of 2 curves: the gap does not fall" in caption
    assert "hard: b\u00a0=\u00a01.00, floor c\u00a0=\u00a04.0 [" in caption


def test_a_reason_why_curves_have_no_fit_is_said_once():
    rows = [r for part in "abcdefgh" for width in (1.0, 2.0) for r in both_seeds(0.8, 0.7, component=part, width=width)]
    caption = figures.FIGURES["gap-by-scale"].caption(data("gap-by-scale", of(rows)))
    assert caption.count("No fit") == caption.count("too few") == 1


def test_the_effect_of_an_ordering_is_paired_within_seeds():
    found = data("ordering", orderings())
    hard = one(found, component="hard", ordering="sequential:hard,easy", seed=None)
    assert numbers(hard, "accuracy_percent", "effect_points", "effect_low_points", "effect_high_points") == [
        60.5,
        -20,
        -20,
        -20,
    ]
    assert one(found, component="easy", ordering="sequential:hard,easy", seed=None)["effect_points"] == pytest.approx(1)
    assert pd.isna(one(found, component="easy", ordering="shuffled", seed=None)["effect_points"])


def test_orderings_that_lack_a_cell_have_accuracies_and_no_effect():
    rows = orderings().table
    found = data("ordering", Evidence(rows.iloc[:-1]))
    assert found["effect_points"].isna().all()
    assert "combinations of component, ordering and seed are missing" in found["no_effect"].dropna().iloc[0]


def test_networks_of_about_the_same_flops_are_one_budget_and_other_kinds_are_left_out():
    found = data("ensembles", ensembles())
    target = found[found["component"] == "target"]
    assert target[["budget_flops", "members"]].to_numpy().tolist() == [[100, 1], [100, 2], [200, 4]]
    assert pytest.approx(target["accuracy_percent"].tolist()) == [71, 76, 81]
    assert target["role"].unique().tolist() == ["target"]
    assert found[found["component"] == "source"]["role"].unique().tolist() == ["source"]


def test_trajectories_hold_accuracy_signal_and_retention_at_every_step():
    found = data("trajectories", trajectories())
    assert pytest.approx(found.loc[found["quantity"] == "accuracy", "mean"].tolist()) == [51, 71, 81]
    assert pytest.approx(found.loc[found["quantity"] == "saturation", "mean"].tolist()) == [1, 0.1, 0.01]
    assert pytest.approx(found.loc[found["quantity"] == "retention", "mean"].tolist()) == [0, 0.5, 1]
    assert set(found["n"]) == {2}


def test_the_source_accuracy_is_weighted_by_the_shares_of_what_was_shown():
    found = data("source-transfer", sources())
    mean = one(found, colour="training: weight_decay 0", seed=None)
    assert numbers(mean, "source_percent", "transfer_percent") == [65, 51]  # 0.25 * 80 + 0.75 * 60
    assert found["component"].unique().tolist() == ["c"]
    assert len(found) == 2 * 3


def test_the_ladder_has_every_rung_with_its_outcome():
    found = data("ladder", ladders())
    assert one(found, rung="head_repair")["outcome"] == "missing"
    assert one(found, rung="linear_probe")["accuracy_percent"] == pytest.approx(80, abs=0.3)
    assert one(found, rung="mlp_probe")["outcome"] == "reaches"
    assert set(found["failure"]) == {"entangled"}


def test_retention_has_a_cell_for_every_network_and_component_and_says_what_is_missing():
    found = data("retention", retentions())
    assert numbers(one(found, component="hard"), "retention", "low", "high") == [0.6, 0.6 - T1 * 0.1, 0.6 + T1 * 0.1]
    easy = one(found, component="easy")
    assert (easy["n"], easy["missing"]) == (0, "not measured")


def test_layers_are_those_of_the_mixture_and_of_the_direct_network_in_their_order():
    found = data("layers", layerwise())
    assert found["layer"].unique().tolist() == ["conv1", "conv2"]
    assert one(found, layer="conv2", features="mixture")["accuracy_percent"] == pytest.approx(61)
    assert one(found, layer="conv2", features="direct")["accuracy_percent"] == pytest.approx(80)


def test_the_front_holds_what_no_design_beats():
    found = data("pareto", designs())
    assert found["front"].tolist() == [True, True, False]
    assert numbers(found.iloc[0].to_dict(), "mean_gap_points", "worst_gap_points") == [2, 3]
    assert found["training_flops"].tolist() == [10, 5, 10]
    assert pareto.front(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])) == [True, True, True, False]


def test_a_design_of_which_a_component_failed_is_not_compared_over_the_others():
    rows = designs().table.to_dict("records")
    for one_row in rows:
        if one_row["width"] == 2.0 and one_row["component"] == "b":
            one_row |= {"status": "failed", "gap": None}
    found = data("pareto", Evidence(results.table(rows)))
    assert list(found["design"]) == ["width: 1", "width: 4"]
    assert set(found["designs_left_out"]) == {1}
    assert "1 designs in which some component has no gap are left out" in figures.FIGURES["pareto"].caption(found)


def test_a_component_seen_in_some_mixtures_and_not_in_others_has_a_panel_for_either():
    rows = []
    for weight, reached in ((0.0, 0.6), (0.2, 0.7), (0.5, 0.8)):
        for kind, count in (("single", 1), ("time_cat:2", 2)):
            design = {"representation": kind, "members": count, "training_flops": 1e9, "mixture": f"m{weight}"}
            rows += both_seeds(reached, reached, component="a", weight=weight, trial=f"{weight}{kind}", **design)
            for number in range(8):
                others = {"component": f"c{number}", "weight": 0.1, "trial": f"{weight}{kind}"}
                rows += both_seeds(0.5, 0.5, **others, **design)
    found = data("ensembles", of(rows))
    found = found[found["component"] == "a"]
    assert found.groupby(["panel", "budget_flops", "members"]).size().max() == 1
    shown = found[found["members"] == 1].set_index("panel")["accuracy_percent"].round(6).to_dict()
    assert shown == {"a, not seen": 60.0, "a, seen in pretraining": 75.0}


def test_the_deviation_over_seeds_is_in_points_by_number_of_networks():
    found = data("seeds", members())
    assert pytest.approx(found["deviation_points"].tolist()) == [2**0.5, 0.5**0.5]
    assert found[["family", "members"]].to_numpy().tolist() == [["single", 1], ["cat", 2]]


def test_deficits_are_read_from_the_training_and_keep_the_rest_of_it():
    found = data("deficits", deficits())
    blurred = one(found, deficit="blur", onset_share=0.5)
    assert numbers(blurred, "end_share", "length_share", "gap_points") == [0.75, 0.25, 1.5]
    assert one(found, deficit="none")["gap_points"] == pytest.approx(0.5)
    rows = [row(training=f"weight_decay {decay}, deficit blur 0-0.5") for decay in (0, 0.1)]
    assert set(data("deficits", of(rows))["panel"]) == {f"hard, training: weight_decay {decay}" for decay in (0, 0.1)}


def test_a_window_may_begin_after_very_little_of_the_training():
    rows = [row(training=training) for training in (None, "deficit blur 1e-05-0.3", "deficit blur 0-2.5e-05")]
    found = data("deficits", of(rows))
    windows = set(zip(found["onset_share"], found["end_share"], strict=True))
    assert windows >= {(1e-05, 0.3), (0.0, 2.5e-05)}


def test_the_simplex_has_a_point_for_every_mixture_with_the_worst_gap_and_each_component():
    found = data("ternary", simplex())
    assert found["of"].unique().tolist() == ["worst gap", "a", "b", "c"]
    worst = found[found["of"] == "worst gap"]
    assert pytest.approx(worst["gap_points"].tolist()) == [3, 6, 9]
    assert worst[["share_1", "share_2", "share_3"]].iloc[1].tolist() == pytest.approx([0.1, 0.8, 0.1])
    assert worst[["corner_1", "corner_2", "corner_3"]].iloc[0].tolist() == ["a", "b", "c"]


def test_mixtures_on_a_line_span_no_simplex():
    table = simplex().table
    with pytest.raises(figures.Refused, match="on a line or a point"):
        data("ternary", Evidence(table[table["mixture"] != table["mixture"].iloc[-1]]))


# How they are drawn


def heat_cells(rows: list[Row], **options: Any) -> tuple[list[Rectangle], list[str]]:
    (axes,) = figures.figure("gap-by-mixture", of(rows), **options).axes
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_height() > 0.3]
    return boxes, [text.get_text() for text in axes.texts]


def test_the_lines_are_the_means_of_the_table():
    table = results.table(two_views())
    (axes,) = figures.figure("gap-by-weight", Evidence(table)).axes
    found = gaps.by_weight(table)
    for component in ("both", "hard"):
        expected = 100 * found[found["component"] == component]["gap"].to_numpy(dtype=float)
        assert any(len(line.get_ydata()) == 6 and np.allclose(line.get_ydata(), expected) for line in axes.lines), (
            component
        )


@pytest.mark.parametrize("name", ["gap-by-weight", "gap-by-mixture", "trajectories", "ternary"])
def test_a_notebook_shows_a_figure_as_a_drawing_on_white(name):
    shown = figures.figure(name, PLANTED[name]())._repr_svg_()
    assert shown.startswith("<svg")
    assert "fill: #ffffff" in shown


def test_small_weights_are_spread_by_their_square_root_and_the_axis_says_so():
    figure = figures.figure("gap-by-weight", of(two_views()))
    assert figure.get_supxlabel() == "weight in the mixture, square-root scale"
    assert figures.figure("gap-by-weight", of(three_components())).get_supxlabel() == "weight in the mixture"


def test_axes_that_vary_become_panels_and_line_styles_and_the_rest_is_averaged():
    rows = [r | {"steps": s, "trial": f"{r['trial'][:8]}{s}"} for r in three_components() for s in (1000, 2000)]
    table = results.table(rows)
    assert facets(table) == Facets("ordering", "width", ("steps",))
    panels = figures.figure("gap-by-weight", Evidence(table)).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "ordering: shuffled",
        "ordering: clothes then digits then kana",
    ]
    assert "Averaged within each seed over numbers of steps." in caption_of("gap-by-weight", table)


def test_the_axis_with_most_values_gets_the_panels():
    rows = [row(width=w, architecture=a, trial=f"{w}{a}") for w in (0.25, 0.5, 1, 2, 4) for a in ("mlp", "cnn")]
    assert facets(results.table(rows)) == Facets("width", "architecture", ())


def test_two_seeds_far_apart_do_not_squash_the_rest():
    (axes,) = figures.figure("gap-by-weight", of([row(gap=0.1, seed=1), row(gap=0.2, seed=2)])).axes
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
    assert [to_hex(box.get_facecolor()) == MISSING for box in boxes] == [False, True, True]
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
    scope = heatmap.scope(table)
    assert (scope.axes, scope.averaged) == (("ordering", "width"), ("steps",))
    assert "Averaged within each seed over numbers of steps." in caption_of("gap-by-mixture", table)


def test_more_mixtures_than_a_heat_map_holds_leave_those_that_lose_most():
    rows = [
        row(gap=n / 100, mixture=mixture_label({"a": n / 100, "b": 1 - n / 100}), trial=f"{n:012x}")
        for n in range(1, 61)
    ]
    scope = heatmap.scope(results.table(rows))
    assert (len(scope.mixtures), scope.left_out) == (48, 12)
    assert scope.mixtures[0].startswith("a 13 %")


@pytest.mark.parametrize("name", ["gap-by-weight", "gap-by-mixture", "accuracies"])
def test_any_name_can_be_drawn(name):
    names = ("$x$ and $", "仮名", "a" * 80, EVIL_NAME, "_^\\frac{1}")
    rows = [
        row(component=name, weight=weight, mixture=f"{name} {weight}", ordering=f"{name} first", trial=name[:12])
        for name in names
        for weight in (0.5, 1.0)
    ]
    text = figures.svg(figures.figure(name, of(rows)))
    assert "仮名" in text
    assert "<img" not in text


def test_figures_for_phones_are_as_wide_as_a_phone():
    for name in ("gap-by-weight", "gap-by-mixture", "accuracies"):
        assert 96 * figures.figure(name, of(three_components()), narrow=True).get_figwidth() < 358  # of 390 pixels


def caption_of(name: str, table: pd.DataFrame) -> str:
    return figures.FIGURES[name].caption(data(name, Evidence(table)))


# Files


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_a_file_is_written_with_its_data_beside_it_and_equal_results_give_equal_bytes(tmp_path, suffix):
    kind, found, written = figures.kind_of("gap-by-weight"), of(two_views()), []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        caption, (path, table) = figures.write(kind, found, figures.place(folder / f"x.{suffix}", kind.name))
        written.append(path.read_bytes())
        assert caption == kind.caption(kind.data(found))
        assert table.name == "x.csv"
        expected = kind.data(found)
        assert pd.read_csv(table).columns.tolist() == expected.columns.tolist()
        np.testing.assert_allclose(pd.read_csv(table)["gap_points"], expected["gap_points"].astype(float))
    assert written[0] == written[1]
    assert written[0].startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix])


def test_a_table_of_somebody_else_is_not_written_over_and_a_place_that_cannot_be_written_is_one_line(tmp_path):
    kind, found = figures.kind_of("gap-by-weight"), of(two_views())
    (tmp_path / "results.csv").write_text("sweep,trial\n")
    with pytest.raises(UserError, match=r"'.*results\.csv' is there and not the data of this figure"):
        figures.write(kind, found, tmp_path / "results.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
    (tmp_path / "gaps.svg").mkdir()
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        figures.write(kind, found, tmp_path / "gaps.svg")


def test_a_folder_gets_a_vector_file_of_the_name_and_other_endings_are_refused(tmp_path):
    assert figures.place(tmp_path, "ladder") == tmp_path / "ladder.svg"
    with pytest.raises(ValueError, match=r"no folder and ends in none of .svg, .pdf, .png"):
        figures.place(tmp_path / "x.jpeg", "ladder")
    with pytest.raises(ValueError, match="there is no folder"):
        figures.place(tmp_path / "none" / "x.pdf", "ladder")


# The command


@pytest.fixture
def bottleneck(monkeypatch, capsys):
    """The command in this process: what it printed, its exit code being as expected."""

    def run(*words: object, expect: int = 0) -> Any:
        monkeypatch.setattr(sys, "argv", ["bottleneck", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == expect
        return capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a sweep of three numbers of steps."""
    folder = tmp_path_factory.mktemp("store")
    made_up("planted", trials=3).put(Store(folder))
    return folder


def test_the_command_writes_figure_and_data_and_prints_both_paths(bottleneck, store, tmp_path):
    done = bottleneck("figure", "gap-by-scale", "planted", "--storage", store, "--out", tmp_path / "x.png", "--narrow")
    assert done.out.splitlines() == [str(tmp_path / "x.png"), str(tmp_path / "x.csv")]
    assert done.err.startswith("Gap by scale, with its floor. Gap in points of single networks")
    expected = data("gap-by-scale", figures.evidence("planted", str(store)))
    assert (tmp_path / "x.csv").read_text() == expected.to_csv(index=False)
    assert set(expected["scale"]) == {100, 101, 102}


def test_the_command_lists_which_figures_a_sweep_can_fill_and_why_not_the_others(bottleneck, store):
    lines = bottleneck("figure", "--list", "planted", "--storage", store).out.splitlines()
    found = {line.split()[0]: line for line in lines[2:]}
    assert set(found) == set(figures.FIGURES)
    assert found["gap-by-scale"].endswith("  yes")
    assert found["retention"].endswith("no: the table has no retention: it takes a sweep with `retention: true`")
    assert len(bottleneck("figure").out.splitlines()) == 2 + len(figures.FIGURES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("retention", "planted"), "the table has no retention"),
        (("nothing", "planted"), "there is no figure 'nothing'; the figures are gap-by-weight"),
        (("ladder", "elsewhere"), "'elsewhere'"),
        (("ladder", "planted", "--out", "x.jpeg"), "'x.jpeg' is no folder"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_exit_2(bottleneck, store, words, said):
    done = bottleneck("figure", *words, "--storage", store, expect=2)
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert done.out == ""
