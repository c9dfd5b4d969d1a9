"""MLflow as a group runs it, with a login, PostgreSQL and an object store: whatever happens, a sweep arrives whole."""

from __future__ import annotations

import http.server
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from made_up_sweeps import MadeUp, assert_whole, children_of, made_up, parent_of, runs_of, wait_until
from tracking_servers import LOGIN, Detour, TrackingServer, free_port, postgres_folder, tracking_server

from orchestrator import results, tracking
from orchestrator.tracking import TrackingError, check_login

NEEDED = ("psycopg2", "flask_wtf", "moto", "boto3")
LACKING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(postgres_folder() is None, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}"),
    # boto3 and MLflow, on Python's and SQLAlchemy's newer versions. Nothing of ours warns.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(botocore|boto3|mlflow|sqlalchemy).*"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

SWEEP = """
name: tracked
question: Does a tracking server show what the store has?
components:
  digits: {dataset: digits}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: [{digits: 1, odd: 1}], architecture: mlp, width: [0.25, 0.5]}
seeds: 2
pretrain: {steps: 40, batch_size: 32}
transfer: {train_examples: 200}
"""


@pytest.fixture(scope="session")
def server() -> Iterator[TrackingServer]:
    with tracking_server() as running:
        yield running


@pytest.fixture
def uri(server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, for a user who has logged in and does not wait long."""
    for name, value in server.login.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking._prepare()  # MLflow cannot be imported by two threads at the same time
    return server.uri


@pytest.fixture
def sweep(request: pytest.FixtureRequest) -> MadeUp:
    return made_up(request.node.name)


def bottleneck(*arguments: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


# A sweep that was run ----------------------------------------------------------------------------------------


@dataclass
class Tracked:
    """A sweep that ran while a server tracked it."""

    storage: Path
    talk: str
    login: dict[str, str]


@pytest.fixture(scope="session")
def tracked(server: TrackingServer, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "tracked.yaml").write_text(SWEEP)
    arguments = ("run", folder / "tracked.yaml", "--storage", folder / "runs", "--tracking-uri", server.uri)
    done = bottleneck(*arguments, environment=server.login)
    assert done.returncode == 0, done.stderr
    return Tracked(folder / "runs", done.stdout + done.stderr, server.login)


def artifacts_of(run: Any, uri: str) -> set[str]:
    from mlflow.tracking import MlflowClient

    return {entry.path for entry in MlflowClient(uri).list_artifacts(run.info.run_id)}


def test_a_sweep_on_a_server_is_the_same_table_as_in_the_store(tracked: Tracked, uri: str) -> None:
    expected, found = results.load("tracked", storage=str(tracked.storage)), results.load("tracked", tracking_uri=uri)
    for column in results.COLUMNS:
        assert found[column].equals(expected[column]), column
    assert len(found) == 8
    assert "brings MLflow up to date" not in tracked.talk


def test_children_nest_below_their_parent_with_params_metrics_and_files(tracked: Tracked, uri: str) -> None:
    parent, children = parent_of(uri, "tracked"), children_of(uri, "tracked")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert [run.data.params["width"] for run in children] == ["0.25", "0.5"]
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    table = results.load("tracked", storage=str(tracked.storage))
    for run in children:
        rows = table[(table["width"] == float(run.data.params["width"])) & (table["component"] == "odd")]
        assert run.data.metrics["gap/odd"] == pytest.approx(rows["gap"].mean())
        assert artifacts_of(run, uri) == {"design.json", "result.json"}
    assert artifacts_of(parent, uri) == {"sweep.yaml", "plan.json", "report.html", "results.parquet"}


def test_a_password_is_in_no_run_no_file_and_no_line(tracked: Tracked, server: TrackingServer) -> None:
    secret = server.password.encode()
    assert server.password not in tracked.talk
    assert [path for path in tracked.storage.rglob("*") if path.is_file() and secret in path.read_bytes()] == []
    kept = server.kept()
    assert b"Does a tracking server show what the store has?" in kept
    assert secret not in kept
    assert server.objects["AWS_SECRET_ACCESS_KEY"].encode() not in kept


def test_sync_with_a_password_in_the_uri_shows_it_nowhere(tracked: Tracked, server: TrackingServer) -> None:
    with_password = server.uri.replace("//", f"//sweeper:{server.password}@")
    done = bottleneck("sync", "tracked", "--storage", tracked.storage, "--tracking-uri", with_password, environment={})
    assert done.returncode == 0, done.stderr
    assert f"0 runs written to {server.uri}" in done.stderr
    assert server.password not in done.stdout + done.stderr
    assert server.password.encode() not in server.kept()
    assert [p for p in tracked.storage.rglob("*") if p.is_file() and server.password.encode() in p.read_bytes()] == []


# As people see it --------------------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1500,1000"),
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def shown(browser: Any, *texts: str, selector: str = "body") -> None:
    """Wait until all of these are on the page."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')"
    deadline = time.monotonic() + 120
    while missing := [text for text in texts if text not in (page := browser.execute_script(script, selector))]:
        assert time.monotonic() < deadline, f"no {missing} in\n{page}"
        time.sleep(0.1)


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed")
@pytest.mark.usefixtures("tracked")
def test_mlflows_pages_show_a_sweep_its_trials_charts_and_files_to_whoever_logs_in(
    uri: str, server: TrackingServer, browser: Any
) -> None:
    parent, child = parent_of(uri, "tracked"), children_of(uri, "tracked")[0]
    pages = f"{uri}/#/experiments/{parent.info.experiment_id}/runs"
    browser.get(f"{uri}/")
    assert "tracked" not in browser.page_source  # without a login
    browser.get_log("browser")  # says 401, and should

    browser.get(uri.replace("//", f"//{LOGIN}:{server.password}@"))
    browser.get(pages)
    shown(browser, "tracked", selector=".ag-row")
    shown(browser, "Does a tracking server show what the store has?")
    assert child.info.run_name not in browser.execute_script("return document.body.innerText")
    browser.execute_script("document.querySelector('.ag-row a').closest('.ag-cell').querySelector('button').click()")
    shown(browser, "tracked", *(run.info.run_name for run in children_of(uri, "tracked")), selector=".ag-row")

    browser.get(f"{pages}/{child.info.run_id}")
    shown(browser, "gap/odd", "mixture.digits", "Accuracies and gaps are fractions", "Parent run")
    browser.get(f"{pages}/{child.info.run_id}/model-metrics")
    shown(browser, "gap", "odd")
    wait_until(lambda: browser.execute_script("return document.querySelectorAll('svg.main-svg .bars path').length") > 0)

    browser.get("about:blank")  # or the next page is drawn from what the one before has loaded
    browser.get(f"{pages}/{parent.info.run_id}/artifacts/report.html")
    shown(browser, "plan.json", "report.html", "results.parquet", "sweep.yaml")
    wait_until(lambda: bool(browser.execute_script("return document.querySelector('iframe')")), seconds=120)
    browser.switch_to.frame(browser.execute_script("return document.querySelector('iframe')"))
    shown(browser, "Does a tracking server show what the store has?", selector="h1")
    wait_until(lambda: browser.execute_script("return document.querySelectorAll('thead button').length") > 0)  # script
    browser.switch_to.default_content()
    browser.get("about:blank")
    browser.get(f"{pages}/{child.info.run_id}/artifacts/result.json")
    shown(browser, "design.json", '"direct_kind": "same_steps"')
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


# Who may come in ---------------------------------------------------------------------------------------------


def test_a_wrong_login_is_one_line_before_any_work(server: TrackingServer, tmp_path: Path) -> None:
    (tmp_path / "tracked.yaml").write_text(SWEEP)
    wrong = {**server.login, "MLFLOW_TRACKING_PASSWORD": "planted-and-wrong"}
    arguments = ("run", tmp_path / "tracked.yaml", "--storage", tmp_path / "runs", "--tracking-uri", server.uri)
    done = bottleneck(*arguments, environment=wrong)
    assert done.returncode == 2
    *_, line = done.stderr.splitlines()
    assert line == (
        f"MLflow at {server.uri}: it refuses the login; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
        "or MLFLOW_TRACKING_TOKEN"
    )
    assert "Traceback" not in done.stderr
    assert "planted-and-wrong" not in done.stderr
    assert not (tmp_path / "runs/sweeps").exists()


def test_a_missing_login_is_refused_and_a_right_one_is_not(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_login(uri)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(TrackingError, match="it refuses the login; set MLFLOW_TRACKING_USERNAME"):
        check_login(uri)
    with pytest.raises(TrackingError, match="it refuses the login"):
        tracking.check(uri)


def test_a_host_name_that_the_server_does_not_know_is_named(uri: str) -> None:
    with Detour(uri, host="tracker.example:5000") as elsewhere, pytest.raises(TrackingError, match="--allowed-hosts"):
        check_login(elsewhere.uri)


def test_a_server_that_is_not_mlflow_is_named() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), QuietFiles) as files:
        thread = threading.Thread(target=files.serve_forever)
        thread.start()
        try:
            with pytest.raises(TrackingError, match="a server answers there, but not MLflow"):
                check_login(f"http://127.0.0.1:{files.server_port}")
        finally:
            files.shutdown()
            thread.join()


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_a_server_that_is_away_at_the_start_does_not_stop_a_sweep() -> None:
    check_login(f"http://127.0.0.1:{free_port()}")


