"""What people see of a sweep: the panel, plain lines and JSON, of one snapshot, in the run and from beside it."""

import io
import itertools
import json
import re
import signal
import subprocess
import threading
import time
from dataclasses import asdict, replace

import pytest
from command_line import bottleneck, command, heeds_ctrl_c
from made_up_sweeps import TEXT, made_up
from rich.console import Console

from orchestrator import status as statuses
from orchestrator.display import Display, Lines, duration, lines, panel, watch
from orchestrator.forecast import Forecast
from orchestrator.journal import Journal
from orchestrator.progress import State
from orchestrator.status import DIED, Gap, Running, Snapshot, Warned
from trainables.gpu import GpuUse, use
from trainables.store import Store

GAP = Gap(trial="a", component="odd", mixture="even 50 % + odd 50 %", mean=0.12, low=0.07, high=0.17, n=3)
FOUND = Snapshot(
    state="running",
    outcomes={"a": "ok", "b": "ok", "c": "running", "d": "failed", "e": "stopped", "f": "diverged", "g": "pending"},
    trials=1007,
    stages=12_328,
    stages_stored=1_234,
    reused=200,
    left=11_094,
    running=(
        Running(
            trial="c",
            doing="mlp x1 on even 50 % + odd 50 %, seed 0, step 1,200 of 30,000",
            examples_per_second=12_345.6,
            gpu=GpuUse(gpu="1", name="NVIDIA H200", used_bytes=3 * 2**33, total_bytes=2**37, busy=0.815),
        ),
    ),
    worst=GAP,
    best=replace(GAP, component="even", mean=-0.001, low=None, high=None, n=1),
    forecast=Forecast(7500.0, "12 stages of this run"),
    warnings=(Warned(seconds_ago=65.0, text="trial d failed: no such file"),),
    seconds=200.0,
    written=1000.0,
)


def test_every_line_in_words():
    assert lines(FOUND, 1010.0) == [
        ("state", "running"),
        ("trials", "2 ok, 1 running, 1,001 pending, 1 stopped early, 1 failed, 1 diverged"),
        ("stages", "1,234 of 12,328 in the store: 1,034 computed, 200 reused; 11,094 left"),
        ("time", "3 min 20 s; about 2 h 05 min left, from 12 stages of this run"),
        ("speed", "12,346 examples/s"),
        ("GPU", "82 % busy, 24.0 of 128.0 GiB (NVIDIA H200)"),
        ("worst gap", "12.0 points [7.0, 17.0], n = 3: odd at even 50 % + odd 50 %"),
        ("best gap", "-0.1 points, n = 1: even at even 50 % + odd 50 %"),
        ("warning", "1 min 15 s ago: trial d failed: no such file"),
    ]


def test_what_is_not_known_is_said_or_left_out_and_never_0():
    unknown = replace(FOUND, forecast=None, running=(), worst=None, best=None, warnings=())
    assert [what for what, _ in lines(unknown, 1000.0)] == ["state", "trials", "stages", "time"]
    assert dict(lines(unknown, 1000.0))["time"] == "3 min 20 s; time left not known yet"
    assert dict(lines(replace(unknown, left=0), 1000.0))["time"] == "3 min 20 s"
    read = Snapshot(state="planned", outcomes={"a": "pending"}, stages=3, stages_stored=1)
    assert lines(read, 1000.0) == [("state", "planned"), ("trials", "1 pending"), ("stages", "1 of 3 in the store")]


def test_a_driver_of_which_nothing_is_heard_is_said_so():
    assert "driver" not in dict(lines(FOUND, 1059.0))
    assert dict(lines(FOUND, 1090.0))["driver"] == "has not been heard of for 1 min 30 s"
    assert "driver" not in dict(lines(replace(FOUND, state="finished"), 9000.0))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_panel_fits_its_terminal_and_leaves_nothing_out(width):
    console = Console(width=width, force_terminal=True, color_system="standard", file=io.StringIO())
    console.print(panel("small", FOUND, 1010.0))
    shown = re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue())
    assert max(map(len, shown.splitlines())) <= width
    words = " ".join(shown.split())
    for _, value in lines(FOUND, 1010.0):
        assert value in words
    assert "12,346/s" in words


