"""What do the results look like? Every figure of the science, each for a wide page and for a phone.

`FIGURES` is the table of all of them. A kind makes tidy data from evidence, and draws these data and nothing else, so
the CSV beside a figure has every number that one can see in it.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from orchestrator.report.figures import (
    deficit,
    ensemble,
    heatmap,
    layers,
    ordering,
    pareto,
    rungs,
    scale,
    source,
    ternary,
    trajectory,
    weight,
)
from orchestrator.report.figures.file import place, write
from orchestrator.report.figures.kind import Evidence, Kind, Refused, evidence, over_sweeps
from orchestrator.report.figures.style import INK, PAGE_COLOURS, SERIES, settle, svg, typeset
from trainables.errors import UserError

FIGURES: Mapping[str, Kind] = {
    name: over_sweeps(Kind(name, *parts))
    for name, parts in {
        "gap-by-weight": ("Gap by weight", weight.gap_data, weight.draw_gap, weight.gap_caption),
        "gap-by-mixture": ("Gap by mixture and component", heatmap.gap_data, heatmap.draw_gap, heatmap.gap_caption),
        "accuracies": (
            "Accuracies behind the gap",
            weight.accuracy_data,
            weight.draw_accuracies,
            weight.accuracy_caption,
        ),
        "gap-by-scale": ("Gap by scale, with its floor", scale.data, scale.draw, scale.caption),
        "ordering": ("Effect of the ordering", ordering.data, ordering.draw, ordering.caption),
        "ensembles": (
            "Several networks at one budget",
            ensemble.budget_data,
            ensemble.draw_budgets,
            ensemble.budget_caption,
        ),
        "trajectories": ("Trajectories", trajectory.data, trajectory.draw, trajectory.caption),
        "source-transfer": ("Transfer against source accuracy", source.data, source.draw, source.caption),
        "ladder": ("The loss ladder", rungs.data, rungs.draw, rungs.caption),
        "retention": (
            "Retention of the direct features",
            heatmap.retention_data,
            heatmap.draw_retention,
            heatmap.retention_caption,
        ),
        "layers": ("Probes of every layer", layers.data, layers.draw, layers.caption),
        "pareto": ("Mean gap, worst gap and compute", pareto.data, pareto.draw, pareto.caption),
        "seeds": ("Deviation over seeds", ensemble.seed_data, ensemble.draw_seeds, ensemble.seed_caption),
        "deficits": ("Deficits early in training", deficit.data, deficit.draw, deficit.caption),
        "ternary": ("Gap over the simplex of mixtures", ternary.data, ternary.draw, ternary.caption),
    }.items()
}


class UnknownFigure(UserError):
    """There is no such figure; the message lists those that there are."""


def kind_of(name: str) -> Kind:
    """The kind of figure with this name; raises UnknownFigure."""
    if name not in FIGURES:
        raise UnknownFigure(f"there is no figure {name[:100]!r}; the figures are {', '.join(FIGURES)}")
    return FIGURES[name]


def figure(name: str, evidence: Evidence, *, narrow: bool = False) -> Figure:
    """A figure by name, 8.6 inches wide, or 3.7 for a phone and for one column of print.

    Raises:
        UnknownFigure: there is none of that name.
        Refused: the evidence lacks what it shows.
    """
    found = kind_of(name)
    return found.draw(found.data(evidence), narrow=narrow)


__all__ = [
    "FIGURES",
    "INK",
    "PAGE_COLOURS",
    "SERIES",
    "Evidence",
    "Kind",
    "Refused",
    "UnknownFigure",
    "evidence",
    "figure",
    "kind_of",
    "place",
    "settle",
    "svg",
    "typeset",
    "write",
]
