"""How is the sweep doing? What has happened goes in, a snapshot of what people want to know comes out.

`State` is pure but for the clock, which is an argument; `Listener` hears the program's own warnings. `status` keeps the
snapshots, `display` draws them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.analysis.gaps import estimate
from orchestrator.forecast import Forecast, Pace, Speed, forecast
from orchestrator.settings import without_secrets
from orchestrator.status import RUNNING, Gap, Running, Snapshot, Warned
from trainables.gpu import GpuUse

WARNINGS = 3  # the last ones are shown
MOST_OF_A_WARNING = 500  # characters; the journal and the log have the rest


@dataclass
class State:
    """What is known of one run of a sweep. Trials are named by their digests."""

    trials: int
    stages: int  # unique, of the whole sweep
    stored: int  # of them, in the store when the run began
    started: float  # by the clock
    to_do: dict[str, tuple[str, float]] = field(default_factory=dict)  # digest -> (workload, FLOPs) of missing stages
    outcomes: dict[str, str] = field(default_factory=dict)  # by the first 12 digits of trials, the status of their rows
    needs: dict[str, Collection[str]] = field(default_factory=dict)  # by trial, the digests of its stages
    place: str = ""  # where trials run, and with what: speeds of another place say nothing
    earlier: dict[str, Speed] = field(default_factory=dict)  # by workload: what earlier runs of the sweep found there
    elsewhere: dict[str, Speed] = field(default_factory=dict)  # the same of the store's other sweeps
    clock: Callable[[], float] = time.monotonic
    computed: int = 0  # stages, measurements at rungs among them
    _on_the_way: int = 0  # of them, measurements at rungs, which are not among `stages`
    _running: dict[str, Running] = field(default_factory=dict)
    _begun: dict[str, tuple[str, Pace]] = field(default_factory=dict)  # by pretraining: who trains it, and how fast
    _finished: dict[str, Speed] = field(default_factory=dict)  # by workload: stages computed in this run
    _best: Gap | None = None
    _worst: Gap | None = None
    _warnings: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=WARNINGS))

    def __post_init__(self) -> None:
        self._needed_by = Counter(digest for digests in self.needs.values() for digest in digests)
        self._planned = set(self.to_do)  # stages that were missing, whoever has computed them since
        self._counting = threading.Lock()  # a search adds trials on one thread while others end on another
        self._left: Counter[str] = (
            Counter()
        )  # by workload, the FLOPs of `to_do`, as whole numbers: sums of them are exact
        self._add(self.to_do.values())

    # What happens -----------------------------------------------------------------------------------------------------

    def trial_started(self, trial: str) -> None:
        self._running[trial] = Running(trial=trial[:12], doing="starting", examples_per_second=0.0)

    def trial_progress(self, trial: str, report: Mapping[str, Any]) -> None:
        if report.get("doing"):
            self._running[trial] = Running(
                trial=trial[:12],
                doing=report["doing"],
                examples_per_second=report["examples_per_second"],
                gpu=GpuUse(**report["gpu"]) if report.get("gpu") else None,
            )
        if report.get("run") in self.to_do:
            pace = Pace(*self.to_do[report["run"]], report["share"], report["share_per_second"])
            self._begun[report["run"]] = trial, pace
        for event in report.get("events", ()):
            if event["event"] == "stage":
                self._computed(event["digest"], event.get("seconds_in_all", event["seconds"]))
        for text in report.get("warnings", ()):
            self.warned(text)

    def helper_ended(self, name: str) -> None:
        """A second worker of a trial has nothing left to do; `name` is what its reports came under."""
        self._running.pop(name, None)

    def trial_ended(self, trial: str, status: str, error: str | None = None) -> None:
        """`status`: ok, failed, or stopped early; with `error`, a warning says why."""
        self._running.pop(trial, None)
        self.outcomes[trial[:12]] = status
        if status == "failed":
            self.warned(f"trial {trial[:12]} failed: {error or 'without a word'}")
        for digest in self.needs.pop(trial, ()):
            with self._counting:
                self._needed_by[digest] -= 1
                needless = not self._needed_by[digest]  # nobody computes it any more, if it is missing
            if needless:
                self._settle(digest)

    def add_trial(
        self, trial: str, to_do: Mapping[str, tuple[str, float]], stages: int, stored: int, needs: Collection[str]
    ) -> None:
        """A search has asked for a trial.

        Args:
            to_do: its missing stages, as those of the state.
            stages, stored: how many stages no earlier trial had, and how many of them the store has.
            needs: the digests of all its stages.
        """
        self.outcomes[trial[:12]] = "pending"
        self.needs[trial] = needs
        with self._counting:
            self._needed_by.update(needs)
        self._add(cost for digest, cost in to_do.items() if digest not in self.to_do)
        self.to_do |= to_do
        self._planned |= to_do.keys()
        self.stages += stages
        self.stored += stored

    def measured(self, trial: str, status: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A trial has its rows, with this status: keep that, and the smallest and the largest mean gap so far."""
        if status == "diverged" and self.outcomes.get(trial[:12]) != "diverged":
            self.warned(f"trial {trial[:12]} diverged")
        self.outcomes[trial[:12]] = status
        by_component: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if (
                row["gap"] is not None and row["primary"] and row["pretrain_digest"] != row["direct_digest"]
            ):  # not one with itself
                by_component.setdefault((row["component"], row["mixture"]), []).append(row["gap"])
        for (component, mixture), values in by_component.items():
            found = estimate(values)
            gap = Gap(
                trial=trial[:12],
                component=component,
                mixture=mixture,
                mean=found.mean,
                low=found.low,
                high=found.high,
                n=found.n,
            )
            if self._best is None or gap.mean < self._best.mean:
                self._best = gap
            if self._worst is None or gap.mean > self._worst.mean:
                self._worst = gap

    def warned(self, text: str) -> None:
        """Something that people should know."""
        text = text[:MOST_OF_A_WARNING].encode("utf-8", "backslashreplace").decode()
        self._warnings.append((self.clock(), text))

    def _computed(self, digest: str, seconds: float) -> None:
        self.computed += 1
        self._on_the_way += digest not in self._planned
        workload, flops = self._settle(digest)
        if flops:
            self._finished[workload] = self._finished.get(workload, Speed(0.0, 0.0, 0)) + Speed(seconds, flops, 1)

    def _add(self, costs: Iterable[tuple[str, float]]) -> None:
        with self._counting:
            for workload, flops in costs:
                self._left[workload] += int(flops)

    def _settle(self, digest: str) -> tuple[str, float]:
        """A stage is not to be done any more; its workload and FLOPs."""
        self._begun.pop(digest, None)
        workload, flops = self.to_do.pop(digest, ("", 0.0))
        with self._counting:
            self._left[workload] -= int(flops)
        return workload, flops

    def missing(self, trial: str) -> int:
        """The stages of a trial that nobody has computed yet, as far as it has been heard."""
        return sum(digest in self.to_do for digest in self.needs.get(trial, ()))

    # What people want to know -----------------------------------------------------------------------------------------

    def snapshot(self, state: str = RUNNING) -> Snapshot:
        """How far the run is now. Ray's loop goes on meanwhile, so what it changes is copied first."""
        now = self.clock()
        outcomes, running = dict(self.outcomes), list(self._running.values()) if state == RUNNING else []
        outcomes |= {one.trial: "running" for one in running if outcomes.get(one.trial) == "pending"}
        left = self.left() if state == RUNNING else None
        return Snapshot(
            state=state,
            outcomes=outcomes,
            trials=max(self.trials, len(outcomes)),
            stages=self.stages,
            stages_stored=self.stored + self.computed - self._on_the_way,
            reused=self.stored,
            left=len(self.to_do),
            running=tuple(running),
            best=self._best,
            worst=self._worst,
            forecast=left,
            warnings=tuple(Warned(seconds_ago=now - at, text=text) for at, text in list(self._warnings)),
            seconds=now - self.started,
            place=self.place,
            speeds=_sum(self.earlier, dict(self._finished)),
        )

    def left(self) -> Forecast | None:
        """How long the rest takes; None: not known yet."""
        begun = [
            pace if trial in self._running else replace(pace, share_per_second=0.0)
            for trial, pace in list(self._begun.values())
        ]
        earlier = _sum(self.earlier, self.elsewhere)
        return forecast(dict(self._left), begun, dict(self._finished), earlier, len(self._running))


def _sum(first: Mapping[str, Speed], second: Mapping[str, Speed]) -> dict[str, Speed]:
    nothing = Speed(0.0, 0.0, 0)
    return {workload: first.get(workload, nothing) + second.get(workload, nothing) for workload in {**first, **second}}


class Listener(logging.Handler):
    """Hears what this program's own modules warn of in this process, for as long as its block lasts."""

    OURS = ("orchestrator", "trainables")

    def __init__(self, state: State) -> None:
        super().__init__(logging.WARNING)
        self._state = state

    def __enter__(self) -> Listener:
        for name in self.OURS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.OURS:
            logging.getLogger(name).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._state.warned(without_secrets(record.getMessage()))
        except Exception:  # a message that does not fit its arguments
            self.handleError(record)
        if not logging.getLogger().handlers and logging.lastResort:  # which a handler of any kind silences
            logging.lastResort.handle(record)
