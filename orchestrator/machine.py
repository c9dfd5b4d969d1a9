"""What is a machine like that trials are to run on? Facts, found on that machine; `doctor` judges them.

Each function of `CHECKS` looks at one thing and answers with plain values, so that the answers of a worker can travel
to the driver. They are asked one after the other, those that may take long last.
"""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from trainables.spec import Component

# What decides a result, or has to be the same on both sides to exchange messages.
LIBRARIES = (
    "ray", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow", "pydantic", "safetensors",
)  # fmt: skip
LISTED = 10_000  # files of a data folder that are compared
LISTED_DEPTH = 3  # folders below a data folder that are looked into
READS = 20  # of the file that changes all the time
TURNING_BYTES = 2**16  # of that file
GPU_S = 120.0  # importing torch and waking a GPU; a GPU that hangs takes longer
SERVICES = {
    "Ray's GCS": r"gcs_server",
    "Ray's dashboard": r"dashboard/dashboard\.py",
    "Ray's client server": r"ray\.util\.client\.server",
    "Ray's workers": r"raylet|ray::|/ray/",
    "MLflow": r"mlflow",
}
USUAL_PORTS = {6379: "Ray's GCS", 8265: "Ray's dashboard", 10001: "Ray's client server", 5000: "MLflow"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the driver asks of every machine."""

    storage: str
    challenge: str  # names the files and the claim that the driver holds in the store while it asks; empty: it has none
    components: Mapping[str, Component]  # of the sweep; empty: the folder of datasets is compared instead


def software(question: Question) -> dict[str, Any]:
    """Versions and revision of what trials are computed with."""
    from trainables.trial import provenance

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python, "versions": versions, "revision": provenance()["revision"]}


def limits(question: Question) -> dict[str, Any]:
    """Threads, cores, open files, and what is free of memory and disks."""
    import psutil

    from trainables.components import cache_root
    from trainables.store import Store

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = psutil.virtual_memory()
    folders = {"cache": cache_root(), "storage": Store(question.storage).folder}
    return {
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        # Ray raises the soft limit as far as this by itself.
        "open_files": max(soft, min(hard, 65536)) if hard != resource.RLIM_INFINITY else max(soft, 65536),
        "memory_free": memory.available,
        "memory": memory.total,
        "disk_free": {name: _free(Path(folder)) for name, folder in folders.items() if folder is not None},
    }


def _free(folder: Path) -> int:
    """Bytes free where a folder is, or would be made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def listeners(question: Question) -> dict[str, Any]:
    """Services of ours that other machines may reach, as (service, address, port), and whether this one is public."""
    import psutil

    found = set()
    for connection in psutil.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN and not ip_address(connection.laddr.ip).is_loopback:
            service = _service(connection.pid, connection.laddr.port)
            if service is not None:
                found.add((service, connection.laddr.ip, connection.laddr.port))
    own = [
        a.address
        for each in psutil.net_if_addrs().values()
        for a in each
        if a.family in (socket.AF_INET, socket.AF_INET6)
    ]
    public = sorted(address for address in own if ip_address(address.partition("%")[0]).is_global)
    return {"listening": sorted(found), "public": public}


def _service(pid: int | None, port: int) -> str | None:
    """Whose a port is: by its process, or by its number where the process belongs to someone else."""
    import psutil

    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except (psutil.Error, TypeError, ValueError):
        return USUAL_PORTS.get(port)
    service = next((service for service, pattern in SERVICES.items() if re.search(pattern, command)), None)
    if service == "Ray's dashboard":  # it has a port for its pages, and one for its metrics
        first, tries = (re.search(rf"--{option}=(\d+)", command) for option in ("port", "port-retries"))
        own = range(int(first[1]), int(first[1]) + int(tries[1]) + 1) if first and tries else ()
        return service if port in own else "Ray's workers"
    return service


def devices(question: Question) -> dict[str, Any]:
    """GPUs by what the driver of the device says of them, and whether each one multiplies matrices as the CPU does."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"gpus": [], "error": None}
    columns = "index,uuid,name,memory.free,memory.total,ecc.errors.uncorrected.volatile.total"
    try:
        rows = list(_nvidia(program, f"--query-gpu={columns}"))
        processes = [uuid for uuid, _ in _nvidia(program, "--query-compute-apps=gpu_uuid,pid")]
        # In a process of its own: what hangs or dies there leaves this one alone, and no memory of the GPU stays taken.
        child = subprocess.run(
            [sys.executable, "-P", "-c", "from orchestrator.machine import multiply; multiply()"],
            capture_output=True, text=True, timeout=GPU_S, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"gpus": [], "error": " ".join(str(error).split())}
    if child.returncode:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        return {"gpus": [], "error": last}
    right = json.loads(child.stdout)
    gpus = [
        {
            "index": int(index), "name": name, "free": int(free) * 2**20, "total": int(total) * 2**20,
            "ecc": int(ecc) if ecc.isdigit() else None, "processes": processes.count(uuid), "right": right.get(uuid),
        }
        for index, uuid, name, free, total, ecc in rows
    ]  # fmt: skip
    return {"gpus": gpus, "error": None}


def _nvidia(program: str, query: str) -> Iterator[list[str]]:
    done = subprocess.run(
        [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=30, check=True
    )
    return csv.reader(done.stdout.splitlines(), skipinitialspace=True)


def multiply() -> None:
    """Print, for each GPU that torch sees, whether it gets a product right that has one exact answer."""
    import torch

    numbers = torch.Generator().manual_seed(0)
    # Whole numbers up to 8: exact in every format that a GPU multiplies in, as are their sums in float32.
    a, b = (torch.randint(-8, 9, (512, 512), generator=numbers).float() for _ in range(2))
    found = {}
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        found[uuid] = bool(torch.equal((a.to(device) @ b.to(device)).cpu(), a @ b))
    print(json.dumps(found))


def store(question: Question) -> dict[str, Any]:
    """Whether the store can be written here, is the driver's, shows files whole, and keeps to the driver's claim."""
    from trainables.errors import UserError
    from trainables.store import Store

    try:
        there = Store(question.storage)
        there.check()
        if not question.challenge:
            return {"error": None}
        try:
            same = there.read(driver_file(question.challenge)) == question.challenge.encode()
        except FileNotFoundError:
            return {"error": None, "same": False}
        with there.claim(question.challenge) as mine:
            excluded = not mine
        return {"error": None, "same": same, "excluded": excluded, "whole": _whole(there, question.challenge)}
    except UserError as error:
        return {"error": str(error)}


def _whole(there: Any, challenge: str) -> bool:
    """Whether a file that the driver replaces all the time is always seen whole."""
    for _ in range(READS):
        try:
            content = there.read(turning_file(challenge))
        except FileNotFoundError:  # it was there before this machine was asked
            return False
        if len(content) != TURNING_BYTES or len(set(content)) != 1:
            return False
        time.sleep(0.01)
    return True


def driver_file(challenge: str) -> str:
    """Written once by the driver, and read by every machine."""
    return f"{challenge}-driver"


def turning_file(challenge: str) -> str:
    """Replaced by the driver all the time, by TURNING_BYTES of one letter."""
    return f"{challenge}-turning"


def data(question: Question) -> dict[str, Any]:
    """The content of a sweep's components as this machine reads them; without a sweep, what its data folder holds."""
    if question.components:
        return {"components": {name: _content(component) for name, component in question.components.items()}}
    root = os.environ.get("BOTTLENECK_DATA")
    if not root:
        return {"root": None, "files": {}}
    files = dict(sorted(_files(Path(root), LISTED_DEPTH))[:LISTED]) if Path(root).is_dir() else None
    return {"root": root, "files": files}


def _content(component: Component) -> dict[str, Any]:
    """The digest of a component's content, or why there is none."""
    from trainables.components import prepare

    try:
        return {"content": prepare(component.source).content, "error": None}
    except ValueError as error:
        return {"content": None, "error": " ".join(str(error).split())}


def _files(folder: Path, depth: int) -> Iterator[tuple[str, int]]:
    """(path, bytes) of the files below a folder, and of the folders at the depth where looking ends."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.is_dir() and depth:
            yield from ((f"{entry.name}/{name}", size) for name, size in _files(Path(entry.path), depth - 1))
        else:
            yield entry.name, 0 if entry.is_dir() else entry.stat().st_size


CHECKS: Mapping[str, Callable[[Question], dict[str, Any]]] = {
    "software": software,
    "limits": limits,
    "listeners": listeners,
    "devices": devices,
    "store": store,
    "data": data,
}
