"""The store cannot be written: one line, before any work."""

from __future__ import annotations

import os
import subprocess

import pytest
from tiny_sweep import Tiny


@pytest.fixture
def sealed(tmp_path):
    """A folder that nobody can write to, root included."""
    if os.geteuid():
        pytest.skip("mounting a disk read-only takes root")
    place = tmp_path / "sealed"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", place], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_read_only_store_is_one_line_before_any_work(sealed, tmp_path):
    tiny = Tiny(tmp_path)
    tiny.storage = sealed / "runs"
    done = tiny.run(expect=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"storage '{tiny.storage}' cannot be written" in done.stderr
    assert "Read-only" in done.stderr
