"""What does MLflow show of a sweep? The only module that speaks to MLflow.

    experiment  the sweep's name
      parent    one run per sweep: sweep.yaml, plan.json, results.parquet, report.html
        child   one run per trial: params, metrics, the loss curve, tags; design.json, result.json

MLflow is a view: the store has everything, and `sync` builds the view again from it. So a run that MLflow has
is found by the trial's digest among its tags, brought up to date and ended. After any number of kills and
restarts there is one run per trial, and none is left RUNNING.

A run's params, metrics and times cannot be taken back in MLflow. One that shows another measurement than the
store has (a trial failed before and has succeeded now) is deleted and written anew; everything else is changed
in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import fmean
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from orchestrator.results import RETENTION, Lookup, trial_status
from orchestrator.settings import without_password
from trainables import room
from trainables.components import cache_root
from trainables.errors import UserError

log = logging.getLogger(__name__)

# Read by MLflow when it is imported or called. A user who has set one of them keeps it.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is sent but to the tracking server
    "DO_NOT_TRACK": "true",  # MLflow compares with "true", not with 1
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for data
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # of itself 7, some four minutes for every request
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds; of itself 120
}
RETRY_S = 60.0  # how long a tracker leaves MLflow alone after an error
SWITCH_S = 0.001  # how long a thread may keep others, as Ray's loop, from running; Python's own is 5 ms
LOGIN_S = 10.0  # how long the start of a sweep waits for a server's first answer
LOCK_S = 60.0  # how long to wait while another process creates the database
PAGE = 1000  # runs per search
BATCH = 500  # metrics that surely fit into one request beside all params and tags
READERS = 8  # artifacts read at the same time; a server answers each in some milliseconds
WRITERS = 8  # runs that `sync` writes to a server at the same time; a database has one writer
MAX_TEXT = 5000  # characters of a tag or param that every MLflow server takes
# Metrics beside the gaps, each followed by the component.
MEASURED = {
    "peak_accuracy": "peak_accuracy",
    "drop_from_peak": "drop_from_peak",
    "saturation": "final_saturation",
}
MAX_NAME = 250  # characters of a run's name, the width of its column

# Tags by which runs are found again.
PARENT = "bottleneck.parent"  # on the parent: the sweep
DIGEST = "bottleneck.digest"  # on a child: the trial
MEASUREMENT = "bottleneck.measurement"  # sha256 of what MLflow cannot change
ROWS = "bottleneck.rows"  # sha256 of all that the run shows; written with the last of it
PLAN = "bottleneck.plan"  # on the parent: sha256 of the plan and the sweep's text
PARENT_RUN = "mlflow.parentRunId"  # nests a child below its parent in MLflow's pages
COMPARED = (DIGEST, MEASUREMENT, ROWS, PARENT_RUN)  # what tells whether a run shows its trial
NOTE = "mlflow.note.content"
SOURCE = {"mlflow.source.name": "bottleneck", "mlflow.source.type": "LOCAL"}  # a column of MLflow's table of runs
# The note that a trial's run begins with, for the units that MLflow's pages do not show; people may write another.
UNITS = (
    "Means over seeds; `result.json` has each of them. Accuracies and gaps are fractions. A positive gap: the features "
    "lack something that training on the component alone finds. `loss`: nats per example, by pretraining step."
)
EXPERIMENT_KIND = "mlflow.experimentKind"  # lets MLflow's pages open with the table of runs
RUN_STATUS = {"ok": "FINISHED", "failed": "FAILED", "diverged": "FAILED", "stopped": "KILLED"}

# What a server's status codes mean to whoever runs a sweep: none of them goes away by waiting.
REFUSALS = {
    401: "it refuses the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
    403: "it does not allow this; the user lacks the right, or the server does not know itself by the host name in "
    "the URI (start it with --allowed-hosts NAME,NAME:PORT)",
    **dict.fromkeys(
        (404, 405, 501),
        "a server answers there, but not MLflow; a server with --static-prefix has the prefix in its URI",
    ),
}


class TrackingError(UserError):
    """MLflow cannot be used as asked; the message says why, in one line."""


# What a run shows: pure -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """Everything that the run of one trial shows."""

    digest: str
    status: str  # ok, failed, diverged, stopped; pending: there is nothing to show yet
    name: str  # of the run, one line for people
    params: Mapping[str, str]  # the design
    metrics: Mapping[str, float]  # means over seeds
    loss_curve: tuple[tuple[int, float], ...]  # (step, mean loss over the pretraining runs), nats per example
    tags: Mapping[str, str]
    started: float | None  # seconds since 1970; None: no stage of the trial says
    finished: float | None
    artifacts: Mapping[str, str]  # file name -> JSON text

    @cached_property
    def measurement(self) -> str:
        """Names what MLflow cannot change once a run has it."""
        fixed = (self.params, self.metrics, self.loss_curve, self.started, self.finished)
        return _sha256([*fixed, self.status, self.tags.get("bottleneck.error"), self.tags.get("bottleneck.revision")])

    @cached_property
    def content(self) -> str:
        """Names all that the run shows."""
        return _sha256([self.measurement, self.tags, self.artifacts])


def trial_record(
    plan: Mapping[str, Any], trial: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], lookup: Lookup
) -> TrialRecord:
    """What the run of a trial shows.

    Args:
        plan: what `Plan.as_json` wrote.
        trial: one of its trials.
        rows: of that trial, from `results.trial_rows`.
        lookup: the results of stages.
    """
    digest = str(trial["digest"])
    position = next(i for i, planned in enumerate(plan["trials"]) if planned["digest"] == digest)
    pretrained = _results(lookup, (("pretrain", member) for cell in trial["cells"] for member in cell["pretrain"]))
    probed = _results(lookup, (("probe", cell["transfer"]) for cell in trial["cells"]))
    stages = [*pretrained, *probed]
    status = trial_status(rows)
    name = _line(trial["design"]["label"]) or digest[:12]
    tags = {
        DIGEST: digest,
        "bottleneck.sweep": str(plan["sweep"]),
        "bottleneck.position": f"{position:05d}",  # padded: MLflow sorts tags as text
        "bottleneck.status": status,
        "bottleneck.revision": ", ".join(sorted({row["revision"] for row in rows if row["revision"]})),
        "bottleneck.error": next((row["error"] for row in rows if row["error"]), ""),
        "mlflow.runName": name,
        **SOURCE,
    }
    return TrialRecord(
        digest=digest,
        status=status,
        name=name,
        params=_params(plan, trial),
        metrics=_metrics(trial, rows),
        loss_curve=_loss_curve(pretrained),
        tags={key: _text(value) for key, value in tags.items() if value},
        started=min((s["started"] for s in stages if s.get("started") is not None), default=None),
        finished=max((s["finished"] for s in stages if s.get("finished") is not None), default=None),
        artifacts={
            "design.json": json.dumps(trial, indent=1),
            "result.json": json.dumps([dict(r) for r in rows]),
        },
    )


def _results(lookup: Lookup, stages: Iterable[tuple[str, str]]) -> list[Mapping[str, Any]]:
    """The results that there are, each stage once."""
    found = (lookup(kind, digest) for kind, digest in dict.fromkeys(stages))
    return [result for result in found if result]


def _params(plan: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, str]:
    design = trial["design"]
    named: dict[str, Any] = {f"mixture.{component}": f"{share:.6g}" for component, share in design["mixture"].items()}
    for key in ("ordering", "architecture", "width", "depth", "representation", "steps", "train_examples", "training"):
        named[key] = design[key]
    named["seeds"] = ",".join(str(seed) for seed in sorted({cell["seed"] for cell in trial["cells"]}))
    named |= {"direct_kind": plan["direct_kind"], "protocol": plan["protocol"]}
    return {key: _text(str(value)) for key, value in named.items() if value not in (None, "")}


def _metrics(trial: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the seeds whose rows are ok, each absent if there is none.

    `mean_gap` and `worst_gap` are over the components that have a direct baseline; both are absent if one of
    those has no gap, for the worst may be among the missing.
    """
    read = [row for row in rows if row["status"] == "ok"]
    ok = [row for row in read if row["primary"]]
    components = list(dict.fromkeys(cell["component"] for cell in trial["cells"]))
    found: dict[str, float | None] = {}
    for name, column in (
        ("transfer", "transfer_accuracy"),
        ("direct", "direct_probe_accuracy"),
        ("gap", "gap"),
        ("random_init", "random_init_accuracy"),
    ):
        for component in components:
            found[f"{name}/{component}"] = _mean(row[column] for row in ok if row["component"] == component)
    gaps = [found[f"gap/{c}"] for c in dict.fromkeys(cell["component"] for cell in trial["cells"] if cell["direct"])]
    known = [gap for gap in gaps if gap is not None]
    if known and len(known) == len(gaps):
        found |= {"mean_gap": fmean(known), "worst_gap": max(known)}
    for name, column in (*MEASURED.items(), *((f"retention/{column}", column) for column in RETENTION)):
        for component in components:
            found[f"{name}/{component}"] = _mean(row[column] for row in ok if row["component"] == component)
    for row in read:  # every further protocol under its own name
        if not row["primary"]:
            name = f"transfer/{row['component']}/{_reading(row)}"
            same = (o for o in read if (o["component"], _reading(o)) == (row["component"], _reading(row)))
            found.setdefault(name, _mean(o["transfer_accuracy"] for o in same))
    by_seed = {row["seed"]: row for row in ok}.values()  # the rows of one seed share its pretraining
    for column in ("seconds", "examples_per_second"):
        found[column] = _mean(row[column] for row in by_seed)
    return {name: value for name, value in found.items() if value is not None}


