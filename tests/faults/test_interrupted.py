"""Ctrl-C, once and twice, and SIGTERM: what runs is saved, nothing is left RUNNING, and the same command continues."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest
from tiny_sweep import SWEEP, Tiny, assert_undisturbed, wait_for

from trainables.store import Store

pytestmark = pytest.mark.slow


def test_a_sweep_interrupted_once_and_again_twice_continues_to_the_same_table(tiny, undisturbed):
    """As a terminal does it for Ctrl-C: to every process of the group."""
    with tiny.driver() as driver:
        wait_for(lambda: tiny.workers("pretrain"), driver)
        os.killpg(driver.pid, signal.SIGINT)
        _, err = driver.communicate(timeout=600)
    assert driver.returncode == 130, err
    assert "interrupted; the same command continues" in err
    assert {run.info.status for run in tiny.runs()} == {"KILLED"}
    with tiny.driver() as driver:
        wait_for(lambda: tiny.workers(), driver)
        os.killpg(driver.pid, signal.SIGINT)
        os.killpg(driver.pid, signal.SIGINT)
        _, err = driver.communicate(timeout=600)
    assert driver.returncode == 130, err
    assert "the same command continues" in err
    tiny.run()
    assert_undisturbed(tiny, undisturbed, unrecorded=2)


def test_workers_are_waited_for_until_they_have_saved(tmp_path):
    import ray

    from orchestrator.launch import _cluster, _save

    class Slow:
        def stop(self):
            time.sleep(1)
            (tmp_path / "saved").touch()

    with _cluster(1, 0):
        worker = ray.remote(Slow).remote()
        running, not_started = (SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=a)) for a in (worker, None))
        _save([running, not_started])
        assert (tmp_path / "saved").exists()
        _save([not_started])


def test_sigterm_saves_how_far_a_pretraining_has_come(tmp_path):
    """As batch systems and clouds send it, to the command alone."""
    tiny = Tiny(tmp_path, SWEEP.replace("steps: 600", "steps: 600000"))
    with tiny.driver() as driver:
        wait_for(tiny.trains, driver)
        driver.terminate()
        _, err = driver.communicate(timeout=600)
    assert driver.returncode == 130, err
    assert "the same command continues" in err
    assert Store(tiny.storage).names("state"), "running pretrainings save how far they have come"
    assert {run.info.status for run in tiny.runs()} == {"KILLED"}
