"""How do trials reach the machines? The only module that speaks to Ray.

Ray Tune places trials and moves them when a worker or a node is lost. It keeps nothing that matters: what a trial has
computed is in the store, so a trial that starts again goes on from there, and a sweep that is run again continues.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

# Before ray is imported: it reads these then. A user who has set one of them keeps it.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON or TensorBoard files beside the store
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # Tune's own state is not what we restart from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the objective is known at rungs alone
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES alone: trials without a GPU use none
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, workers use this environment, not a copy of the folder
    "OMP_NUM_THREADS": "1",  # one thread a trial; trials are what runs in parallel
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # noqa: E402
from ray.tune.execution import class_cache  # noqa: E402
from ray.tune.schedulers import (  # noqa: E402
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import Searcher  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

from orchestrator import capacity, stopping  # noqa: E402
from orchestrator.journal import Journal  # noqa: E402
from orchestrator.settings import without_secrets  # noqa: E402
from orchestrator.stopping import Stopping  # noqa: E402
from trainables import gpu, room, stall  # noqa: E402
from trainables.errors import UserError  # noqa: E402
from trainables.spec import Rung, TrialSpec  # noqa: E402
from trainables.store import Store  # noqa: E402

# Tune hands the driver's keys to every worker in a runtime environment, which Ray writes into its logs as it is.
# Workers have their own: they inherit them on this machine, and on a node from its role, its environment or a file.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
)
class_cache.DEFAULT_ENV_VARS.clear()  # without any, a trial takes a process that Ray has started beforehand

log = logging.getLogger(__name__)

MAX_WORKER_DEATHS = 3  # a trial is started again this often without getting any further in between
HELPER = "+"  # between a trial's digest and the number of a helper of it
LOG_TAIL_LINES = 30
OBJECT_STORE_BYTES = 200 * 2**20  # specs and reports are small; data and results do not pass through Ray
SCRATCH_BYTES = 64 * 2**20  # Ray's logs and Tune's own files, for a sweep of some hours
REPORT_EVERY_S = 1.0
CONNECT_S = 5.0
SAVING_S = 30.0  # of an interrupted sweep's workers; what takes longer goes on from its last save
TRIALS_A_RUN = 1000  # Tune keeps 60 kB of every trial that it has run: after so many it is started anew
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"
CARRIED_VARIABLES = (
    "BOTTLENECK_DATA",
    "BOTTLENECK_CACHE",
    "OMP_NUM_THREADS",
    # Where the store is. Not the keys to it: Ray writes what it carries into its logs and its dashboard.
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)


@dataclass(frozen=True, kw_only=True)
class End:
    """How a trial came to its end: with all its stages, if nothing is said here."""

    error: str | None = None  # of a trial that failed
    log: str | None = None  # its tail
    stopped_at: int | None = None  # the steps after which early stopping ended it

    @property
    def status(self) -> str:
        """In one word."""
        return "failed" if self.error else "ok" if self.stopped_at is None else "stopped"


class Trials(Protocol):
    """Where trials come from, and who hears of them. Called on Ray Tune's loop: every method returns at once.

    The name of a trial is its digest. One that is under way may be given out once more, to a worker that would be idle,
    as `<digest>+<number>`: the two share its stages out between them.
    """

    def room(self, at_once: int, now: int) -> None:
        """How many trials can be under way at the same time: on the cluster at its largest, and as it stands."""

    def next(self) -> tuple[str, TrialSpec] | None:
        """The trial to start now, and its name; None: none, or not yet."""

    def exhausted(self) -> bool:
        """Whether `next` has no trial any more that has not been started, whatever happens to those that run."""

    def trial_started(self, name: str) -> None: ...
    def trial_progress(self, name: str, report: Mapping[str, Any]) -> None: ...
    def trial_ended(self, name: str, end: End) -> None: ...


class LaunchError(UserError):
    """The sweep cannot be started as asked; the message says why, in one line."""


def launch(
    trials: Trials,
    *,
    storage: str,
    sweep: str,
    cpus: float,
    gpus: float,
    interrupted: threading.Event,
    early_stopping: Stopping | None = None,
) -> None:
    """Run trials to their end, in the order given as resources come free; returns early once interrupted.

    Args:
        storage: location of the store, the same on every machine.
        sweep: name of the sweep whose journal the workers write.
        cpus, gpus: what one trial takes; part of a GPU is possible.
        interrupted: set by the first Ctrl-C or SIGTERM. Running trials then save their state and stop. A second
            Ctrl-C raises KeyboardInterrupt.
        early_stopping: ends trials at their rungs that do worse than others did there; None: none.

    Raises:
        LaunchError: no machine of the cluster can hold a trial.
        StoreFull: the store has no room for what trials write. The others have been stopped in order.
    """
    _require_scratch()
    _require_no_namesake()
    launched = uuid.uuid4().hex
    reporter = _Reporter(trials, interrupted, Journal(Store(storage), sweep), launched)
    with _cluster(cpus, gpus), _first_interrupt_ends_in_order(interrupted):
        at_once, now = _at_once(cpus, gpus)
        os.environ.setdefault(PENDING, str(max(at_once, 2)))  # what is pending is what an autoscaler makes room for
        trials.room(at_once, now)
        while not trials.exhausted() and not interrupted.is_set():
            with tempfile.TemporaryDirectory(prefix="bottleneck-tune-") as scratch:
                actor = tune.with_parameters(
                    TrialActor,
                    storage=storage,
                    sweep=sweep,
                    cpus=cpus,
                    gpus=gpus,
                    early_stopping=early_stopping,
                    stall_s=stall.limit_s(),
                    launched=launched,
                )
                # A scheduler's memory ends with Tune's run, so with one there is one run.
                most = None if early_stopping else max(TRIALS_A_RUN, 20 * at_once)
                tuner = tune.Tuner(
                    tune.with_resources(actor, {"cpu": cpus, "gpu": gpus}),
                    tune_config=tune.TuneConfig(
                        search_alg=_Queue(trials, most),
                        scheduler=_scheduler(early_stopping),
                        num_samples=-1,  # as many as come
                        reuse_actors=True,
                        trial_name_creator=lambda trial: _short(trial.config["trial"]),
                        trial_dirname_creator=lambda trial: _short(trial.config["trial"]),
                    ),
                    run_config=tune.RunConfig(
                        name="sweep",
                        storage_path=scratch,
                        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                        failure_config=tune.FailureConfig(max_failures=MAX_WORKER_DEATHS),
                        callbacks=[reporter],
                        verbose=0,
                    ),
                )
                tuner.fit()
        if reporter.store_full:
            raise room.StoreFull(reporter.store_full)


class _Sent:
    """A trial's spec on its way to a worker, to be taken out where it is no longer to be kept.

    Tune writes a configuration into tags, keeps it with the trial in three places, and adds it to every report.
    """

    def __init__(self, spec: TrialSpec) -> None:
        self._spec: TrialSpec | None = spec

    def take(self) -> TrialSpec | None:
        spec, self._spec = self._spec, None
        return spec

    def __deepcopy__(self, memo: object) -> _Sent:
        return self

    def __repr__(self) -> str:
        return "spec"


class _Queue(Searcher):  # type: ignore[misc]
    """Our trials as Tune's suggestions."""

    def __init__(self, trials: Trials, most: int | None) -> None:
        super().__init__()
        self._trials, self._left = trials, most
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        found = None if self._left == 0 else self._trials.next()
        if found is None:  # as long as a trial runs, an idle worker may come to help with it
            over = self._left == 0 or (self._trials.exhausted() and not self._live)
            return str(Searcher.FINISHED) if over else None
        name, trial = found
        if self._left is not None:
            self._left -= 1
        self._live.add(trial_id)
        return {"trial": name, "spec": _Sent(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a sweep continues from its store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as well."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """Runs trials on a worker, one after the other; the process, its imports and its data in memory are reused."""

    def setup(
        self,
        config: dict[str, Any],
        storage: str,
        sweep: str,
        cpus: float,
        gpus: float,
        early_stopping: Stopping | None,
        stall_s: float,
        launched: str,
    ) -> None:
        import torch

        from trainables.process import Settings, keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(max(1, int(cpus)))
        self._early_stopping, self._stall_s, self._launched = early_stopping, stall_s, launched
        self._device = "cuda" if gpus else "cpu"  # a GPU that the sweep did not ask for belongs to someone else
        self._store = Store(storage)
        self._journal = Journal(self._store, sweep)
        self._log = _LogTail()
        logging.getLogger().addHandler(self._log)
        self._settings = Settings()
        self._begin(config["spec"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._steps.close()
        if changed := self._settings.restore():
            log.warning("trial %s has changed %s; put back for the next", self._trial.digest[:12], ", ".join(changed))
        self._begin(new_config["spec"])
        return True

    def _begin(self, sent: _Sent) -> None:
        from trainables.trial import trial_steps

        spec = sent.take()
        assert spec is not None, "it is sent once to each worker"
        self._trial = spec
        self._events: list[dict[str, Any]] = []
        self._log.lines.clear()
        self._steps = trial_steps(
            self._trial,
            self._store,
            device=self._device,
            note=self._note,
            report_every_s=REPORT_EVERY_S,
        )

    def _note(self, event: str, **what: Any) -> None:
        self._journal.write(event, trial=self._trial.digest, **what)
        self._events.append({"event": event, **what})

    def step(self) -> dict[str, Any]:
        """Go on for a while, or until the trial has come to a rung or to its end."""
        report: dict[str, Any] = {"error": None, "log": None}
        until = time.monotonic() + REPORT_EVERY_S  # every report is a call to the driver and one back
        try:
            while True:
                with stall.limited(self._stall_s, self._hung):
                    progress = next(self._steps)
                if progress.finished or progress.rung is not None or time.monotonic() >= until:
                    break
            report |= asdict(progress) | {"done": progress.finished}
            if progress.rung is not None and self._early_stopping:
                report |= self._at_rung(self._early_stopping, self._trial.rungs[progress.rung])
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            report["error"] = _clean(f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})")
            report["log"] = _clean("\n".join([*self._log.lines, traceback.format_exc()])[-20_000:])
            report["store_full"] = str(error) if room.is_full(error) else None
            report["done"] = True
        report["events"], self._events = self._events, []
        report["warnings"] = [_clean(line) for line in self._log.warnings]
        self._log.warnings.clear()
        use = gpu.use(self._device)
        report["gpu"] = asdict(use) if use else None
        return report

    def _at_rung(self, early_stopping: Stopping, rung: Rung) -> dict[str, Any]:
        """The objective where the trial stands; what has none, because a network diverged, is at its end."""
        value = early_stopping.objective_at(rung, self._store.get)
        if value is None:
            return {"done": True, "stopped_at": rung.steps}
        return {"rung_steps": rung.steps, TIME: rung.steps / early_stopping.unit, OBJECTIVE: value}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: what a paused trial has done is in the store."""

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """Nothing, as well: the trial goes on from the store."""

    def _hung(self, where: str, stack: str) -> None:
        minutes = f"{self._stall_s / 60:g}"
        error = f"it hung in {where}, for the {minutes} minutes that {stall.VARIABLE} allows"
        said = {"error": _clean(error), "log": _clean(stack[-20_000:])}
        self._journal.write("stalled", trial=self._trial.digest, launched=self._launched, **said)

    def cleanup(self) -> None:
        with contextlib.suppress(UserError, OSError):  # a store that has no room for the state keeps the one before
            self._steps.close()


def _short(name: str) -> str:
    """A trial's name, for files."""
    digest, mark, number = name.partition(HELPER)
    return f"{digest[:12]}{mark}{number}"


def _clean(text: str) -> str:
    """Text that every file can hold and everyone may read: an error may quote bytes that are no text, or a password."""
    return without_secrets(text.encode("utf-8", "backslashreplace").decode())


class _LogTail(logging.Handler):
    """The last lines that were logged, and of the warnings among them those that nobody has taken."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LOG_TAIL_LINES)
        self.warnings: deque[str] = deque(maxlen=LOG_TAIL_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())


class _Reporter(tune.Callback):  # type: ignore[misc]
    """Ray's words into ours."""

    def __init__(self, trials: Trials, interrupted: threading.Event, journal: Journal, launched: str) -> None:
        self._trials, self._interrupted, self._journal = trials, interrupted, journal
        self._launched = launched  # tells what hung now from what hung in earlier runs
        self._furthest: dict[str, tuple[int, int]] = {}  # by name: (stages done, step of the next)
        self.store_full: str | None = None  # what a trial has said of it

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes its callbacks down to restore them; nothing of ours is restored from there

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._interrupted.is_set():
            _save(trials)
            os.kill(os.getpid(), signal.SIGUSR1)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._trials.trial_started(trial.config["trial"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        name = trial.config["trial"]
        if result.get("store_full"):
            self.store_full = result["store_full"]
            self._interrupted.set()
            return
        reached = (result.get("stages_done", 0), result.get("step", 0))
        if reached > self._furthest.get(name, (0, 0)):
            self._furthest[name] = reached
            trial.run_metadata.num_failures = 0  # a long trial may lose any number of workers, one after the other
        self._trials.trial_progress(name, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        if last.get("store_full"):
            return  # nothing is wrong with the trial
        if last.get("error") or last.get("finished") or HELPER in trial.config["trial"]:
            self._ended(trial, End(error=last.get("error"), log=last.get("log")))
        elif stopped_at := last.get("stopped_at") or last.get("rung_steps"):
            self._ended(trial, End(stopped_at=stopped_at))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        digest, log = trial.config["trial"], _tail_of(trial.error_file) or ""
        last = (log.strip().splitlines() or ["without a word"])[-1]
        for event in self._journal.events():
            if event["event"] == "stalled" and (event["trial"], event["launched"]) == (digest, self._launched):
                last, log = event["error"], event["log"]
        error = f"its worker died {MAX_WORKER_DEATHS + 1} times without getting any further, the last time: {last}"
        self._ended(trial, End(error=error, log=log))

    def _ended(self, trial: Any, end: End) -> None:
        self._furthest.pop(trial.config["trial"], None)
        self._trials.trial_ended(trial.config["trial"], end)
        trial.config["spec"].take()


def _save(trials: list[Any]) -> None:
    """Wait for workers to save how far they have come; Tune would give them five seconds."""
    stopped = [trial.temporary_state.ray_actor.stop.remote() for trial in trials if trial.temporary_state.ray_actor]
    if stopped:
        ray.wait(stopped, num_returns=len(stopped), timeout=SAVING_S)


# Early stopping -------------------------------------------------------------------------------------------------------

TIME, OBJECTIVE = "rungs_passed", "objective"  # what schedulers read of a report; only those of a rung have them


def _scheduler(early_stopping: Stopping | None) -> TrialScheduler:
    if early_stopping is None:
        return _InOrder()
    rule, mode = early_stopping.rule, "min" if early_stopping.objective.minimised else "max"
    told = {"time_attr": TIME, "metric": OBJECTIVE, "mode": mode}
    scheduler: _AtRungs
    if isinstance(rule, stopping.Asha):
        scheduler = _Asha(
            **told, max_t=early_stopping.longest, grace_period=1, reduction_factor=rule.asha.reduction_factor
        )
    elif isinstance(rule, stopping.Median):
        # Never paused for others to catch up: every trial that waits is a worker that starts again.
        scheduler = _Median(
            **told, grace_period=0, min_samples_required=rule.median.min_trials, min_time_slice=math.inf
        )
    else:
        scheduler = _HyperBand(**told, max_t=early_stopping.longest, reduction_factor=rule.hyperband.reduction_factor)
    for trial, steps, value in early_stopping.history:
        scheduler.replay(trial, {TIME: steps / early_stopping.unit, OBJECTIVE: value})
    return scheduler


class _AtRungs:
    """A scheduler that looks at a trial once at each of its rungs.

    Between rungs a trial reports its progress, and a trial that starts again after the loss of its worker comes by its
    rungs a second time.
    """

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        seen: set[tuple[str, float]] = self.__dict__.setdefault("seen", set())
        if OBJECTIVE not in result or (trial.trial_id, result[TIME]) in seen:
            return str(TrialScheduler.CONTINUE)
        seen.add((trial.trial_id, result[TIME]))
        return str(super().on_trial_result(tune_controller, trial, result))  # type: ignore[misc]

    def replay(self, trial: str, result: Mapping[str, Any]) -> None:
        """Take in what an earlier run of the sweep found at a rung."""


class _Asha(_AtRungs, AsyncHyperBandScheduler):  # type: ignore[misc]
    def replay(self, trial: str, result: Mapping[str, Any]) -> None:
        earlier = _Earlier(trial)
        self.on_trial_add(None, earlier)
        super().on_trial_result(None, earlier, dict(result))


class _Median(_AtRungs, MedianStoppingRule):  # type: ignore[misc]
    def replay(self, trial: str, result: Mapping[str, Any]) -> None:
        self._results[_Earlier(trial)].append(dict(result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if OBJECTIVE in result:  # the last report of a failed trial says nothing
            super().on_trial_complete(tune_controller, trial, result)


class _HyperBand(_AtRungs, HyperBandScheduler):  # type: ignore[misc]
    """Brackets are made of trials that run side by side: those of an earlier run say nothing to it."""


@dataclass(frozen=True)
class _Earlier:
    """A trial of an earlier run of the sweep, as schedulers know trials."""

    trial_id: str


class _InOrder(FIFOScheduler):  # type: ignore[misc]
    """Every trial to its end. One that has ended needs no help from a worker that has still to start for it."""

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        helpers = f"{trial.config['trial']}{HELPER}"
        for other in list(tune_controller.get_live_trials()):
            if other.status == other.PENDING and other.config["trial"].startswith(helpers):
                other.run_metadata.last_result = {"called_off": True}  # Tune prints a line of one that has none
                tune_controller.stop_trial(other)


def _tail_of(path: str | None) -> str | None:
    try:
        return Path(path).read_text()[-20_000:] if path else None
    except OSError:
        return None


@contextlib.contextmanager
def _cluster(cpus: float, gpus: float) -> Iterator[None]:
    """Ray: the cluster of RAY_ADDRESS if there is one, else a private one on this machine for as long as it takes."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        variables = {name: os.environ[name] for name in CARRIED_VARIABLES if name in os.environ}
        options: dict[str, Any] = {"address": address, "runtime_env": {"env_vars": variables}}
    else:
        options = {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    if address:
        _require_answer(address)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **options)
    except Exception as error:  # a machine too busy to start it in half a minute is a bare Exception
        raise LaunchError(f"Ray cannot be started: {' '.join(str(error).split())}") from error
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        if not address:
            _require_room(ray.cluster_resources(), cpus, gpus)
        yield
    finally:
        ray.shutdown()


def _at_once(cpus: float, gpus: float) -> tuple[int, int]:
    """How many trials can run side by side: on the cluster at its largest, and as it stands."""
    nodes = ray.nodes()
    now = max(1, capacity.capacity(cpus, gpus, [node["Resources"] for node in nodes if node["Alive"]]))
    # A cluster file on this machine is not that of a private Ray.
    return max(now, capacity.of_this_cluster(cpus, gpus, nodes)) if os.environ.get("RAY_ADDRESS") else now, now


def _require_scratch() -> None:
    """Tune ends in an error that says nothing if its own files, and Ray's, find no room."""
    folder = tempfile.gettempdir()
    free = room.free_bytes(folder)
    if free is not None and free < SCRATCH_BYTES:
        raise LaunchError(
            f"{folder!r}, where Ray keeps temporary files, has {room.megabytes(free)} of room left and "
            f"{room.megabytes(SCRATCH_BYTES)} are needed; make room there, or set TMPDIR and RAY_TMPDIR"
        )


def _require_no_namesake() -> None:
    """Ray's workers look for modules in the working directory, and pandas takes any folder there for its package."""
    folder, package = Path("bottleneck"), importlib.util.find_spec("bottleneck")
    if folder.is_dir() and (package is None or package.origin is None):
        raise LaunchError(
            f"{str(folder.absolute())!r} has the name of a package that pandas looks for, and workers would take it "
            "for that; run the command from another folder"
        )


def _require_answer(address: str) -> None:
    """Ray itself tries for minutes, and then does not say why. Names without a port, as `auto`, are left to it."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise LaunchError(f"RAY_ADDRESS: no cluster answers at {address} ({error.strerror or error})") from error
    if not address.startswith("ray://"):
        try:
            GcsClient(address=f"{host}:{port}")
        except ray.exceptions.AuthenticationError as error:
            raise LaunchError(
                f"RAY_ADDRESS: the cluster at {address} does not let us in without its token; set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN_PATH"
            ) from error
        except ray.exceptions.RpcError as error:
            raise LaunchError(f"RAY_ADDRESS: what answers at {address} is no Ray cluster") from error


def _require_room(resources: Mapping[str, float], cpus: float, gpus: float) -> None:
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        there = resources.get(name, 0)
        if wanted > there:
            raise LaunchError(
                f"resources: a trial asks for {wanted:g} {name} and this machine has {there:g}; "
                f"lower resources.{name.lower()}, or set RAY_ADDRESS to a cluster"
            )


@contextlib.contextmanager
def _first_interrupt_ends_in_order(interrupted: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end Tune's loop in order the first time, and raise KeyboardInterrupt the second time.

    Tune listens to SIGINT and SIGUSR1 alike; SIGTERM, which batch systems and clouds send, would kill it. So our
    handler takes the first and the last, and `_Reporter` passes them on as the second from inside Tune's loop.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # until Tune has put up its own
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


# Asking machines ------------------------------------------------------------------------------------------------------

CLOCK_READINGS = 7  # of which the one with the shortest way there and back counts
STRANGER_S = 60.0
# A process that knows no token asks the cluster, as anyone on its network can.
STRANGER = """
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    print("refused")
else:
    print("answered")
"""


@dataclass(frozen=True)
class NodeAnswers:
    """What a worker on one machine of the cluster says."""

    node: str  # host, address and the beginning of Ray's id
    answers: Mapping[str, Any]  # by check
    silent: Mapping[str, str]  # why a check has no answer; of all checks, if no worker starts
    clock: tuple[float, float] | None  # seconds it is ahead of this machine, and by how much that may be wrong
    refuses_strangers: bool | None  # whether the cluster turns a call without its token away; None: it cannot be told


def on_every_node(
    checks: Mapping[str, Callable[[Any], Any]], question: Any, timeout_s: float, say: Callable[[str], None]
) -> list[NodeAnswers]:
    """Ask a worker, started as those of trials are, on every machine of the cluster of RAY_ADDRESS.

    Args:
        checks: functions of installed modules; each is given the question.
        timeout_s: for the worker of a machine to start, and again for its answers.
        say: told, in a line, how many are asked.

    Raises:
        LaunchError: there is no such cluster, or it does not let us in.
    """
    with _cluster(0, 0):
        nodes = sorted((n for n in ray.nodes() if n["Alive"]), key=lambda n: (n["NodeManagerHostname"], n["NodeID"]))
        say(f"asking {len(nodes)} node{'s' if len(nodes) != 1 else ''} of the cluster, up to {2 * timeout_s:g} s")
        with ThreadPoolExecutor(len(nodes)) as pool:
            return list(pool.map(lambda node: _asked(node, checks, question, timeout_s), nodes))


def _asked(
    node: Mapping[str, Any], checks: Mapping[str, Callable[[Any], Any]], question: Any, timeout_s: float
) -> NodeAnswers:
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    worker = ray.remote(_Examiner).options(num_cpus=0, scheduling_strategy=there).remote()
    try:
        ray.get(worker.time.remote(), timeout=timeout_s)
        clock = _clock(worker, timeout_s)
    except Exception as error:
        return NodeAnswers(name, {}, dict.fromkeys(checks, _why(error, timeout_s)), None, None)
    deadline = time.monotonic() + timeout_s
    answers, silent, refuses = {}, {}, None
    with contextlib.suppress(Exception):  # that it cannot be told is an answer
        refuses = ray.get(worker.refuses_strangers.remote(), timeout=timeout_s)
    for check, function in checks.items():
        try:
            answers[check] = ray.get(worker.ask.remote(function, question), timeout=max(0, deadline - time.monotonic()))
        except Exception as error:  # also what only a bug of ours can raise there: the other checks go on
            silent[check] = _why(error, timeout_s)
    return NodeAnswers(name, answers, silent, clock, refuses)


class _Examiner:
    """Answers on one machine."""

    def time(self) -> float:
        return time.time()

    def ask(self, check: Callable[[Any], Any], question: Any) -> Any:
        return check(question)

    def refuses_strangers(self) -> bool | None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
        done = subprocess.run(
            [sys.executable, "-P", "-c", STRANGER, ray.get_runtime_context().gcs_address],
            env={**environment, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=STRANGER_S,
            check=False,
        )
        return {"refused": True, "answered": False}.get(done.stdout.strip())


def _clock(worker: Any, timeout_s: float) -> tuple[float, float]:
    """Seconds that a worker's clock is ahead of ours, and half the way there and back, which is what that may miss."""
    readings = []
    for _ in range(CLOCK_READINGS):
        sent = time.time()
        theirs = ray.get(worker.time.remote(), timeout=timeout_s)
        received = time.time()
        readings.append(((received - sent) / 2, theirs - (sent + received) / 2))
    uncertainty, ahead = min(readings)
    return ahead, uncertainty


def _why(error: Exception, timeout_s: float) -> str:
    """One line about a worker that does not answer."""
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return f"no answer within {timeout_s:g} s"
    cause = getattr(error, "cause", None) or error
    return _clean(f"{type(cause).__name__}: {' '.join(str(cause).split())}")[:500]