def _reading(row: Mapping[str, Any]) -> str:
    """A protocol and its shots, as a part of a metric's name."""
    shots = "" if row["shots"] is None else f" {row['shots']} shots"
    return f"{row['protocol']}{shots}".replace(", ", " ")


def _loss_curve(pretrained: Iterable[Mapping[str, Any]]) -> tuple[tuple[int, float], ...]:
    """The mean at each step over the runs that have that step, without those that diverged."""
    at: dict[int, list[float]] = {}
    for result in pretrained:
        if result.get("status") == "ok":
            for step, loss in result.get("loss_curve") or ():
                at.setdefault(int(step), []).append(loss)
    means = ((step, _mean(losses)) for step, losses in sorted(at.items()))
    return tuple((step, mean) for step, mean in means if mean is not None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    return fmean(known) if known else None


def _text(value: str) -> str:
    """Text that every database takes: no lone surrogates, no NUL, not too long."""
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:MAX_TEXT]


def _line(value: str) -> str:
    return " ".join(_text(value).split())[:MAX_NAME].strip()


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# While a sweep runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How tracking a sweep went."""

    synced: bool  # whether MLflow shows all that it was given
    runs: int  # runs of trials that were written
    warning: str | None  # why it is not synced; has been logged already


@dataclass(frozen=True)
class _Finish:
    status: str
    artifacts: Sequence[Path]
    metrics: Mapping[str, float]


