"""What has happened in a sweep? Its folder in the store: the sweep's text, its plan, its events.

    <storage>/sweeps/<name>/  sweep.yaml  plan.json  journal/<writer>.jsonl  results.parquet  report.html

Events are lines of JSON. Every process writes a file of its own, at once, so that a kill loses nothing that has
happened and no two processes write the same file; readers merge them by time. The kinds:

    sweep   started, finished or interrupted                              written by the driver
    stage   computed, with seconds, trial, host; or set aside as damaged  written by whoever computed it
    trial   finished, failed, with the error and the tail of its log      written by the driver
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainables.errors import UserError
from trainables.store import Store

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"  # of a sweep, which is the name of its folder
NAMES_ARE = "a name of up to 64 lower-case letters, digits, ., _ and - that begins with a letter or a digit is possible"


class UnknownSweep(UserError):
    """The store has no sweep of that name."""


class AlreadyRunning(UserError):
    """Another process runs this sweep on this store."""


class Journal:
    """The folder of one sweep."""

    def __init__(self, store: Store, sweep: str) -> None:
        """Raises UnknownSweep for what cannot be the name of a sweep, such as a path that leads out of the store."""
        if not re.fullmatch(NAME, sweep):
            raise UnknownSweep(f"found {sweep[:100]!r} as the name of a sweep; {NAMES_ARE}")
        self.store = store
        self.sweep = sweep
        self.folder = f"sweeps/{sweep}"
        self._host = socket.gethostname()
        self._writer = f"{self._host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"

    def write(self, event: str, **what: Any) -> None:
        """Add an event. `what` holds JSON values."""
        line = {"time": time.time(), "event": event, "host": self._host, "pid": os.getpid(), **what}
        content = json.dumps(line, allow_nan=False).encode() + b"\n"
        self.store.append(f"{self.folder}/journal/{self._writer}.jsonl", content)

    def events(self) -> list[dict[str, Any]]:
        """All events so far in the order of their times. A last line cut short by a kill is left out."""
        events = [e for name in self.store.names(f"{self.folder}/journal") for e in self._events_of(name)]
        return sorted(events, key=lambda e: float(e["time"]))

    def _events_of(self, name: str) -> Iterator[dict[str, Any]]:
        for line in self.store.read(f"{self.folder}/journal/{name}").splitlines():
            with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
                event = json.loads(line)
                float(event["time"]), event["event"]  # what is read of every event
                yield event

    def trial_states(self) -> dict[str, dict[str, Any]]:
        """The last `trial` event of each trial since the sweep was last started, by digest.

        What failed before that has been tried again since, or waits to be.
        """
        states: dict[str, dict[str, Any]] = {}
        for event in self.events():
            if event["event"] == "sweep" and event["state"] == "started":
                states.clear()
            elif event["event"] == "trial":
                states[event["trial"]] = event
        return states

    def write_plan(self, text: str, plan: Mapping[str, Any]) -> None:
        """Keep the sweep's text and what was planned from it."""
        self.store.write(f"{self.folder}/sweep.yaml", text.encode())
        self.store.write(f"{self.folder}/plan.json", json.dumps(plan, allow_nan=False).encode())

    def plan(self) -> dict[str, Any]:
        """What was planned last. Raises UnknownSweep."""
        try:
            plan: dict[str, Any] = json.loads(self.store.read(f"{self.folder}/plan.json"))
        except FileNotFoundError:
            known = ", ".join(self.store.names("sweeps")) or "none"
            raise UnknownSweep(
                f"storage {self.store.location!r} has no sweep {self.sweep!r}; it has: {known}"
            ) from None
        except (ValueError, RecursionError):
            plan = {}
        if not isinstance(plan, dict) or plan.get("sweep") != self.sweep:
            raise UnknownSweep(
                f"{self.store.path(self.folder)}/plan.json is not the plan of {self.sweep!r}; run the sweep again"
            )
        return plan

    def text(self) -> str:
        """The sweep that was planned last, as YAML."""
        return self.store.read(f"{self.folder}/sweep.yaml").decode()

    @contextlib.contextmanager
    def only_driver(self) -> Iterator[None]:
        """Hold the sweep, so that no second driver runs it on this store at the same time. Raises AlreadyRunning."""
        lock = self._lock()
        if lock is None:
            yield
            return
        try:
            lock.acquire(timeout=1)  # `is_running` holds it for a moment
        except Timeout:
            raise AlreadyRunning(
                f"sweep {self.sweep!r} is being run on storage {self.store.location!r} by another process; "
                f"`bottleneck status {self.sweep}` shows how it is doing"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def is_running(self) -> bool:
        """Whether a driver holds the sweep; of an object store it cannot be told, and the answer is no."""
        lock = self._lock()
        if lock is None:
            return False
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def _lock(self) -> FileLock | None:
        if self.store.folder is None:
            return None
        path = Path(self.store.path(f"locks/sweep-{self.sweep}.lock"))
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)
