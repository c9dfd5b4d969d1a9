"""The results for people: figures, and one HTML page that needs nothing beside itself."""

from orchestrator.report.page import render

__all__ = ["render"]