class Tracker:
    """Writes a sweep's runs from a thread of its own, so that nothing waits for MLflow.

    What waits is the digest of a trial and a function that makes its record, not the record: the store has all that
    it is made from, and a server that is away for days costs no memory.

    Whatever goes wrong is logged once, as one warning. If MLflow is away, the trials wait, and are tried again after
    RETRY_S, again and again, and at the end; a trial that MLflow refuses is left out, and the others go on.
    """

    def __init__(self, uri: str, plan: Mapping[str, Any], *, artifact_location: str | None, sweep_text: str) -> None:
        """
        Args:
            uri: the tracking server or database.
            plan: what `Plan.as_json` wrote.
            artifact_location: where a database's artifacts go; a server decides itself.
            sweep_text: the sweep file.
        """
        self._uri, self._plan = uri, plan
        self._artifact_location, self._sweep_text = artifact_location, sweep_text
        self._messages: SimpleQueue[tuple[str, Callable[[], TrialRecord]] | _Finish] = SimpleQueue()
        self._waiting: dict[str, Callable[[], TrialRecord]] = {}  # by digest: what was logged last counts
        self._view: _View | None = None
        self._retry_at = 0.0  # on the monotonic clock
        self._runs = 0
        self._warning: str | None = None
        self._synced = False
        self._refused = 0
        self._done = threading.Event()
        # A daemon: a process that wants to end does not wait for a server that does not answer.
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin; returns at once. MLflow is imported on the thread, which takes seconds."""
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()

    def log(self, digest: str, record: Callable[[], TrialRecord]) -> None:
        """Show a trial; returns at once.

        Args:
            digest: of the trial.
            record: makes its record, on the tracker's thread and perhaps more than once.
        """
        self._messages.put((digest, record))

    def finish(self, status: str, artifacts: Sequence[Path], metrics: Mapping[str, float], timeout_s: float) -> Outcome:
        """Write what is left, then the parent's artifacts and metrics, and end it.

        Args:
            status: of the parent: FINISHED, FAILED or KILLED.
            artifacts: files for the parent.
            metrics: of the parent.
            timeout_s: return after this long, done or not.
        """
        self._messages.put(_Finish(status, artifacts, metrics))
        if not self._done.wait(timeout_s):
            self._warn(f"it has not taken everything within {timeout_s:g} s")
            return Outcome(synced=False, runs=self._runs, warning=self._warning)
        return Outcome(synced=self._synced, runs=self._runs, warning=None if self._synced else self._warning)

    def _work(self) -> None:
        self._attempt(self._opened)
        message = self._next()
        while not isinstance(message, _Finish):
            if message is not None:
                digest, record = message
                self._waiting[digest] = record
            if time.monotonic() >= self._retry_at:
                self._attempt(self._write_waiting)
            message = self._next()
        finish = message
        ended = self._attempt(lambda: self._end(finish), say_full=finish.status != "KILLED")
        self._synced = ended and not self._refused
        self._done.set()

    def _next(self) -> tuple[str, Callable[[], TrialRecord]] | _Finish | None:
        """The next message; None when what waits is to be tried again."""
        try:
            return self._messages.get(timeout=max(0.0, self._retry_at - time.monotonic()) if self._waiting else None)
        except Empty:
            return None

    def _attempt(self, step: Callable[[], object], *, say_full: bool = False) -> bool:
        try:
            step()
        except Exception as error:  # MLflow is a view: whatever goes wrong with it, the sweep goes on
            self._view = None  # an answer may have been lost: look again what MLflow has
            self._retry_at = time.monotonic() + RETRY_S
            # A full disk is most likely the store's, and then the sweep stops and says so itself.
            if say_full or not room.is_full(error):
                self._warn(_reason(error))
            return False
        return True

    def _opened(self) -> _View:
        if self._view is None:
            view = _View(self._uri, self._plan, self._artifact_location)
            view.open_parent(self._sweep_text, running=True)
            self._view = view
        return self._view

    def _write_waiting(self) -> None:
        view = self._opened()
        while self._waiting:
            digest, record = next(iter(self._waiting.items()))
            try:
                self._runs += _write_trial(view, record())
            except Exception as error:
                if not _refuses(error):
                    raise
                self._refused += 1
                self._warn(f"trial {digest[:12]}: {_reason(error)}")
            del self._waiting[digest]

    def _end(self, finish: _Finish) -> None:
        self._write_waiting()
        view = self._opened()
        view.open_parent(self._sweep_text, running=True)  # a search has asked for trials since it was opened
        view.end_children()
        view.end_parent(finish.status, finish.artifacts, finish.metrics)

    def _warn(self, why: str) -> None:
        if self._warning is None:
            self._warning = (
                f"MLflow at {without_password(self._uri)}: {why}; the sweep goes on, "
                f"and `bottleneck sync {self._plan['sweep']}` brings MLflow up to date"
            )
            log.warning("%s", self._warning)


# Afterwards -------------------------------------------------------------------------------------------------


def sync(
    uri: str,
    plan: Mapping[str, Any],
    records: Iterable[TrialRecord],
    *,
    artifact_location: str | None,
    sweep_text: str,
    artifacts: Sequence[Path],
    status: str,
    metrics: Mapping[str, float] | None = None,
) -> int:
    """Make MLflow show a sweep as the store has it; returns how many runs of trials had to be written.

    Args:
        records: of all its trials.
        status: of the parent: FINISHED, FAILED or KILLED.
        artifacts: files for the parent.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    known = list(records)
    with _one_line(uri):
        view = _View(uri, plan, artifact_location)
        view.open_parent(sweep_text, started=min((r.started for r in known if r.started), default=None))
        with ThreadPoolExecutor(WRITERS if view.on_server else 1) as pool:
            written = sum(pool.map(lambda record: _write_trial(view, record), known))
        view.end_children()
        finished = max((r.finished for r in known if r.finished), default=None)
        view.end_parent(status, artifacts, metrics or {}, finished)
    return written


