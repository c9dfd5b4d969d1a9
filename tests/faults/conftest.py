"""One undisturbed run of the tiny sweep, which every disturbed one is held against."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from tiny_sweep import Tiny, assert_undisturbed


@pytest.fixture(scope="session")
def untouched(shared_folder: Path) -> Tiny:
    """The sweep after a run that nothing befell; to be read only."""
    with FileLock(shared_folder / "undisturbed.lock"):
        tiny = Tiny(shared_folder / "undisturbed")
        if not tiny.storage.exists():
            tiny.run()
    assert_undisturbed(tiny, tiny.table())
    return tiny


@pytest.fixture(scope="session")
def undisturbed(untouched: Tiny) -> pd.DataFrame:
    return untouched.table()


@pytest.fixture
def tiny(tmp_path) -> Tiny:
    return Tiny(tmp_path)
