"""Two drivers on one store: the same sweep is refused, another one shares its stages."""

from __future__ import annotations

from collections import Counter

import pytest
from tiny_sweep import Tiny, assert_undisturbed, comparable, wait_for

from orchestrator.journal import Journal
from orchestrator.results import load
from orchestrator.status import snapshot
from trainables.store import Store

pytestmark = pytest.mark.slow


def test_two_sweeps_at_once_compute_each_shared_stage_once_and_a_third_of_the_same_name_leaves(tmp_path, undisturbed):
    tiny = Tiny(tmp_path)
    with tiny.driver() as first, tiny.driver("--set", "name=other") as second:
        wait_for(lambda: (tiny.storage / "sweeps/tiny/plan.json").exists(), first)
        refused = tiny.run(expect=2)
        assert "is being run" in refused.stderr
        assert "`bottleneck status tiny`" in refused.stderr
        assert snapshot(tiny.journal).state == "running"
        for driver in (first, second):
            _, err = driver.communicate(timeout=900)
            assert driver.returncode == 0, err
    store = Store(tiny.storage)
    events = [*Journal(store, "tiny").events(), *Journal(store, "other").events()]
    computed = Counter(e["digest"] for e in events if e["event"] == "stage")
    assert computed == Counter(tiny.stages().keys())
    other = comparable(load("other", storage=str(tiny.storage)))
    assert other.drop(columns="sweep").equals(comparable(undisturbed).drop(columns="sweep"))
    assert_undisturbed(tiny, undisturbed, unrecorded=len(computed))
