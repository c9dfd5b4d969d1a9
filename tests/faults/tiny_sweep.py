"""A sweep small enough to be disturbed many times, run as people run it; and what must hold afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from orchestrator.journal import Journal, UnknownSweep
from orchestrator.results import COST_COLUMNS, load
from orchestrator.status import snapshot
from trainables.store import Store

NAME = "tiny"
SWEEP = """
name: tiny
question: What survives?
components:
  digits: {dataset: digits}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: [{digits: 1, odd: 1}, {digits: 3, odd: 1}, {digits: 1, odd: 3}], architecture: mlp, width: 0.25}
seeds: 2
pretrain: {steps: 600, batch_size: 32}
transfer: {train_examples: 300}
resources: {cpu: 1.5}
"""  # on two cores one worker, which is half of what such a sweep costs
PATIENCE_S = 900.0  # for a state to come about, on a machine with other things to do


class Tiny:
    """One storage folder with the sweep in it."""

    def __init__(self, folder: Path, text: str = SWEEP) -> None:
        folder.mkdir(exist_ok=True)
        self.storage = folder / "runs"
        self.file = folder / "tiny.yaml"
        self.file.write_text(text)
        self.tracking_uri = f"sqlite:///{self.storage}/mlflow.db"

    # Running it -------------------------------------------------------------------------------------------------

    def command(self, *more: object) -> list[str]:
        return [
            sys.executable,
            "-m",
            "orchestrator.cli",
            "run",
            *map(str, (self.file, "--storage", self.storage, *more)),
        ]

    def run(
        self, *more: object, expect: int = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        with self.driver(*more, environment=environment) as driver:
            out, err = driver.communicate(timeout=PATIENCE_S)
        assert driver.returncode == expect, f"exit {driver.returncode}\n{err}"
        return subprocess.CompletedProcess(driver.args, driver.returncode, out, err)

    @contextlib.contextmanager
    def driver(self, *more: object, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
        """A driver that is running; it and what it started are gone afterwards, however it ended."""
        started = subprocess.Popen(
            self.command(*more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        family = Family(started.pid)
        try:
            yield started
        finally:
            family.end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.communicate(timeout=30)

    # Looking at it ----------------------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        return Journal(Store(self.storage), NAME)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [e for e in self.journal.events() if e["event"] == event] if self.storage.exists() else []

    def computed(self) -> Counter[str]:
        """How often each stage was computed, by digest."""
        return Counter(e["digest"] for e in self.events("stage"))

    def stages(self) -> dict[str, str]:
        """The kind of each stage of the plan, by digest."""
        return {digest: kind for trial in self.journal.plan()["trials"] for kind, digest in trial["stages"]}

    def trials(self) -> list[str]:
        return [trial["digest"] for trial in self.journal.plan()["trials"]]

    def workers(self, kind: str | None = None) -> dict[str, int]:
        """The process that computes a stage, by the stage's digest: who holds its lock, as the kernel tells it."""
        try:
            kinds = self.stages()
        except ValueError:  # no plan yet
            return {}
        locked: dict[int, int] = {}
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "FLOCK" in fields:
                at = fields.index("FLOCK")
                locked[int(fields[at + 4].split(":")[2])] = int(fields[at + 3])
        found = {}
        for lock in (self.storage / "locks").glob("*.lock"):
            with contextlib.suppress(FileNotFoundError):
                if (pid := locked.get(lock.stat().st_ino)) and kinds.get(lock.stem, "") in (
                    (kind,) if kind else kinds.values()
                ):
                    found[lock.stem] = pid
        return found

    def trains(self) -> bool:
        """Whether a pretraining has come some way, as the driver has heard from its worker."""
        try:
            return snapshot(self.journal).examples_per_second > 0
        except UnknownSweep:
            return False

    def table(self) -> pd.DataFrame:
        return load(NAME, storage=str(self.storage))

    def runs(self) -> list[Any]:
        """All that MLflow has of the sweep."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow.tracking import MlflowClient
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own
            client = MlflowClient(self.tracking_uri)
            experiment = client.get_experiment_by_name(NAME)
            return list(client.search_runs([experiment.experiment_id], max_results=1000)) if experiment else []


class Family:
    """The processes below one, remembered before they are orphans."""

    def __init__(self, pid: int) -> None:
        self._all: dict[tuple[int, float], psutil.Process] = {}
        self._root = psutil.Process(pid)
        self.look()

    def look(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (self._root, *self._root.children(recursive=True)):
                self._all[process.pid, process.create_time()] = process
        return list(self._all.values())

    def end(self) -> None:
        for process in self.look():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(self._all.values(), timeout=30)


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """A results table without what differs between two runs of the same work."""
    return table.drop(columns=[*COST_COLUMNS, "revision", "versions"])


def assert_undisturbed(
    tiny: Tiny, undisturbed: pd.DataFrame, *, again: Collection[str] = (), unrecorded: int = 0
) -> None:
    """A sweep that has ended shows nothing of what befell it.

    Args:
        tiny: the sweep.
        undisturbed: the table of one that nothing befell.
        again: stages that were damaged on purpose, and had to be computed twice.
        unrecorded: at most so many were killed between a stage's result and its line in the journal.
    """
    pd.testing.assert_frame_equal(comparable(tiny.table()), comparable(undisturbed))
    computed, stages = tiny.computed(), tiny.stages()
    assert {digest: n for digest, n in computed.items() if n > 1} == dict.fromkeys(again, 2)
    assert len(set(stages) - set(computed)) <= unrecorded
    runs = tiny.runs()
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert Counter(run.data.tags["bottleneck.digest"] for run in children) == Counter(tiny.trials())
    assert len(runs) == len(children) + 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert tiny.journal.last_run()[-1].get("state") == "finished"
    assert not Store(tiny.storage).names("state"), "nothing is kept of pretrainings that have ended"


def wait_for(condition: Callable[[], object], driver: subprocess.Popen[str] | None = None) -> None:
    """Until a state has come about, or the driver, if one is given, has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if driver is not None and driver.poll() is not None:
            raise AssertionError(f"the driver ended too soon, exit {driver.returncode}\n{driver.communicate()[1]}")
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
