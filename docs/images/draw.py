"""Draws the pictures of the documentation beside this file: `python docs/images/draw.py [FOLDER]`.

Orderings are those of `trainables.ordering`, stages and sharing those of the plan of `quickstart`. The accuracies of
gap.svg are measured: `bottleneck results s01-mixture-weight --where "training.isna()" --format csv --columns
component,weight,seed,transfer_accuracy,direct_probe_accuracy,random_init_accuracy`, kept in mixture-weight.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import EXAMPLES

from orchestrator import sweep as sweeps
from orchestrator.plan import Plan
from orchestrator.prepare import prepare
from orchestrator.report.figures.style import INK, MUTED, PAGE_COLOURS, RULE, SERIES, STYLE, svg
from trainables.ordering import index_stream
from trainables.spec import Component, Mixture, PretrainSpec, Share, Source

HERE = Path(__file__).parent
NAMES = ("clothes", "digits")
DARK = ("#e7eaed", "#a0a9b2", "#4a535c", "#2b3036", "#62b4f0", "#ff9a5c", "#45cba4", "#e693d0", "#d9bb4a", "#b6bec7")


def pictures() -> Iterator[tuple[str, Figure]]:
    """Every picture by the name of its file."""
    plan, _ = prepare(sweeps.read(sweeps.locate("quickstart")), lambda _: None)
    with matplotlib.rc_context(STYLE):
        for kind in EXAMPLES:
            yield f"ordering-{kind}", ordering(kind)
        yield "stages", stages(plan)
        yield "sharing", sharing(plan)
        yield "gap", gap(pd.read_csv(HERE / "mixture-weight.csv"))
        yield "views", views()


def ordering(kind: str, shown: int = 90) -> Figure:
    """When each example of two components comes in a run: a line for each, in a curriculum as long as it is hard."""
    mixture = Mixture(shares=tuple(_share(name, shown) for name in NAMES))
    text = f"vary: {{mixture: {{clothes: 1, digits: 1}}, ordering: {EXAMPLES[kind]}}}"
    head = "name: x\nquestion: x\ncomponents: {clothes: {dataset: fashion_mnist}, digits: {dataset: mnist}}\n"
    choice = sweeps.parse(head + text, "picture").vary.ordering[0]
    hardness = [np.random.default_rng(position).random(1000) for position in range(len(NAMES))]
    stream = index_stream(mixture, choice.among({name: name for name in NAMES}), 0, hardness)
    figure, axes = _canvas(5.2, 1.15)
    for position, name in enumerate(NAMES):
        here = np.flatnonzero(stream.component == position)
        height = hardness[position][stream.example[here]] if kind == "curriculum" else np.ones(len(here))
        x = np.repeat(here / len(stream), 3)
        y = np.stack([np.zeros(len(here)), 0.8 * height, np.full(len(here), np.nan)], 1).ravel() - position
        axes.plot(x, y, color=SERIES[position], linewidth=1.1)
        axes.text(-0.015, 0.4 - position, name, ha="right", va="center", color=SERIES[position], weight="bold")
    axes.annotate("", (1, -1.12), (0, -1.12), arrowprops={"arrowstyle": "->", "color": MUTED, "linewidth": 0.8})
    axes.text(0, -1.22, "first step", ha="left", va="top", color=MUTED)
    axes.text(1, -1.22, "last step", ha="right", va="top", color=MUTED)
    axes.set(xlim=(-0.17, 1.01), ylim=(-1.55, 0.9))
    return figure


def _share(name: str, shown: int) -> Share:
    component = Component(
        source=Source(dataset="mnist"), content=name, num_classes=10, num_train=1000, num_validation=1, num_test=1,
        image_shape=(1, 28, 28),
    )  # fmt: skip
    return Share(component=component, shown=shown, pool=1000, distinct=shown)


def stages(plan: Plan) -> Figure:
    """What is computed for one row of the results table, and what each stage reads."""
    trial = next(t for t in plan.trials if dict(t.design.mixture)["hard"] == 0.02)
    cell = next(c for c in trial.cells if c.component == "hard")
    assert cell.direct is not None
    names = {component.content: name for name, component in plan.components.items()}
    mixed, direct = cell.transfer.members[0], cell.direct.members[0]
    figure, axes = _canvas(8.2, 3.5)
    for place, text in {"both": (0, 2.4), "hard": (0, 1.2)}.items():
        _box(axes, text, f"component\n{place}", SERIES[1] if place == "hard" else SERIES[0])
    for at, head, run in (
        ((1.9, 2.4), "pretraining\non the mixture", mixed),
        ((1.9, 1.2), "pretraining\non hard alone", direct),
    ):
        _box(axes, at, f"{head}\n{_shown(run, names)}", INK, width=1.35)
    _box(axes, (1.9, 0), "the same network,\nnever trained", INK, width=1.35)
    for at, kind in (((3.75, 2.4), "transfer"), ((3.75, 1.2), "direct"), ((3.75, 0), "random init")):
        _box(axes, at, f"linear probe\non hard:\n{kind}", INK)
    _box(axes, (5.3, 1.8), "gap =\ndirect − transfer", SERIES[2], width=1.1)
    for start, end in (((0.5, 2.4), (1.2, 2.4)), ((0.5, 1.3), (1.2, 2.2)), ((0.5, 1.2), (1.2, 1.2)),
                       ((2.6, 2.4), (3.25, 2.4)), ((2.6, 1.2), (3.25, 1.2)), ((2.6, 0), (3.25, 0)),
                       ((4.25, 2.4), (4.74, 2.0)), ((4.25, 1.2), (4.74, 1.6))):  # fmt: skip
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": MUTED, "linewidth": 1})
    axes.set(xlim=(-0.55, 5.9), ylim=(-0.5, 2.95))
    return figure


def _shown(run: PretrainSpec, names: Mapping[str, str]) -> str:
    parts = [f"{share.shown:,} of {names[share.component.content]}" for share in run.mixture.shares]
    return "\n".join(sorted(parts))


def sharing(plan: Plan) -> Figure:
    """Which networks the trials of a sweep need, for its first seed: a network that two need is trained once."""
    needed: dict[str, dict[str, None]] = {}
    for trial in plan.trials:
        cells = [cell for cell in trial.cells if cell.seed == plan.sweep.seeds[0]]
        probes = [p for c in cells for p in (c.transfer, c.direct, c.random_init) if p]
        needed[trial.design.mixture_label] = dict.fromkeys(
            member.digest for probe in probes for member in probe.members
        )
    columns = list(dict.fromkeys(digest for digests in needed.values() for digest in digests))
    columns.sort(key=lambda digest: sum(digest in digests for digests in needed.values()))
    figure, axes = _canvas(7.2, 2.5)
    for row, (label, digests) in enumerate(needed.items()):
        axes.plot([0, len(columns) - 1], [-row, -row], color=RULE, linewidth=0.8, zorder=0)
        axes.text(-0.6, -row, label, ha="right", va="center")
        for column, digest in enumerate(columns):
            if digest in digests:
                axes.plot(column, -row, "o", markersize=9, color=SERIES[0])
    for column, digest in enumerate(columns):
        axes.text(column, 0.75, digest[:6], ha="center", va="bottom", rotation=45, color=MUTED, size=8)
    axes.text(-0.6, 0.9, "trial", ha="right", va="bottom", color=MUTED)
    axes.set(xlim=(-4.2, len(columns) - 0.2), ylim=(-len(needed) + 0.6, 2.1))
    return figure


def gap(table: pd.DataFrame) -> Figure:
    """Accuracies on `hard` against its weight in the mixture: what lies between direct and transfer is the gap."""
    rows = table[table["component"] == "hard"].drop(columns="component").groupby("weight")
    means, deviations = rows.mean(), rows.std()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.1))
        axes = figure.add_axes((0.11, 0.17, 0.87, 0.78))
        x = np.arange(len(means))
        looks = {
            "direct_probe_accuracy": ("direct", SERIES[2], "s"),
            "transfer_accuracy": ("transfer", SERIES[1], "o"),
            "random_init_accuracy": ("random init", MUTED, "^"),
        }
        for column, (label, colour, marker) in looks.items():
            y, error = 100 * means[column].to_numpy(), 100 * deviations[column].to_numpy()
            axes.errorbar(x, y, error, color=colour, marker=marker, capsize=3)
            axes.text(x[-1] + 0.12, y[-1] + (0.8 if label == "direct" else -1.2), label, color=colour, va="center")
        direct, transfer = (100 * means[c].iloc[1] for c in ("direct_probe_accuracy", "transfer_accuracy"))
        axes.annotate("", (1, direct), (1, transfer), arrowprops={"arrowstyle": "<->", "color": INK})
        axes.text(1.08, direct - 4, f"the gap: {direct - transfer:.1f} points", va="center")
        axes.set_xticks(x, [f"{100 * weight:g} %" for weight in means.index])
        axes.set(xlim=(-0.3, len(x) + 0.1), xlabel="share of hard in the mixture", ylabel="accuracy on hard, %")
    return figure


def views() -> Figure:
    """What is kept, and what is made from it."""
    figure, axes = _canvas(7.0, 2.3)
    _box(axes, (0, 1), "bottleneck run", INK, width=1.2)
    _box(axes, (2, 1), "store\nstages, plans, journals", SERIES[0], width=1.7)
    for y, view in (
        (2, "results table\nbottleneck results"),
        (1, "report\nbottleneck report"),
        (0, "MLflow\nbottleneck sync"),
    ):
        _box(axes, (4.3, y), view, SERIES[2], width=1.5)
        axes.annotate("", (3.5, y), (2.9, 1), arrowprops={"arrowstyle": "->", "color": MUTED, "linewidth": 1})
    axes.annotate("", (1.1, 1), (0.65, 1), arrowprops={"arrowstyle": "->", "color": MUTED, "linewidth": 1})
    axes.set(xlim=(-0.7, 5.2), ylim=(-0.5, 2.5))
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
    return figure, axes


def _box(axes: Axes, at: tuple[float, float], text: str, colour: str, width: float = 1.0, height: float = 0.8) -> None:
    corner = (at[0] - width / 2, at[1] - height / 2)
    axes.add_patch(
        FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=0.08", fill=False, edgecolor=colour)
    )
    axes.text(*at, text, ha="center", va="center", color=INK)


def themed(figure: Figure) -> str:
    """The picture as SVG whose colours follow the page, light or dark."""
    text = svg(figure)
    for colour, name in PAGE_COLOURS.items():
        text = text.replace(f": {colour}", f": var({name})")
    light = _variables(tuple(PAGE_COLOURS))
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{_variables(DARK)}}}}}</style>"
    head, end, rest = text.partition(">\n")
    return "\n".join(line.rstrip() for line in f"{head}{end}{style}\n{rest}".splitlines()) + "\n"


def _variables(colours: Sequence[str]) -> str:
    return "".join(f"{name}:{colour};" for name, colour in zip(PAGE_COLOURS.values(), colours, strict=True))


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for name, figure in pictures():
        (folder / f"{name}.svg").write_text(themed(figure))
