"""What happens in `bottleneck run`? The plan's missing work is launched; what comes back is shown, kept and reported.

Running the same sweep again continues it: what the store has is not computed again, and there is no other way to
resume.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import results
from orchestrator.journal import Journal
from orchestrator.plan import Plan, costs, schedule
from orchestrator.progress import Display, State, duration
from orchestrator.settings import without_password
from orchestrator.sweep import Sweep, resolved
from orchestrator.tracking import Tracker, trial_record
from trainables.facts import NetworkSize
from trainables.spec import PretrainSpec, StageSpec, in_order
from trainables.store import Store

if TYPE_CHECKING:
    import pandas as pd

TRACKING_GRACE_S = 60.0  # how long the end of a sweep waits for MLflow
STOPPED_GRACE_S = 5.0  # the same when it is stopped at once


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run of a sweep ended."""

    table: pd.DataFrame
    trials: Mapping[str, int]  # status -> number of trials
    computed: int  # stages computed in this run
    stored: int  # stages that the store had
    interrupted: bool
    report: str  # where it lies

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        return 1 if self.trials.get("failed") or self.trials.get("diverged") or self.trials.get("pending") else 0


def run(
    plan: Plan,
    store: Store,
    sizes: Mapping[str, NetworkSize],
    *,
    tracking_uri: str,
    command: str,
    live: bool | None = None,
) -> Outcome:
    """Compute what is missing of a plan, then write its table and its report.

    Args:
        plan: from `orchestrator.plan.plan`.
        sizes: of its networks, by the digest of their architecture.
        tracking_uri: the MLflow server or database that shows the runs.
        command: what the user typed, for the report.
        live: a panel that is redrawn; None: if stderr is a terminal.

    Raises:
        AlreadyRunning: another process runs this sweep on this store.
        LaunchError: the machine or cluster cannot run it.
    """
    started = time.monotonic()
    name = plan.sweep.name
    journal = Journal(store, name)
    with journal.only_driver():
        plan_json = plan.as_json()
        text = sweep_text(plan.sweep)
        journal.write_plan(text, plan_json)  # before the store is asked what it has: gc spares it from here on
        flops = costs(plan, sizes)
        lookup = results.store_lookup(store)
        there = store.existing((stage.kind, digest) for digest, (stage, _) in flops.items())
        # Read, not only seen: an entry that fails its checksum is set aside here, and is computed again.
        stored = {digest for digest in there if lookup(flops[digest][0].kind, digest) is not None}
        state = State(
            sweep=name,
            trials=len(plan.trials),
            stages=len(flops),
            stored=len(stored),
            started=started,
        )
        journal.write("sweep", state="started", stages=len(flops), stored=len(stored))
        tracker = Tracker(
            tracking_uri,
            plan_json,
            artifact_location=artifact_location(store),
            sweep_text=text,
        )
        tracker.start()
        never = _never(flops, lookup)
        missing = schedule(plan, sizes, stored | never)
        state.to_do = {d: (stage.kind, cost) for d, (stage, cost) in flops.items() if d not in stored | never}
        interrupted = threading.Event()
        driver = _Driver(plan_json, lookup, journal, state, tracker)
        with driver, Display(state, live=live):
            driver.record_unchanged({a.trial.digest for a in missing})
            if missing:
                # Ray takes seconds to import, and a finished sweep has no need of it.
                from orchestrator import launch

                try:
                    launch.launch(
                        [assignment.trial for assignment in missing],
                        storage=store.folder or store.location,
                        sweep=name,
                        cpus=plan.sweep.resources.cpu,
                        gpus=plan.sweep.resources.gpu,
                        observer=driver,
                        interrupted=interrupted,
                    )
                except BaseException:  # a second Ctrl-C too: leave nothing that looks as if it were running
                    journal.write("sweep", state="interrupted")
                    tracker.finish("KILLED", (), {}, STOPPED_GRACE_S)
                    raise
        seconds = time.monotonic() - started
        rows = results.rows(plan_json, lookup, journal.trial_states())
        outcome_rows = results.table(rows)
        trials = results.trial_statuses(rows)
        provenance = {
            "command": command,
            "storage": store.shown,
            "tracking": without_password(tracking_uri),
            "stages computed in this run": str(state.computed),
            "stages reused from the store": str(len(stored)),
            "wall clock of this run": duration(seconds),
            "trials": ", ".join(f"{count} {status}" for status, count in sorted(trials.items())),
        }
        with written(store, plan_json, text, outcome_rows, provenance) as artifacts:
            tracker.finish(
                "KILLED" if interrupted.is_set() else "FINISHED" if set(trials) == {"ok"} else "FAILED",
                artifacts,
                {f"trials/{status}": float(count) for status, count in trials.items()},
                TRACKING_GRACE_S,
            )
        journal.write(
            "sweep",
            state="interrupted" if interrupted.is_set() else "finished",
            computed=state.computed,
            seconds=round(seconds, 3),
            trials=dict(trials),
        )
        return Outcome(
            table=outcome_rows,
            trials=trials,
            computed=state.computed,
            stored=len(stored),
            interrupted=interrupted.is_set(),
            report=store.path(f"{journal.folder}/report.html"),
        )


