"""What all tests share: a cache of their own, and settings that do not come from the user's environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Set before anything reads them, and inherited by the processes that tests start.
for _name in ("BOTTLENECK_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(_name, None)
os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's name; at its 15, a worker stands still beside two busy tests
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes that each import MLflow
hypothesis.settings.register_profile("ours", deadline=None)  # a machine may have other things to do
hypothesis.settings.load_profile("ours")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the processes of a test session make once for all of them, under a lock."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """A folder for Ray's sockets, the names of which have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_this_session(shared_folder: Path) -> Iterator[Path]:
    """Decoded data is made once per test session, and not in the user's cache."""
    root = shared_folder / "cache"
    root.mkdir(exist_ok=True)
    before = os.environ.get("BOTTLENECK_CACHE")
    os.environ["BOTTLENECK_CACHE"] = str(root)
    yield root
    if before is None:
        del os.environ["BOTTLENECK_CACHE"]
    else:
        os.environ["BOTTLENECK_CACHE"] = before


@pytest.fixture
def real_data() -> Path:
    """The folder of real datasets; the test is skipped where there is none."""
    root = os.environ.get("BOTTLENECK_DATA")
    if not root:
        pytest.skip("BOTTLENECK_DATA is not set: no folder of real datasets")
    return Path(root)
