"""Sweeps that were never run: a plan and its results made up, and what MLflow then has to show of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import results, tracking
from orchestrator.journal import Journal
from orchestrator.tracking import Outcome, Tracker, TrialRecord, sync, trial_record
from trainables.store import Store

COMPONENTS = ("clothes", "digits-2", "Kana_x")
TEXT = "name: made-up\nquestion: Does it work?\n"
# What a store has of stages: of a probe without its `test_accuracy`.
PRETRAINED = {"status": "ok", "seconds": 2.0, "examples": 200, "training_flops": 1e6, "parameters": 10, "flops": 1000}
PROBED = {
    "status": "ok", "test_loss": 1.0, "validation_accuracy": 0.5, "chance_accuracy": 0.1, "chosen": {"l2": 0.001},
    "num_features": 8, "varying_features": 8, "missing_classes": 0, "num_train": 100, "num_test": 100,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """As much of a stage as a store asks for."""

    kind: str
    digest: str


@dataclass
class MadeUp:
    """A plan, and the results of its stages: what a store would have."""

    plan: dict[str, Any]
    stages: dict[tuple[str, str], dict[str, Any]]
    states: dict[str, dict[str, Any]]

    def lookup(self, kind: str, digest: str) -> Mapping[str, Any] | None:
        return self.stages.get((kind, digest))

    def rows(self) -> list[dict[str, Any]]:
        return results.rows(self.plan, self.lookup, self.states)

    def records(self) -> list[TrialRecord]:
        return [
            trial_record(
                self.plan,
                trial,
                results.trial_rows(self.plan, trial, self.lookup, self.states),
                self.lookup,
            )
            for trial in self.plan["trials"]
        ]

    def put(self, store: Store, text: str = TEXT) -> None:
        """Let a store have it, as a run leaves it."""
        for (kind, digest), result in self.stages.items():
            store.put(Stage(kind, digest), result)  # type: ignore[arg-type]
        journal = Journal(store, self.plan["sweep"])
        journal.write_plan(text, self.plan)
        journal.start()
        for digest, state in self.states.items():
            journal.write("trial", trial=digest, **state)

    def sync(self, uri: str, **changes: Any) -> int:
        options: dict[str, Any] = {"sweep_text": TEXT, "artifacts": [], "status": "FINISHED"}
        options |= {"artifact_location": artifact_folder(uri)} | changes
        return sync(uri, self.plan, self.records(), **options)

    def tracker(self, uri: str) -> Tracker:
        tracker = Tracker(uri, self.plan, artifact_location=artifact_folder(uri), sweep_text=TEXT)
        tracker.start()
        return tracker

    def track(self, uri: str, **finish: Any) -> Outcome:
        """What a driver does: every trial is logged as it ends, then the sweep ends."""
        tracker = self.tracker(uri)
        for record in self.records():
            tracker.log(record.digest, lambda record=record: record)
        return tracker.finish("FINISHED", finish.get("artifacts", ()), {}, finish.get("timeout_s", 120))

    def diverge(self, trial: int, seed: int = 0) -> None:
        """Let the mixture's pretraining of one seed end in NaN."""
        cells = [c for c in self.plan["trials"][trial]["cells"] if c["seed"] == seed]
        for cell in cells:
            key = ("pretrain", cell["pretrain"][0])
            self.stages[key] = {"status": "diverged", "diverged_at": 17, "started": 1.7e9, "device": "cpu"}
            self.stages.pop(("probe", cell["transfer"]), None)

    def fail(self, trial: int, error: str) -> None:
        """Take a trial's own probes away and let the journal say why."""
        planned = self.plan["trials"][trial]
        for cell in planned["cells"]:
            self.stages.pop(("probe", cell["transfer"]), None)
        self.states[planned["digest"]] = {"status": "failed", "error": error}


