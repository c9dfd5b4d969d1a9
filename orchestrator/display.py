"""How does a sweep look to someone who watches it? A snapshot as a panel on a terminal, as plain lines, or as JSON.

The run's own view and `bottleneck status --watch` are the same: both look at a snapshot again and again and draw it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Protocol

from orchestrator import status
from orchestrator.journal import Journal
from orchestrator.status import RUNNING, Gap, Snapshot
from orchestrator.terminal import printable
from trainables.gpu import GpuUse

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestrator.progress import State

REDRAW_S = 0.5
PLAIN_LINE_S = 15.0
MOST_RUNNING = 8  # trials that the panel lists
STALE_S = 60.0  # a driver writes every few seconds
ORDER = ("ok", "running", "pending", "stopped", "failed", "diverged")  # of the states of trials
SPOKEN = {"stopped": "stopped early"}


# As text --------------------------------------------------------------------------------------------------------------


def lines(found: Snapshot, now: float) -> list[tuple[str, str]]:
    """(what, value) pairs for people. `now`: seconds since 1970."""
    pairs = [("state", found.state), ("trials", _trials(found)), ("stages", _stages(found))]
    if found.seconds is not None:
        pairs.append(("time", _time(found)))
    if found.examples_per_second:
        pairs.append(("speed", f"{found.examples_per_second:,.0f} examples/s"))
    pairs += [("GPU", _gpu(gpu)) for gpu in found.gpus]
    if found.worst:
        pairs.append(("worst gap", _gap(found.worst)))
    if found.best and found.best != found.worst:
        pairs.append(("best gap", _gap(found.best)))
    age = found.age(now)
    pairs += [("warning", f"{duration(one.seconds_ago + age)} ago: {one.text}") for one in found.warnings]
    if found.state == RUNNING and age > STALE_S:
        pairs.append(("driver", f"has not been heard of for {duration(age)}"))
    return [(what, printable(value).replace("\n", "\\n")) for what, value in pairs]


def duration(seconds: float) -> str:
    """For people: 8 s, 3 min 20 s, 2 h 05 min, 3 d 04 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _trials(found: Snapshot) -> str:
    counts = found.counts()
    known = [*ORDER, *(one for one in counts if one not in ORDER)]
    return ", ".join(f"{counts[one]:,} {SPOKEN.get(one, one)}" for one in known if one in counts) or "none"


def _stages(found: Snapshot) -> str:
    text = f"{found.stages_stored:,} of {found.stages:,} in the store"
    if found.reused is not None and found.left is not None:
        computed = found.stages_stored - found.reused
        text += f": {computed:,} computed, {found.reused:,} reused; {found.left:,} left"
    return text


def _time(found: Snapshot) -> str:
    passed = duration(found.seconds or 0.0)
    if found.state != RUNNING or found.left == 0:
        return passed
    if found.forecast is None:
        return f"{passed}; time left not known yet"
    return f"{passed}; about {duration(found.forecast.seconds)} left, from {found.forecast.basis}"


def _gap(gap: Gap) -> str:
    spread = f" [{_points(gap.low)}, {_points(gap.high)}]" if gap.low is not None and gap.high is not None else ""
    return f"{_points(gap.mean)} points{spread}, n = {gap.n}: {gap.component} at {gap.mixture}"


def _points(fraction: float) -> str:
    """As `analysis.gaps.points` has it, which imports pandas."""
    return f"{round(100 * fraction, 1) + 0.0:.1f}"  # + 0.0: never -0.0


def _gpu(gpu: GpuUse) -> str:
    busy = "" if gpu.busy is None else f"{100 * gpu.busy:.0f} % busy, "
    return f"{busy}{gpu.used_bytes / 2**30:.1f} of {gpu.total_bytes / 2**30:.1f} GiB ({gpu.name})"


# Views ----------------------------------------------------------------------------------------------------------------


class View(Protocol):
    """Shows snapshots, one after the other."""

    def show(self, found: Snapshot) -> None: ...
    def close(self) -> None: ...


class Panel:
    """A panel on a terminal that is drawn anew in its place."""

    def __init__(self, sweep: str, file: IO[str], *, transient: bool) -> None:
        """`transient`: it is gone when it is closed."""
        from rich.console import Console
        from rich.live import Live

        self._sweep = sweep
        self._live = Live(console=Console(file=file), transient=transient, auto_refresh=False)
        self._live.start()

    def show(self, found: Snapshot) -> None:
        self._live.update(panel(self._sweep, found, time.time()), refresh=True)

    def close(self) -> None:
        self._live.stop()


