"""What the results of stages come to in a row: by hand, on a real plan whose stages were never computed."""

import hashlib
import math
import os
import re
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made_up_sweeps as sweeps
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from gap_tables import row, two_views
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from strategies import component

from orchestrator import results, table_cache
from orchestrator.cli import bottleneck
from orchestrator.journal import Journal, UnknownSweep
from orchestrator.plan import plan
from orchestrator.sweep import parse
from trainables.errors import UserError
from trainables.store import Store

TEXT = """\
name: made-up
question: What is kept?
components: {a: {dataset: digits}, b: {dataset: digits, classes: [0, 1]}}
vary: {mixture: {a: 3, b: 1}, architecture: mlp}
seeds: 1
pretrain: {steps: 10, batch_size: 20}
"""
COMPONENTS = {"a": component("a", 100), "b": component("b", 40)}
MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements.md"

PRETRAINED = {
    "status": "ok", "seconds": 2.0, "examples": 200, "training_flops": 1e6, "parameters": 10, "flops": 1000,
    "device": "cpu", "started": 1.0, "finished": 3.0,
}  # fmt: skip
PROBED = {
    "status": "ok", "test_accuracy": 0.5, "test_loss": 1.0, "validation_accuracy": 0.5, "head_accuracy": None,
    "chance_accuracy": 0.2, "chosen": {"l2": 0.001}, "num_features": 8, "varying_features": 8, "missing_classes": 0,
    "num_train": 100, "num_test": 10, "revision": "abc", "versions": "torch",
}  # fmt: skip
RETAINED = {name: float(number) for number, name in enumerate(results.RETENTION)}
CURVES = {
    "status": "ok",
    "step": [0, 1, 10],
    "accuracy": [0.3, 0.7, 0.6],
    "saturation": [1.0, 0.5, 0.04],
    "predictability": [0.1, 0.5, 0.9],
    "direct_accuracy": 0.9,
}


@dataclass
class MadeUp:
    """A plan, and what a store would have of its stages."""

    plan: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    states: dict[str, dict[str, Any]]

    def rows(self):
        return results.rows(self.plan, lambda kind, digest: self.stages.get(digest), self.states)

    def row(self, name="a", **wanted):
        return next(r for r in self.rows() if r["component"] == name and wanted.items() <= r.items())

    def cell(self, position=0, trial=0):
        return self.plan["trials"][trial]["cells"][position]

    def found(self, digest, **values):
        """Let a stage have another result; without values none."""
        if values:
            self.stages[digest] = self.stages[digest] | values
        else:
            del self.stages[digest]

    def probes(self, position=0, **purposes):
        for purpose, values in purposes.items():
            self.found(self.cell(position)[purpose], **values)

    def diverge(self, digest, step=7):
        """Let a pretraining diverge: what reads it is never computed."""
        self.stages[digest] = {"status": "diverged", "diverged_at": step, "device": "cpu", "started": 1.0}


def made_up(*changes):
    written = plan(parse(TEXT, "x.yaml", changes), COMPONENTS).as_json()
    kinds = {"pretrain": PRETRAINED, "probe": PROBED, "retention": RETAINED, "trajectory": CURVES}
    found = {digest: dict(kinds[kind]) for trial in written["trials"] for kind, digest in trial["stages"]}
    return MadeUp(written, found, {})


def compared(**changes):
    """Component a: transfer 0.6, direct 0.8 and random features 0.4 of 10 examples; chance is 0.2."""
    found = made_up()
    found.probes(
        transfer={"test_accuracy": 0.6, "test_loss": 1.5, "head_accuracy": 0.55, "validation_accuracy": 0.62},
        direct={"test_accuracy": 0.8, "test_loss": 0.7, "head_accuracy": 0.85},
        random_init={"test_accuracy": 0.4},
    )
    found.probes(**changes)
    return found


# The gap family -------------------------------------------------------------------------------------------------------


