"""MLflow shows what the store has: on a real SQLite database, with real kills, and with servers that do not answer."""

from __future__ import annotations

import http.server
import json
import logging
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_up_sweeps import (
    COMPONENTS,
    TEXT,
    MadeUp,
    artifact_folder,
    assert_whole,
    children_of,
    made_up,
    named,
    parent_of,
    runs_of,
    wait_until,
)
from tracking_servers import answers, free_port

from orchestrator import results, tracking
from orchestrator.journal import Journal
from orchestrator.tracking import Outcome, TrackingError, read_rows, trial_record
from trainables.store import Store

# MLflow 3.17 on SQLAlchemy 2.1, on first use of a database. Nothing of ours warns.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

HOSTILE = "<script>alert(1)</script> '; DROP TABLE runs; --\n\0 \ud800 \u202e é 🏃 " + "x" * 9000


# What MLflow has ---------------------------------------------------------------------------------------------


def artifacts_of(run: Any) -> set[str]:
    return {path.name for path in Path(run.info.artifact_uri).iterdir()}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the tests that leave it whole; each has a sweep of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> MadeUp:
    return made_up(request.node.name)


@pytest.fixture
def new_uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def closed_uri() -> str:
    """A loopback port where nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


# Records -----------------------------------------------------------------------------------------------------


def test_metrics_are_means_over_seeds(sweep: MadeUp) -> None:
    record = sweep.records()[0]
    rows = [row for row in sweep.rows()[:6] if row["component"] == "digits-2"]
    assert record.metrics["gap/digits-2"] == pytest.approx((rows[0]["gap"] + rows[1]["gap"]) / 2)
    gaps = [record.metrics[f"gap/{component}"] for component in COMPONENTS]
    assert record.metrics["worst_gap"] == max(gaps)
    assert record.metrics["mean_gap"] == pytest.approx(sum(gaps) / 3)
    assert record.metrics["seconds"] == pytest.approx((rows[0]["seconds"] + rows[1]["seconds"]) / 2)


def test_a_seed_that_diverged_is_in_no_mean_and_the_trial_says_so(sweep: MadeUp) -> None:
    sweep.diverge(0, seed=0)
    record = sweep.records()[0]
    [row] = [r for r in sweep.rows()[:6] if r["component"] == "clothes" and r["seed"] == 1]
    assert record.metrics["gap/clothes"] == row["gap"]
    assert record.status == "diverged"
    assert record.tags["bottleneck.error"] == "pretraining on the mixture diverged at step 17"
    assert record.loss_curve == tuple(
        (step, loss)
        for step, loss in sweep.stages["pretrain", named("pretrain", sweep.plan["sweep"], 0, 1)]["loss_curve"]
    )


def test_the_worst_gap_is_absent_where_a_component_has_no_gap(sweep: MadeUp) -> None:
    for cell in sweep.plan["trials"][0]["cells"]:
        if cell["component"] == "clothes":
            sweep.stages["pretrain", cell["baselines"][0]["pretrain"]] = {"status": "diverged", "diverged_at": 3}
    metrics = sweep.records()[0].metrics
    assert "gap/digits-2" in metrics
    assert not {"gap/clothes", "mean_gap", "worst_gap"} & metrics.keys()


def test_a_component_without_a_baseline_leaves_the_worst_gap_to_the_others(sweep: MadeUp) -> None:
    for cell in sweep.plan["trials"][0]["cells"]:
        if cell["component"] == "Kana_x":
            cell |= {"direct": None, "baselines": []}
    metrics = sweep.records()[0].metrics
    assert "gap/Kana_x" not in metrics
    assert metrics["worst_gap"] == max(metrics["gap/clothes"], metrics["gap/digits-2"])


def test_the_loss_curve_is_the_mean_over_seeds_at_each_step(sweep: MadeUp) -> None:
    curves = [sweep.stages["pretrain", named("pretrain", sweep.plan["sweep"], 0, s)]["loss_curve"] for s in (0, 1)]
    curve = sweep.records()[0].loss_curve
    assert [step for step, _ in curve] == [0, 10, 20, 30, 40]
    assert curve[3][1] == pytest.approx((curves[0][3][1] + curves[1][3][1]) / 2)


def test_params_are_the_flattened_design(sweep: MadeUp) -> None:
    assert sweep.records()[1].params == {
        "mixture.clothes": "0.666667",
        "mixture.digits-2": "0.333333",
        "mixture.Kana_x": "0",
        "ordering": "shuffled",
        "architecture": "cnn",
        "width": "0.5",
        "representation": "single",
        "steps": "101",
        "train_examples": "1000",
        "seeds": "0,1",
        "direct_kind": "same_steps",
        "protocol": "linear_probe",
    }


def test_a_trial_with_a_pending_row_is_pending(sweep: MadeUp) -> None:
    sweep.stages.pop(("probe", sweep.plan["trials"][0]["cells"][-1]["transfer"]))
    assert [record.status for record in sweep.records()] == ["pending", "ok", "ok"]


def test_a_number_that_is_not_finite_is_left_out(sweep: MadeUp) -> None:
    trial = sweep.plan["trials"][0]
    rows = [{**row, "gap": math.nan} for row in results.trial_rows(sweep.plan, trial, sweep.lookup, {})]
    assert not [name for name in trial_record(sweep.plan, trial, rows, sweep.lookup).metrics if "gap" in name]


# One run per trial -------------------------------------------------------------------------------------------


def test_a_tracked_sweep_is_the_same_table(uri: str, sweep: MadeUp, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    tracker = sweep.tracker(uri)
    for record in sweep.records():
        tracker.log(record.digest, lambda record=record: record)
    outcome = tracker.finish("FINISHED", [report], {"trials/ok": 3.0}, 120)
    assert outcome == Outcome(synced=True, runs=3, warning=None)
    assert_whole(uri, sweep)
    parent = parent_of(uri, sweep.plan["sweep"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"trials/ok": 3.0}
    assert parent.data.tags["mlflow.note.content"] == "Does it work?"
    assert artifacts_of(parent) == {"sweep.yaml", "plan.json", "report.html"}


def test_a_run_shows_all_of_its_record(uri: str, sweep: MadeUp) -> None:
    from mlflow.tracking import MlflowClient

    sweep.sync(uri)
    record, run = sweep.records()[0], children_of(uri, sweep.plan["sweep"])[0]
    assert run.data.params == record.params
    assert {name: run.data.metrics[name] for name in record.metrics} == record.metrics
    assert run.data.tags["bottleneck.status"] == "ok"
    assert run.data.tags["bottleneck.revision"] == "abc1234"
    assert run.info.run_name == "two thirds clothes, 100 steps"
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_012_500)
    history = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "loss")
    assert tuple((point.step, point.value) for point in history) == record.loss_curve
    assert artifacts_of(run) == {"design.json", "result.json"}


def test_writing_again_changes_nothing(uri: str, sweep: MadeUp) -> None:
    assert sweep.sync(uri) == 3
    before = [run.to_dictionary() for run in children_of(uri, sweep.plan["sweep"])]
    assert sweep.sync(uri) == 0
    tracker = sweep.tracker(uri)
    for record in (*sweep.records(), *sweep.records()):
        tracker.log(record.digest, lambda record=record: record)
    assert tracker.finish("FINISHED", [], {}, 120) == Outcome(synced=True, runs=0, warning=None)
    assert [run.to_dictionary() for run in children_of(uri, sweep.plan["sweep"])] == before
    assert_whole(uri, sweep)


@contextmanager
def power_goes_at(method: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from mlflow.tracking import MlflowClient

    def stop(*_: object, **__: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(tracking._View if method == "write_files" else MlflowClient, method, stop)
        yield


@pytest.mark.parametrize("stopped_at", ["write_files", "log_batch", "set_terminated"])
def test_what_an_interrupted_write_left_is_completed(
    uri: str, sweep: MadeUp, stopped_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = tracking._View(uri, sweep.plan, artifact_folder(uri))
    view.open_parent(TEXT, running=True)
    record = sweep.records()[1]
    with power_goes_at(stopped_at, monkeypatch), pytest.raises(OSError, match="the power went"):
        tracking._write_trial(view, record)
    assert Counter(run.info.status for run in runs_of(uri, sweep.plan["sweep"])) == {"RUNNING": 2}
    assert sweep.sync(uri) == 3
    assert_whole(uri, sweep)


@pytest.mark.parametrize("points", [5, 2500])
def test_a_run_killed_amid_its_writing_gets_its_numbers_later(
    uri: str, sweep: MadeUp, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that looks like that of a stopped trial: KILLED, with all its tags, and without a metric."""
    sweep = made_up(sweep.plan["sweep"], points=points)
    view = tracking._View(uri, sweep.plan, artifact_folder(uri))
    view.open_parent(TEXT, running=True)
    with power_goes_at("log_batch", monkeypatch), pytest.raises(OSError, match="the power went"):
        tracking._write_trial(view, sweep.records()[1])
    assert sweep.tracker(uri).finish("KILLED", [], {}, 120).synced
    assert sweep.sync(uri) == 3
    assert_whole(uri, sweep)
    record, run = sweep.records()[1], children_of(uri, sweep.plan["sweep"])[1]
    assert run.data.params == record.params
    assert {name: run.data.metrics[name] for name in record.metrics} == record.metrics
    assert run.data.metrics["loss"] == record.loss_curve[-1][1]


