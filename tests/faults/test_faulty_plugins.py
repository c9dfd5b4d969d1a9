"""Code of the user's raises, hangs, or ends its process: in planning one line, in a worker a failed trial."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_sweep import Tiny

from trainables import stall
from trainables.errors import UserError

SHIM = Path(__file__).parent / "shim"
CODE = """
import os, sys, time
from pathlib import Path

CALLS = Path(__file__).with_name("calls")


def raises():
    raise KeyError("a key of mine")


def hangs():
    while True:
        time.sleep(1)


def ends():
    os._exit(7)


def fails():
    "The first worker hangs, the others die."
    if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
        with CALLS.open("a") as file:
            file.write("x")
        if CALLS.stat().st_size == 1:
            hangs()
        os._exit(7)
    return fine()


def fine():
    from sklearn.datasets import load_digits

    found = load_digits()
    images, labels = (found.images * 15).astype("uint8"), found.target.astype("int64")
    return {"train": (images[:1200], labels[:1200]), "test": (images[1200:], labels[1200:])}
"""
SWEEP = """
name: tiny
question: What does foreign code do to a sweep?
components: {mine: {dataset: "python:foreign:ATTRIBUTE"}}
vary: {mixture: {mine: 1}, architecture: mlp, width: [0.25, 0.5, 0.75]}
seeds: 1
pretrain: {steps: 20, batch_size: 32}
transfer: {train_examples: 100}
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A sweep of a plug-in's attribute."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "foreign.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(SHIM)]), prepend=os.pathsep)
    return lambda attribute: Tiny(tmp_path, SWEEP.replace("ATTRIBUTE", attribute))


def test_a_plug_in_that_raises_in_planning_is_one_line_with_its_place(foreign):
    done = foreign("raises").run(expect=2)
    *_, line = done.stderr.splitlines()
    assert "components.mine: " in line
    assert "python:foreign:raises: KeyError: 'a key of mine'" in line
    assert "foreign.py:9" in line


def test_a_plug_in_that_hangs_in_planning_is_one_line_with_its_place(foreign):
    done = foreign("hangs").run(expect=2, environment={"BOTTLENECK_STALL_MINUTES": "0.2"})
    *_, line = done.stderr.splitlines()
    assert "components.mine: " in line
    assert "not there after 0.2 minutes; it hangs in hangs, at foreign.py:14" in line
    assert "BOTTLENECK_STALL_MINUTES" in line


def test_a_plug_in_that_ends_its_process_in_planning_is_one_line(foreign):
    done = foreign("ends").run(expect=2)
    *_, line = done.stderr.splitlines()
    assert "components.mine: the process that looked at it ended without a word (exit code 7)" in line


@pytest.mark.slow
def test_a_plug_in_that_hangs_and_dies_in_workers_fails_its_trial_with_the_stack_of_the_one_that_hung(
    foreign, tmp_path
):
    """Workers have a cache of their own, as on another machine."""
    tiny = foreign("fails")
    settings = {"BOTTLENECK_STALL_MINUTES": "0.5", "SHIM_WORKER_CACHE": str(tmp_path / "their-cache")}
    planned = [sys.executable, "-m", "orchestrator.cli", "validate", str(tiny.file)]
    subprocess.run(planned, check=True, capture_output=True)

    done = tiny.run("--set", "vary.width=0.25", expect=1, environment=settings)
    (died,) = set(tiny.table()["error"])
    assert "died 4 times without getting any further, the last time: it hung in hangs, at foreign.py:14" in died
    (log,) = [e["log"] for e in tiny.events("trial") if e["error"] == died]
    assert "in fails\n    hangs()" in log, "the stack of the worker that hung"
    assert died in done.stderr
    assert "in their-cache" not in done.stderr


def test_what_takes_too_long_ends_its_process_after_saying_where_it_is():
    code = (
        "import time\nfrom trainables import stall\ndef sleeps():\n    time.sleep(600)\n"
        "with stall.limited(0.2, lambda where, stack: print(where, 'sleeps()' in stack, flush=True)):\n    sleeps()\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stdout.split() == ["sleeps,", "at", "<string>:4", "False"]
    assert time.monotonic() - started < 300


def test_what_is_in_time_goes_on():
    with stall.limited(60, lambda where, stack: None):
        pass
    time.sleep(0.01)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_time_is_refused_before_any_work(value):
    with pytest.raises(UserError, match=f"BOTTLENECK_STALL_MINUTES is '{value}'; it is a number of minutes above 0"):
        stall.limit_s({"BOTTLENECK_STALL_MINUTES": value})
    assert stall.limit_s({}) == 180 * 60
    assert stall.limit_s({"BOTTLENECK_STALL_MINUTES": "0.5"}) == 30
