"""What does the results table say? Pure functions from tables to tables, numbers and sentences."""

from orchestrator.analysis.findings import Finding, Findings, find

__all__ = ["Finding", "Findings", "find"]
