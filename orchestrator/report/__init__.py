"""The results for people: figures, and one HTML page that needs nothing beside itself."""

from orchestrator.report.figures import Evidence
from orchestrator.report.page import render

__all__ = ["Evidence", "render"]
