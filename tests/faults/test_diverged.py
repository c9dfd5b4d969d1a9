"""A loss turns infinite or not a number: the trial is a row with the step, and the sweep goes on."""

from __future__ import annotations

import pytest
from tiny_sweep import SWEEP, Tiny

pytestmark = pytest.mark.slow


def test_a_diverged_trial_is_a_row_with_its_step_and_the_others_go_on(tmp_path):
    text = SWEEP.replace("width: 0.25}", "width: 0.25, training: [{learning_rate: 1.0e+30}, {}]}")
    tiny = Tiny(tmp_path, text.replace("seeds: 2", "seeds: 1").replace("steps: 600", "steps: 60"))
    done = tiny.run(expect=1)
    table = tiny.table()
    diverged = table["training"].notna()
    assert set(table[diverged]["status"]) == {"diverged"}
    assert set(table[~diverged]["status"]) == {"ok"}
    assert table[diverged]["gap"].isna().all()
    assert table[~diverged]["gap"].notna().all()
    assert table["random_init_accuracy"].notna().all()
    assert table[diverged]["error"].str.contains("diverged at step").all()
    assert "diverged at step" in done.stderr
    assert {run.info.status for run in tiny.runs()} == {"FAILED", "FINISHED"}
    again = tiny.run(expect=1)
    assert "0 stages computed" in again.stderr, "a network that diverged is not trained again in hope"
