"""The driver is killed, at any moment: the same command continues, and nothing is computed twice."""

from __future__ import annotations

import functools
import random
import signal
import time

import pytest
from tiny_sweep import SWEEP, Tiny, assert_undisturbed, kill, wait_for

pytestmark = pytest.mark.slow

CHAOS_KILLS = 50
CHAOS_SEED = 20


def test_a_driver_killed_twice_continues_to_the_same_table(tiny, undisturbed):
    """As it plans, and amid the pretrainings."""
    moments = (
        lambda: tiny.storage.exists(),
        lambda: tiny.workers("pretrain"),
    )
    for moment in moments:
        with tiny.driver() as driver:
            wait_for(moment, driver)
            kill(driver.pid)
            driver.wait()
    tiny.run()
    assert_undisturbed(tiny, undisturbed, unrecorded=len(moments))


def _has_come_to(tiny, driver, until):
    """Whether so many stages are there and another is being computed, or the driver has ended."""
    return driver.poll() is not None or (tiny.computed().total() >= until and tiny.workers())


@pytest.mark.chaos
@pytest.mark.timeout(4 * 3600)
def test_fifty_kills_at_random_moments_leave_nothing_twice(tmp_path, capsys):
    """Half the kills while a driver starts, half after up to seven stages more and a random moment."""
    text = SWEEP.replace("seeds: 2", "seeds: 8")
    tiny, quiet = Tiny(tmp_path / "disturbed", text), Tiny(tmp_path / "undisturbed", text)
    chance, begun = random.Random(CHAOS_SEED), time.monotonic()
    kills = starts = refused = 0
    while kills < CHAOS_KILLS:
        with tiny.driver() as driver:
            starts += 1
            if chance.random() < 0.5:
                until = tiny.computed().total() + chance.randrange(8)
                wait_for(functools.partial(_has_come_to, tiny, driver, until))
                time.sleep(chance.uniform(0, 1))
            else:
                time.sleep(chance.uniform(0, 10))
            if driver.poll() is None:
                kill(driver.pid)
                kills += 1
            if driver.wait() == 2:  # a machine with too much to do
                assert "Ray cannot be started" in driver.communicate()[1]
                refused += 1
            else:
                assert driver.returncode in (0, -signal.SIGKILL), driver.communicate()[1]
        with capsys.disabled():
            print(f"{time.monotonic() - begun:.0f} s: kill {kills}, {tiny.computed().total()} stages", flush=True)
    tiny.run()
    seconds = time.monotonic() - begun
    computed, stages = tiny.computed(), tiny.stages()
    with capsys.disabled():
        print(
            f"chaos: seed {CHAOS_SEED}, {kills} kills, {starts + 1} starts, of which Ray refused {refused}, "
            f"{len(stages)} stages, {computed.total()} computed, {computed.total() - len(computed)} of them twice, "
            f"{len(set(stages) - set(computed))} without a line in the journal, {seconds:.0f} s",
            flush=True,
        )
    quiet.run()
    assert_undisturbed(tiny, quiet.table(), unrecorded=kills)