def test_the_gap_and_its_relatives_by_hand():
    row = compared().row()
    assert row["gap"] == pytest.approx(0.2)
    assert row["relative_gap"] == pytest.approx(0.2 / 0.6)
    assert row["error_ratio"] == pytest.approx(0.4 / 0.2)
    # 8 and 6 right of 10: (8.5 / 11) / (2.5 / 11) and (6.5 / 11) / (4.5 / 11).
    assert row["log_odds_gap"] == pytest.approx(math.log(8.5 / 2.5) - math.log(6.5 / 4.5))
    assert row["loss_gap"] == pytest.approx(0.8)
    assert row["recovered_fraction"] == pytest.approx((0.6 - 0.4) / (0.8 - 0.4))
    assert row["head_gap"] == pytest.approx(0.3)
    assert (row["over_probe"], row["invalid"], row["status"]) == (None, None, "ok")


def test_a_perfect_baseline_has_a_gap_in_log_odds_but_no_ratio_of_errors():
    row = compared(direct={"test_accuracy": 1.0}).row()
    assert row["error_ratio"] is None
    assert row["log_odds_gap"] == pytest.approx(math.log(10.5 / 0.5) - math.log(6.5 / 4.5))


@pytest.mark.parametrize(
    ("direct", "absent"),
    [(0.405, "recovered_fraction"), (0.205, "relative_gap")],
)
def test_a_fraction_of_next_to_nothing_is_absent_and_its_gap_is_not(direct, absent):
    found = compared(direct={"test_accuracy": direct}, random_init={"test_accuracy": min(0.4, direct)})
    row = found.row()
    assert row[absent] is None
    assert row["gap"] == pytest.approx(direct - 0.6)


def test_a_component_that_was_not_shown_has_no_head():
    found = made_up("vary.mixture={a: 1}")
    found.probes(1, transfer={"head_accuracy": 0.5})
    row = found.row("b")
    assert (row["seen"], row["head_accuracy"], row["head_gap"]) == (False, None, None)
    shared = made_up("vary.mixture={a: 1}", "label_space=shared")
    shared.probes(1, transfer={"head_accuracy": 0.5}, direct={"head_accuracy": 0.75})
    assert shared.row("b")["head_gap"] == 0.25


def test_what_a_protocol_gets_out_is_above_the_linear_probe_of_the_same_networks_and_shots():
    found = made_up("transfer={protocols: [linear_probe, knn], shots: [5, all]}")
    accuracies = {("linear_probe", 5): 0.5, ("linear_probe", None): 0.6, ("knn", 5): 0.45, ("knn", None): 0.75}
    for cell in found.plan["trials"][0]["cells"][:4]:
        found.found(cell["transfer"], test_accuracy=accuracies[cell["protocol"], cell["shots"]])
    over = {(r["protocol"], r["shots"]): r["over_probe"] for r in found.rows() if r["component"] == "a"}
    assert over == {
        ("linear_probe", 5): None, ("linear_probe", None): None,
        ("knn", 5): pytest.approx(-0.05), ("knn", None): pytest.approx(0.15),
    }  # fmt: skip


def test_fine_tuning_from_scratch_is_no_lower_end_of_a_scale():
    found = made_up("transfer.protocols=[linear_probe, finetune]")
    cell = found.cell(1)
    for purpose, accuracy in (("transfer", 0.9), ("direct", 0.8), ("random_init", 0.3)):
        found.found(cell[purpose], test_accuracy=accuracy)
    row = found.row(protocol="finetune")
    assert (row["recovered_fraction"], row["random_init_accuracy"]) == (None, 0.3)
    assert row["gap"] == pytest.approx(-0.1)


# What says nothing ----------------------------------------------------------------------------------------------------

FAMILY = ("gap", "relative_gap", "error_ratio", "log_odds_gap", "loss_gap", "recovered_fraction")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"direct": {"test_accuracy": 0.39}}, "the direct baseline is below the same network at random initialisation"),
        ({"direct": {"varying_features": 0}}, "the direct network is dead: .*"),
        ({"transfer": {"varying_features": 0}}, "the mixture's network is dead: .*"),
        ({"transfer": {"missing_classes": 2}}, "2 classes have no example in a split .* the mixture's features"),
        ({"direct": {"missing_classes": 1}}, "1 classes have no example in a split .* the direct features"),
    ],
)
def test_a_comparison_that_says_nothing_has_a_reason_and_no_gap(changes, reason):
    found = compared(**changes)
    row = found.row()
    assert re.fullmatch(reason, row["invalid"])
    assert [row[name] for name in FAMILY] == [None] * len(FAMILY)
    assert (row["status"], row["transfer_accuracy"]) == ("ok", 0.6)
    assert found.row("b")["invalid"] is None


