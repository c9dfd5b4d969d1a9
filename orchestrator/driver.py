"""Which trial is next, and what has become of the others? Between Ray's loop and everything that listens to it.

What Ray's loop calls returns at once. What takes time is done on one thread, in the order in which it happened: the
journal is written, the results are read and passed on to MLflow and to the display, and a search is told and asked.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator import results
from orchestrator.journal import Journal
from orchestrator.progress import State
from orchestrator.stopping import Stopping
from orchestrator.tracking import Tracker, TrialRecord, trial_record
from orchestrator.work import Work
from trainables.spec import TrialSpec

if TYPE_CHECKING:
    from orchestrator.launch import End
    from orchestrator.proposals import Proposals

STATUS = ("status", "error", "log", "rule", "steps", "objective")  # what the journal says of a trial's end


class Driver:
    """The trials of one run of a sweep."""

    def __init__(
        self,
        plan: dict[str, Any],
        *,
        lookup: results.Lookup,
        journal: Journal,
        state: State,
        tracker: Tracker,
        work: Work,
        search: Proposals | None,
        early_stopping: Stopping | None,
    ) -> None:
        """
        Args:
            plan: what `Plan.as_json` wrote; what a search asks for is added to it.
            search: where trials come from beside those that `begin` is given; None: nowhere.
        """
        self._plan, self._lookup, self._journal = plan, lookup, journal
        self._state, self._tracker, self._work, self._search = state, tracker, work, search
        self._rule = early_stopping.name if early_stopping else ""
        self._trials = {trial["digest"]: trial for trial in plan["trials"]}
        self._queue: deque[TrialSpec] = deque()
        self._under_way: dict[str, TrialSpec] = {}
        self._reached: dict[str, tuple[int, float]] = {}  # by trial: its last rung, in steps, and the objective there
        self._cut_short: dict[str, Mapping[str, Any]] = {}  # by trial that failed or was stopped: its end
        self._more = search is not None  # whether the search may ask for another trial
        self._room = 1  # trials that can be under way at the same time, on the cluster at its largest
        self._slots = 1  # the same on the cluster as it stands
        self._helpers: dict[str, str] = {}  # by name: the trial under way that it helps with
        self._helped: Counter[str] = Counter()  # by trial: helpers that it has had
        self._unaided: set[str] = set()  # trials that a helper has found nothing to do in
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._recordings: deque[Future[None]] = deque()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            for recording in self._recordings:
                recording.result()  # raises what went wrong on the thread
            for digest, status in self._cut_short.items():  # others may have computed stages of theirs since
                self._tracker.log(digest, partial(self._record, digest, status))

    def begin(
        self, trials: Iterable[TrialSpec], missing: Sequence[TrialSpec], stopped: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Queue the trials that have something to do, and pass on the others, which are whole or were stopped.

        Args:
            stopped: by digest, the journal's last event of trials that early stopping ended in an earlier run.
        """
        self._queue += missing
        to_do = {trial.digest for trial in missing}
        for trial in trials:
            if trial.digest not in to_do:
                event = stopped.get(trial.digest)
                status = {name: event.get(name) for name in STATUS} if event else {"status": "ok"}
                self._state.trial_ended(trial.digest, str(status["status"]))
                self._submit(self._ended if event else self._told, trial, status)
        if self._search:
            self._submit(self._refill)
            self._recordings[-1].result()  # so that a search of which nothing is left is seen to be exhausted

    # On Ray's loop ----------------------------------------------------------------------------------------------------

    def room(self, at_once: int, now: int) -> None:
        self._room, self._slots = at_once, now
        if self._search:
            self._submit(self._refill)

    def next(self) -> tuple[str, TrialSpec] | None:
        try:
            trial = self._queue.popleft()
        except IndexError:
            return self._helper()
        self._under_way[trial.digest] = trial
        return trial.digest, trial

    def _helper(self) -> tuple[str, TrialSpec] | None:
        """A trial under way once more, for a slot that would be idle until the end; None: no trial has enough left.

        Whoever claims a stage first computes it, so that the two workers share out what is left. With early stopping
        there is none: a trial that is stopped needs no help.
        """
        if self._more or self._rule or len(self._under_way) + len(self._helpers) >= self._slots:
            return None
        workers = Counter([*self._under_way, *self._helpers.values()])
        left = {d: self._state.missing(d) / workers[d] for d in self._under_way if d not in self._unaided}
        digest = max(left, key=left.__getitem__, default=None)
        if digest is None or left[digest] <= 1:
            return None
        self._helped[digest] += 1
        name = f"{digest}+{self._helped[digest]}"
        self._helpers[name] = digest
        return name, self._under_way[digest]

    def exhausted(self) -> bool:
        return not self._queue and not self._more

    def trial_started(self, name: str) -> None:
        self._state.trial_started(name)

    def trial_progress(self, name: str, report: Mapping[str, Any]) -> None:
        self._state.trial_progress(name, report)
        if report.get("objective") is not None:
            self._reached[name] = report["rung_steps"], report["objective"]
            self._submit(self._rung, name, *self._reached[name])

    def trial_ended(self, name: str, end: End) -> None:
        if name in self._helpers:  # what failed there fails in the trial too, which says so
            self._unaided.add(self._helpers.pop(name))
            self._state.helper_ended(name)
            return
        self._trial_ended(name, end)

    def _trial_ended(self, digest: str, end: End) -> None:
        reached = self._reached.pop(digest, None)
        status: dict[str, Any] = {"status": end.status, "error": end.error, "log": end.log}
        if end.stopped_at is not None:
            value = reached[1] if reached and reached[0] == end.stopped_at else None
            why = "without an objective" if value is None else f"with an objective of {value:.4g}"
            status |= {"error": f"stopped early, at step {end.stopped_at} {why}"}
            status |= {"rule": self._rule, "steps": end.stopped_at, "objective": value}
        self._state.trial_ended(digest, end.status, end.error)
        self._submit(self._ended, self._under_way.pop(digest), status)

    # On the thread ----------------------------------------------------------------------------------------------------

    def _submit(self, step: Callable[..., None], *arguments: Any) -> None:
        def guarded() -> None:
            try:
                step(*arguments)
            except BaseException:
                self._more = False  # the loop comes to its end, and the error is heard of then
                raise

        while self._recordings and self._recordings[0].done() and not self._recordings[0].exception():
            self._recordings.popleft()
        self._recordings.append(self._thread.submit(guarded))

    def _rung(self, digest: str, steps: int, objective: float) -> None:
        self._journal.write("rung", trial=digest, rule=self._rule, steps=steps, objective=objective)

    def _ended(self, trial: TrialSpec, status: Mapping[str, Any]) -> None:
        self._journal.write("trial", trial=trial.digest, **status)
        self._told(trial, status)

    def _told(self, trial: TrialSpec, status: Mapping[str, Any]) -> None:
        """Pass on a trial that has all the results that it will have."""
        if status["status"] != "ok":
            self._cut_short[trial.digest] = status
        rows = self._rows(trial.digest, status)
        self._state.measured(trial.digest, results.trial_status(rows), rows)
        self._tracker.log(trial.digest, partial(self._record, trial.digest, status))
        if self._search:
            self._search.ended(trial, status)
            self._refill()

    def _rows(self, digest: str, status: Mapping[str, Any]) -> list[dict[str, Any]]:
        return results.trial_rows(self._plan, self._trials[digest], self._lookup, {digest: status})

    def _record(self, digest: str, status: Mapping[str, Any]) -> TrialRecord:
        return trial_record(self._plan, self._trials[digest], self._rows(digest, status), self._lookup)

    def _refill(self) -> None:
        """Ask the search for as many trials as there is room for."""
        while self._search and self._more and len(self._queue) + len(self._under_way) < self._room:
            asked = self._search.next()
            if asked is None:
                self._more = False
                return
            kept = asked.as_json()
            self._journal.write("asked", trial=asked.trial.digest, plan=kept)
            stages = self._work.of([asked.trial])
            self._plan["trials"].append(kept)
            self._trials[asked.trial.digest] = kept
            needs = [digest for _, digest in kept["stages"]]
            self._state.add_trial(asked.trial.digest, stages.to_do, stages.total, stages.stored, needs)
            if stages.to_do:
                self._queue.append(asked.trial)
            else:
                self._state.trial_ended(asked.trial.digest, "ok")
                self._told(asked.trial, {"status": "ok"})
