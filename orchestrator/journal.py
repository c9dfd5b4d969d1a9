"""What has happened in a sweep? Its folder in the store: the sweep's text, its plan, its events.

    <storage>/sweeps/<name>/  sweep.yaml  plan.json  journal/<writer>.jsonl  results.parquet  report.html

Events are lines of JSON. Every process writes a file of its own, at once, so that a kill loses nothing that has
happened and no two processes write the same file. The kinds:

    sweep   started, finished or interrupted                              written by the driver
    stage   computed, with seconds, trial, host; or set aside as damaged  written by whoever computed it
    asked   a search has asked for a trial: the trial as plan.json has it  written by the driver
    rung    what a trial had reached on its way, by which it was judged    written by the driver
    stalled where a trial hung when its time was up                       written by its worker
    trial   finished, failed, with the error and the tail of its log,
            or stopped early                                               written by the driver

Readers merge them by time for people. What decides anything is the drivers' files, each in the order it was written in,
and drivers are told apart by number: clocks differ between machines, and are set back.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from trainables.errors import UserError
from trainables.lease import EXPIRY_S
from trainables.store import Store

log = logging.getLogger(__name__)

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"  # of a sweep, which is the name of its folder
NAMES_ARE = "a name of up to 64 lower-case letters, digits, ., _ and - that begins with a letter or a digit is possible"
GC_CLAIM = "gc"  # held by `bottleneck gc` while it looks and removes
PROBE_S = 1.0  # whoever asks whether a sweep is running may hold its lock for a moment


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
        return sorted(itertools.chain(*self._files()), key=lambda e: float(e["time"]))

    def start(self, **what: Any) -> None:
        """Add the event of a driver that starts, which holds the sweep; the first it writes.

        Its number and not its time tells it from earlier ones: clocks differ, and are set back.
        """
        starts = sum(e["event"] == "sweep" and e["state"] == "started" for e in itertools.chain(*self._files()))
        self.write("sweep", state="started", number=starts, **what)

    def last_run(self) -> list[dict[str, Any]]:
        """What the last driver has written, from its start on; nothing if none has started."""
        return next(reversed(self._runs()), [])

    def _runs(self) -> list[list[dict[str, Any]]]:
        """What each driver has written, from its start on, in the order of their starts."""
        runs = [
            file[position:]
            for file in self._files()
            for position, event in enumerate(file)
            if event["event"] == "sweep" and event["state"] == "started"
        ]
        return sorted(runs, key=lambda run: (run[0].get("number", -1), run[0]["time"]))

    def _files(self) -> list[list[dict[str, Any]]]:
        return [list(self._events_of(name)) for name in self.store.names(f"{self.folder}/journal")]

    def _events_of(self, name: str) -> Iterator[dict[str, Any]]:
        for line in self.store.lines(f"{self.folder}/journal/{name}"):
            with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
                event = json.loads(line)
                float(event["time"]), event["event"]  # what is read of every event
                yield event

    def trial_states(self) -> dict[str, dict[str, Any]]:
        """The last `trial` event of each trial since the sweep was last started, by digest.

        What failed before that has been tried again since, or waits to be.
        """
        return {event["trial"]: event for event in self.last_run() if event["event"] == "trial"}

    def rungs(self, rule: str) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
        """What trials had reached on their way in all runs of the sweep, and the last `stopped` event of those that
        were stopped and never finished since, by digest; both under one rule of early stopping."""
        reached: list[dict[str, Any]] = []
        stopped: dict[str, dict[str, Any]] = {}
        for event in itertools.chain(*self._runs()):
            if event["event"] == "rung" and event["rule"] == rule:
                reached.append(event)
            elif event["event"] == "trial":
                stopped.pop(event["trial"], None)
                if event["status"] == "stopped" and event["rule"] == rule:
                    stopped[event["trial"]] = event
        return reached, stopped

    def write_plan(self, text: str, plan: Mapping[str, Any]) -> None:
        """Keep the sweep's text and what was planned from it.

        From then on `bottleneck gc` removes nothing that the plan needs. One that began before is waited for, so that
        what the store has is to be asked for afterwards.
        """
        files = {"sweep.yaml": text.encode(), "plan.json": json.dumps(plan, allow_nan=False).encode()}
        if any(self._read(name) != content for name, content in files.items()):
            self.store.delete(f"{self.folder}/status.json")  # of the plan before
            for name, content in files.items():
                self.store.write(f"{self.folder}/{name}", content)
        if self.store.is_claimed(GC_CLAIM):
            log.warning("storage %r is being cleaned by `bottleneck gc`; the sweep begins after that", self.store.shown)
            while self.store.is_claimed(GC_CLAIM):
                time.sleep(self.store.patience_s)

    def plan(self) -> dict[str, Any]:
        """What was planned last, and what a search has asked for since. Raises UnknownSweep."""
        content = self._planned()
        try:
            plan: dict[str, Any] = json.loads(content)
        except (ValueError, RecursionError):
            plan = {}
        if not isinstance(plan, dict) or plan.get("sweep") != self.sweep:
            raise UnknownSweep(
                f"{self.store.path(self.folder)}/plan.json is not the plan of {self.sweep!r}; run the sweep again"
            )
        if plan.get("search"):
            planned = {trial["digest"] for trial in plan["trials"]}
            asked = [e["plan"] for e in self.last_run() if e["event"] == "asked"]
            plan["trials"] += [trial for trial in asked if trial["digest"] not in planned]
        return plan

    def _planned(self) -> bytes:
        try:
            return self.store.read(f"{self.folder}/plan.json")
        except FileNotFoundError:
            known = ", ".join(self.store.names("sweeps")) or "none"
            raise UnknownSweep(f"storage {self.store.shown!r} has no sweep {self.sweep!r}; it has: {known}") from None

    def fingerprint(self) -> str:
        """Another one whenever the plan or an event is. Raises UnknownSweep."""
        name = f"{self.folder}/journal"
        files = {file: self.store.lines(f"{name}/{file}") for file in self.store.names(name)}
        return hashlib.sha256(self._planned() + repr(files).encode()).hexdigest()

    def write_snapshot(self, snapshot: Mapping[str, Any]) -> None:
        """Keep how far the sweep is, in place of what was kept before."""
        self.store.write(f"{self.folder}/status.json", json.dumps(snapshot, allow_nan=False).encode())

    def snapshot(self) -> bytes:
        """What was kept last, as JSON; empty, if nothing is there."""
        return self._read("status.json")

    def text(self) -> str:
        """The sweep that was planned last, as YAML."""
        return self.store.read(f"{self.folder}/sweep.yaml").decode()

    def _read(self, name: str) -> bytes:
        """A file of the sweep's folder; empty, if it is not there."""
        try:
            return self.store.read(f"{self.folder}/{name}")
        except FileNotFoundError:
            return b""

    @contextlib.contextmanager
    def only_driver(self) -> Iterator[None]:
        """Hold the sweep, so that no second driver runs it on this store at the same time. Raises AlreadyRunning."""
        patience = time.monotonic() + PROBE_S
        while True:
            with self.store.claim(self._claim) as mine:
                if mine:
                    yield
                    return
            if time.monotonic() > patience:
                break
            time.sleep(PROBE_S / 10)
        freed = "" if self.store.is_folder else f"; if its machine has died, that ends within {EXPIRY_S:.0f} s"
        raise AlreadyRunning(
            f"sweep {self.sweep!r} is being run on storage {self.store.shown!r} by another process{freed}; "
            f"`bottleneck status {self.sweep}` shows how it is doing"
        )

    def is_running(self) -> bool:
        """Whether a driver holds the sweep; no, where the store has neither locks nor leases to tell it."""
        return self.store.is_claimed(self._claim)

    @property
    def _claim(self) -> str:
        return f"sweep-{self.sweep}"
