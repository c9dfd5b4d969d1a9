"""A sweep from its file to its report, with a real Ray and a real MLflow: run, run again. Faults: tests/faults."""

import html
import json
import re
import resource
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from command_line import bottleneck
from scipy import stats

from orchestrator.journal import Journal, UnknownSweep
from orchestrator.results import COLUMNS, COST_COLUMNS, load
from orchestrator.status import snapshot
from trainables.store import Store
from trainables.trial import provenance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:::(mlflow|alembic|sqlalchemy|google|pydantic).*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SWEEP = """
name: small
question: What is kept?
components:
  digits: {dataset: digits}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: [{digits: 1, odd: 1}, {digits: 3, odd: 1}], ordering: [shuffled, {sequential: [digits, odd]}],
       architecture: mlp, width: [0.25, 0.5]}
seeds: 2
pretrain: {steps: STEPS, batch_size: 32}
transfer: {train_examples: 300}
"""


def sweep_file(folder, steps=60):
    path = folder / "small.yaml"
    path.write_text(SWEEP.replace("STEPS", str(steps)))
    return path


def stage_events(storage):
    return [e for e in Journal(Store(storage), "small").events() if e["event"] == "stage"]


def comparable(table):
    """A results table without what differs between two runs of the same work."""
    return table.drop(columns=list(COST_COLUMNS))


def tracking_uri(storage):
    return f"sqlite:///{storage}/mlflow.db"


def runs_in_mlflow(storage):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri(storage))
    experiment = client.get_experiment_by_name("small")
    return client.search_runs([experiment.experiment_id], max_results=1000)