def made_up(sweep: str, trials: int = 3, seeds: Sequence[int] = (0, 1), points: int = 5) -> MadeUp:
    stages: dict[tuple[str, str], dict[str, Any]] = {}
    planned = []
    for number in range(trials):
        shares = dict(zip(COMPONENTS, (2 / 3, 1 / 3, 0.0), strict=True))
        cells = []
        for seed in seeds:
            pretrain = named("pretrain", sweep, number, seed)
            stages["pretrain", pretrain] = pretrained(pretrain, number, points)
            for component, weight in shares.items():
                direct = named("direct", component, seed)
                cell: dict[str, Any] = {
                    "seed": seed,
                    "component": component,
                    "weight": weight,
                    "transfer": named("transfer", pretrain, component),
                    "direct": direct,
                    "random_init": named("random_init", component, seed),
                    "raw": None,
                    "retention": None,
                    "trajectory": None,
                    "protocol": "linear_probe",
                    "shots": None,
                    "primary": True,
                    "tunes": False,
                    "untrained": None,
                    "teachers": [],
                    "pretrain": [pretrain],
                    "paid": [pretrain],
                    "baselines": [
                        {"probe": direct, "pretrain": named("direct_pretrain", component, seed), "steps": 100}
                    ],
                }
                cells.append(cell)
                for kind in ("transfer", "direct", "random_init"):
                    stages["probe", cell[kind]] = probed(cell[kind], number)
                stages["probe", cell["random_init"]]["test_accuracy"] /= 100  # so baselines are valid
                baseline = cell["baselines"][0]["pretrain"]
                stages["pretrain", baseline] = pretrained(baseline, 0, points)
        design = {
            "mixture": shares,
            "mixture_label": "clothes 66.7 % + digits-2 33.3 %",
            "label": f"two thirds clothes, {100 + number} steps",
            "ordering": "shuffled",
            "architecture": "cnn",
            "width": 0.5,
            "depth": None,
            "representation": "single",
            "steps": 100 + number,
            "train_examples": 1000,
            "training": "",
        }
        needed = [("pretrain", cell["pretrain"][0]) for cell in cells]
        needed += [("probe", cell[kind]) for cell in cells for kind in ("transfer", "direct", "random_init")]
        trial = {"digest": named("trial", sweep, number), "design": design, "cells": cells}
        planned.append(trial | {"stages": sorted(set(needed))})
    plan = {
        "sweep": sweep,
        "question": "Does it work?",
        "direct_kind": "same_steps",
        "label_space": "joint",
        "protocol": "linear_probe",
        "components": {name: {"dataset": "made-up", "num_classes": 10} for name in COMPONENTS},
        "trials": planned,
    }
    return MadeUp(plan=plan, stages=stages, states={})


def named(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()


def share_of(digest: str, salt: str = "") -> float:
    """A number in [0, 1) with all its digits, different for every digest."""
    return int(named(digest, salt)[:13], 16) / 16**13


def pretrained(digest: str, number: int, points: int) -> dict[str, Any]:
    return {
        "status": "ok",
        "seconds": 10 + share_of(digest),
        "examples": 12_800,
        "device": "cpu",
        "parameters": 1234,
        "flops": 5678,
        "loss_curve": [[step * 10, 2.3 / (step + 1 + share_of(digest))] for step in range(points)],
        "started": 1.7e9 + 100 * number,
        "finished": 1.7e9 + 100 * number + 10.25,
        "revision": "abc1234",
        "versions": "torch 2.15.0",
    }


def probed(digest: str, number: int) -> dict[str, Any]:
    return {
        "status": "ok",
        "test_accuracy": share_of(digest),
        "test_loss": 1 / 3,
        "validation_accuracy": share_of(digest, "validation"),
        "head_accuracy": None,
        "chance_accuracy": 0.1,
        "chosen": {"l2": 1e-5},
        "num_features": 128,
        "num_train": 500,
        "num_test": 1000,
        "started": 1.7e9 + 100 * number + 10.25,
        "finished": 1.7e9 + 100 * number + 12.5,
        "revision": "abc1234",
        "versions": "torch 2.15.0",
    }


def artifact_folder(uri: str) -> str | None:
    return str(Path(uri.removeprefix("sqlite:///")).parent / "art") if uri.startswith("sqlite") else None


def runs_of(uri: str, sweep: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(sweep)
    return list(client.search_runs([experiment.experiment_id], max_results=1000)) if experiment else []


def children_of(uri: str, sweep: str) -> list[Any]:
    children = [run for run in runs_of(uri, sweep) if tracking.DIGEST in run.data.tags]
    return sorted(children, key=lambda run: run.data.tags["bottleneck.position"])


def parent_of(uri: str, sweep: str) -> Any:
    [parent] = [run for run in runs_of(uri, sweep) if run.data.tags.get(tracking.PARENT) == sweep]
    return parent


def assert_whole(uri: str, sweep: MadeUp) -> None:
    """One parent, one run per trial below it, all ended, and the table that the store gives, column by column."""
    name = sweep.plan["sweep"]
    parent, children = parent_of(uri, name), children_of(uri, name)
    assert [run.data.tags[tracking.DIGEST] for run in children] == [t["digest"] for t in sweep.plan["trials"]]
    assert {run.data.tags[tracking.PARENT_RUN] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in runs_of(uri, name)} <= {"FINISHED", "FAILED"}
    expected, found = results.table(sweep.rows()), results.load(name, tracking_uri=uri)
    assert list(found.columns) == list(results.COLUMNS)
    for column in results.COLUMNS:
        assert found[column].equals(expected[column]), column


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