def read_rows(sweep: str, uri: str) -> list[dict[str, Any]]:
    """The rows of the results table that MLflow has of a sweep's current plan, in the order of the plan.

    The same as `results.rows` gives for the store, without the trials that have no outcome yet.

    Raises:
        TrackingError: MLflow has no such sweep, cannot be reached, or has lost an artifact.
    """
    with _one_line(uri):
        client = _client(uri, create=False)
        found = client.get_experiment_by_name(sweep)
        runs = _search(client, [found.experiment_id]) if found and found.lifecycle_stage == "active" else []
        parent = next((run for run in runs if run.tags.get(PARENT) == sweep and run.whole), None)
        if parent is None:
            raise TrackingError(f"MLflow at {without_password(uri)} has no sweep {sweep!r}; it has: {_sweeps(client)}")
        children = {run.tags[DIGEST]: run for run in reversed(runs) if DIGEST in run.tags and run.whole}
        planned = [digest for digest in _read_json(uri, parent, "plan.json")["trials"] if digest in children]
        with ThreadPoolExecutor(READERS) as pool:
            tables = pool.map(lambda digest: _read_json(uri, children[digest], "result.json"), planned)
            return [row for table in tables for row in table]


def sweeps(uri: str) -> list[str]:
    """The names of the sweeps that MLflow has, in order; experiments of others are none.

    Raises:
        TrackingError: MLflow has no sweep, or cannot be reached.
    """
    with _one_line(uri):
        client = _client(uri, create=False)
        names = {found.experiment_id: found.name for found in client.search_experiments(max_results=PAGE)}
        parents = _search(client, list(names), f"tags.`{PARENT}` LIKE '%'") if names else []
        found = sorted({run.tags[PARENT] for run in parents if run.whole} & set(names.values()))
        if not found:
            raise TrackingError(f"MLflow at {without_password(uri)} has no sweeps")
        return found


