"""How far is a sweep? Its driver writes it down while it runs; where it has not, the store is read.

A sweep of ten thousand trials has more stages than anyone wants to read for a glance, so a driver keeps a snapshot of
what it knows beside its plan. What it says of a driver that died is as old as its last seconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator import results
from orchestrator.journal import Journal
from trainables.errors import UserError

if TYPE_CHECKING:
    from orchestrator.progress import State

EVERY_S = 2.0
EVERY_S_OF_AN_OBJECT_STORE = 15.0  # where every write is a request that costs money
RUNNING = "running"
DIED = "stopped without notice; the same command continues"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a sweep was when it was looked at."""

    state: str  # running, interrupted or finished; planned, if no driver has started
    outcomes: Mapping[str, str]  # status by the first 12 digits of all trials
    stages: int  # unique, of these trials
    stages_stored: int  # of them, in the store

    @classmethod
    def of_json(cls, found: Any) -> Snapshot:
        """Raises ValueError if it was not a driver that wrote it."""
        try:
            texts = [found["state"], *found["outcomes"], *found["outcomes"].values()]
            counts = found["stages"], found["stages_stored"]
            if all(isinstance(text, str) for text in texts) and all(type(count) is int for count in counts):
                return cls(**found)
        except (TypeError, LookupError, AttributeError):
            pass
        raise ValueError("no snapshot of a sweep")


class Published:
    """Keeps a sweep's snapshot up to date until it is closed."""

    def __init__(self, journal: Journal, state: State) -> None:
        self._journal, self._state = journal, state
        self._every_s = EVERY_S if journal.store.is_folder else EVERY_S_OF_AN_OBJECT_STORE
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="status", daemon=True)

    def __enter__(self) -> Published:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        if kind is not None:
            self.write("interrupted")

    def _keep(self) -> None:
        self.write(RUNNING)
        while not self._closed.wait(self._every_s):
            self.write(RUNNING)

    def write(self, state: str) -> None:
        """A store that is full or away keeps the snapshot before; the sweep hears of it elsewhere."""
        now = Snapshot(
            state=state,
            outcomes=dict(self._state.outcomes),
            stages=self._state.stages,
            stages_stored=self._state.stages_done,
        )
        with contextlib.suppress(UserError, OSError):
            self._journal.write_snapshot(asdict(now))


def snapshot(journal: Journal) -> Snapshot:
    """The state of a sweep, its trials by status, and its stages in the store.

    Raises:
        UnknownSweep: the store has no such sweep.
    """
    try:
        found = Snapshot.of_json(journal.snapshot())
    except ValueError:
        found = _read(journal)
    running = journal.is_running()
    state = RUNNING if running else DIED if found.state == RUNNING else found.state
    return replace(found, state=state)


def in_numbers(journal: Journal, found: Snapshot) -> dict[str, Any]:
    """A sweep's snapshot as JSON values."""
    return {
        "sweep": journal.sweep,
        "state": found.state,
        "trials": dict(Counter(found.outcomes.values())),
        "stages": found.stages,
        "stages_stored": found.stages_stored,
    }


def trial_lines(journal: Journal, found: Snapshot) -> list[tuple[str, str, str]]:
    """(digest, status, design) of every trial of a sweep."""
    return [
        (digest := trial["digest"][:12], found.outcomes.get(digest, "pending"), trial["design"]["label"])
        for trial in journal.plan()["trials"]
    ]


def _read(journal: Journal) -> Snapshot:
    """From the plan, the stages and the journal."""
    plan = journal.plan()
    stages = {(kind, digest) for trial in plan["trials"] for kind, digest in trial["stages"]}
    states = [event["state"] for event in journal.last_run() if event["event"] == "sweep"]
    return Snapshot(
        state={"started": RUNNING}.get(states[-1], states[-1]) if states else "planned",
        outcomes=results.outcomes(results.rows(plan, results.store_lookup(journal.store), journal.trial_states())),
        stages=len(stages),
        stages_stored=len(journal.store.existing(stages)),
    )