def assert_one_run_per_trial_and_none_running(storage, trials):
    runs = runs_in_mlflow(storage)
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert Counter(r.data.tags["bottleneck.digest"] for r in children) == Counter(trials)
    assert len(runs) == len(children) + 1
    assert {r.info.status for r in runs} == {"FINISHED"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep that has run to its end: (storage, sweep file, what the command printed)."""
    folder = tmp_path_factory.mktemp("finished")
    path = sweep_file(folder)
    return folder / "runs", path, bottleneck("run", path, "--storage", folder / "runs")


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished storage, to be damaged; the tracking database's artifact paths still point elsewhere."""
    storage = tmp_path / "runs"
    shutil.copytree(finished[0], storage)
    for view in ("mlflow.db", "mlflow-artifacts"):
        path = storage / view
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return storage, finished[1]


def test_a_sweep_ends_with_a_full_table_a_report_and_a_run_per_trial(finished):
    storage, _, done = finished
    table = load("small", storage=str(storage))
    assert len(table) == 8 * 2 * 2
    assert set(table["status"]) == {"ok"}
    assert list(table.columns) == list(COLUMNS)
    for column in ("gap", "transfer_accuracy", "direct_accuracy", "random_init_accuracy", "parameters", "seconds"):
        assert table[column].notna().all(), column
    assert ((table["direct_probe_accuracy"] - table["transfer_accuracy"]) == table["gap"]).all()
    assert set(table["revision"]) == {provenance()["revision"]}, "workers run this code, and not a copy of it"
    assert "95 %" in done.stdout
    assert re.search(r"digits .*odd|digits", done.stdout)
    assert (storage / "sweeps/small/report.html").exists()
    assert pd.read_parquet(storage / "sweeps/small/results.parquet").shape == table.shape
    plan = json.loads((storage / "sweeps/small/plan.json").read_text())
    assert_one_run_per_trial_and_none_running(storage, [t["digest"] for t in plan["trials"]])


def test_the_journal_proves_that_every_stage_was_computed_once(finished):
    storage, _, _ = finished
    events = stage_events(storage)
    assert set(Counter(e["digest"] for e in events).values()) == {1}
    plan = Journal(Store(storage), "small").plan()
    baselines = {b["pretrain"] for t in plan["trials"] for c in t["cells"] for b in c["baselines"]}
    assert len(baselines) == 2 * 2 * 2  # components, widths, seeds
    assert baselines <= {e["digest"] for e in events if e["kind"] == "pretrain"}


def processor_seconds_of_commands():
    """Of all processes that this one has started and that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_running_again_a_finished_sweep_writes_nothing_and_is_soon_done(finished):
    storage, path, first = finished
    before = {file: file.stat().st_mtime_ns for file in storage.rglob("*") if file.is_file()}
    spent = processor_seconds_of_commands()
    again = bottleneck("run", path, "--storage", storage)
    assert processor_seconds_of_commands() - spent < 10, "neither Ray nor MLflow nor matplotlib is imported"
    assert "0 stages computed" in again.stderr
    assert again.stdout == first.stdout
    assert {file: file.stat().st_mtime_ns for file in storage.rglob("*") if file.is_file()} == before


def test_running_again_brings_back_a_report_and_runs_that_are_gone(copy):
    storage, path = copy  # without MLflow's database
    again = bottleneck("run", path, "--storage", storage)
    assert "0 stages computed" in again.stderr
    plan = Journal(Store(storage), "small").plan()
    assert_one_run_per_trial_and_none_running(storage, [t["digest"] for t in plan["trials"]])
    for name in ("report.html", "results.parquet"):
        file = storage / "sweeps/small" / name
        before = file.stat().st_size
        file.unlink()
        bottleneck("run", path, "--storage", storage)
        assert file.stat().st_size == pytest.approx(before, rel=0.01)


def test_the_table_from_mlflow_equals_the_one_from_the_store_column_by_column(finished):
    storage, _, _ = finished
    from_store = load("small", storage=str(storage))
    from_mlflow = load("small", tracking_uri=tracking_uri(storage))
    for column in COLUMNS:
        pd.testing.assert_series_equal(from_mlflow[column], from_store[column])


def test_sync_rebuilds_a_deleted_mlflow_store(copy):
    storage, _ = copy
    before = load("small", storage=str(storage))
    bottleneck("sync", "small", "--storage", storage)
    after = load("small", tracking_uri=tracking_uri(storage))
    for column in COLUMNS:
        pd.testing.assert_series_equal(after[column], before[column])
    plan = Journal(Store(storage), "small").plan()
    assert_one_run_per_trial_and_none_running(storage, [t["digest"] for t in plan["trials"]])


def test_a_stage_that_is_deleted_or_damaged_is_computed_again_and_no_other(copy):
    storage, path = copy
    store = Store(storage)
    before, events = comparable(load("small", storage=str(storage))), len(stage_events(storage))
    cells = Journal(store, "small").plan()["trials"][3]["cells"]
    deleted, damaged = cells[0]["transfer"], cells[1]["random_init"]
    store.remove("probe", deleted)
    entry = storage / "stages" / "probe" / damaged[:2] / damaged / "result.json"
    entry.write_bytes(entry.read_bytes().replace(b"0.", b"1.", 1))
    done = bottleneck("run", path, "--storage", storage)
    assert "set aside" in done.stderr
    assert {e["digest"] for e in stage_events(storage)[events:]} == {deleted, damaged}
    assert len(stage_events(storage)) == events + 2
    pd.testing.assert_frame_equal(comparable(load("small", storage=str(storage))), before)


def test_a_trial_that_raises_is_a_row_and_the_sweep_goes_on(tmp_path):
    path, storage = tmp_path / "small.yaml", tmp_path / "runs"
    # One example a batch leaves batch normalisation a single value per channel: the cnn raises, the mlp does not.
    text = SWEEP.replace("STEPS", "20").replace("batch_size: 32", "batch_size: 1")
    text = re.sub(r"vary: .*?width: \[0.25, 0.5\]\}", "vary: {mixture: {digits: 1}, architecture: [RAISES, mlp]}",
                  text, flags=re.DOTALL)  # fmt: skip
    path.write_text(text.replace("RAISES", "resnet18").replace("seeds: 2", "seeds: 1"))
    done = bottleneck("run", path, "--storage", storage, expect=1)
    table = load("small", storage=str(storage))
    status = dict(zip(table["architecture"], table["status"], strict=True))
    assert status == {"resnet18": "failed", "mlp": "ok"}
    error = table[table["status"] == "failed"]["error"].iloc[0]
    assert "ValueError: Expected more than 1 value per channel" in error
    assert error in done.stderr
    event = next(e for e in Journal(Store(storage), "small").events() if e.get("status") == "failed")
    assert "Traceback" in event["log"]
    report = Path(storage / "sweeps/small/report.html").read_text()
    assert "Expected more than 1 value per channel" in report
    children = [r for r in runs_in_mlflow(storage) if "mlflow.parentRunId" in r.data.tags]
    assert Counter(r.info.status for r in children) == {"FAILED": 1, "FINISHED": 1}


def test_results_are_printed_filtered_and_written(finished, tmp_path):
    storage, _, _ = finished
    found = json.loads(
        bottleneck("results", "small", "--storage", storage, "--format", "json", "--where",
                   "component == 'odd' and width > 0.3", "--columns", "seed,gap").stdout
    )  # fmt: skip
    assert len(found) == 8
    assert set(found[0]) == {"seed", "gap"}
    bottleneck("results", "small", "--storage", storage, "--format", "parquet", "--output", tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "t.parquet")[["gap"]], load("small", storage=str(storage), columns=["gap"])
    )
    csv = bottleneck("results", "small", "--storage", storage, "--format", "csv").stdout
    assert len(csv.splitlines()) == 33
    lines = bottleneck("results", "small", "--storage", storage).stdout.splitlines()
    assert lines[0].split()[0] == "trial"
    assert len(lines) == 34
    wrong = bottleneck("results", "small", "--storage", storage, "--columns", "gapp", expect=2)
    assert "no column 'gapp'" in wrong.stderr
    assert bottleneck("results", "small", "--storage", storage, "--where", "gap >", expect=2).stderr.count("\n") == 1


def test_a_password_is_neither_shown_nor_kept_and_an_absent_server_is_one_warning(copy):
    storage, path = copy
    uri = "http://someone:s3cret@127.0.0.1:9"
    done = bottleneck("run", path, "--storage", storage, "--tracking-uri", uri)
    assert "s3cret" not in done.stdout + done.stderr
    assert done.stderr.count("brings MLflow up to date") == 1
    kept = [file for file in storage.rglob("*") if file.is_file() and b"s3cret" in file.read_bytes()]
    assert kept == []
    assert "s3cret" not in bottleneck("plan", path, "--storage", storage, "--tracking-uri", uri).stdout


def test_results_from_an_mlflow_that_lacks_the_sweep_is_one_line(finished, tmp_path):
    absent = bottleneck("results", "small", "--tracking-uri", f"sqlite:///{tmp_path}/none.db", expect=2)
    assert "there is no MLflow database" in absent.stderr
    other = bottleneck("results", "other", "--tracking-uri", tracking_uri(finished[0]), expect=2)
    assert "has no sweep 'other'; it has: small" in other.stderr


def test_status_and_report_read_the_store(finished):
    storage, _, _ = finished
    (status,) = json.loads(bottleneck("status", "small", "--json", "--storage", storage).stdout)
    assert status["state"] == "finished"
    assert status["trials"] == {"ok": 8}
    assert status["stages"] == status["stages_stored"]
    journal = Journal(Store(storage), "small")
    written = snapshot(journal)
    (storage / "sweeps/small/status.json").unlink()
    read = snapshot(journal)
    for name in ("state", "outcomes", "stages", "stages_stored"):
        assert getattr(read, name) == getattr(written, name), "what the driver wrote is what the store says"
    assert (written.left, status["worst_gap"]["n"]) == (0, 2)
    workloads = {"pretrain mlp", "linear_probe mlp"}
    assert workloads <= set(written.speeds), "what later runs are forecast from"
    assert bottleneck("status", "small", "--watch", "--storage", storage).stdout.startswith(
        "state: finished; trials: 8"
    )
    (storage / "sweeps/small/report.html").unlink()
    assert bottleneck("report", "small", "--storage", storage).stdout.strip().endswith("report.html")
    assert (storage / "sweeps/small/report.html").exists()


def table_of(page, anchor):
    """The cells of a table of the report by the names of their columns."""
    whole = html.unescape(page).replace("−", "-").replace("\u00a0", " ")
    whole = whole[whole.index(f'<table id="{anchor}">') :].partition("</table>")[0]
    header = [re.sub(r"<.*?>", "", found) for found in re.findall(r"<th scope=\"col\".*?</th>", whole)]
    lines = re.findall(r"<tr>(<th scope=\"row\".*?)</tr>", whole)
    return [dict(zip(header, re.findall(r">([^<]*)</t[hd]>", line), strict=True)) for line in lines]


def test_report_command_line_python_and_mlflow_agree_to_the_last_digit_printed(finished):
    storage, path, _ = finished
    shown = bottleneck("run", path, "--storage", storage).stdout
    page = (storage / "sweeps/small/report.html").read_text()
    table = load("small", storage=str(storage))
    design = ["component", "weight", "ordering", "width"]

    # By hand: the mean over seeds, and Student's t with n - 1 degrees of freedom.
    lines = {}
    for (component, weight, ordering, width), rows in table.groupby(design):
        gap = 100 * rows["gap"].to_numpy(dtype=float)
        half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / len(gap) ** 0.5
        key = (component, f"{weight:.3g}", ordering, f"{width:.4g}")
        ends = (f"{end:.1f}".replace("-0.0", "0.0") for end in (gap.mean() - half, gap.mean() + half))
        lines[key] = (f"{gap.mean():.1f}".replace("-0.0", "0.0"), f"[{', '.join(ends)}]")
    assert len(lines) == 16

    in_report = {
        tuple(row[name] for name in design): (row["gap, points"], row["95 % interval"])
        for row in table_of(page, "by-weight")
    }
    assert in_report == lines
    for key, (gap, interval) in lines.items():
        (line,) = [
            one
            for one in shown.splitlines()
            if one.split()[:2] == list(key[:2]) and key[2] in one and f" {key[3]} " in one and gap in one
        ]
        assert f"{gap}  {interval}" in re.sub(r" {2,}", "  ", line)

    by_trial = {(row["trial"], row["component"]): row["gap, points"] for row in table_of(page, "results")}
    for run in runs_in_mlflow(storage):
        if "mlflow.parentRunId" in run.data.tags:
            trial = run.data.tags["bottleneck.digest"][:12]
            for component in ("digits", "odd"):
                gap = f"{100 * run.data.metrics[f'gap/{component}']:.1f}".replace("-0.0", "0.0")
                assert gap == by_trial.pop((trial, component))
    assert by_trial == {}


def test_a_table_in_python_can_be_filtered(finished):
    storage, _, _ = finished
    found = load("small", storage=str(storage), where="weight > 0.6", columns=["component", "weight"])
    assert set(found["component"]) == {"digits"}
    with pytest.raises(UnknownSweep, match="has no sweep 'other'; it has: small"):
        load("other", storage=str(storage))


def test_a_folder_that_workers_would_take_for_a_package_is_one_line_and_a_real_package_is_none(tmp_path, monkeypatch):
    from orchestrator.launch import LaunchError, _require_no_namesake

    monkeypatch.chdir(tmp_path)
    _require_no_namesake()
    (tmp_path / "bottleneck").mkdir()
    with pytest.raises(LaunchError, match=r"has the name of a package that pandas looks for.*from another folder"):
        _require_no_namesake()
    (tmp_path / "site" / "bottleneck").mkdir(parents=True)
    (tmp_path / "site" / "bottleneck" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    _require_no_namesake()


def test_a_cluster_that_someone_else_started_on_this_machine_is_not_joined(monkeypatch, short_folder):
    """`ray start` leaves its address in a file, where Ray looks when it is asked for no address in particular."""
    from orchestrator.launch import _cluster

    (short_folder / "ray").mkdir()
    (short_folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    with _cluster(1, 0):
        import ray

        assert "127.0.0.1:9" not in ray.get_runtime_context().gcs_address
