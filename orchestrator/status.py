"""How far is a sweep? Read from its folder in the store, whether it is running or not."""

from __future__ import annotations

from typing import Any

from orchestrator import results
from orchestrator.journal import Journal
from trainables.store import Store


def sweep_status(store: Store, sweep: str) -> dict[str, Any]:
    """The state of a sweep, its trials by status, and its stages in the store.

    Raises:
        UnknownSweep: the store has no such sweep.
    """
    journal = Journal(store, sweep)
    plan = journal.plan()
    rows = results.rows(plan, results.store_lookup(store), journal.trial_states())
    stages = {(kind, digest) for trial in plan["trials"] for kind, digest in trial["stages"]}
    return {
        "sweep": sweep,
        "state": _state(journal),
        "trials": results.trial_statuses(rows),
        "stages": len(stages),
        "stages_stored": len(store.existing(stages)),
    }


def trial_lines(store: Store, sweep: str) -> list[tuple[str, str, str]]:
    """(digest, status, design) of every trial of a sweep."""
    journal = Journal(store, sweep)
    plan, states = journal.plan(), journal.trial_states()
    lookup = results.store_lookup(store)
    found = []
    for trial in plan["trials"]:
        (status,) = results.trial_statuses(results.trial_rows(plan, trial, lookup, states))
        found.append((trial["digest"][:12], status, trial["design"]["label"]))
    return found


def _state(journal: Journal) -> str:
    if journal.is_running():
        return "running"
    states = [event["state"] for event in journal.last_run() if event["event"] == "sweep"]
    last = states[-1] if states else "planned"
    return "stopped without notice; the same command continues" if last == "started" else str(last)
