"""Sweeps that choose their trials as results come in, and end some early: from the command line to the table."""

from collections import Counter

import pytest
from command_line import bottleneck

from orchestrator.journal import Journal
from orchestrator.prepare import prepare
from orchestrator.results import COST_COLUMNS, load, trial_status
from orchestrator.sweep import read
from trainables.store import Store
from trainables.trial import run_trial

pytestmark = [
    pytest.mark.filterwarnings("ignore:::(mlflow|alembic|sqlalchemy|google|pydantic).*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SWEEP = """
name: searched
question: Which mixture of two halves of the digits loses least?
components:
  low: {dataset: digits, classes: [0, 1, 2, 3, 4]}
  high: {dataset: digits, classes: [5, 6, 7, 8, 9]}
vary:
  mixture: {simplex: {resolution: 20}}
  architecture: mlp
  width: 0.25
seeds: 2
pretrain: {steps: 60, batch_size: 32}
transfer: {l2: [0.001, 0.1]}
search: {optuna: {samples: 6}}
early_stopping: {asha: {grace_steps: 10}}
"""


def statuses(table):
    """Trials by status; of a stopped one, rows that others had computed already have their measurements."""
    return Counter(trial_status(rows.to_dict("records")) for _, rows in table.groupby("trial"))


def whole(table):
    """The rows of trials that came to their end, without what differs between two runs of the same work."""
    rows = table.groupby("trial", sort=False).filter(lambda rows: (rows["status"] == "ok").all())
    return rows.drop(columns=list(COST_COLUMNS)).reset_index(drop=True)


@pytest.mark.slow
def test_a_search_goes_on_from_its_store_and_stopped_trials_can_be_brought_to_their_end(tmp_path):
    path, storage = tmp_path / "searched.yaml", tmp_path / "runs"
    path.write_text(SWEEP)
    again = ("run", path, "--storage", storage)
    bottleneck(*again)
    first = load("searched", storage=str(storage))
    assert first["trial"].nunique() == 6
    assert statuses(first)["stopped"] >= 1
    assert statuses(first)["ok"] >= 1
    assert set(statuses(first)) == {"ok", "stopped"}
    assert first.loc[first["status"] == "stopped", "gap"].isna().all()
    assert first.loc[first["status"] == "stopped", "error"].str.contains("at step").all()
    assert load("searched", tracking_uri=f"sqlite:///{storage}/mlflow.db").equals(first)

    done = bottleneck(*again)
    assert "0 stages computed" in done.stderr
    assert load("searched", storage=str(storage)).equals(first)

    bottleneck(*again, "--set", "search.optuna.samples=8", "--set", "early_stopping=null")
    finished = load("searched", storage=str(storage))
    assert statuses(finished) == {"ok": 8}
    before = whole(first)
    assert whole(finished[finished["trial"].isin(before["trial"])]).equals(before)

    stages = [e["digest"] for e in Journal(Store(str(storage)), "searched").events() if e["event"] == "stage"]
    assert max(Counter(stages).values()) == 1, "no stage was computed twice"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("searched")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len({run.data.tags["bottleneck.digest"] for run in children}) == len(children) == 8
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert load("searched", tracking_uri=f"sqlite:///{storage}/mlflow.db").equals(finished)


@pytest.mark.slow
def test_a_search_starts_from_what_an_earlier_sweep_found(tmp_path):
    storage = tmp_path / "runs"
    grid = (
        SWEEP.split("search:")[0].replace("name: searched", "name: earlier").replace("resolution: 20", "resolution: 4")
    )
    (tmp_path / "earlier.yaml").write_text(grid)
    warm = SWEEP.replace("samples: 6", "samples: 3, warm_start: [earlier]").split("early_stopping")[0]
    (tmp_path / "searched.yaml").write_text(warm)
    earlier, _ = prepare(read(tmp_path / "earlier.yaml"), print)
    store = Store(str(storage))
    Journal(store, "earlier").write_plan(grid, earlier.as_json())
    for trial in earlier.trials:
        run_trial(trial, store)
    bottleneck("run", tmp_path / "searched.yaml", "--storage", storage)
    assert load("searched", storage=str(storage))["trial"].nunique() == 3
    refused = bottleneck(
        "run", tmp_path / "searched.yaml", "--storage", storage, "--set", "search.optuna.warm_start=[unheard]", expect=2
    )
    assert "has no sweep 'unheard'" in refused.stderr
