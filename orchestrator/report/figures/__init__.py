"""What do the gaps look like? Figures from a results table, each for a wide page and for a phone."""

from orchestrator.report.figures.heatmap import gap_heatmap, heatmap_scope
from orchestrator.report.figures.style import MISSING, PAGE_COLOURS, SERIES, svg, typeset
from orchestrator.report.figures.weight import Facets, accuracies, facets, gap_by_weight

__all__ = [
    "MISSING",
    "PAGE_COLOURS",
    "SERIES",
    "Facets",
    "accuracies",
    "facets",
    "gap_by_weight",
    "gap_heatmap",
    "heatmap_scope",
    "svg",
    "typeset",
]