def check(uri: str) -> None:
    """Raises TrackingError unless MLflow answers there, or its database can be created. Writes nothing."""
    with _one_line(uri):
        check_uri(uri)
        database = database_of(uri)
        if database is None or database.exists():
            _client(uri, create=False).search_experiments(max_results=1)
            return
        folder = next(parent for parent in database.parents if parent.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise PermissionError(f"{str(folder)!r} cannot be written, so the database cannot be created there")


def check_login(uri: str) -> None:
    """Raises TrackingError if a tracking server refuses us: no login or a wrong one, a host name that it does not know.

    That is asked before a sweep starts, because it is a mistake that somebody can mend and that waiting does not: the
    sweep would go on for days with nobody looking at its one warning. A server that does not answer within LOGIN_S
    is another matter, which passes by itself: no error, the tracker tries it again while the sweep runs.

    MLflow asks, not a request of ours, so that its tokens, plug-ins, certificates and ~/.mlflow/credentials count.
    """
    if not _is_server(uri):
        return
    _prepare()
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    asked = {"method": "POST", "json": {"max_results": 1}, "max_retries": 0, "timeout": LOGIN_S}
    try:
        path = "/api/2.0/mlflow/experiments/search"
        status = http_request(get_default_host_creds(uri), path, raise_on_status=False, **asked).status_code
    except _failures():
        return
    if status in REFUSALS:
        raise TrackingError(f"MLflow at {without_password(uri)}: {REFUSALS[status]}")


def check_uri(uri: str) -> None:
    """Raises TrackingError for a URI that MLflow no longer writes to. Imports nothing and asks no one."""
    if uri in ("databricks", "databricks-uc", "uc"):
        return
    if urlsplit(uri).scheme in ("", "file"):
        raise TrackingError(
            f"tracking URI {uri!r} is a folder, and MLflow no longer keeps runs in folders; use "
            "sqlite:////absolute/path/mlflow.db or a server, http://host:port "
            "(`mlflow migrate-filestore` converts an old folder)"
        )


# What MLflow has --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One of our runs as MLflow has it."""

    id: str
    status: str  # RUNNING, SCHEDULED, FINISHED, FAILED, KILLED
    tags: Mapping[str, str]
    artifacts: str  # URI of its folder

    @property
    def ended(self) -> bool:
        return self.status not in ("RUNNING", "SCHEDULED")

    @property
    def annotations(self) -> dict[str, str]:
        """The tags that are not ours: what people wrote on the run."""
        ours = ("bottleneck.", "mlflow.")
        return {key: value for key, value in self.tags.items() if key == NOTE or not key.startswith(ours)}

    @property
    def whole(self) -> bool:
        """Whether it has what cannot be changed: a child its params and metrics, the parent its plan.

        Its status does not tell: a run is KILLED because its trial was stopped, or because its writer was.
        """
        return ROWS in self.tags or PLAN in self.tags

    def lacks(self, name: str) -> bool:
        """Whether an artifact is known to be gone. Only files that this machine sees are looked for."""
        if self.artifacts.startswith("/"):
            folder = Path(self.artifacts)
        elif self.artifacts.startswith("file:"):
            folder = Path(unquote(urlsplit(self.artifacts).path))
        else:
            return False
        return not (folder / name).exists()


class _View:
    """A sweep's experiment: its parent, and the run of each of its trials."""

    def __init__(self, uri: str, plan: Mapping[str, Any], artifact_location: str | None) -> None:
        self.client = _client(uri, create=True)
        self.on_server = _is_server(uri)
        self._uri, self._plan = uri, plan
        self._sweep = str(plan["sweep"])
        self.created = False  # whether a run of a trial was asked for
        self.experiment = _experiment(self.client, plan, None if self.on_server else artifact_location)
        self._find()

    def _find(self) -> None:
        """Look up what MLflow has. Of a trial's runs one is kept: whole rather than not, then the oldest."""
        runs = sorted(_search(self.client, [self.experiment]), key=lambda run: not run.whole)
        planned = {trial["digest"] for trial in self._plan["trials"]}
        self.trials: dict[str, _Run] = {}
        self._others: list[_Run] = []  # of trials of an earlier plan
        self._parent: _Run | None = None
        for run in runs:
            digest: Any = run.tags.get(DIGEST)
            if run.tags.get(PARENT) == self._sweep:
                if self._parent is None:
                    self._parent = run
                else:
                    self.client.delete_run(run.id)
            elif digest in self.trials:
                self.client.delete_run(run.id)
            elif digest in planned:
                self.trials[digest] = run
            elif digest is not None:
                self._others.append(run)

    @property
    def parent(self) -> _Run:
        assert self._parent is not None, "open_parent comes first"
        return self._parent

    def open_parent(self, sweep_text: str, *, running: bool = False, started: float | None = None) -> None:
        """Find or create the parent, and let it show the plan and the sweep file."""
        plan = {**self._plan, "trials": [trial["digest"] for trial in self._plan["trials"]]}
        content = _sha256([plan, sweep_text])
        if self._parent is None:
            note = _text(str(self._plan["question"]))
            tags = {PARENT: self._sweep, "bottleneck.sweep": self._sweep, NOTE: note, **SOURCE}
            self._parent = _as_run(
                self.client.create_run(self.experiment, _ms(started), tags, run_name=_line(self._sweep))
            )
        elif running and self._parent.ended:
            self.client.update_run(self._parent.id, status="RUNNING")
            self._parent = replace(self._parent, status="RUNNING")
        if self._parent.tags.get(PLAN) != content or self._parent.lacks("plan.json"):
            self.write_files(self._parent, {"sweep.yaml": sweep_text, "plan.json": json.dumps(plan, indent=1)})
            self.client.set_tag(self._parent.id, PLAN, content)
            self._parent = replace(self._parent, tags={**self._parent.tags, PLAN: content})

    def write_files(self, run: _Run, files: Mapping[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                Path(folder, name).write_text(text, encoding="utf-8")
            self._upload(run, [Path(folder, name) for name in files])

    def _upload(self, run: _Run, files: Iterable[Path]) -> None:
        """The client's `log_artifact` asks the server for the run first, which we have."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = get_artifact_repository(run.artifacts, tracking_uri=self._uri)
        for path in files:
            place.log_artifact(str(path))

    def end_children(self) -> None:
        """No run of a trial stays RUNNING, and none is there twice, also where the answer to a creation was lost."""
        if self.created:
            self._find()
        for run in (*self.trials.values(), *self._others):
            if not run.ended:
                self.client.set_terminated(run.id, "KILLED")

    def end_parent(
        self,
        status: str,
        artifacts: Sequence[Path],
        metrics: Mapping[str, float],
        finished: float | None = None,
    ) -> None:
        self._upload(self.parent, artifacts)
        self.client.log_batch(self.parent.id, metrics=_as_metrics(metrics, int(time.time() * 1000)), synchronous=True)
        if self.parent.status != status:
            self.client.set_terminated(self.parent.id, status, _ms(finished))


def _write_trial(view: _View, record: TrialRecord) -> bool:
    """Let the one run of a trial show its record; False if it does, or if there is nothing to show yet."""
    if record.status not in RUN_STATUS:
        return False
    client, run = view.client, view.trials.get(record.digest)
    if run is not None and _shows(run, record, view.parent.id):
        return False
    tags = {**record.tags, PARENT_RUN: view.parent.id, MEASUREMENT: record.measurement}
    if run is not None and run.tags.get(MEASUREMENT) != record.measurement:
        tags |= run.annotations
        client.delete_run(run.id)
        run = None
    if run is None:
        view.created = True
        with_note = {NOTE: UNITS, **tags}
        run = _as_run(client.create_run(view.experiment, _ms(record.started), with_note, run_name=record.name))
    view.write_files(run, record.artifacts)
    # Where a kill came after some of this, MLflow takes equal params and equal points again.
    fixed = {} if run.whole else _fixed(record)
    if len(fixed.get("metrics", ())) > BATCH:  # MLflow takes several requests, and ROWS comes with the last
        client.log_batch(run.id, metrics=fixed.pop("metrics"), synchronous=True)
    tags[ROWS] = record.content
    changed = {key: value for key, value in tags.items() if run.tags.get(key) != value}
    client.log_batch(run.id, **fixed, tags=_as_tags(changed), synchronous=True)
    client.set_terminated(run.id, RUN_STATUS[record.status], _ms(record.finished))
    # A sweep of many thousands keeps of each what it is compared by when it is logged again.
    kept = {key: value for key, value in {**run.tags, **tags}.items() if key in COMPARED}
    view.trials[record.digest] = replace(run, status=RUN_STATUS[record.status], tags=run.annotations | kept)
    return True


def _fixed(record: TrialRecord) -> dict[str, list[Any]]:
    """What is written once. All points have the time of the result, so that MLflow keeps each once."""
    metrics = _as_metrics(record.metrics, _ms(record.finished) or 0, record.loss_curve)
    return {"metrics": metrics, "params": _as_params(record.params)}


def _shows(run: _Run, record: TrialRecord, parent: str) -> bool:
    return (
        run.status == RUN_STATUS[record.status]
        and run.tags.get(ROWS) == record.content
        and run.tags.get(PARENT_RUN) == parent
        and not any(run.lacks(name) for name in record.artifacts)
    )


def _search(client: Any, experiments: list[str], having: str = "") -> list[_Run]:
    """All runs of experiments that are not deleted, the oldest first; `having` is a filter of MLflow's."""
    runs: list[_Run] = []
    token = None
    while True:
        page = client.search_runs(
            experiments, having, max_results=PAGE, order_by=["attributes.start_time ASC"], page_token=token
        )
        runs += [_as_run(run) for run in page]
        token = page.token
        if not token:
            return runs


def _experiment(client: Any, plan: Mapping[str, Any], artifact_location: str | None) -> str:
    """The id of the sweep's experiment. One that was deleted in MLflow comes back: its name is taken."""
    name = str(plan["sweep"])
    found = client.get_experiment_by_name(name)
    if found is None:
        tags = {NOTE: _text(str(plan["question"])), EXPERIMENT_KIND: "custom_model_development"}
        return str(client.create_experiment(name, artifact_location, tags))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _sweeps(client: Any) -> str:
    names = sorted(e.name for e in client.search_experiments(max_results=PAGE) if e.experiment_id != "0")
    return ", ".join(names) or "none"


def _read_json(uri: str, run: _Run, name: str) -> Any:
    from mlflow.artifacts import download_artifacts

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = download_artifacts(f"{run.artifacts}/{name}", dst_path=folder, tracking_uri=uri)
            return json.loads(Path(path).read_text(encoding="utf-8"))
    except _failures() as error:
        raise TrackingError(
            f"MLflow at {without_password(uri)}: {name} of run {run.id} cannot be read ({_reason(error)}); "
            "delete the run in MLflow, then `bottleneck sync` writes it again"
        ) from error


# MLflow's own types -----------------------------------------------------------------------------------------


def _as_run(run: Any) -> _Run:
    return _Run(id=run.info.run_id, status=run.info.status, tags=run.data.tags, artifacts=run.info.artifact_uri)


def _as_metrics(values: Mapping[str, float], timestamp: int, loss_curve: Iterable[tuple[int, float]] = ()) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, timestamp, 0) for name, value in values.items()] + [
        Metric("loss", loss, timestamp, step) for step, loss in loss_curve
    ]


def _as_params(params: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, value) for key, value in params.items()]


