"""Is this machine fit to run sweeps? Versions, storage, tracking, data, devices; each finding says what to do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from orchestrator.settings import storage_location, tracking_location, without_password

LIBRARIES = ("ray", "mlflow", "torch", "torchvision", "numpy", "pandas", "pyarrow", "pydantic", "safetensors")
LEAST_FREE_BYTES = 2 * 2**30


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    found: str
    fine: bool

    @property
    def mark(self) -> str:
        return "ok" if self.fine else "!!"


def examine(storage: str | None, tracking_uri: str | None) -> list[Finding]:
    """Everything that is looked at, in order. Only on the machine that asks."""
    return [finding for check in _checks(storage, tracking_uri) for finding in check()]


def _checks(storage: str | None, tracking_uri: str | None) -> Iterator[Callable[[], Iterator[Finding]]]:
    yield _versions
    yield lambda: _storage(storage)
    yield lambda: _tracking(storage, tracking_uri)
    yield _data
    yield _devices
    yield _cluster


def _versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", python, sys.version_info >= (3, 11))
    for name in LIBRARIES:
        try:
            yield Finding(name, metadata.version(name), True)
        except metadata.PackageNotFoundError:
            yield Finding(name, "not installed; install the package with its dependencies", False)


def _storage(flag: str | None) -> Iterator[Finding]:
    from trainables.store import Store, StoreError

    location = storage_location(flag)
    try:
        store = Store(location.value)
        store.check()
    except StoreError as error:
        yield Finding("storage", str(error), False)
        return
    yield Finding("storage", f"{store.shown} can be written (from: {location.origin})", True)
    if store.folder is not None:
        free = shutil.disk_usage(store.folder).free
        enough = free >= LEAST_FREE_BYTES
        yield Finding("disk", f"{free / 2**30:.1f} GiB free" + ("" if enough else "; make room"), enough)


def _tracking(storage: str | None, flag: str | None) -> Iterator[Finding]:
    from orchestrator.tracking import TrackingError, check
    from trainables.store import Store, StoreError

    try:
        store = Store(storage_location(storage).value)
        folder = store.folder
    except StoreError:
        folder = None
    location = tracking_location(folder, flag)
    try:
        check(location.value)
    except TrackingError as error:
        yield Finding("MLflow", str(error), False)
    else:
        yield Finding("MLflow", f"{without_password(location.value)} answers (from: {location.origin})", True)


def _data() -> Iterator[Finding]:
    root = os.environ.get("BOTTLENECK_DATA")
    if not root:
        yield Finding("data", "BOTTLENECK_DATA is not set; the embedded datasets need none", True)
        return
    there = Path(root).is_dir()
    names = ", ".join(sorted(p.name for p in Path(root).iterdir())) if there else "no such folder"
    yield Finding("data", f"{root}: {names}", there)


def _devices() -> Iterator[Finding]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield Finding("CPU", f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} GiB of memory free", True)
    if not torch.cuda.is_available():
        yield Finding("GPU", "none: trials run on the CPU", True)
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        taken = free < 0.5 * total
        say = "; more than half is taken by someone" if taken else ""
        yield Finding("GPU", f"{index}: {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free{say}", not taken)


def _cluster() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    yield Finding("cluster", address or "RAY_ADDRESS is not set: a private Ray on this machine", True)
