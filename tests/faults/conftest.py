"""One undisturbed run of the tiny sweep, which every disturbed one is held against."""

from __future__ import annotations

import pandas as pd
import pytest
from tiny_sweep import Tiny, assert_undisturbed


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The sweep after a run that nothing befell; to be read only."""
    tiny = Tiny(tmp_path_factory.mktemp("undisturbed"))
    tiny.run()
    assert_undisturbed(tiny, tiny.table())
    return tiny


@pytest.fixture(scope="session")
def undisturbed(untouched: Tiny) -> pd.DataFrame:
    return untouched.table()


@pytest.fixture
def tiny(tmp_path) -> Tiny:
    return Tiny(tmp_path)