def _as_tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


# Reaching it ------------------------------------------------------------------------------------------------


def _client(uri: str, *, create: bool) -> Any:
    """A client of a server or a database.

    MLflow has no light part: whatever is imported of it imports all of it (4.7 s, and 2.4 s more for a
    database; 2 shared cores, MLflow 3.17).

    Args:
        create: create an SQLite database that is not there.
    """
    check_uri(uri)
    database = database_of(uri)
    if database is not None and not create and not database.exists():
        raise TrackingError(f"there is no MLflow database {str(database)!r}; `bottleneck sync` writes one")
    _prepare()
    from mlflow.tracking import MlflowClient

    if database is None:
        return MlflowClient(tracking_uri=uri)
    if create:
        database.parent.mkdir(parents=True, exist_ok=True)
    # Two processes that create the schema at the same time leave a database that nobody can use. A reader may
    # lack the right to lock; it creates nothing.
    locked = create or os.access(database.parent, os.W_OK)
    with FileLock(f"{database}.lock", timeout=LOCK_S) if locked else contextlib.nullcontext():
        if not database.exists() or not database.stat().st_size:
            _create_database(MlflowClient, uri, database)
        _probe(database)
        _forget(uri)
        return MlflowClient(tracking_uri=uri)


def _create_database(client: Any, uri: str, database: Path) -> None:
    """Create the schema aside and put it in place whole: a kill amid the migrations leaves no half of it.

    MLflow's migrations take 4 s of a processor, so this machine's cache keeps what they lead to.
    """
    import mlflow

    part = database.with_name(f".{database.name}.part")
    kept = cache_root() / f"mlflow-{mlflow.__version__}.db"
    try:
        shutil.copyfile(kept, part)
        _require_whole(part)
    except (OSError, sqlite3.Error):
        part.unlink(missing_ok=True)
        _migrate(client, uri, part)
        with contextlib.suppress(OSError):  # a cache that cannot be written
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, kept.with_name(f".{uuid.uuid4().hex}")).replace(kept)
    part.replace(database)


