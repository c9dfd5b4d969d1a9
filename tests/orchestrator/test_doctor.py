"""What the doctor finds: judged from facts, and on two real nodes of which one has every fault we can plant."""

import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from orchestrator import doctor, machine
from orchestrator.machine import Question
from trainables.components import known, prepare
from trainables.spec import Source
from trainables.store import Store

CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster

small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
for variables in json.loads(sys.argv[1]):
    cluster.add_node(**small, env_vars=variables)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
# Run by every worker of the faulty node before anything else.
FAULTS = """
import ctypes, os, time
from pathlib import Path

if b"default_worker.py" in Path("/proc/self/cmdline").read_bytes():
    true_time = time.time
    time.time = lambda: true_time() + 90
    os.environ["BOTTLENECK_DATA"] = DATA
    os.environ["OMP_NUM_THREADS"] = "9999"
    if os.geteuid() == 0:  # a mount of its own, read-only
        libc, storage = ctypes.CDLL(None), os.fsencode(STORAGE)
        private, recursive, bind, remount, read_only = 1 << 18, 1 << 14, 1 << 12, 1 << 5, 1
        libc.unshare(0x20000)
        libc.mount(b"none", b"/", None, recursive | private, None)
        libc.mount(storage, storage, None, bind, None)
        libc.mount(storage, storage, None, bind | remount | read_only, None)
"""
SWEEP = """
name: examined
question: Is every machine fit?
components: {digits: {dataset: digits}, written: {dataset: mnist}}
vary: {mixture: [{digits: 1, written: 1}], architecture: mlp}
"""


def question(storage, challenge="", components=None):
    return Question(storage=str(storage), challenge=challenge, components=components or {})


def bad(findings):
    return {f.what: f for f in findings if not f.fine}


def software(**changed):
    return {"python": "3.11.7", "versions": {"torch": "2.15.0", "numpy": "2.4.6"}, "revision": "abc", **changed}


