"""What the terminal shows: counts, time left, the worst gap, and where a line goes."""

import io

import pytest
from rich.console import Console

from orchestrator.progress import Display, State, _panel, duration


def state(**changes):
    to_do = {"p1": ("pretrain", 100.0), "p2": ("pretrain", 300.0), "q1": ("probe", 10.0)}
    return State(
        **({"sweep": "small", "trials": 4, "stages": 5, "stored": 2, "started": 0.0, "to_do": to_do} | changes)
    )


def computed(digest, seconds):
    return {"events": [{"event": "stage", "digest": digest, "seconds": seconds}]}


def row(gap, seed=0, component="odd", pretrain="m", direct="d"):
    return {
        "gap": gap, "seed": seed, "component": component, "mixture": "even 50 % + odd 50 %",
        "pretrain_digest": pretrain, "direct_digest": direct, "primary": True,
    }  # fmt: skip


def test_trials_are_counted_as_they_start_end_and_fail():
    found = state()
    found.trial_started("a")
    found.trial_started("b")
    found.trial_ended("a", "ok")
    found.trial_ended("b", "failed")
    found.trial_started("c")
    assert dict(found.lines(8.0))["trials"] == "1 of 4 done, 1 running, 1 failed"
    assert dict(found.lines(8.0))["stages"] == "2 of 5, 2 reused from the store"


def test_time_left_comes_from_the_speed_of_each_kind_of_stage_so_far():
    found = state()
    found.trial_progress("a", computed("p1", 10.0))
    assert found.seconds_left() is None  # no probe has been timed yet
    found.to_do["q2"] = ("probe", 20.0)
    found.trial_progress("a", computed("q1", 1.0))
    assert found.seconds_left() == pytest.approx(300 * 0.1 + 20 * 0.1)
    found.running |= {"a": ("", 0.0), "b": ("", 0.0)}
    assert found.seconds_left() == pytest.approx(16.0)
    assert dict(found.lines(65.0))["time"] == "1 min 05 s, about 16 s left"


def test_the_worst_gap_has_its_interval_and_a_mixture_is_not_compared_with_itself():
    found = state()
    found.measured("t0", "ok", [row(0.0, pretrain="d")])
    assert found.worst is None
    found.measured("t1", "ok", [row(0.10, 0), row(0.14, 1), row(0.12, 2), row(0.01, component="even")])
    assert dict(found.lines(1.0))["worst gap"] == "12.0 points [7.0, 17.0], n = 3: odd at even 50 % + odd 50 %"
    found.measured("t2", "diverged", [row(None)])
    assert found.worst is not None


def test_the_panel_shows_every_line_on_a_narrow_colour_terminal():
    found = state()
    found.trial_started("a")
    found.trial_progress("a", {"doing": "mlp x1 on odd 100 %, seed 0", "examples_per_second": 1234.0, "events": []})
    console = Console(width=60, force_terminal=True, color_system="standard", file=io.StringIO())
    console.print(_panel(found))
    shown = console.file.getvalue()
    for part in ("small", "trials", "stages", "time", "1,234 examples/s", "mlp x1 on odd"):
        assert part in shown


def test_without_a_terminal_there_is_a_plain_line_at_once(capsys):
    with Display(state(), live=False):
        pass
    assert capsys.readouterr().err.startswith("trials: 0 of 4 done, 0 running; stages: 2 of 5")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (-1, "0 s")]
)
def test_durations_are_for_people(seconds, said):
    assert duration(seconds) == said