def _migrate(client: Any, uri: str, database: Path) -> None:
    from sqlalchemy import make_url

    own = make_url(uri).set(database=str(database)).render_as_string()
    client(tracking_uri=own)
    _forget(own)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM experiments")  # MLflow makes its own again, for the folder that it is used from


def _probe(database: Path) -> None:
    """Raises sqlite3.Error for what is no database, at once; MLflow would try for 100 s."""
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def _require_whole(database: Path) -> None:
    """Raises sqlite3.Error for what is damaged or has no schema."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("SELECT version_num FROM alembic_version")
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _forget(uri: str) -> None:
    """Close what this process has open of a database.

    MLflow keeps it for the life of the process, and goes on with a file that has been deleted: what it reads
    there is old, and what it writes is lost. Opening it again takes 0.1 s.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry

    _tracking_store_registry._get_store_with_resolved_uri.cache_clear()
    engine = getattr(SqlAlchemyStore, "_engine_map", {}).pop(uri, None)
    if engine is not None:
        engine.dispose()


def database_of(uri: str) -> Path | None:
    """The file of an SQLite URI; None for a server, another database, or one in memory."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy import make_url

    name = make_url(uri).database
    return None if name in (None, "", ":memory:") else Path(name).absolute()


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _prepare() -> None:
    """Import MLflow with our settings: it logs a traceback of what it also raises, and we say things once."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for name in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


# Errors -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """Turns what MLflow raises into a TrackingError. Our own bugs keep their traceback."""
    try:
        yield
    except ValueError:  # what a user wrote, said by us already; MLflow need not be imported to find that out
        raise
    except _failures() as error:
        raise TrackingError(f"MLflow at {without_password(uri)}: {_reason(error)}") from error


def _failures() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # ImportError: a database's driver is not installed. OSError: files, the network, what `requests` raises.
    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)


def _refuses(error: Exception) -> bool:
    """Whether MLflow answered, and does not take what it was given: trying again brings the same answer."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() in (400, 413, 422)


def _reason(error: BaseException) -> str:
    """One line: our own words for what a server refuses, the system's error below the libraries' wrappings, or else
    the error's first line."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(cause, "get_http_status_code", lambda: None)()
        if status in (401, 403):
            return REFUSALS[status]
        if isinstance(cause, (OSError, sqlite3.Error)):
            error = cause
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("psycopg"):
        return (
            f"PostgreSQL's driver {error.name!r} is not installed; write postgresql+psycopg2:// for psycopg2, which "
            "comes with the extra `cluster`"
        )
    lines = without_password(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