def test_a_panel_of_hundreds_of_trials_lists_some_and_counts_the_rest():
    many = replace(FOUND, running=FOUND.running * 100)
    console = Console(width=80, file=io.StringIO())
    console.print(panel("small", many, 1010.0))
    assert "and 92 more" in console.file.getvalue()
    assert console.file.getvalue().count("step 1,200") <= 8


def test_colours_are_an_addition(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(width=80, force_terminal=True, file=io.StringIO())
    console.print(panel("small", FOUND, 1010.0))
    assert not re.search(r"\x1b\[[\d;]*3\d", console.file.getvalue())


def test_a_terminal_obeys_nothing_that_a_snapshot_says():
    bad = "a\x1b]0;title\x07\nb\u202e"
    running = (Running(trial=bad, doing=bad, examples_per_second=0.0),)
    hostile = replace(
        FOUND, state=bad, outcomes={bad: bad}, running=running, worst=replace(GAP, component=bad, mixture=bad),
        warnings=(Warned(seconds_ago=0.0, text=bad),), forecast=Forecast(1.0, bad),
    )  # fmt: skip
    console = Console(width=80, file=io.StringIO())
    console.print(panel(bad, hostile, 1010.0))
    plain = io.StringIO()
    Lines(plain).show(hostile)
    for shown in (console.file.getvalue(), plain.getvalue()):
        assert not set("\x1b\x07\u202e") & set(shown)
        assert "\\x1b" in shown
    assert len(plain.getvalue().splitlines()) == 1


def test_plain_lines_come_when_something_has_changed(capsys):
    plain = io.StringIO()
    view = Lines(plain)
    view.show(FOUND)
    view.show(replace(FOUND, seconds=300.0, written=1100.0, forecast=Forecast(1.0, "12 stages of this run")))
    assert len(plain.getvalue().splitlines()) == 1
    view.show(replace(FOUND, warnings=(Warned(seconds_ago=0.0, text="another"),)))
    view.show(replace(FOUND, stages_stored=1_235))
    assert [line.count("state: running; trials: 2 ok") for line in plain.getvalue().splitlines()] == [1, 1, 1]


def test_a_run_without_a_terminal_says_a_plain_line_at_once(capsys):
    state = State(trials=4, stages=5, stored=2, started=0.0)
    with Display("small", state, live=False):
        pass
    assert capsys.readouterr().err.startswith("state: running; trials: 4 pending; stages: 2 of 5 in the store")


def test_a_cpu_has_no_gpu_to_tell_of():
    assert use("cpu") is None


@pytest.mark.gpu
def test_a_gpu_tells_how_full_it_is():
    found = use("cuda")
    assert 0 < found.used_bytes <= found.total_bytes
    assert found.busy is None or 0 <= found.busy <= 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (180_000, "2 d 02 h"), (-1, "0 s")],
)
def test_durations_are_for_people(seconds, said):
    assert duration(seconds) == said


# From beside it


@pytest.fixture
def journal(tmp_path):
    """A sweep of three trials that was planned."""
    kept = Journal(Store(tmp_path), "made-up")
    kept.write_plan(TEXT, made_up("made-up", trials=3).plan)
    return kept


class Script(threading.Thread):
    """A driver that follows a script: it writes a snapshot whenever the one before has been seen; the last ends it."""

    def __init__(self, journal, snapshots):
        super().__init__(daemon=True)
        self.journal, self.snapshots, self.seen = journal, snapshots, threading.Semaphore(0)
        self.started = threading.Event()

    def run(self):
        with self.journal.only_driver():
            for found in self.snapshots:
                self.journal.write_snapshot(asdict(replace(found, written=time.time())))
                self.started.set()
                if found.state == "running":
                    assert self.seen.acquire(timeout=60)


