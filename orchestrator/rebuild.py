"""How are the views made again from the store? The report, and the runs in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import results
from orchestrator.journal import Journal
from orchestrator.run import artifact_location, written
from trainables.store import Store


@dataclass(frozen=True)
class Page:
    """A report: where it lies, and what is in it."""

    path: str
    content: bytes


def rebuild_report(store: Store, sweep: str, command: str) -> Page:
    """Write a sweep's table and report again. Raises UnknownSweep if the store has no such sweep."""
    lookup = results.store_lookup(store)
    plan, text, rows = _stored(store, sweep, lookup)
    with written(store, plan, text, results.table(rows), _provenance(store, rows, command), lookup) as files:
        content = next(f for f in files if f.name == "report.html").read_bytes()
    return Page(store.path(f"sweeps/{sweep}/report.html"), content)


def rebuild_tracking(store: Store, sweep: str, uri: str, command: str) -> int:
    """Bring the runs of a sweep in MLflow up to date; returns how many were written.

    Raises:
        UnknownSweep: the store has no such sweep.
        TrackingError: MLflow cannot be reached.
    """
    from orchestrator import tracking

    lookup = results.store_lookup(store)
    plan, text, rows = _stored(store, sweep, lookup)
    states = Journal(store, sweep).trial_states()
    records = [
        tracking.trial_record(plan, trial, results.trial_rows(plan, trial, lookup, states), lookup)
        for trial in plan["trials"]
    ]
    status = "FINISHED" if set(results.trial_statuses(rows)) == {"ok"} else "FAILED"
    with written(store, plan, text, results.table(rows), _provenance(store, rows, command), lookup) as files:
        return tracking.sync(
            uri,
            plan,
            records,
            artifact_location=artifact_location(store),
            sweep_text=text,
            artifacts=files,
            status=status,
        )


def _stored(store: Store, sweep: str, lookup: results.Lookup) -> tuple[dict[str, Any], str, list[dict[str, Any]]]:
    journal = Journal(store, sweep)
    plan = journal.plan()
    return plan, journal.text(), results.rows(plan, lookup, journal.trial_states())


def _provenance(store: Store, rows: list[dict[str, Any]], command: str) -> Mapping[str, str]:
    trials = ", ".join(f"{count} {status}" for status, count in sorted(results.trial_statuses(rows).items()))
    return {"page written by": command, "storage": store.shown, "trials": trials}