@pytest.mark.parametrize(("purpose", "whose"), [("transfer", "the mixture's"), ("direct", "the direct")])
def test_a_network_that_cannot_be_read_is_a_row_that_says_so(purpose, whose):
    found = compared()
    impossible = {"status": "impossible", "reason": "not finite", "started": 1.0, "finished": 2.0, "device": "cpu"}
    found.stages[found.cell()[purpose]] = impossible
    row = found.row()
    assert row["invalid"] == f"{whose} network cannot be read: not finite"
    assert (row["gap"], row["status"]) == (None, "ok")


def test_random_features_that_cannot_be_read_take_nothing_but_their_own_columns():
    found = made_up("vary.representation={cat: 2}")  # whose random features are others than the baseline's own
    found.stages[found.cell()["random_init"]] = {"status": "impossible", "reason": "not finite"}
    row = found.row()
    assert (row["gap"], row["recovered_fraction"], row["random_init_accuracy"]) == (0.0, None, None)
    assert (row["invalid"], row["status"]) == (None, "ok")


def test_a_baseline_is_held_against_its_own_network_untrained_and_not_against_a_wider_one():
    found = made_up("vary.representation={cat: 2}")
    found.probes(random_init={"test_accuracy": 0.9})
    assert found.row()["invalid"] is None
    found.probes(untrained={"test_accuracy": 0.9})
    assert "below the same network" in found.row()["invalid"]


@pytest.mark.parametrize("protocol", ["knn", "ridge"])
def test_a_baseline_and_its_network_untrained_are_read_alike(protocol):
    (trial,) = plan(parse(TEXT, "x.yaml", [f"transfer.protocols={protocol}"]), COMPONENTS).trials
    assert all(cell.untrained.transfer == cell.direct.transfer for cell in trial.cells)


# Tuned budgets --------------------------------------------------------------------------------------------------------


def tuned(*accuracies):
    """A baseline of 10, 20 and 30 steps, with (validation, test) accuracies."""
    found = made_up("direct={kind: full, steps: [10, 20, 30]}")
    for baseline, (validation, test) in zip(found.cell()["baselines"], accuracies, strict=True):
        found.found(baseline["probe"], validation_accuracy=validation, test_accuracy=test, head_accuracy=test)
    return found