# Many at once ------------------------------------------------------------------------------------------------

SIXTEEN = """
import json, os, sys, time, traceback
from made_up_sweeps import made_up
from orchestrator import tracking
import mlflow.tracking, mlflow.store.tracking.sqlalchemy_store
tracking._prepare()
uri, processes, begun = sys.argv[1], [], time.monotonic()
for number in range(16):
    pid = os.fork()
    if pid == 0:
        try:
            outcome = made_up(f"at-once-{number}", trials=3, seeds=(0,)).track(uri, timeout_s=300)
            print(outcome.warning or "", file=sys.stderr)
            os._exit(0 if outcome.synced and outcome.runs == 3 else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    processes.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in processes]
print(json.dumps({"codes": codes, "seconds": time.monotonic() - begun}))
"""


@pytest.mark.chaos
@pytest.mark.parametrize("place", ["server", "SQLite"])
def test_sixteen_sweeps_at_once_all_arrive(place: str, uri: str, tmp_path: Path) -> None:
    """Sixteen processes: on SQLite they also create the one database together."""
    uri = uri if place == "server" else f"sqlite:///{tmp_path}/mlflow.db"
    paths = [*sys.path[:1], str(Path(tracking.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"
    done = subprocess.run([sys.executable, "-c", SIXTEEN, uri], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["codes"] == [0] * 16, done.stderr
    print(f"sixteen sweeps of three trials on {place}: {outcome['seconds']:.1f} s")
    for number in range(16):
        runs = runs_of(uri, f"at-once-{number}")
        assert Counter(run.info.status for run in runs) == {"FINISHED": 4}
        assert len({run.data.tags.get(tracking.DIGEST) for run in runs}) == 4
        parent = parent_of(uri, f"at-once-{number}").info.run_id
        assert [run.data.tags.get(tracking.PARENT_RUN, parent) for run in runs] == [parent] * 4


# A server that goes away, is slow, or has limits -----------------------------------------------------------------


def test_a_server_that_is_killed_and_comes_back_shows_everything(
    server: TrackingServer, uri: str, sweep: MadeUp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One sweep ends while the server is away, and is synced later; the other goes on, and catches up by itself."""
    monkeypatch.setattr(tracking, "RETRY_S", 0.5)
    ending, going_on = made_up(f"{sweep.plan['sweep']}-ending"), sweep
    trackers = [ending.tracker(uri), going_on.tracker(uri)]
    for tracker, one in zip(trackers, (ending, going_on), strict=True):
        first = one.records()[0]
        tracker.log(first.digest, lambda first=first: first)
    for one in (ending, going_on):
        wait_until(lambda one=one: bool(children_of(uri, one.plan["sweep"])))  # type: ignore[misc]
    server.process.stop(signal.SIGKILL)
    try:
        for tracker, one in zip(trackers, (ending, going_on), strict=True):
            for record in one.records()[1:]:
                tracker.log(record.digest, lambda record=record: record)
        outcome = trackers[0].finish("FINISHED", [], {}, 60)
        assert not outcome.synced
        assert outcome.warning is not None
        wait_until(lambda: len(caplog.records) == 2)
    finally:
        server.process.start()
    wait_until(lambda: len(children_of(uri, going_on.plan["sweep"])) == 3)  # by itself, with no further trial
    assert trackers[1].finish("FINISHED", [], {}, 60).synced
    assert_whole(uri, going_on)
    ending.sync(uri)
    assert_whole(uri, ending)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2  # one for each sweep


def test_a_server_that_takes_two_seconds_for_a_request_holds_nobody_up(uri: str, sweep: MadeUp) -> None:
    with Detour(uri, delay_s=2) as slow:
        tracker = sweep.tracker(slow.uri)
        calls = []
        for record in sweep.records():
            begun = time.monotonic()
            tracker.log(record.digest, lambda record=record: record)
            calls.append(time.monotonic() - begun)
        begun = time.monotonic()
        outcome = tracker.finish("FINISHED", [], {}, 3)
        grace = time.monotonic() - begun
    print(f"longest call to Tracker.log: {1000 * max(calls):.2f} ms")
    assert max(calls) < 0.05
    assert grace < 3.5
    assert not outcome.synced
    assert outcome.warning is not None
    assert "has not taken everything within 3 s" in outcome.warning


def test_a_sweep_is_written_over_one_connection_in_few_requests(uri: str, sweep: MadeUp) -> None:
    with Detour(uri) as counting:
        assert sweep.track(counting.uri).synced
        [before, *_] = [n for n, request in enumerate(counting.requests) if request.endswith("runs/log-batch")]
        one_trial = counting.requests[before - 3 : before + 2]
        assert [request.split("/")[-1] for request in one_trial] == [
            "create", "design.json", "result.json", "log-batch", "update",
        ]  # fmt: skip
        assert len(counting.requests) <= 5 * 3 + 11
        assert counting.connections == 1


def test_a_run_larger_than_a_batch_arrives_whole(uri: str, sweep: MadeUp) -> None:
    from mlflow.tracking import MlflowClient

    record = sweep.records()[0]
    record = replace(
        record,
        params={f"p{n}": str(n) for n in range(250)},
        tags={**record.tags, **{f"bottleneck.t{n}": str(n) for n in range(130)}},
        metrics={f"m{n}": n / 7 for n in range(1200)},
        loss_curve=tuple((step, 1 / (1 + step)) for step in range(2500)),
    )
    view = tracking._View(uri, sweep.plan, None)
    view.open_parent("", running=True)
    assert tracking._write_trial(view, record)
    [run] = children_of(uri, sweep.plan["sweep"])
    assert run.data.params == record.params
    assert record.tags.items() <= run.data.tags.items()
    assert {name: run.data.metrics[name] for name in record.metrics} == record.metrics
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
    assert tuple((point.step, point.value) for point in history) == record.loss_curve
    view.end_children()
    view.end_parent("FINISHED", [], {})


def test_a_trial_that_mlflow_refuses_does_not_keep_the_others_out(
    uri: str, sweep: MadeUp, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = sweep.records()
    refused = replace(second, params={"no param is called so: \n;": "x"})
    tracker = sweep.tracker(uri)
    for record in (first, refused, third):
        tracker.log(record.digest, lambda record=record: record)
    outcome = tracker.finish("FINISHED", [], {}, 60)
    assert not outcome.synced
    assert outcome.runs == 2
    assert f"trial {second.digest[:12]}: " in str(outcome.warning)
    assert Counter(run.info.status for run in runs_of(uri, sweep.plan["sweep"])) == {"FINISHED": 3, "KILLED": 1}
    assert sweep.sync(uri) == 1
    assert_whole(uri, sweep)
    assert len(caplog.records) == 1


def test_ten_thousand_trials_that_wait_for_a_server_take_little_memory(
    uri: str, sweep: MadeUp, caplog: pytest.LogCaptureFixture
) -> None:
    """The store has what their records are made from; the tracker has their digests."""
    tracker = sweep.tracker(f"http://127.0.0.1:{free_port()}")
    wait_until(lambda: bool(caplog.records), seconds=300)  # from now on it leaves MLflow alone for a minute
    record = sweep.records()[0]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(10_000):
            tracker.log(f"{number:064x}", partial(replace, record))
        wait_until(lambda: len(tracker._waiting) == 10_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"ten thousand trials that wait: {(after - before) / 2**20:.1f} MiB")
    assert after - before < 10 * 2**20