def written(root, seed):
    """MNIST's four files, of forty and twenty images."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(seed)
    for part, count in (("train", 40), ("t10k", 20)):
        images = numbers.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes()
        )
        labels = bytes(i % 10 for i in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)
    return root


# Judged -----------------------------------------------------------------------------------------------------------


def test_this_machine_is_compared_with_itself_and_is_fine(tmp_path):
    asked = question(tmp_path / "runs")
    answers = {name: machine.CHECKS[name](asked) for name in ("software", "limits", "store", "data")}
    assert bad(doctor._judged(answers, answers, dict.fromkeys(machine.CHECKS, "not asked"))).keys() == {
        "listeners",
        "devices",
    }


def test_another_version_python_or_revision_of_a_node_is_said_with_ours():
    there = software(python="3.12.1", versions={"torch": "2.14.0", "numpy": ""}, revision="abd")
    found = bad(doctor._software(there, software()))
    assert found["torch"].found == "2.14.0, here 2.15.0"
    assert found["numpy"].found == "not installed"
    assert found["python"].found == "3.12.1, here 3.11.7"
    assert found["revision"].found == "abd, here abc"
    assert all(f.remedy for f in found.values())
    assert bad(doctor._software(software(), software())) == {}


@pytest.mark.parametrize("threads", ["0", "-1", "many", "9"])
def test_threads_that_a_machine_does_not_have_are_a_finding(threads):
    facts = {"cores": 8, "open_files": 9000, "memory_free": 2**33, "memory": 2**34, "disk_free": {"cache": 2**40}}
    assert bad(doctor._limits({**facts, "threads": threads}, {})).keys() == {"OMP_NUM_THREADS"}
    assert bad(doctor._limits({**facts, "threads": "8"}, {})) == {}


def test_little_memory_a_full_disk_and_few_open_files_are_findings():
    facts = {
        "cores": 8,
        "threads": "1",
        "open_files": 1024,
        "memory_free": 1,
        "memory": 2**34,
        "disk_free": {"cache": 1},
    }
    assert bad(doctor._limits(facts, {})).keys() == {"open files", "memory", "disk of the cache"}


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        ({"right": False}, "multiplies matrices wrongly"),
        ({"right": None}, "torch does not see it"),
        ({"ecc": 3}, "3 uncorrected memory errors"),
        ({"free": 2**30, "processes": 2}, "2 processes have the rest"),
    ],
)
def test_a_gpu_that_is_ill_or_taken_is_a_finding(gpu, said):
    well = {"index": 0, "name": "G", "free": 2**36, "total": 2**36, "ecc": 0, "processes": 0, "right": True}
    assert said in bad(doctor._devices({"error": None, "gpus": [{**well, **gpu}]}, {}))["GPU 0"].found
    assert bad(doctor._devices({"error": None, "gpus": [well]}, {})) == {}


@pytest.mark.gpu
def test_a_gpu_multiplies_as_the_cpu_does(tmp_path):
    found = machine.devices(question(tmp_path))
    assert found["error"] is None
    assert found["gpus"]
    assert all(gpu["right"] for gpu in found["gpus"])


@pytest.mark.parametrize(("ahead", "fine"), [(0.0, True), (-1.9, True), (2.05, True), (2.2, False), (-90.0, False)])
def test_a_clock_is_judged_by_what_is_sure(ahead, fine):
    found = doctor._clock((ahead, 0.1))
    assert found.fine == fine
    assert ("behind" if ahead <= 0 else "ahead") in found.found
    assert fine or "results are not" in found.found


def test_ports_are_judged_by_who_can_reach_them():
    ray, pages = ("Ray's GCS", "::", 6379), ("Ray's dashboard", "0.0.0.0", 8265)
    assert bad(doctor._listeners({"listening": [ray], "public": []}, {})) == {}
    assert "8.8.4.4" in bad(doctor._listeners({"listening": [ray], "public": ["8.8.4.4"]}, {}))["port"].found
    assert "--dashboard-host" in bad(doctor._listeners({"listening": [pages], "public": []}, {}))["port"].remedy
    private, public = ("MLflow", "10.0.0.7", 5000), ("MLflow", "8.8.4.4", 5000)
    assert bad(doctor._listeners({"listening": [private], "public": []}, {})) == {}
    assert bad(doctor._listeners({"listening": [public], "public": ["8.8.4.4"]}, {})).keys() == {"port"}


def test_a_store_is_judged_by_what_a_second_machine_sees(tmp_path):
    store = Store(tmp_path / "runs")
    store.write(machine.driver_file("c"), b"c")
    store.write(machine.turning_file("c"), b"a" * machine.TURNING_BYTES)
    with store.claim("c"):
        assert bad(doctor._store(machine.store(question(tmp_path / "runs", "c")), {})) == {}
    free = bad(doctor._store(machine.store(question(tmp_path / "runs", "c")), {}))
    assert "does not exclude" in free["claims"].found
    store.write(machine.turning_file("c"), b"ab" * (machine.TURNING_BYTES // 2))
    with store.claim("c"):
        torn = bad(doctor._store(machine.store(question(tmp_path / "runs", "c")), {}))
    assert torn.keys() == {"replaced files"}
    other = bad(doctor._store(machine.store(question(tmp_path / "elsewhere", "c")), {}))
    assert "another folder" in other["storage"].found


def test_data_folders_that_differ_are_named_file_by_file(tmp_path, monkeypatch):
    answers = []
    for name in ("ours", "theirs"):
        monkeypatch.setenv("BOTTLENECK_DATA", str(written(tmp_path / name, 0)))
        if name == "theirs":
            (tmp_path / name / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
        answers.append(machine.data(question(tmp_path)))
    ours, theirs = answers
    assert bad(doctor._data(ours, ours)) == {}
    assert "MNIST/raw/t10k-labels-idx1-ubyte" in bad(doctor._data(theirs, ours))["data"].found
    monkeypatch.setenv("BOTTLENECK_DATA", str(tmp_path / "none"))
    assert "no such folder" in bad(doctor._data(machine.data(question(tmp_path)), ours))["data"].found
    monkeypatch.delenv("BOTTLENECK_DATA")
    assert bad(doctor._data(machine.data(question(tmp_path)), ours)).keys() == {"data"}


def test_data_of_a_sweep_is_compared_by_content_and_not_by_name(tmp_path, monkeypatch):
    source, answers = Source(dataset="mnist"), []
    for seed in (0, 1):
        monkeypatch.setenv("BOTTLENECK_DATA", str(written(tmp_path / str(seed), seed)))
        component = known(source) or prepare(source)
        answers.append(machine.data(question(tmp_path, components={"written": component})))
    ours, theirs = answers
    assert bad(doctor._data(ours, ours)) == {}
    assert "here" in bad(doctor._data(theirs, ours))["data of written"].found
    monkeypatch.setenv("BOTTLENECK_DATA", str(tmp_path / "none"))
    missing = machine.data(question(tmp_path, components={"written": component}))
    assert "no MNIST/raw/train-images" in bad(doctor._data(missing, ours))["data of written"].found


def test_a_check_that_hangs_is_a_finding_and_the_others_are_answered(tmp_path, monkeypatch):
    hangs = {**machine.CHECKS, "store": lambda asked: time.sleep(60)}
    monkeypatch.setattr(machine, "CHECKS", {name: hangs[name] for name in ("software", "store", "data")})
    started = time.monotonic()
    answers = doctor._asked_here(question(tmp_path), 5)
    assert time.monotonic() - started < 30
    assert answers.keys() == {"software", "data"}
    assert bad(doctor._judged(answers, answers, {}))["store"].found == "no answer in time"


def test_nothing_of_the_examination_stays_in_the_store(tmp_path):
    with doctor._question(str(tmp_path / "runs"), {}) as asked:
        assert machine.store(asked)["same"]
    assert [p for p in (tmp_path / "runs").rglob("*") if p.is_file()] == []


# Looked at --------------------------------------------------------------------------------------------------------


def bottleneck_doctor(*arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | variables
    command = [sys.executable, "-m", "orchestrator.cli", "doctor", "--json", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, short_folder):
    """An open cluster of a good node and a bad one: (address, storage, sweep, data)."""
    folder = tmp_path_factory.mktemp("faulty")
    site, storage = folder / "site", folder / "runs"
    (site / "numpy-9.9.9.dist-info").mkdir(parents=True)
    (site / "numpy-9.9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    other = written(folder / "other", 1)
    faults = FAULTS.replace("= DATA", f"= {str(other)!r}").replace("STORAGE", repr(str(storage)))
    (site / "sitecustomize.py").write_text(faults)
    storage.mkdir()
    (folder / "examined.yaml").write_text(SWEEP)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(short_folder)}
    path = os.pathsep.join([str(site), *(p for p in sys.path if p)])
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, json.dumps([{"PYTHONPATH": path}])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    try:
        yield cluster.stdout.readline().strip(), storage, folder / "examined.yaml", written(folder / "data", 0)
    finally:
        cluster.communicate()


@pytest.fixture
def open_dashboard():
    """A process that listens on every address and calls itself MLflow; the number of its port."""
    code = (
        "import socket, sys; s = socket.create_server(('0.0.0.0', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    listener = subprocess.Popen(
        [sys.executable, "-c", code, "mlflow", "server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield int(listener.stdout.readline())
    listener.communicate("\n")


@pytest.mark.slow
@pytest.mark.server
def test_every_fault_of_a_node_is_found_there_and_nowhere_else(faulty, open_dashboard):
    address, storage, sweep, data = faulty
    done = bottleneck_doctor(
        sweep, "--storage", storage, "--cluster", address, BOTTLENECK_DATA=str(data), RAY_AUTH_MODE="disabled"
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    nodes = sorted({f["node"] for f in found} - {"this machine"})
    assert len(nodes) == 2
    wrong = {node: {f["what"]: f for f in found if f["node"] == node and not f["fine"]} for node in nodes}
    ill = max(nodes, key=lambda node: len(wrong[node]))
    (well,) = set(nodes) - {ill}
    assert wrong[well].keys() <= {"token", "port"}, wrong[well]
    assert wrong[ill].keys() >= {"clock", "numpy", "data of written", "OMP_NUM_THREADS", "token", "port"}, wrong[ill]
    assert wrong[ill]["numpy"]["found"].startswith("9.9.9, here ")
    assert wrong[ill]["clock"]["found"].startswith(("89.9", "90.0"))
    assert "here" in wrong[ill]["data of written"]["found"]
    assert "data of digits" not in wrong[ill]
    if os.geteuid() == 0:
        assert "Read-only file system" in wrong[ill]["storage"]["found"]
    assert any(f["what"] == "port" and f"port {open_dashboard}" in f["found"] for f in found)
    assert all(f["remedy"] for f in found if not f["fine"])
    assert [p for p in storage.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_a_finding(tmp_path):
    done = bottleneck_doctor("--storage", tmp_path / "runs", RAY_ADDRESS="127.0.0.1:9")
    assert done.returncode == 1, done.stderr
    (cluster,) = (f for f in json.loads(done.stdout) if f["what"] == "cluster")
    assert "no cluster answers at 127.0.0.1:9" in cluster["found"]


def test_doctor_finds_this_machine_fit(tmp_path):
    done = bottleneck_doctor("--storage", tmp_path / "runs")
    assert done.returncode == 0, done.stdout
    found = {f["what"]: f for f in json.loads(done.stdout)}
    assert {"python", "torch", "storage", "MLflow", "memory"} <= set(found)
    broken = bottleneck_doctor("--storage", "/proc/nothing")
    assert broken.returncode == 1
    assert "cannot be written" in broken.stdout