@pytest.mark.parametrize(
    ("accuracies", "steps"),
    [
        ([(0.6, 0.9), (0.7, 0.8), (0.65, 0.95)], 20),  # and not the best on the test split
        ([(0.6, 0.9), (0.7, 0.8), (0.7, 0.95)], 20),
        ([(0.7, 0.6), (0.7, 0.8), (0.7, 0.95)], 10),
        ([(0.6, 0.6), (0.65, 0.8), (0.7, 0.7)], 30),
    ],
)
def test_the_budget_of_a_baseline_is_chosen_on_validation_the_smaller_of_equals(accuracies, steps):
    found = tuned(*accuracies)
    row, test = found.row(), accuracies[steps // 10 - 1][1]
    assert (row["direct_steps"], row["direct_probe_accuracy"], row["direct_accuracy"]) == (steps, test, test)
    assert row["gap"] == pytest.approx(test - 0.5)
    assert row["direct_digest"] == found.cell()["baselines"][steps // 10 - 1]["pretrain"][:12]


def test_the_smaller_of_equal_budgets_is_chosen_in_whatever_order_they_are_listed():
    found = made_up("direct={kind: full, steps: [30, 10]}")
    assert found.row()["direct_steps"] == 10


def test_nothing_is_chosen_before_all_budgets_are_there_and_diverged_ones_are_left_out():
    found = tuned((0.6, 0.9), (0.7, 0.8), (0.8, 0.7))
    first, _, last = found.cell()["baselines"]
    found.found(first["probe"])
    row = found.row()
    assert (row["direct_probe_accuracy"], row["gap"], row["status"]) == (None, None, "pending")
    found.diverge(first["pretrain"])
    assert (found.row()["direct_steps"], found.row()["status"]) == (30, "ok")
    found.diverge(last["pretrain"])
    found.found(last["probe"])
    assert (found.row()["direct_steps"], found.row()["status"]) == (20, "ok")


def test_a_baseline_all_of_whose_budgets_diverged_is_a_diverged_row():
    found = made_up("direct={kind: full, steps: [10, 20]}")
    for step, baseline in enumerate(found.cell()["baselines"]):
        found.diverge(baseline["pretrain"], step)
        found.found(baseline["probe"])
    row = found.row()
    assert (row["status"], row["gap"]) == ("diverged", None)
    assert row["error"] == "pretraining on the direct baseline diverged at step 1"


# Retention, trajectories, cost ----------------------------------------------------------------------------------------

SUMMARY = tuple(results.COLUMNS)[
    list(results.COLUMNS).index("peak_accuracy") : list(results.COLUMNS).index("training_flops")
]


def test_retention_and_trajectory_stand_in_the_row_of_the_primary_protocol_alone():
    found = made_up("transfer.protocols=[knn, linear_probe]", "retention=true", "trajectory={points: 3}")
    primary, other = found.row(primary=True), found.row(primary=False)
    assert {name: primary[name] for name in results.RETENTION} == RETAINED
    assert (primary["peak_accuracy"], primary["peak_step"]) == (0.7, 1)
    assert primary["drop_from_peak"] == pytest.approx(0.1)
    assert primary["threshold_step"] == 1  # (0.7 - 0.3) / (0.9 - 0.3) is above one half
    assert (primary["saturation_step"], primary["final_saturation"]) == (10, 0.04)
    assert [other[name] for name in (*results.RETENTION, *SUMMARY)] == [None] * (len(RETAINED) + len(SUMMARY))
    assert other["status"] == "ok"


@pytest.mark.parametrize("kind", ["retention", "trajectory"])
def test_a_row_is_pending_until_what_was_asked_is_measured_or_the_trial_has_ended_without(kind):
    found = made_up("retention=true", "trajectory={points: 3}")
    found.found(found.cell()[kind])
    assert (found.row()["status"], found.row("b")["status"]) == ("pending", "ok")
    found.states[found.plan["trials"][0]["digest"]] = {"status": "ok"}
    assert found.row()["status"] == "ok"


def test_what_training_cost_is_summed_over_members_and_teachers():
    found = made_up("vary.representation=[single, {cat: 2}, {distilled: 2}, {snapshots: 2}, {bonsai: 2}]")
    flops = {}
    for trial in found.plan["trials"]:
        cell = trial["cells"][0]
        for digest in (*cell["pretrain"], *cell["teachers"]):
            flops.setdefault(digest, 10.0 ** len(flops))
            found.found(digest, training_flops=flops[digest], seconds=flops[digest])
    # single; cat adds a second; distilled a student of both; two snapshots of one run; two rounds and a student.
    assert len(flops) == 1 + 1 + 1 + 2 + 3
    rows = {r["representation"]: r for r in found.rows() if r["component"] == "a"}
    assert {name: row["training_flops"] for name, row in rows.items()} == {
        "single": 1, "cat:2": 11, "distilled:2": 111, "snapshots:2": 10_000, "bonsai:2": 11_100_000,
    }  # fmt: skip
    assert all(row["seconds"] == row["training_flops"] for row in rows.values())
    assert {name: row["members"] for name, row in rows.items()} == {
        "single": 1, "cat:2": 2, "distilled:2": 1, "snapshots:2": 2, "bonsai:2": 1,
    }  # fmt: skip


def test_a_cost_that_is_not_known_whole_is_absent():
    found = made_up("vary.representation={distilled: 2}")
    found.found(found.cell()["teachers"][0])
    assert (found.row()["training_flops"], found.row()["seconds"]) == (None, None)


# Status ---------------------------------------------------------------------------------------------------------------


def test_a_row_without_its_transfer_is_pending_and_then_what_the_journal_says():
    found = made_up()
    found.found(found.cell()["transfer"])
    assert (found.row()["status"], found.row()["error"], found.row()["gap"]) == ("pending", None, None)
    assert found.row("b")["status"] == "ok"
    assert results.trial_statuses(found.rows()) == {"pending": 1}
    found.states[found.plan["trials"][0]["digest"]] = {"status": "failed", "error": "no space left"}
    assert (found.row()["status"], found.row()["error"]) == ("failed", "no space left")
    assert (found.row("b")["status"], found.row("b")["error"]) == ("ok", None)
    assert results.trial_statuses(found.rows()) == {"failed": 1}


def test_a_mixture_that_diverged_is_a_row_of_every_component():
    found = made_up()
    found.diverge(found.cell()["pretrain"][0])
    for position in (0, 1):
        found.found(found.cell(position)["transfer"])
    assert [(row["status"], row["error"]) for row in found.rows()] == [
        ("diverged", "pretraining on the mixture diverged at step 7")
    ] * 2
    assert results.trial_statuses(found.rows()) == {"diverged": 1}


def test_a_teacher_that_diverged_is_the_end_of_the_row_of_its_student_alone():
    found = made_up("vary.representation=[{distilled: 2}, single]")
    student = found.cell()
    single = found.plan["trials"][1]["cells"][0]["pretrain"][0]
    lost = next(digest for digest in student["teachers"] if digest != single)
    found.diverge(lost, 3)
    found.found(student["pretrain"][0])
    for position in (0, 1):
        found.found(found.cell(position)["transfer"])
    taught, alone = found.row(representation="distilled:2"), found.row(representation="single")
    assert (taught["status"], taught["error"]) == ("diverged", "pretraining on the mixture diverged at step 3")
    assert (taught["gap"], taught["training_flops"], alone["status"]) == (None, None, "ok")


# The table ------------------------------------------------------------------------------------------------------------


def test_a_row_has_every_column_and_a_table_their_types():
    found = results.table(made_up("retention=true", "trajectory={points: 3}").rows())
    assert list(found.columns) == list(results.COLUMNS)
    assert {name: str(dtype) for name, dtype in found.dtypes.items()} == {
        name: column.dtype for name, column in results.COLUMNS.items()
    }


def test_where_and_columns_keep_rows_and_columns_and_change_neither():
    found = results.table(two_views())
    every = results.select(found, None, None)
    pd.testing.assert_frame_equal(every, found)
    kept = results.select(found, "component == 'hard' and gap > 0.1", ["seed", "gap"])
    assert list(kept.columns) == ["seed", "gap"]
    wanted = [row for row in two_views() if row["component"] == "hard" and row["gap"] > 0.1]
    assert kept["gap"].tolist() == [row["gap"] for row in wanted]
    pd.testing.assert_frame_equal(kept, found.query("component == 'hard' and gap > 0.1")[["seed", "gap"]])


def test_a_row_without_the_number_that_a_query_asks_for_is_left_out():
    found = results.table([row(seed=1, gap=0.2), row(seed=2, gap=None), row(seed=3, status="failed")])
    assert results.select(found, "gap > 0", ["seed"])["seed"].tolist() == [1]
    assert results.select(found, "not gap > 0", ["seed"])["seed"].tolist() == []
    assert results.select(found, "gap.isna()", ["seed"])["seed"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("where", "columns", "said"),
    [
        ("gap >", None, "'gap >' is not a query over the columns: invalid syntax"),
        ("gaps > 0", None, "name 'gaps' is not defined"),
        ("gap", None, "'gap' is neither true nor false of a row"),
        ("True", None, "'True' is neither true nor false of a row"),
        ("gap = 1", None, "'gap = 1' is neither true nor false of a row"),
        (None, ["gap", "gpa"], "there is no column 'gpa'; the columns are sweep, trial, "),
    ],
)
def test_what_cannot_be_asked_is_said(where, columns, said):
    with pytest.raises(results.ResultsError, match=re.escape(said)):
        results.select(results.table([row()]), where, columns)


@pytest.mark.slow
def test_a_million_rows_are_filtered_as_fast_as_pandas_does_it():
    """No slower than the query and then the columns, which is what one would write; in processor time."""
    small = results.table(two_views())
    large = small.take(np.resize(np.arange(len(small)), 1_000_000)).reset_index(drop=True)
    where, columns = "component == 'hard' and gap > 0.02", ["seed", "weight", "gap"]

    def seconds(ask):
        before = time.process_time()
        found = ask()
        return time.process_time() - before, len(found)

    ours = [seconds(lambda: results.select(large, where, columns)) for _ in range(5)]
    theirs = [seconds(lambda: large.query(where, engine="python")[columns]) for _ in range(5)]
    assert ours[0][1] == theirs[0][1] > 100_000
    assert min(ours) < (1.2 * min(theirs)[0], 0), (ours, theirs)


def test_sweeps_of_a_store_are_one_table(tmp_path):
    store = Store(tmp_path / "runs")
    with pytest.raises(UnknownSweep, match="has no sweeps"):
        results.load(storage=store.location)
    for name in ("second", "first"):
        sweeps.made_up(name, trials=2).put(store)
    one, both = results.load("first", storage=store.location), results.load(["second", "first"], storage=store.location)
    assert one["sweep"].unique().tolist() == ["first"]
    assert both["sweep"].unique().tolist() == ["second", "first"]
    pd.testing.assert_frame_equal(both[both["sweep"] == "first"].reset_index(drop=True), one)
    assert len(results.load(storage=store.location)) == len(both) == 2 * len(one)
    assert len(results.load(["first", "first"], storage=store.location)) == len(one)
    assert list(results.load([], storage=store.location).columns) == list(results.COLUMNS)
    with pytest.raises(UnknownSweep, match="has no sweep 'third'; it has: first, second"):
        results.load(["first", "third"], storage=store.location)


def test_a_table_shows_what_the_stages_say_now_and_not_what_was_written_beside_the_sweep(tmp_path):
    store, sweep = Store(tmp_path / "runs"), sweeps.made_up("first", trials=1)
    late = ("probe", sweep.plan["trials"][0]["cells"][0]["transfer"])
    result = sweep.stages.pop(late)
    sweep.put(store)
    before = results.load("first", storage=store.location)
    before.to_parquet(tmp_path / "runs/sweeps/first/results.parquet")
    store.put(sweeps.Stage(*late), result)  # by another sweep that shares the stage
    after = results.load("first", storage=store.location)
    assert (before["status"] == "pending").sum() == 1 + (after["status"] == "pending").sum() == 1


@pytest.mark.parametrize(
    ("part", "keys"), [("plan", results.PLANNED), ("design", results.DESIGNED), ("cell", results.CELL)]
)
def test_a_plan_of_an_earlier_version_is_said_and_what_it_lacks(part, keys):
    for name in sorted(keys):
        sweep = sweeps.made_up("old", trials=1)
        (trial,) = sweep.plan["trials"]
        for place in {"plan": [sweep.plan], "design": [trial["design"]], "cell": trial["cells"]}[part]:
            del place[name]
        with pytest.raises(results.ResultsError, match=f"sweep 'old' by an earlier version, without {name}; run the"):
            sweep.rows()


def test_the_command_says_of_an_old_plan_what_it_lacks_in_one_line(tmp_path):
    sweep = sweeps.made_up("old", trials=2)
    for cell in (cell for trial in sweep.plan["trials"] for cell in trial["cells"]):
        del cell["teachers"], cell["paid"]
    sweep.put(Store(tmp_path / "runs"))
    for call in (["results", "old"], ["report", "old"], ["status", "old"]):
        with pytest.raises(results.ResultsError, match="without paid, teachers; run the sweep again") as raised:
            CliRunner().invoke(bottleneck, [*call, "--storage", str(tmp_path / "runs")], catch_exceptions=False)
        assert isinstance(raised.value, UserError), "which the command prints as one line"


def test_the_command_prints_several_sweeps_or_all_and_tells_them_apart(tmp_path):
    store = Store(tmp_path / "runs")
    for name in ("second", "first"):
        sweeps.made_up(name, trials=1).put(store)
    call = ["results", "--storage", store.location]
    header, _, *lines = CliRunner().invoke(bottleneck, call).stdout.splitlines()
    assert header.split()[:2] == ["sweep", "trial"]
    assert [line.split()[0] for line in lines] == ["first"] * 6 + ["second"] * 6
    named = CliRunner().invoke(bottleneck, [*call, "second", "first", "--columns", "sweep", "--format", "csv"])
    assert named.stdout.splitlines() == ["sweep", *["second"] * 6, *["first"] * 6]
    alone = CliRunner().invoke(bottleneck, [*call, "first"]).stdout
    assert alone.splitlines()[0].split()[0] == "trial"


def test_a_cell_of_a_printed_table_is_one_line(tmp_path):
    store, sweep = Store(tmp_path / "runs"), sweeps.made_up("first", trials=1)
    sweep.fail(0, "first line\n\tsecond \x1b[31m")
    sweep.put(store)
    call = ["results", "first", "--storage", store.location, "--columns", "seed,error"]
    lines = CliRunner().invoke(bottleneck, call).stdout.splitlines()
    assert len(lines) == 2 + 6
    assert lines[2].endswith(r"first line\n\tsecond \x1b[31m")


def test_every_column_is_in_the_documentation():
    text = MEASUREMENTS.read_text()
    assert [name for name in results.COLUMNS if f"`{name}`" not in text] == []


# Tables that this machine's cache keeps -------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, which keeps tables of however few stages, and of files that were written just now."""
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table_cache, "KEPT_FROM", 0)
    monkeypatch.setattr(table_cache, "SETTLED_NS", 0)
    return tmp_path / "cache" / "tables"


def put_small(store, **changes):
    sweep = sweeps.made_up("first", **{"trials": 2, "seeds": (0,), "points": 1} | changes)
    sweep.put(store)
    return sweep


def made_anew(store):
    journal = Journal(store, "first")
    return results.table(results.rows(journal.plan(), results.store_lookup(store), journal.trial_states()))


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def sealed(content):
    return hashlib.sha256(content).digest() + content


def unread(monkeypatch):
    """From now on no result of a stage is read."""
    monkeypatch.setattr(Store, "get_stamped", lambda *_: pytest.fail("a result was read"))


def test_the_second_time_a_table_is_the_same_and_no_result_is_read(cache, tmp_path, monkeypatch):
    store = Store(tmp_path / "runs")
    sweep = sweeps.made_up("first", trials=3)
    sweep.diverge(1)
    sweep.fail(2, "no room")
    sweep.put(store)
    sweeps.made_up("second", trials=1).put(store)
    asked = ("first", ["second", "first"], None)
    first = [results.load(names, storage=store.location) for names in asked]
    unread(monkeypatch)
    for names, table in zip(asked, first, strict=True):
        assert_same(results.load(names, storage=store.location), table)
    chosen = {"where": "weight > 0 and gap > 0", "columns": ["seed", "gap"]}
    assert_same(results.load("first", storage=store.location, **chosen), results.select(first[0], *chosen.values()))


CHANGES = ("nothing", "delete", "damage", "touch", "another", "put", "fail", "extend", "reduce", "damage the cache")


def change(what, store, sweep, stage, cache):
    """Do something to a store, or to what the cache has kept of it, that a table may or may not show."""
    kind, digest = stage
    file = Path(store.path(f"stages/{kind}/{digest[:2]}/{digest}/result.json"))
    match what:
        case "delete":
            store.remove(kind, digest)
        case "damage" if file.exists():  # in place, of the same size, and with the same time
            before = file.stat()
            file.write_bytes(file.read_bytes().replace(b"ok", b"no"))
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "touch" if file.exists():
            file.touch()
        case "another":  # as if computed again, of the same size
            store.put(sweeps.Stage(*stage), {**sweep.stages[stage], "status": "OK"})
        case "put":
            store.put(sweeps.Stage(*stage), sweep.stages[stage])
        case "fail":
            journal = Journal(store, "first")
            journal.start()
            journal.write("trial", trial=sweep.plan["trials"][0]["digest"], status="failed", error="x")
        case "extend" | "reduce":  # the plan alone
            trials = 3 if what == "extend" else 1
            Journal(store, "first").write_plan(sweeps.TEXT, sweeps.made_up("first", trials, seeds=(0,)).plan)
        case "damage the cache":
            for kept in cache.iterdir():
                kept.write_bytes(kept.read_bytes()[:-1])


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 11)), min_size=1, max_size=6))
@example([(what, 0) for what in CHANGES])
@example([(what, 1) for what in reversed(CHANGES)])
@example([("fail", 0), ("extend", 0)])
def test_whatever_happens_to_a_store_a_kept_table_is_what_reading_all_of_it_gives(cache, done):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"{folder}/runs")
        sweep = put_small(store)
        stages = sorted(sweep.stages)
        store.remove("probe", sweep.plan["trials"][0]["cells"][0]["transfer"])  # which the journal may say more of
        for what, number in [("nothing", 0), *done]:
            change(what, store, sweep, stages[number % len(stages)], cache)
            found = results.load("first", storage=store.location)
            assert_same(found, made_anew(store))


