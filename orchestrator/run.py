"""What happens in `bottleneck run`? The plan's missing work is launched; what comes back is shown, kept and reported.

Running the same sweep again continues it: what the store has is not computed again, and there is no other way to
resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import results
from orchestrator.cost import costs
from orchestrator.display import Display, duration
from orchestrator.driver import Driver
from orchestrator.journal import Journal
from orchestrator.plan import Plan
from orchestrator.progress import Listener, State
from orchestrator.settings import without_password
from orchestrator.space import Optuna
from orchestrator.status import Published, speeds
from orchestrator.stopping import Stopping
from orchestrator.sweep import Sweep, resolved
from orchestrator.tracking import Tracker, database_of
from orchestrator.work import Stages, Work
from trainables import room
from trainables.facts import NetworkSize
from trainables.room import StoreFull
from trainables.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.proposals import Proposals

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
        StoreFull: the store has no room; before any work if that can be told.
    """
    started = time.monotonic()
    name = plan.sweep.name
    journal = Journal(store, name)
    lookup = results.store_lookup(store)
    work = Work(plan, store, lookup, sizes)
    with journal.only_driver(), _full_store_explained(store, work, plan):
        search = _search(plan, journal, lookup, work)
        if search:
            plan = replace(plan, trials=search.trials)
        plan_json = plan.as_json() | (search.as_json() if search else {})
        text, place = sweep_text(plan.sweep), _place(plan.sweep)
        earlier, before = speeds(journal, place), journal.last_run()
        journal.write_plan(text, plan_json)  # before the store is asked what it has: gc spares it from here on
        early_stopping, stopped = _early_stopping(plan.sweep, journal)
        stages = work.of(plan.trials)
        _require_room(store, stages)
        missing = [trial for trial in stages.missing if trial.digest not in stopped]
        nothing_new = not (missing or stopped or search)
        if nothing_new and (finished := _as_it_was_left(before, store, plan_json, text, lookup, tracking_uri)):
            return finished
        state = State(
            trials=search.wanted if search else len(plan.trials),
            stages=stages.total,
            stored=stages.stored,
            started=started,
            to_do=dict(stages.to_do),
            outcomes={trial["digest"][:12]: "pending" for trial in plan_json["trials"]},
            needs={trial["digest"]: [digest for _, digest in trial["stages"]] for trial in plan_json["trials"]},
            place=place,
            earlier=earlier,
        )
        journal.start(stages=stages.total, stored=stages.stored)
        tracker = Tracker(
            tracking_uri,
            plan_json,
            artifact_location=artifact_location(store),
            sweep_text=text,
        )
        tracker.start()
        interrupted = threading.Event()
        driver = Driver(
            plan_json,
            lookup=lookup,
            journal=journal,
            state=state,
            tracker=tracker,
            work=work,
            search=search,
            early_stopping=early_stopping,
        )
        with Listener(state), Published(journal, state) as published, driver, Display(name, state, live=live):
            driver.begin(plan.trials, missing, stopped)
            if not driver.exhausted():
                # Ray takes seconds to import, and a finished sweep has no need of it.
                from orchestrator import launch

                told = {trial.digest for trial in missing}
                try:
                    launch.launch(
                        driver,
                        storage=store.folder or store.location,
                        sweep=name,
                        cpus=plan.sweep.resources.cpu,
                        gpus=plan.sweep.resources.gpu,
                        interrupted=interrupted,
                        early_stopping=early_stopping and early_stopping.without(told),
                    )
                except BaseException:  # a second Ctrl-C too: leave nothing that looks as if it were running
                    journal.write("sweep", state="interrupted")
                    tracker.finish("KILLED", (), {}, STOPPED_GRACE_S)
                    raise
        seconds = time.monotonic() - started
        rows = results.rows(plan_json, lookup, journal.trial_states())
        outcome_rows = results.table(rows)
        state.outcomes = results.outcomes(rows)
        trials = Counter(state.outcomes.values())
        provenance = {
            "command": command,
            "storage": store.shown,
            "tracking": without_password(tracking_uri),
            "stages computed in this run": str(state.computed),
            "stages reused from the store": str(state.stored),
            "wall clock of this run": duration(seconds),
            "trials": ", ".join(f"{count} {status}" for status, count in sorted(trials.items())),
        }
        with written(store, plan_json, text, outcome_rows, provenance, lookup) as artifacts:
            tracked = tracker.finish(
                "KILLED" if interrupted.is_set() else "FINISHED" if set(trials) <= {"ok", "stopped"} else "FAILED",
                artifacts,
                {f"trials/{status}": float(count) for status, count in trials.items()},
                TRACKING_GRACE_S,
            )
        ended = "interrupted" if interrupted.is_set() else "finished"
        journal.write(
            "sweep",
            state=ended,
            computed=state.computed,
            seconds=round(seconds, 3),
            trials=dict(trials),
            shown=_shown(plan_json, text, outcome_rows, tracking_uri)
            if ended == "finished" and tracked.synced
            else None,
        )
        published.write(ended)
        return Outcome(
            table=outcome_rows,
            trials=trials,
            computed=state.computed,
            stored=state.stored,
            interrupted=interrupted.is_set(),
            report=store.path(f"{journal.folder}/report.html"),
        )