def _never(flops: Mapping[str, tuple[StageSpec, float]], lookup: results.Lookup) -> set[str]:
    """What rests on a network that diverged will never be there, and is nothing to wait for."""
    lost: set[str] = set()
    never: set[str] = set()
    for stage in in_order(stage for stage, _ in flops.values()):
        if any(required.digest in lost for required in stage.requires):
            never.add(stage.digest)
            lost.add(stage.digest)
        elif isinstance(stage, PretrainSpec) and (lookup(stage.kind, stage.digest) or {}).get("status") == "diverged":
            lost.add(stage.digest)
    return never


class _Driver:
    """Hears of trials on Ray's loop; reads their results and passes them on from a thread of its own."""

    def __init__(
        self, plan: Mapping[str, Any], lookup: results.Lookup, journal: Journal, state: State, tracker: Tracker
    ) -> None:
        self._plan, self._lookup, self._journal = plan, lookup, journal
        self._state, self._tracker = state, tracker
        self._trials = {trial["digest"]: trial for trial in plan["trials"]}
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._recordings: list[Future[None]] = []

    def __enter__(self) -> _Driver:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            for recording in self._recordings:
                recording.result()  # raises what went wrong on the thread

    def record_unchanged(self, missing: set[str]) -> None:
        """Pass on the trials that the store has whole."""
        for digest in self._trials:
            if digest not in missing:
                self._state.trial_ended(digest, failed=False)
                self._recordings.append(self._thread.submit(self._record, digest, {}))

    def trial_started(self, digest: str) -> None:
        self._state.trial_started(digest)

    def trial_progress(self, digest: str, report: Mapping[str, Any]) -> None:
        self._state.trial_progress(digest, report)

    def trial_ended(self, digest: str, error: str | None, log: str | None) -> None:
        self._state.trial_ended(digest, failed=error is not None)
        status = {"status": "failed" if error else "ok", "error": error, "log": log}
        self._recordings.append(self._thread.submit(self._ended, digest, status))

    def _ended(self, digest: str, status: Mapping[str, Any]) -> None:
        self._journal.write("trial", trial=digest, **status)
        self._record(digest, status)

    def _record(self, digest: str, status: Mapping[str, Any]) -> None:
        trial = self._trials[digest]
        rows = results.trial_rows(self._plan, trial, self._lookup, {digest: status})
        self._state.gaps(rows)
        self._tracker.log(trial_record(self._plan, trial, rows, self._lookup))


@contextlib.contextmanager
def written(
    store: Store, plan: Mapping[str, Any], text: str, table: pd.DataFrame, provenance: Mapping[str, str]
) -> Iterator[list[Path]]:
    """Write a sweep's table and report into its folder; gives copies of them, for as long as the block lasts."""
    from orchestrator import report

    parquet = io.BytesIO()
    table.to_parquet(parquet, index=False)
    page = report.render(table, plan, text, provenance=provenance).encode()
    files = {"results.parquet": parquet.getvalue(), "report.html": page, "sweep.yaml": text.encode()}
    with tempfile.TemporaryDirectory(prefix="bottleneck-") as scratch:
        for name, content in files.items():
            store.write(f"sweeps/{plan['sweep']}/{name}", content)
            Path(scratch, name).write_bytes(content)
        yield [Path(scratch, name) for name in files]


def sweep_text(sweep: Sweep) -> str:
    """The sweep as it runs: its file, or with `--set` the whole of it spelt out."""
    return resolved(sweep) if sweep.overrides else sweep.text


def artifact_location(store: Store) -> str | None:
    """Where MLflow keeps files if its database is ours: beside it."""
    return store.path("mlflow-artifacts") if store.is_folder else None
