"""How is the sweep doing? What the terminal shows while it runs.

`State` is counting: what has happened goes in, what people want to know comes out, with the clock as an argument.
`Display` draws it: a live panel on a terminal, a plain line now and then elsewhere. Everything goes to stderr.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.analysis.gaps import estimate
from orchestrator.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

REDRAW_S = 0.5
PLAIN_LINE_S = 15.0


@dataclass
class State:
    """Counts of one run of a sweep."""

    sweep: str
    trials: int
    stages: int  # unique, of the whole sweep
    stored: int  # of them, in the store when the run began
    started: float
    to_do: dict[str, tuple[str, float]] = field(default_factory=dict)  # digest -> (kind, FLOPs) of missing stages
    outcomes: dict[str, str] = field(default_factory=dict)  # by the first 12 digits of trials, the status of their rows
    finished_trials: int = 0
    failed_trials: int = 0
    stopped_trials: int = 0  # early
    computed: int = 0
    on_the_way: int = 0  # of them, measurements at rungs, which are not among `stages`
    running: dict[str, tuple[str, float]] = field(default_factory=dict)  # trial -> (what it does, examples/s)
    worst: tuple[str, float, float | None, float | None, int] | None = None  # where, gap, interval, seeds
    warning: str = ""
    _rates: dict[str, tuple[float, float]] = field(default_factory=dict)  # kind -> (seconds, FLOPs) computed so far

    def trial_started(self, trial: str) -> None:
        self.running[trial] = ("starting", 0.0)

    def trial_progress(self, trial: str, report: Mapping[str, Any]) -> None:
        if report.get("doing"):
            self.running[trial] = (report["doing"], report["examples_per_second"])
        for event in report.get("events", ()):
            if event["event"] == "stage":
                self._computed(event["digest"], event["seconds"])
            else:
                self.warning = f"{event['event']}: {event.get('entry', '')}"

    def trial_ended(self, trial: str, status: str) -> None:
        """`status`: ok, failed, or stopped early."""
        self.running.pop(trial, None)
        self.finished_trials += status == "ok"
        self.failed_trials += status == "failed"
        self.stopped_trials += status == "stopped"

    def add_trial(self, trial: str, to_do: Mapping[str, tuple[str, float]], stages: int, stored: int) -> None:
        """A search has asked for a trial.

        Args:
            to_do: its missing stages, as those of the state.
            stages, stored: how many stages no earlier trial had, and how many of them the store has.
        """
        self.outcomes[trial[:12]] = "pending"
        self.to_do |= to_do
        self.stages += stages
        self.stored += stored

    def measured(self, trial: str, status: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A trial has its rows, with this status: keep that, and the worst mean gap so far."""
        self.outcomes[trial[:12]] = status
        by_component: dict[str, list[float]] = {}
        where: dict[str, str] = {}
        for row in rows:
            if (
                row["gap"] is not None and row["primary"] and row["pretrain_digest"] != row["direct_digest"]
            ):  # not one with itself
                by_component.setdefault(row["component"], []).append(row["gap"])
                where[row["component"]] = f"{row['component']} at {row['mixture']}"
        for component, values in by_component.items():
            found = estimate(values)
            if self.worst is None or found.mean > self.worst[1]:
                self.worst = (where[component], found.mean, found.low, found.high, found.n)

    @property
    def examples_per_second(self) -> float:
        return sum(rate for _, rate in list(self.running.values()))

    @property
    def stages_done(self) -> int:
        """Of `stages`, those that the store has by now."""
        return self.stored + self.computed - self.on_the_way

    def seconds_left(self) -> float | None:
        """From the mean speed of each kind of stage so far and the stages still missing; None: too early to tell."""
        if not self.to_do:
            return 0.0
        left = 0.0
        for kind, flops in list(self.to_do.values()):  # Ray's loop takes from it meanwhile
            if kind not in self._rates:
                return None
            seconds, done = self._rates[kind]
            left += flops * seconds / done if done else 0.0
        return left / max(1, len(self.running))

    def _computed(self, digest: str, seconds: float) -> None:
        self.computed += 1
        self.on_the_way += digest not in self.to_do
        kind, flops = self.to_do.pop(digest, ("probe", 0.0))
        spent, done = self._rates.get(kind, (0.0, 0.0))
        self._rates[kind] = (spent + seconds, done + flops)

    def lines(self, now: float) -> list[tuple[str, str]]:
        """(what, value) pairs for people."""
        left = self.seconds_left()
        passed = duration(now - self.started)
        trials = f"{self.finished_trials} of {self.trials} done, {len(self.running)} running"
        if self.failed_trials:
            trials += f", {self.failed_trials} failed"
        if self.stopped_trials:
            trials += f", {self.stopped_trials} stopped early"
        found = [
            ("trials", trials),
            ("stages", f"{self.stages_done} of {self.stages}, {self.stored} reused from the store"),
            ("time", f"{passed}, about {duration(left)} left" if left else passed),
        ]
        if self.examples_per_second:
            found.append(("speed", f"{self.examples_per_second:,.0f} examples/s"))
        if self.worst:
            where, mean, low, high, n = self.worst
            interval = f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else ""
            found.append(("worst gap", f"{100 * mean:.1f} points{interval}, n = {n}: {where}"))
        if self.warning:
            found.append(("warning", self.warning))
        return found


def duration(seconds: float) -> str:
    """For people: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Display:
    """Shows a `State` until it is closed."""

    def __init__(self, state: State, *, live: bool | None = None) -> None:
        """`live` None: a panel if stderr is a terminal."""
        self._state = state
        self._live = sys.stderr.isatty() if live is None else live
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _show(self) -> None:
        if self._live:
            self._show_live()
            return
        while True:
            line = "; ".join(f"{what}: {value}" for what, value in self._state.lines(time.monotonic()))
            print(printable(line), file=sys.stderr)
            if self._closed.wait(PLAIN_LINE_S):
                return

    def _show_live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
            while True:
                live.update(_panel(self._state), refresh=True)
                if self._closed.wait(REDRAW_S):
                    return


def _panel(state: State) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for what, value in state.lines(time.monotonic()):
        grid.add_row(Text(what, style="dim"), Text(printable(value)))
    for doing, rate in list(state.running.values()):
        speed = f"  {rate:,.0f}/s" if rate else ""
        grid.add_row(
            Text("  now", style="dim"),
            Text(f"{doing}{speed}", style="cyan", overflow="ellipsis", no_wrap=True),
        )
    done = state.stages_done
    # The bar ends without a new line of its own, and would swallow the first row.
    bar = Padding(ProgressBar(total=max(1, state.stages), completed=done), 0)
    return Group(Text(state.sweep, style="bold"), bar, grid)
