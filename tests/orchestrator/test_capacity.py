"""How many trials a cluster could run at its largest, from cluster files."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.capacity import capacity, cluster_file, of_this_cluster

HEAD = {"CPU": 0, "memory": 8e9}
GPU_NODE = {"CPU": 4.0, "GPU": 1.0}


def cluster(most, **types):
    """A resolved cluster file: `types` are (resources, max_workers)."""
    workers = {name: {"resources": has, "max_workers": limit} for name, (has, limit) in types.items()}
    head = {"head": {"resources": {"CPU": 0}, "max_workers": 0}}
    return {"max_workers": most, "head_node_type": "head", "available_node_types": head | workers}


def test_a_cluster_of_which_only_the_head_is_up_counts_the_workers_that_may_come():
    config = cluster(8, l4=(GPU_NODE, 8), a10g=(GPU_NODE, 8))
    assert capacity(1, 1, [HEAD], config) == 8
    assert capacity(1, 0.25, [HEAD], config) == 32
    assert capacity(4, 0.25, [HEAD], config) == 8  # the cores are what is short
    assert capacity(1, 0, [HEAD], config) == 32


def test_the_limit_over_all_types_goes_to_those_that_hold_most():
    config = cluster(3, small=({"CPU": 2}, 10), large=({"CPU": 16}, 2))
    assert capacity(1, 0, [], config) == 2 * 16 + 2


def test_a_head_that_has_cores_takes_trials_too():
    config = cluster(1, small=({"CPU": 2}, 1))
    config["available_node_types"]["head"]["resources"] = {"CPU": 4}
    assert capacity(1, 0, [], config) == 6


def test_machines_that_do_not_say_what_they_have_are_taken_to_be_like_the_best_one_there():
    config = {
        "max_workers": 3,
        "head_node_type": "local.cluster.node",
        "available_node_types": {"local.cluster.node": {"resources": {}, "max_workers": 3}},
    }
    assert capacity(1, 0, [HEAD, {"CPU": 2}, {"CPU": 8}], config) == 24
    assert capacity(1, 0, [HEAD], config) == 0


def test_without_a_cluster_file_what_is_there_counts():
    assert capacity(1, 0.5, [GPU_NODE, GPU_NODE]) == 4
    assert capacity(1, 1, [{"CPU": 64}]) == 0


def test_machines_that_joined_beyond_the_file_count():
    assert capacity(1, 0, [{"CPU": 2}] * 5, cluster(1, small=({"CPU": 2}, 1))) == 10


@pytest.mark.parametrize(("share", "trials"), [(0.1, 10), (0.2, 5), (0.3, 3), (1 / 3, 3), (0.7, 1)])
def test_shares_of_a_gpu_are_counted_as_ray_counts_them(share, trials):
    assert capacity(0, share, [{"GPU": 1.0}]) == trials


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0.1, 8), st.floats(0, 2))
def test_more_allowed_workers_never_hold_fewer_trials(most, more, cpus, gpus):
    there = [GPU_NODE]
    smaller, larger = (
        capacity(cpus, gpus, there, cluster(limit, l4=(GPU_NODE, limit))) for limit in (most, most + more)
    )
    assert capacity(cpus, gpus, there) <= smaller <= larger


def test_dead_machines_do_not_count(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    nodes = [{"Alive": True, "Resources": {"CPU": 2}}, {"Alive": False, "Resources": {"CPU": 2}}]
    assert of_this_cluster(1, 0, nodes) == 2
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(cluster(4, small=({"CPU": 2}, 4))))
    assert of_this_cluster(1, 0, nodes) == 8


@pytest.mark.parametrize("text", ["", "[]", "a: [", "cluster_name: x", "\ttab: 1"])
def test_a_file_that_is_no_cluster_file_is_none(tmp_path, text):
    path = Path(tmp_path, "cluster.yaml")
    path.write_text(text)
    assert cluster_file(path) is None
    assert cluster_file(tmp_path / "absent.yaml") is None