def test_an_interrupted_update_is_completed(uri: str, sweep: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.sync(uri)
    for stage in sweep.stages.values():
        stage["versions"] = "torch 2.16.0"  # a column of the table that is no metric
    with power_goes_at("log_batch", monkeypatch), pytest.raises(TrackingError, match="the power went"):
        sweep.sync(uri)
    runs = {run.info.run_id for run in children_of(uri, sweep.plan["sweep"])}
    assert sweep.sync(uri) == 3
    assert_whole(uri, sweep)
    assert {run.info.run_id for run in children_of(uri, sweep.plan["sweep"])} == runs


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_nothing_twice(new_uri: str, sweep: MadeUp, tmp_path: Path) -> None:
    """SIGKILL while a run is being written; then the same sweep again."""
    (tmp_path / "sweep.json").write_text(
        json.dumps([sweep.plan, [[kind, digest, r] for (kind, digest), r in sweep.stages.items()]])
    )
    program = f"""
import json, sys, time
from pathlib import Path
from mlflow.tracking import MlflowClient
from orchestrator import results, tracking
plan, stages = json.loads(Path({str(tmp_path / "sweep.json")!r}).read_text())
stages = {{(kind, digest): result for kind, digest, result in stages}}
lookup = lambda kind, digest: stages.get((kind, digest))
write, written = MlflowClient.log_batch, []
def log_batch(self, *args, **kwargs):
    written.append(args)
    if len(written) == 2:
        print("now", flush=True)
        time.sleep(600)
    return write(self, *args, **kwargs)
MlflowClient.log_batch = log_batch
tracker = tracking.Tracker({new_uri!r}, plan, artifact_location={artifact_folder(new_uri)!r}, sweep_text="")
tracker.start()
for trial in plan["trials"]:
    rows = results.trial_rows(plan, trial, lookup, {{}})
    tracker.log(trial["digest"], lambda trial=trial, rows=rows: tracking.trial_record(plan, trial, rows, lookup))
tracker.finish("FINISHED", [], {{}}, 600)
"""
    root = Path(tracking.__file__).parents[1]
    driver = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ}
    )
    assert driver.stdout is not None
    with driver:
        assert driver.stdout.readline() == "now\n"
        driver.send_signal(signal.SIGKILL)
    name = sweep.plan["sweep"]
    assert Counter(run.info.status for run in runs_of(new_uri, name)) == {"RUNNING": 2, "FINISHED": 1}

    tracker = sweep.tracker(new_uri)
    for record in sweep.records():
        tracker.log(record.digest, lambda record=record: record)
    assert tracker.finish("FINISHED", [], {}, 120) == Outcome(synced=True, runs=2, warning=None)
    assert_whole(new_uri, sweep)


