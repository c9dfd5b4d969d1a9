"""How far is a sweep? Its driver writes it down while it runs; where it has not, the store is read.

A sweep of ten thousand trials has more stages than anyone wants to read for a glance, so a driver keeps a snapshot of
what it knows beside its plan. What it says of a driver that died is as old as its last seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator import results
from orchestrator.forecast import Forecast, Speed
from orchestrator.journal import Journal, UnknownSweep
from trainables.errors import UserError
from trainables.gpu import GpuUse

if TYPE_CHECKING:
    from pydantic import ConfigDict

    from orchestrator.progress import State

EVERY_S = 2.0
EVERY_S_OF_AN_OBJECT_STORE = 15.0  # where every write is a request that costs money
RUNNING = "running"
DIED = "stopped without notice; the same command continues"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A trial that runs."""

    trial: str  # the first 12 digits of its digest
    doing: str  # for people
    examples_per_second: float  # 0 outside of a pretraining
    gpu: GpuUse | None = None


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The mean gap of one component in one trial over its seeds, as a fraction, with its 95 % interval."""

    trial: str  # the first 12 digits of its digest
    component: str
    mixture: str
    mean: float
    low: float | None  # None: one seed has no interval
    high: float | None
    n: int  # seeds


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Something that people should know."""

    seconds_ago: float  # when the snapshot was made
    text: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far a sweep was when it was looked at. What has a default is known to a driver alone."""

    __pydantic_config__: ClassVar[ConfigDict] = {"extra": "forbid", "allow_inf_nan": False}

    state: str  # running, interrupted or finished; planned, if no driver has started
    outcomes: Mapping[str, str]  # status by the first 12 digits of all trials that are planned so far
    stages: int  # unique, of these trials
    stages_stored: int  # of them, in the store
    trials: int | None = None  # of the whole sweep: a search has still to ask for some
    reused: int | None = None  # of the stages in the store, those that were there when the run began
    left: int | None = None  # stages still to compute: not those that rest on a network that diverged
    running: tuple[Running, ...] = ()
    best: Gap | None = None  # the smallest so far
    worst: Gap | None = None  # the largest
    forecast: Forecast | None = None  # None: not known yet
    warnings: tuple[Warned, ...] = ()  # the last ones
    seconds: float | None = None  # since the run began
    written: float | None = None  # seconds since 1970, by the driver's clock
    place: str = ""  # where trials ran, and with what
    speeds: Mapping[str, Speed] = field(default_factory=dict)  # there, by workload

    @property
    def examples_per_second(self) -> float:
        """Of all pretrainings together."""
        return sum(one.examples_per_second for one in self.running)

    @property
    def gpus(self) -> tuple[GpuUse, ...]:
        """Those that running trials use, each once."""
        return tuple({one.gpu.gpu: one.gpu for one in self.running if one.gpu}.values())

    def counts(self) -> dict[str, int]:
        """How many trials have each status; those that a search has still to ask for are pending."""
        found = Counter(self.outcomes.values())
        found["pending"] += (self.trials or 0) - len(self.outcomes) if self.state == RUNNING else 0
        return {status: count for status, count in found.items() if count > 0}

    def age(self, now: float) -> float:
        """Seconds since it was written, as far as clocks agree; 0 for one that was just made."""
        return max(0.0, now - self.written) if self.written is not None else 0.0

    def stopped(self, state: str) -> Snapshot:
        """The same when no driver runs any more."""
        outcomes = {trial: "pending" if was == "running" else was for trial, was in self.outcomes.items()}
        return replace(self, state=state, outcomes=outcomes, running=(), forecast=None)

    @classmethod
    def of_json(cls, content: bytes) -> Snapshot:
        """Raises ValueError if it was not a driver that wrote it."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_json(content, strict=True)


class Published:
    """Keeps a sweep's snapshot up to date until it is closed."""

    def __init__(self, journal: Journal, state: State) -> None:
        self._journal, self._state = journal, state
        self._every_s = EVERY_S if journal.store.is_folder else EVERY_S_OF_AN_OBJECT_STORE
        self._closed, self._writing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="status", daemon=True)

    def __enter__(self) -> Published:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._closed.set()
        self._thread.join(self._every_s)  # it may be reading many sweeps of a store that is slow
        if kind is not None:
            self.write("interrupted")

    def _keep(self) -> None:
        self.write(RUNNING)
        with contextlib.suppress(UserError, OSError):
            self._state.elsewhere = speeds_elsewhere(self._journal, self._state.place)
        while not self._closed.wait(self._every_s):
            self.write(RUNNING)

    def write(self, state: str) -> None:
        """A store that is full or away keeps the snapshot before; the sweep hears of it elsewhere."""
        with self._writing, contextlib.suppress(UserError, OSError):  # what is written last was looked at last
            self._journal.write_snapshot(asdict(replace(self._state.snapshot(state), written=time.time())))


def snapshot(journal: Journal) -> Snapshot:
    """The state of a sweep, its trials by status, and its stages in the store.

    Raises:
        UnknownSweep: the store has no such sweep.
    """
    running = journal.is_running()  # asked first: a driver writes its last snapshot before it lets go
    try:
        found = Snapshot.of_json(journal.snapshot())
    except ValueError:
        found = _read(journal)
    if running:
        return replace(found, state=RUNNING)
    return found.stopped(DIED if found.state == RUNNING else found.state)


def speeds(journal: Journal, place: str) -> dict[str, Speed]:
    """By workload, what the stages of a sweep's last runs have cost in a place; nothing, if they ran elsewhere."""
    with contextlib.suppress(ValueError):
        found = Snapshot.of_json(journal.snapshot())
        if found.place == place:
            return dict(found.speeds)
    return {}


def speeds_elsewhere(journal: Journal, place: str) -> dict[str, Speed]:
    """The same of all other sweeps of the store together."""
    together: dict[str, Speed] = {}
    for name in journal.store.names("sweeps"):
        if name != journal.sweep:
            with contextlib.suppress(UnknownSweep):
                for workload, speed in speeds(Journal(journal.store, name), place).items():
                    together[workload] = together[workload] + speed if workload in together else speed
    return together


def in_numbers(journal: Journal, found: Snapshot, now: float) -> dict[str, Any]:
    """A sweep's snapshot as JSON values; what is not known is null. `now`: seconds since 1970."""
    computed = None if found.reused is None else found.stages_stored - found.reused
    return {
        "sweep": journal.sweep,
        "state": found.state,
        "age_seconds": None if found.written is None else found.age(now),
        "trials": found.counts(),
        "stages": found.stages,
        "stages_stored": found.stages_stored,
        "stages_reused": found.reused,
        "stages_computed": computed,
        "stages_left": found.left,
        "best_gap": asdict(found.best) if found.best else None,
        "worst_gap": asdict(found.worst) if found.worst else None,
        "examples_per_second": found.examples_per_second,
        "gpus": [asdict(gpu) for gpu in found.gpus],
        "running": [
            {"trial": one.trial, "doing": one.doing, "examples_per_second": one.examples_per_second}
            for one in found.running
        ],
        "seconds": found.seconds,
        "seconds_left": found.forecast.seconds if found.forecast else None,
        "seconds_left_from": found.forecast.basis if found.forecast else None,
        "warnings": [{"seconds_ago": one.seconds_ago + found.age(now), "text": one.text} for one in found.warnings],
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