def _as_it_was_left(
    before: Sequence[Mapping[str, Any]],
    store: Store,
    plan: Mapping[str, Any],
    text: str,
    lookup: results.Lookup,
    tracking_uri: str,
) -> Outcome | None:
    """The outcome of a sweep of which the store has all; None, if its report or MLflow shows anything else.

    Args:
        before: what the driver before this one has written into the journal.
    """
    left = before[-1].get("shown") if before else None
    if left is None or not {"report.html", "results.parquet"} <= {*store.names(f"sweeps/{plan['sweep']}")}:
        return None
    rows = results.rows(plan, lookup, {})
    table = results.table(rows)
    if left != _shown(plan, text, table, tracking_uri):
        return None
    return Outcome(
        table=table,
        trials=Counter(results.outcomes(rows).values()),
        computed=0,
        stored=before[0]["stages"],
        interrupted=False,
        report=store.path(f"sweeps/{plan['sweep']}/report.html"),
    )


def _shown(plan: Mapping[str, Any], text: str, table: pd.DataFrame, tracking_uri: str) -> str:
    """The SHA-256 of what the report and MLflow show, and of where that is. Curves go with their stages' digests."""
    database = database_of(tracking_uri)
    there = database.stat().st_ino if database and database.exists() else None
    what = [version("transfer-bottleneck"), plan, text, without_password(tracking_uri), there]
    return hashlib.sha256(json.dumps(what).encode() + _parquet(table)).hexdigest()


def _parquet(table: pd.DataFrame) -> bytes:
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    return content.getvalue()


def _search(plan: Plan, journal: Journal, lookup: results.Lookup, work: Work) -> Proposals | None:
    """The sweep's search with what it asked for in earlier runs; None: all trials of the sweep are planned."""
    if not isinstance(plan.sweep.search, Optuna):
        return None
    from orchestrator.proposals import Proposals  # imports Optuna

    return Proposals(plan, journal, lookup, work)


def _place(sweep: Sweep) -> str:
    """Where its trials run, and with what: stages of two sweeps with one place take the same time."""
    address = os.environ.get("RAY_ADDRESS", "")
    where = socket.gethostname() if address in ("", "auto", "local") else without_password(address)
    return f"{where}: {sweep.resources.cpu:g} CPU, {sweep.resources.gpu:g} GPU"


def _require_room(store: Store, stages: Stages) -> None:
    """Raises StoreFull if the weights that are still to be kept cannot find room."""
    free = room.free_bytes(store.folder)
    if free is not None and free < stages.weight_bytes + room.RESERVE_BYTES:
        raise StoreFull(f"room for {room.megabytes(stages.weight_bytes)} of weights is missing")


@contextlib.contextmanager
def _full_store_explained(store: Store, work: Work, plan: Plan) -> Iterator[None]:
    """One line for whatever ended the block because the store is full: what is missing, how much, how to go on."""
    try:
        yield
    except Exception as error:
        if not room.is_full(error):
            raise
        missing, free = work.of(plan.trials), room.free_bytes(store.folder)
        left = "" if free is None else f", with {room.megabytes(free)} of room left"
        raise StoreFull(
            f"storage {store.shown!r} is full{left}: {len(missing.to_do)} stages are missing and need "
            f"{room.megabytes(missing.weight_bytes + room.RESERVE_BYTES)} or more; what is finished is kept: make "
            "room, and the same command continues"
        ) from error


def _early_stopping(sweep: Sweep, journal: Journal) -> tuple[Stopping | None, dict[str, dict[str, Any]]]:
    """Early stopping with what earlier runs of the sweep found, and the last events of the trials that it stopped."""
    if sweep.early_stopping is None:
        return None, {}
    most = sweep.vary.most_steps(sweep.pretrain.steps)
    rule = Stopping(rule=sweep.early_stopping, objective=sweep.objective, most_steps=most)
    reached, stopped = journal.rungs(rule.name)
    return replace(rule, history=tuple((e["trial"], e["steps"], e["objective"]) for e in reached)), stopped


@contextlib.contextmanager
def written(
    store: Store,
    plan: Mapping[str, Any],
    text: str,
    table: pd.DataFrame,
    provenance: Mapping[str, str],
    lookup: results.Lookup,
) -> Iterator[list[Path]]:
    """Write a sweep's table and report into its folder; gives copies of them, for as long as the block lasts."""
    from orchestrator import report

    with tempfile.TemporaryDirectory(prefix="bottleneck-") as scratch:

        def write(name: str, content: bytes) -> Path:
            store.write(f"sweeps/{plan['sweep']}/{name}", content)
            copy = Path(scratch, name)
            copy.write_bytes(content)
            return copy

        files = [write("results.parquet", _parquet(table)), write("sweep.yaml", text.encode())]
        curves, layers = (results.measured(plan, lookup, what) for what in ("trajectory", "layers"))
        cost = costs(plan, Journal(store, plan["sweep"]).events(), lookup)
        found = report.Evidence(table, curves if len(curves) else None, layers if len(layers) else None)
        page = report.render(found, plan, text, provenance=provenance, cost=cost)
        yield [*files, write("report.html", page.encode())]


def sweep_text(sweep: Sweep) -> str:
    """The sweep as it runs: its file, or with `--set` the whole of it spelt out."""
    return resolved(sweep) if sweep.overrides else sweep.text


def artifact_location(store: Store) -> str | None:
    """Where MLflow keeps files if its database is ours: beside it."""
    return store.path("mlflow-artifacts") if store.is_folder else None