def test_runs_left_running_are_killed_and_later_completed(uri: str, sweep: MadeUp) -> None:
    view = tracking._View(uri, sweep.plan, artifact_folder(uri))
    view.open_parent(TEXT, running=True)
    for digest in (sweep.plan["trials"][0]["digest"], named("a trial of an earlier plan")):
        tags = {tracking.DIGEST: digest, "bottleneck.position": "00000"}
        view.client.create_run(view.experiment, tags=tags)
    assert sweep.tracker(uri).finish("KILLED", [], {}, 120).synced
    name = sweep.plan["sweep"]
    assert Counter(run.info.status for run in runs_of(uri, name)) == {"KILLED": 3}
    sweep.sync(uri)
    assert Counter(run.info.status for run in runs_of(uri, name)) == {"KILLED": 1, "FINISHED": 4}
    assert read_rows(name, uri) == sweep.rows()


def test_of_two_runs_of_one_trial_the_whole_one_stays(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    kept = children_of(uri, sweep.plan["sweep"])[0].info.run_id
    view = tracking._View(uri, sweep.plan, artifact_folder(uri))
    digest = sweep.plan["trials"][0]["digest"]
    view.client.create_run(view.experiment, start_time=1, tags={tracking.DIGEST: digest})
    view.client.create_run(view.experiment, start_time=1, tags={tracking.PARENT: sweep.plan["sweep"]})
    assert sweep.sync(uri) == 0
    assert_whole(uri, sweep)
    assert children_of(uri, sweep.plan["sweep"])[0].info.run_id == kept


def test_a_trial_that_failed_and_then_succeeded_has_one_run_with_its_new_numbers(uri: str, sweep: MadeUp) -> None:
    failing = made_up(sweep.plan["sweep"])
    failing.fail(1, "CUDA out of memory")
    failing.sync(uri)
    assert_whole(uri, failing)
    run = children_of(uri, sweep.plan["sweep"])[1]
    assert (run.info.status, run.data.tags["bottleneck.error"]) == ("FAILED", "CUDA out of memory")
    assert not [name for name in run.data.metrics if name.startswith("transfer/")]
    tracking._client(uri, create=False).set_tag(run.info.run_id, "mlflow.note.content", "odd, look again")

    assert sweep.sync(uri) == 1
    assert_whole(uri, sweep)
    run = children_of(uri, sweep.plan["sweep"])[1]
    assert "bottleneck.error" not in run.data.tags
    assert run.data.metrics["transfer/clothes"] == sweep.records()[1].metrics["transfer/clothes"]
    assert run.data.tags["mlflow.note.content"] == "odd, look again"


def test_a_diverged_trial_is_a_failed_run_with_its_rows(uri: str, sweep: MadeUp) -> None:
    for seed in (0, 1):
        sweep.diverge(2, seed)
    sweep.sync(uri, status="FAILED")
    assert_whole(uri, sweep)
    run = children_of(uri, sweep.plan["sweep"])[2]
    assert (run.info.status, run.data.tags["bottleneck.status"]) == ("FAILED", "diverged")
    assert parent_of(uri, sweep.plan["sweep"]).info.status == "FAILED"


def test_a_pending_trial_has_no_run(uri: str, sweep: MadeUp) -> None:
    sweep.stages.pop(("probe", sweep.plan["trials"][0]["cells"][-1]["transfer"]))
    assert sweep.sync(uri) == 2
    assert read_rows(sweep.plan["sweep"], uri) == sweep.rows()[6:]  # the first trial has six rows


def test_a_changed_plan_shows_its_own_trials_in_its_own_order(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    dropped = sweep.plan["trials"].pop(0)
    sweep.plan["trials"].reverse()
    sweep.sync(uri)
    assert read_rows(sweep.plan["sweep"], uri) == sweep.rows()
    [left] = [r for r in children_of(uri, sweep.plan["sweep"]) if r.data.tags[tracking.DIGEST] == dropped["digest"]]
    assert left.info.status == "FINISHED"
    sweep.plan["trials"].append(dropped)
    sweep.sync(uri)
    assert_whole(uri, sweep)


def test_params_never_conflict(uri: str, sweep: MadeUp) -> None:
    """Not even where the same digest comes with another label, seed list or share: the run is written anew."""
    sweep.sync(uri)
    for trial in sweep.plan["trials"]:
        trial["design"] |= {"steps": 999, "depth": 3, "mixture": dict.fromkeys(COMPONENTS, 1 / 3)}
    assert sweep.sync(uri) == 3
    assert_whole(uri, sweep)
    assert {run.data.params["steps"] for run in children_of(uri, sweep.plan["sweep"])} == {"999"}


def test_the_same_sweep_run_again_uses_its_parent_again(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    first = parent_of(uri, sweep.plan["sweep"]).info.run_id
    tracker = sweep.tracker(uri)
    wait_until(lambda: parent_of(uri, sweep.plan["sweep"]).info.status == "RUNNING")
    assert tracker.finish("FAILED", [], {}, 120).synced
    parent = parent_of(uri, sweep.plan["sweep"])
    assert (parent.info.run_id, parent.info.status) == (first, "FAILED")


# Thrown away and built again ---------------------------------------------------------------------------------


def test_a_deleted_database_is_built_again_from_the_store(new_uri: str, sweep: MadeUp, tmp_path: Path) -> None:
    store, name = Store(tmp_path / "store"), sweep.plan["sweep"]
    sweep.fail(1, "no room")
    sweep.put(store)
    journal = Journal(store, name)
    from_store = results.load(name, storage=store.location)

    sweep.sync(new_uri)
    (tmp_path / "mlflow.db").unlink()
    shutil.rmtree(tmp_path / "art")
    found = {key: store.get(*key) or {} for key in sweep.stages}
    rebuilt = MadeUp(plan=journal.plan(), stages=found, states=journal.trial_states())
    assert rebuilt.sync(new_uri) == 3
    from_mlflow = results.load(name, tracking_uri=new_uri)
    assert list(from_mlflow.columns) == list(from_store.columns)
    for column in from_store.columns:
        assert from_mlflow[column].equals(from_store[column]), column


def test_several_sweeps_are_one_table_and_the_same_from_the_store_and_from_mlflow(new_uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="there is no MLflow database"):
        results.load(tracking_uri=new_uri)
    store = Store(tmp_path / "store")
    for name in ("second", "first"):
        sweep = made_up(name, trials=2)
        sweep.fail(0, "no room")
        sweep.put(store)
        sweep.sync(new_uri)
    tracking._client(new_uri, create=False).create_experiment("of-a-stranger")
    for asked in (None, ["second", "first", "second"], "first"):
        from_store, from_mlflow = (
            results.load(asked, **place) for place in ({"storage": store.location}, {"tracking_uri": new_uri})
        )
        pd.testing.assert_frame_equal(from_store, from_mlflow)
    everything = results.load(storage=store.location)
    assert list(everything["sweep"].unique()) == ["first", "second"]
    assert list(results.load(["second", "first"], tracking_uri=new_uri)["sweep"].unique()) == ["second", "first"]
    assert results.load([], tracking_uri=new_uri).shape == results.load([], storage=store.location).shape
    with pytest.raises(TrackingError, match="has no sweep 'third'; it has: first, of-a-stranger, second"):
        results.load(["first", "third"], tracking_uri=new_uri)


def test_an_mlflow_of_strangers_has_no_sweeps(new_uri: str) -> None:
    made_up("ours", trials=1).sync(new_uri)
    client = tracking._client(new_uri, create=False)
    client.delete_experiment(client.get_experiment_by_name("ours").experiment_id)
    client.create_run(client.create_experiment("of-a-stranger"))
    with pytest.raises(TrackingError, match="has no sweeps"):
        results.load(tracking_uri=new_uri)


def test_lost_artifacts_are_written_again(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    name = sweep.plan["sweep"]
    for run in (parent_of(uri, name), children_of(uri, name)[1]):
        shutil.rmtree(run.info.artifact_uri)
    with pytest.raises(TrackingError, match=r"plan\.json of run .* cannot be read"):
        read_rows(name, uri)
    assert sweep.sync(uri) == 1
    assert_whole(uri, sweep)


def test_an_experiment_deleted_in_mlflow_comes_back(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    client = tracking._client(uri, create=False)
    client.delete_experiment(client.get_experiment_by_name(sweep.plan["sweep"]).experiment_id)
    with pytest.raises(ValueError, match="has no sweep"):
        read_rows(sweep.plan["sweep"], uri)
    assert sweep.sync(uri) == 0
    assert_whole(uri, sweep)


def test_deleted_runs_come_back(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    client, name = tracking._client(uri, create=False), sweep.plan["sweep"]
    client.delete_run(parent_of(uri, name).info.run_id)
    client.delete_run(children_of(uri, name)[0].info.run_id)
    sweep.sync(uri)
    assert_whole(uri, sweep)


def test_a_rebuilt_view_has_the_times_of_the_sweep(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    info = parent_of(uri, sweep.plan["sweep"]).info
    assert (info.start_time, info.end_time) == (1_700_000_000_000, 1_700_000_212_500)


def test_an_unknown_sweep_names_the_known_ones(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    with pytest.raises(ValueError, match=f"has no sweep 'typo'; it has: .*{sweep.plan['sweep']}"):
        read_rows("typo", uri)


def test_reading_creates_no_database(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no MLflow database"):
        read_rows("sweep", f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


# Hostile text and odd places ---------------------------------------------------------------------------------


def test_hostile_text_arrives_as_text(uri: str, sweep: MadeUp) -> None:
    for trial in sweep.plan["trials"]:
        trial["design"] |= {"label": HOSTILE, "mixture_label": HOSTILE, "ordering": HOSTILE}
    sweep.plan["question"] = HOSTILE
    sweep.fail(0, HOSTILE)
    assert sweep.sync(uri) == 3
    assert sweep.sync(uri) == 0
    assert read_rows(sweep.plan["sweep"], uri) == sweep.rows()
    run = children_of(uri, sweep.plan["sweep"])[0]
    assert run.data.tags["bottleneck.error"].startswith("<script>alert(1)</script> '; DROP TABLE runs; --\n")
    assert "\n" not in run.info.run_name
    assert len(run.info.run_name) <= 250


def test_a_folder_with_an_odd_name(tmp_path: Path, sweep: MadeUp) -> None:
    folder = tmp_path / "a b#1é"
    odd = f"sqlite:///{folder}/mlflow.db"
    sweep.sync(odd)
    assert sweep.sync(odd) == 0
    assert_whole(odd, sweep)
    assert {path.name for path in folder.iterdir()} >= {"mlflow.db", "art"}


def test_nothing_is_written_into_the_working_directory(
    new_uri: str, sweep: MadeUp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    sweep.sync(new_uri)
    assert list(elsewhere.iterdir()) == []


def test_mlflow_says_nothing_on_the_terminal(new_uri: str, sweep: MadeUp, capfd: pytest.CaptureFixture[str]) -> None:
    sweep.sync(new_uri)
    assert capfd.readouterr() == ("", "")


def test_telemetry_is_off(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert is_telemetry_disabled()


@pytest.mark.slow
def test_two_processes_may_create_the_database(tmp_path: Path) -> None:
    program = """
import sys
from orchestrator import tracking
client = tracking._client(sys.argv[1], create=True)
client.create_experiment(sys.argv[2])
"""
    root, new = Path(tracking.__file__).parents[1], f"sqlite:///{tmp_path}/mlflow.db"
    writers = [subprocess.Popen([sys.executable, "-c", program, new, name], cwd=root) for name in ("a", "b")]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        names = {name for (name,) in database.execute("SELECT name FROM experiments")}
    assert names == {"Default", "a", "b"}


def test_a_database_made_from_the_cache_is_the_one_that_mlflow_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str) -> list[str]:  # in any order, as MLflow's constraints are
        tracking._client(f"sqlite:///{tmp_path}/{name}.db", create=True)
        with sqlite3.connect(tmp_path / f"{name}.db") as database:
            lines = "\n".join(line for line in database.iterdump() if 'INTO "experiments"' not in line).splitlines()
        return sorted(line.strip("\t ,") for line in lines)

    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    first = made("first")
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(tracking, "_migrate", None)
    assert made("second") == first
    monkeypatch.undo()
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    whole = kept.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no database" * 1000, b""):
        kept.write_bytes(damaged)
        assert made(f"third{len(damaged)}") == first
        assert len(kept.read_bytes()) == len(whole)


# Servers that do not answer ----------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_away_costs_one_warning(
    closed_uri: str, sweep: MadeUp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_S", 0.0)  # every record tries, and still there is one warning
    begun = time.monotonic()
    tracker = sweep.tracker(closed_uri)
    for record in sweep.records():
        tracker.log(record.digest, lambda record=record: record)
    assert time.monotonic() - begun < 1
    outcome = tracker.finish("FINISHED", [], {}, 120)
    assert not outcome.synced
    assert outcome.runs == 0
    assert outcome.warning is not None
    assert "Connection refused" in outcome.warning
    assert f"`bottleneck sync {sweep.plan['sweep']}`" in outcome.warning
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [outcome.warning]


@pytest.mark.usefixtures("impatient")
def test_sync_and_read_say_in_one_line_that_a_server_is_away(closed_uri: str, sweep: MadeUp) -> None:
    with_password = closed_uri.replace("//", "//user:secret@")
    for fails in (lambda: sweep.sync(with_password), lambda: read_rows("sweep", with_password)):
        with pytest.raises(TrackingError, match="Connection refused") as caught:
            fails()
        assert closed_uri in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_a_check_tells_what_answers_from_what_does_not(
    uri: str, closed_uri: str, sweep: MadeUp, tmp_path: Path
) -> None:
    sweep.sync(uri)
    tracking.check(uri)
    with pytest.raises(TrackingError, match="Connection refused"):
        tracking.check(closed_uri)
    tracking.check(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match="cannot be written"):
        tracking.check(f"sqlite:///{tmp_path}/file/mlflow.db")


@pytest.fixture
def slow_uri() -> Iterator[str]:
    """A server that takes a request and does not answer until the test is over."""
    over = threading.Event()

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over.wait(60)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("impatient")
def test_a_slow_server_holds_nobody_up(
    slow_uri: str, sweep: MadeUp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    begun = time.monotonic()
    tracker = sweep.tracker(slow_uri)
    for record in sweep.records():
        tracker.log(record.digest, lambda record=record: record)
    assert time.monotonic() - begun < 1
    outcome = tracker.finish("FINISHED", [], {}, 1)
    assert time.monotonic() - begun < 5
    assert not outcome.synced
    assert outcome.warning is not None
    assert "has not taken everything within 1 s" in outcome.warning
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [outcome.warning]


def test_what_was_logged_while_mlflow_was_away_is_written_when_it_is_back(
    uri: str, sweep: MadeUp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RETRY_S", 0.0)
    open_client, calls = tracking._client, 0

    def away_at_first(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += uri in args  # the tracker of an earlier test may still be trying
        if calls <= 2:
            raise ConnectionRefusedError("Connection refused")
        return open_client(*args, **kwargs)

    monkeypatch.setattr(tracking, "_client", away_at_first)
    tracker = sweep.tracker(uri)
    for record in sweep.records():
        tracker.log(record.digest, lambda record=record: record)
    assert tracker.finish("FINISHED", [], {}, 120) == Outcome(synced=True, runs=3, warning=None)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    monkeypatch.undo()
    assert_whole(uri, sweep)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_server_that_comes_up_during_the_sweep_shows_all_of_it(
    closed_uri: str,
    sweep: MadeUp,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "RETRY_S", 0.0)
    first, *others = sweep.records()
    tracker = sweep.tracker(closed_uri)
    tracker.log(first.digest, lambda: first)
    wait_until(lambda: bool(caplog.records))
    with served(closed_uri, tmp_path):
        for record in others:
            tracker.log(record.digest, lambda record=record: record)
        outcome = tracker.finish("FINISHED", [], {}, 120)
        assert outcome == Outcome(synced=True, runs=3, warning=None)
        assert_whole(closed_uri, sweep)
        assert sweep.sync(closed_uri) == 0
    assert len(caplog.records) == 1


@contextmanager
def served(uri: str, folder: Path) -> Iterator[None]:
    """MLflow's own server, which keeps runs and artifacts in a folder."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", uri.rpartition(":")[2]]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet)  # type: ignore[call-overload]
    try:
        wait_until(lambda: answers(f"{uri}/health"), seconds=180)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@pytest.mark.parametrize("folder", ["./mlruns", "/data/mlruns", "file:///data/mlruns", ""])
def test_a_folder_of_files_is_refused_with_a_remedy(folder: str, sweep: MadeUp) -> None:
    for fails in (lambda: sweep.sync(folder), lambda: read_rows("sweep", folder)):
        with pytest.raises(TrackingError, match=r"use sqlite:////absolute/path/mlflow\.db"):
            fails()


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path, sweep: MadeUp) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, but it is long enough to look at " * 50)
    begun = time.monotonic()
    with pytest.raises(TrackingError, match="file is not a database"):
        sweep.sync(f"sqlite:///{tmp_path}/mlflow.db")
    assert time.monotonic() - begun < 30


def test_an_update_in_place_keeps_the_run(uri: str, sweep: MadeUp) -> None:
    sweep.sync(uri)
    before = [run.info.run_id for run in children_of(uri, sweep.plan["sweep"])]
    for trial in sweep.plan["trials"]:
        trial["design"]["label"] = f"renamed {trial['design']['steps']}"
    assert sweep.sync(uri) == 3
    after = children_of(uri, sweep.plan["sweep"])
    assert [run.info.run_id for run in after] == before
    assert [run.info.run_name for run in after] == ["renamed 100", "renamed 101", "renamed 102"]


def test_a_record_names_its_content(sweep: MadeUp) -> None:
    record = sweep.records()[0]
    assert sweep.records()[0].content == record.content
    assert replace(record, tags={**record.tags, "bottleneck.position": "00007"}).measurement == record.measurement
    assert replace(record, tags={**record.tags, "bottleneck.position": "00007"}).content != record.content
    assert replace(record, metrics={**record.metrics, "worst_gap": 0.5}).measurement != record.measurement