class Output(io.StringIO):
    """Where a script's snapshots are shown; lets it go on when the last one has come."""

    def __init__(self, script, markers):
        super().__init__()
        self.script, self.markers = script, list(markers)

    def write(self, text):
        if self.markers and self.markers[0] in text:
            self.markers.pop(0)
            self.script.seen.release()
        return super().write(text)


STAGES = [10, 11, 12]
SCRIPT = [
    *(replace(FOUND, stages=12, reused=0, stages_stored=stored, left=12 - stored) for stored in STAGES),
    replace(FOUND, state="finished", running=(), forecast=None, stages=12, reused=0, stages_stored=12, left=0),
]


def watched(journal, markers, **options):
    script = Script(journal, SCRIPT)
    script.start()
    assert script.started.wait(60)
    file = Output(script, markers)
    found = watch(journal, every_s=0.01, file=file, **options)
    script.join(60)
    return found, file.getvalue()


def test_a_sweep_that_someone_else_runs_is_followed_to_its_end_in_plain_lines(journal):
    found, shown = watched(journal, [f"stages: {stored} of 12" for stored in STAGES], as_json=False)
    states = re.findall(r"^state: (\w+); .*stages: (\d+) of 12", shown, flags=re.MULTILINE)
    expected = [("running", "10"), ("running", "11"), ("running", "12"), ("finished", "12")]
    assert [state for state, _ in itertools.groupby(states)] == expected
    assert len(states) <= 5, "a line for every change and no more: one for the moment before its driver lets go"
    assert found.state == "finished"


def test_for_scripts_every_look_is_a_line_of_json(journal):
    found, shown = watched(journal, [f'"stages_stored": {stored}' for stored in STAGES], as_json=True)
    read = [json.loads(line) for line in shown.splitlines()]
    assert (read[0]["state"], read[0]["stages_stored"], read[0]["seconds_left"]) == ("running", 10, 7500.0)
    assert (read[-1]["state"], read[-1]["stages_stored"], read[-1]["running"]) == (found.state, 12, [])
    assert [one["stages_left"] for one in read] == sorted((one["stages_left"] for one in read), reverse=True)


def test_a_sweep_that_nobody_runs_is_said_and_is_not_waited_for(journal):
    storage = journal.store.location
    planned = bottleneck("status", "made-up", "--watch", "--storage", storage, expect=1)
    assert planned.stdout.startswith("state: planned; trials: 3 pending; stages: 0 of")
    assert "nobody is running made-up (planned)" in planned.stderr
    journal.write_snapshot(asdict(FOUND))
    died = bottleneck("status", "made-up", "--watch", "--json", "--storage", storage, expect=1)
    assert json.loads(died.stdout)["state"] == DIED
    assert "has no sweep 'none'" in bottleneck("status", "none", "--watch", "--storage", storage, expect=2).stderr
    assert "name the sweep" in bottleneck("status", "--watch", "--storage", storage, expect=2).stderr
    assert "--every is for" in bottleneck("status", "made-up", "--every", "2", "--storage", storage, expect=2).stderr


def test_ctrl_c_ends_watching_quietly_and_not_the_sweep(journal):
    script = Script(journal, [FOUND])
    script.start()
    assert script.started.wait(60)
    asked = command("status", "made-up", "--watch", "--json", "--storage", journal.store.location)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(asked, preexec_fn=heeds_ctrl_c, **pipes) as watching:
        assert json.loads(watching.stdout.readline())["state"] == "running"
        watching.send_signal(signal.SIGINT)
        assert (watching.wait(60), watching.stderr.read()) == (130, "")
    assert journal.is_running()
    script.seen.release()
    script.join(60)


def test_a_glance_shows_the_same_as_watching(journal):
    journal.write_snapshot(asdict(replace(FOUND, state="finished", running=(), forecast=None, written=None)))
    shown = bottleneck("status", "made-up", "--storage", journal.store.location).stdout
    for what, value in lines(statuses.snapshot(journal), 0.0):
        assert f"  {what:<10} {value}" in shown
