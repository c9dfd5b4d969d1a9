"""The cluster of deploy/local.yaml, really started: `ray up` over SSH onto three machines, a sweep, one machine lost.

Its commands, token and mounts are those of cluster.yaml (test_cluster_files.py holds them together).
"""

import json
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hosts import hosts, wait_for

from orchestrator import results
from orchestrator.journal import Journal
from orchestrator.prepare import prepare
from orchestrator.sweep import read
from trainables.store import Store
from trainables.trial import run_trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(find_spec("flask_wtf") is None, reason="no Flask-WTF: install the extra `cluster`"),
]

ROOT = Path(__file__).parents[2]
ADDRESSES = {"laptop": "10.77.0.1", "head": "10.77.0.10", "worker1": "10.77.0.11", "worker2": "10.77.0.12"}
WORKERS = ("worker1", "worker2")
# A lost machine is noticed after seconds, not after half a minute; and a machine runs one trial, whatever its cores.
PATIENCE = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
SETTINGS = {"head": PATIENCE} | {name: {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'} for name in WORKERS}

SWEEP = """
name: small
question: What is kept?
components:
  digits: {dataset: digits}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: [{digits: 1, odd: 1}, {digits: 3, odd: 1}], architecture: mlp, width: [0.25, 0.5]}
seeds: 2
pretrain: {steps: 400, batch_size: 32}
transfer: {train_examples: 300}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The machines with Ray running on them, and the folder that they share."""
    shared, work = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("work")
    (work / "cluster.yaml").write_text(yaml.safe_dump(on_our_hosts(yaml.safe_load(LOCAL.read_text()))))
    (work / "small.yaml").write_text(SWEEP)
    check_out(work / "deploy/checkout")
    with hosts(ADDRESSES, shared=shared, work=work, settings=SETTINGS) as machines:
        laptop = machines["laptop"]
        laptop.run("(umask 077; ray get-auth-token --generate >/dev/null)")
        laptop.run("ray up --yes cluster.yaml", timeout=900)
        yield machines, shared


LOCAL = ROOT / "deploy/local.yaml"


def on_our_hosts(config):
    """The file with the addresses, user and key of our machines, as anyone who uses it writes their own there."""
    provider = {"type": "local", "head_ip": ADDRESSES["head"], "worker_ips": [ADDRESSES[name] for name in WORKERS]}
    auth = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    return {**config, "provider": provider, "auth": auth}


def check_out(target):
    """What docs/cluster.md says, and then what is not committed yet."""
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(target)], check=True)
    names = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True).stdout
    copy = ["rsync", "--archive", "--from0", "--files-from=-", "--ignore-missing-args", f"{ROOT}/", f"{target}/"]
    subprocess.run(copy, input=names, check=True)


def test_a_sweep_survives_the_loss_of_a_machine_and_computes_every_stage_once(cluster, tmp_path):
    machines, shared = cluster
    laptop = machines["laptop"]
    laptop.run("ray rsync-up cluster.yaml small.yaml '~/small.yaml'")
    submit = "ray exec cluster.yaml 'ray job submit --submission-id small -- bottleneck run small.yaml'"
    log = tmp_path / "log"
    with log.open("wb") as out:
        job = subprocess.Popen(laptop.shell(submit), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    journal = Journal(Store(str(shared / "store")), "small")

    def computed():
        return [e for e in journal.events() if e["event"] == "stage"]

    def both_work():
        assert job.poll() is None, log.read_text()
        return {event["host"] for event in computed()} == set(WORKERS)

    try:
        wait_for(both_work, "both machines to work", 400)
        machines["worker2"].kill()
        assert job.poll() is None, "the sweep was over before a machine was lost"
        assert job.wait(timeout=500) == 0, log.read_text()
    finally:
        job.kill()
        job.wait()

    assert set(Counter(event["digest"] for event in computed()).values()) == {1}
    table = pd.read_parquet(shared / "store/sweeps/small/results.parquet")
    assert set(table["status"]) == {"ok"}
    pd.testing.assert_frame_equal(comparable(table), comparable(computed_here(tmp_path)))
    runs = machines["head"].run(
        "psql -h /var/run/postgresql -qtA mlflow -c 'select status, count(*) from runs group by 1'"
    )
    assert runs.split() == [f"FINISHED|{table['trial'].nunique() + 1}"]


def computed_here(folder):
    """The table of the same sweep, computed in this process."""
    path = folder / "small.yaml"
    path.write_text(SWEEP)
    planned, _ = prepare(read(path), lambda line: None)
    store = Store(str(folder / "store"))
    for trial in planned.trials:
        run_trial(trial, store)
    return results.table(results.rows(planned.as_json(), results.store_lookup(store), {}))


def comparable(table):
    return table.drop(columns=[*results.COST_COLUMNS, "revision"])


def test_who_has_no_token_and_no_login_gets_nowhere(cluster):
    machines, _ = cluster
    head, laptop = machines["head"], machines["laptop"]
    address = ADDRESSES["head"]
    from_outside = tried(
        laptop,
        [f"http://{address}:8265/api/jobs/", f"http://{address}:5000/health"],
        [f"{address}:6379 {CLUSTER_ID}", f"{address}:10001 {CLIENT}"],
    )
    assert from_outside == ["refused", "refused", "UNAUTHENTICATED", "UNAUTHENTICATED"]
    on_the_head = tried(
        head,
        ["http://127.0.0.1:8265/api/jobs/", "http://127.0.0.1:8265/nodes?view=summary", f"{MLFLOW}?max_results=1"],
        [f"127.0.0.1:6379 {CLUSTER_ID}"],
    )
    assert on_the_head == ["401", "401", "401", "UNAUTHENTICATED"]


MLFLOW = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/search"
CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
CLIENT = "/ray.rpc.RayletDriver/ClusterInfo"

STRANGER = """
import json, sys, urllib.error, urllib.request
import grpc

urls, calls = json.loads(sys.argv[1])
for url in urls:
    try:
        print(urllib.request.urlopen(url, timeout=20).status)
    except urllib.error.HTTPError as error:
        print(error.code)
    except urllib.error.URLError as error:
        print("refused" if isinstance(error.reason, ConnectionRefusedError) else error.reason)
for call in calls:
    address, method = call.split()
    try:
        grpc.insecure_channel(address).unary_unary(method)(b"", timeout=20)
        print("open")
    except grpc.RpcError as error:
        print(error.code().name)
"""


def tried(host, urls, calls):
    """What somebody without token and login is told at each door, in order."""
    command = [*host.enter("env", "-i", sys.executable, "-c", STRANGER), json.dumps([urls, calls])]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_ray_down_leaves_nothing_running_on_the_head(cluster):
    machines, _ = cluster
    machines["laptop"].run("ray down --yes cluster.yaml")
    assert not [line for line in machines["head"].processes() if "raylet" in line or "gcs_server" in line]
