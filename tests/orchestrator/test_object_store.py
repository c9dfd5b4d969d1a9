"""A sweep on S3: two nodes of a real Ray cluster share a bucket, and nothing is computed twice."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from buckets import bucket
from command_line import bottleneck

from orchestrator.journal import AlreadyRunning, Journal
from orchestrator.prepare import prepare
from orchestrator.results import COST_COLUMNS, load
from orchestrator.sweep import read
from trainables.store import Store
from trainables.trial import run_trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SWEEP = """
name: small
question: What is kept?
components:
  low: {dataset: digits, classes: [0, 1, 2, 3, 4]}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: [{low: 1, odd: 1}, {low: 3, odd: 1}], ordering: [shuffled, {sequential: [low, odd]}],
       architecture: mlp, width: 0.25}
seeds: 1
pretrain: {steps: 20, batch_size: 16}
transfer: {train_examples: 60}
"""


@pytest.mark.chaos
def test_a_sweep_on_s3_from_two_nodes_computes_every_stage_once_and_gives_the_same_table(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    with bucket() as made:
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            nodes.add_node(num_cpus=1)
            where = {
                "RAY_ADDRESS": nodes.address,
                "AWS_ENDPOINT_URL_S3": f"http://{made.endpoint}",
                "AWS_REGION": "us-east-1",
                "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            }
            location = f"s3://{made.name}/runs"
            done = bottleneck("run", path, "--storage", location, **where)
            assert "stages computed" in done.stderr
            again = bottleneck("run", path, "--storage", location, **where)
            assert "0 stages computed" in again.stderr
        finally:
            nodes.shutdown()
        store = Store(made.location("runs"))
        events = [event for event in Journal(store, "small").events() if event["event"] == "stage"]
        plan = Journal(store, "small").plan()
        stages = {digest for trial in plan["trials"] for _, digest in trial["stages"]}
        assert Counter(event["digest"] for event in events) == Counter(stages)
        assert len({event["pid"] for event in events}) >= 2
        assert store.claims() == []
        on_s3 = load("small", storage=store.location).drop(columns=list(COST_COLUMNS))
    bottleneck("run", path, "--storage", tmp_path / "runs", MLFLOW_TRACKING_URI=where["MLFLOW_TRACKING_URI"])
    in_a_folder = load("small", storage=str(tmp_path / "runs")).drop(columns=list(COST_COLUMNS))
    pd.testing.assert_frame_equal(on_s3, in_a_folder)


def test_two_workers_with_a_bucket_between_them_compute_every_stage_once(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SWEEP)
    plan, _ = prepare(read(path, ()), lambda line: None)
    with bucket() as made:
        Journal(Store(made.location("runs")), "small").write_plan(SWEEP, plan.as_json())

        def work() -> None:
            journal = Journal(Store(made.location("runs")), "small")
            for trial in plan.trials:
                run_trial(trial, journal.store, device="cpu", note=journal.write)

        with ThreadPoolExecutor(2) as workers:
            for worker in [workers.submit(work), workers.submit(work)]:
                worker.result()
        store = Store(made.location("runs"))
        events = [event for event in Journal(store, "small").events() if event["event"] == "stage"]
        stages = {stage.digest for trial in plan.trials for stage in trial.stages()}
        assert Counter(event["digest"] for event in events) == Counter(stages)
        assert store.claims() == []
        with Journal(store, "small").only_driver():
            assert Journal(store, "small").is_running()
            with pytest.raises(AlreadyRunning, match="ends within 60 s"), Journal(store, "small").only_driver():
                pass