def test_a_result_that_is_changed_while_it_is_read_is_in_the_next_table(cache, tmp_path, monkeypatch):
    store = Store(tmp_path / "runs")
    sweep = put_small(store)
    stage = ("probe", sweep.plan["trials"][0]["cells"][0]["transfer"])
    get, changed = Store.get_stamped, {**sweep.stages[stage], "test_accuracy": 0.123}

    def overtaken(self, kind, digest):
        found = get(self, kind, digest)
        if (kind, digest) == stage:
            store.put(sweeps.Stage(*stage), changed)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get_stamped", overtaken)
        assert 0.123 not in set(results.load("first", storage=store.location)["transfer_accuracy"])
    assert 0.123 in set(results.load("first", storage=store.location)["transfer_accuracy"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: sealed(b"of another version"),
        lambda content: sealed(content[32:].split(b"\n")[0] + b"\nno Parquet"),
    ],
    ids=["empty", "cut", "flipped", "another", "no-parquet"],
)
def test_a_damaged_kept_table_is_made_and_kept_anew(cache, tmp_path, monkeypatch, damage):
    store = Store(tmp_path / "runs")
    put_small(store)
    before = results.load("first", storage=store.location)
    (kept,) = cache.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert_same(results.load("first", storage=store.location), before)
    unread(monkeypatch)
    assert_same(results.load("first", storage=store.location), before)