class Lines:
    """A plain line whenever anything but the time is another one."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._last = file, ""

    def show(self, found: Snapshot) -> None:
        pairs = lines(found, time.time())
        news = "; ".join(f"{what}: {value}" for what, value in pairs if what not in ("time", "warning", "driver"))
        news += "".join(one.text for one in found.warnings)  # not how long ago they were
        news += "".join(what for what, _ in pairs if what == "driver")  # nor since when it is silent
        if news != self._last:
            self._last = news
            print("; ".join(f"{what}: {value}" for what, value in pairs), file=self._file, flush=True)

    def close(self) -> None:
        """Nothing: what is printed stays."""


class Json:
    """A line of JSON for every snapshot."""

    def __init__(self, journal: Journal, file: IO[str]) -> None:
        self._journal, self._file = journal, file

    def show(self, found: Snapshot) -> None:
        print(json.dumps(status.in_numbers(self._journal, found, time.time())), file=self._file, flush=True)

    def close(self) -> None:
        """Nothing, as well."""


def is_live(file: IO[str]) -> bool:
    """Whether a panel can be drawn: on a terminal that moves its cursor."""
    return file.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


def show(look: Callable[[], Snapshot], view: View, wait: Callable[[], bool]) -> Snapshot:
    """Look and draw until nothing runs any more, or `wait` says that it is enough; returns what was seen last."""
    try:
        while True:
            found = look()
            view.show(found)
            if found.state != RUNNING or wait():
                return found
    finally:
        view.close()


def watch(journal: Journal, *, every_s: float | None, as_json: bool, file: IO[str]) -> Snapshot:
    """Show a sweep that any process on any machine runs, until nobody does; returns the last that was seen of it.

    Args:
        every_s: seconds between two looks; None: as often as drivers write, and for plain lines every 15 s.

    Raises:
        UnknownSweep: the store has no such sweep.
    """
    journal.plan()  # a sweep that there is
    view: View
    often = status.EVERY_S if journal.store.is_folder else status.EVERY_S_OF_AN_OBJECT_STORE
    if as_json:
        view = Json(journal, file)
    elif is_live(file):
        view = Panel(journal.sweep, file, transient=False)
    else:
        view, often = Lines(file), PLAIN_LINE_S
    pause = often if every_s is None else every_s

    def wait() -> bool:
        time.sleep(pause)
        return False

    return show(lambda: status.snapshot(journal), view, wait)


class Display:
    """Shows on stderr how a run's own state is, until it is closed."""

    def __init__(self, sweep: str, state: State, *, live: bool | None = None) -> None:
        """`live` None: a panel if stderr is a terminal."""
        self._sweep, self._state = sweep, state
        self._live = is_live(sys.stderr) if live is None else live
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _show(self) -> None:
        view: View = Panel(self._sweep, sys.stderr, transient=True) if self._live else Lines(sys.stderr)
        pause = REDRAW_S if self._live else PLAIN_LINE_S
        show(self._state.snapshot, view, lambda: self._closed.wait(pause))


# The panel ------------------------------------------------------------------------------------------------------------

COLOURS = {"worst gap": "magenta", "best gap": "green", "warning": "yellow", "driver": "red"}


def panel(sweep: str, found: Snapshot, now: float) -> RenderableType:
    """A snapshot for a terminal of any width. `now`: seconds since 1970."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(no_wrap=True, min_width=9)
    grid.add_column(ratio=1, overflow="fold")
    for what, value in lines(found, now):
        grid.add_row(Text(what, style="dim"), Text(value, style=COLOURS.get(what, "")))
    # The bar ends without a new line of its own, and would swallow the first row.
    bar = Padding(ProgressBar(total=max(1, found.stages), completed=found.stages_stored), 0)
    return Group(Text(printable(sweep), style="bold"), bar, grid, *_running(found))


def _running(found: Snapshot) -> list[Any]:
    from rich.table import Table
    from rich.text import Text

    if not found.running:
        return []
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True, min_width=9)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True, justify="right")
    for position, one in enumerate(found.running[:MOST_RUNNING]):
        speed = f"{one.examples_per_second:,.0f}/s" if one.examples_per_second else ""
        now = Text("" if position else "now", style="dim")
        table.add_row(now, Text(printable(one.doing).replace("\n", "\\n"), style="cyan"), speed)
    if len(found.running) > MOST_RUNNING:
        table.add_row("", Text(f"and {len(found.running) - MOST_RUNNING:,} more", style="dim"), "")
    return [table]
