"""A machine of a cluster is lost with all that runs on it: its trial goes on elsewhere."""

from __future__ import annotations

import psutil
import pytest
from tiny_sweep import Family, assert_undisturbed, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster():
    """Two nodes of one CPU each on this machine."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    try:
        yield made, made.add_node(**node)
    finally:
        made.shutdown()


def test_the_trial_of_a_lost_node_goes_on_elsewhere(tiny, undisturbed, cluster):
    made, node = cluster
    raylet = node.all_processes["raylet"][0].process.pid

    def worker_there():
        return [
            pid for pid in tiny.workers("pretrain").values() if raylet in (p.pid for p in psutil.Process(pid).parents())
        ]

    with tiny.driver("--set", "resources.cpu=1", environment={"RAY_ADDRESS": made.address}) as driver:
        wait_for(worker_there, driver)
        Family(raylet).end()
        _, err = driver.communicate(timeout=900)
    assert driver.returncode == 0, err
    assert_undisturbed(tiny, undisturbed, unrecorded=1)
