"""The store's disk fills up: the sweep stops as a whole with one line, and goes on when there is room."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import tempfile

import pytest
from tiny_sweep import Tiny, assert_undisturbed, wait_for

from trainables import room

MEGABYTE = 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 48 MB, of which the reserve is 32."""
    if os.geteuid():
        pytest.skip("mounting a small disk takes root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk, leave=0):
    """Somebody else's file, with so many bytes left beside it."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while room.free_bytes(str(disk)) > leave:
            file.write(bytes(64 * 1024))


def assert_one_line_says_it(err):
    lines = [line for line in err.splitlines() if "full" in line or "room" in line]
    assert len(lines) == 1, err
    line = lines[0]
    assert "is full, with" in line
    assert "MB of room left" in line
    assert "stages are missing and need" in line
    assert line.endswith("what is finished is kept: make room, and the same command continues")
    assert "Traceback" not in err
    assert "MLflow at" not in err


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_sweep_in_order_and_it_continues_with_room(small_disk, undisturbed):
    tiny = Tiny(small_disk)
    with tiny.driver() as driver:
        wait_for(lambda: tiny.computed().total() >= 4, driver)
        fill(small_disk, leave=16 * MEGABYTE)
        _, err = driver.communicate(timeout=900)
    assert driver.returncode == 2, err
    assert_one_line_says_it(err)
    (small_disk / "filler").unlink()
    assert {run.info.status for run in tiny.runs()} <= {"KILLED", "FINISHED"}
    assert tiny.journal.last_run()[-1]["state"] == "interrupted"
    tiny.run()
    assert_undisturbed(tiny, undisturbed, unrecorded=4)


def test_a_sweep_that_cannot_find_room_is_refused_before_any_work(small_disk):
    tiny = Tiny(small_disk)
    fill(small_disk, leave=8 * MEGABYTE)
    done = tiny.run(expect=2)
    assert_one_line_says_it(done.stderr)
    assert not tiny.journal.events(), "no driver has started"


def test_too_little_room_for_temporary_files_is_said_before_ray_starts(small_disk, monkeypatch):
    from orchestrator.launch import LaunchError, _require_scratch

    _require_scratch()
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(
        LaunchError, match=r"has 48 MB of room left and 64 MB are needed; make room there, or set TMPDIR"
    ):
        _require_scratch()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_quota_are_told_from_other_errors_wherever_they_come_from(number):
    from trainables.components import DataError
    from trainables.store import StoreError

    def raised(outer, inner):
        try:
            try:
                raise inner
            except OSError as error:
                raise outer from error
        except Exception as error:
            return error

    full = OSError(number, os.strerror(number))
    assert room.is_full(raised(StoreError("cannot be written"), full))
    assert not room.is_full(raised(StoreError("cannot be written"), OSError(errno.EIO, "broken")))
    assert not room.is_full(raised(DataError("the cache cannot be written"), full))
    assert not room.is_full(None)