def test_a_table_of_other_code_is_not_taken(cache, tmp_path, monkeypatch):
    store = Store(tmp_path / "runs")
    put_small(store)
    results.load("first", storage=store.location)
    monkeypatch.setattr(table_cache, "CODE", "of tomorrow")
    unread(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="a result was read"):
        results.load("first", storage=store.location)


def test_small_sweeps_and_files_written_just_now_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("BOTTLENECK_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "runs")
    put_small(store)
    for limit, value in (("SETTLED_NS", 0), ("KEPT_FROM", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(table_cache, limit, value)
            results.load("first", storage=store.location)
        assert not (tmp_path / "cache").exists()


def test_tables_written_longest_ago_make_room_for_new_ones(cache, tmp_path, monkeypatch):
    store = Store(tmp_path / "runs")
    for name in ("a", "b", "c"):
        sweeps.made_up(name, trials=1).put(store)
    results.load("a", storage=store.location)
    (first,) = cache.iterdir()
    monkeypatch.setattr(table_cache, "KEPT_BYTES", int(2.5 * first.stat().st_size))
    for name in ("b", "c"):
        results.load(name, storage=store.location)
    assert len(list(cache.iterdir())) == 2
    assert not first.exists()
    monkeypatch.setattr(table_cache, "KEPT_BYTES", 100)
    results.load(storage=store.location)  # is larger than all that may be kept, and takes nothing else's place
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(cache, tmp_path):
    store = Store(tmp_path / "runs")
    put_small(store)
    cache.parent.write_text("a file")
    for _ in range(2):
        assert_same(results.load("first", storage=store.location), made_anew(store))


def test_readers_at_the_same_time_all_have_the_table_and_leave_one_file(cache, tmp_path):
    store = Store(tmp_path / "runs")
    put_small(store)
    expected = made_anew(store)

    def read(number):
        if number % 3 == 0:
            for kept in [file for file in cache.glob("*") if not file.name.startswith(".")]:
                kept.unlink(missing_ok=True)
        return results.load("first", storage=store.location)

    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(read, range(12)):
            assert_same(found, expected)
    assert len(list(cache.iterdir())) <= 1


def test_a_second_pass_over_a_thousand_trials_reads_no_result_again(tmp_path, monkeypatch):
    store, read = Store(tmp_path / "runs"), Counter()
    monkeypatch.setattr(store, "get_stamped", lambda _, digest: (read.update([digest]) or {"status": "ok"}, None))
    lookup = results.store_lookup(store)
    for digest in [*range(4148)] * 2:
        lookup("probe", str(digest))
    assert set(read.values()) == {1}
