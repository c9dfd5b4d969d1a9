"""What the analysis writes down of planted tables: the right numbers, the right words, and why there are none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from claim_tables import Planted, row
from click.testing import CliRunner
from gap_tables import two_views
from made_up_sweeps import PRETRAINED, PROBED
from strategies import component

from orchestrator import results
from orchestrator.analysis.summary import Section, summary
from orchestrator.cli import bottleneck
from orchestrator.journal import Journal
from orchestrator.plan import plan
from orchestrator.report import page
from orchestrator.sweep import parse
from trainables.store import Store

GAPS = (0.10, 0.12, 0.14, 0.16, 0.18)  # by seed: mean 14 points, standard deviation sqrt(10)
HALF = 3.93  # points: t(4, 0.975) = 2.776 times sqrt(10 / 5)


def sections(rows: list[dict[str, Any]] | pd.DataFrame, **more: Any) -> dict[str, Section]:
    table = rows if isinstance(rows, pd.DataFrame) else results.table(rows)
    return {section.title: section for section in summary(table, **more)}


def records(section: Section) -> list[dict[str, str]]:
    return [dict(zip(section.header, cells, strict=True)) for cells in section.rows]


def of_law(found: dict[str, Section], law: str) -> list[dict[str, str]]:
    return [cells for cells in records(found["Fits"]) if cells["law"] == law]


def two_components() -> list[dict[str, Any]]:
    """`hard` has the gaps above, `easy` none in any seed."""
    hard = [row(transfer=0.9 - gap, seed=seed) for seed, gap in enumerate(GAPS, 1)]
    return hard + [row(transfer=0.9, component="easy", seed=seed) for seed in (1, 2, 3, 4, 5)]


def test_a_table_without_a_gap_has_nothing_to_say():
    assert summary(results.table([])) == []
    assert summary(results.table([row(transfer=0.8, direct=None)])) == []


def test_what_was_not_varied_has_no_section():
    assert list(sections(two_components())) == [
        "Bottleneck indices",
        "Bias and variance over seeds",
        "Tests",
        "Interquartile mean over components",
    ]


def test_indices_bias_and_tests_by_hand():
    found = sections(two_components())
    (indices,) = records(found["Bottleneck indices"])
    half = HALF / 2
    assert indices["mean gap"] == indices["weighted gap"] == f"7.0 [{7 - half:.1f}, {7 + half:.1f}]"
    assert (indices["worst component"], indices["losing, %"], indices["n"]) == ("hard", "50.0", "5")
    ratio = np.exp(np.log((0.1 + np.array(GAPS)) / 0.1).mean() / 2)  # the other component's ratio is 1
    assert indices["error ratio"].startswith(f"{ratio:.2f} [")

    hard, easy = records(found["Bias and variance over seeds"])
    assert hard["bias"] == f"14.0 [{14 - HALF:.1f}, {14 + HALF:.1f}]"
    assert hard["deviation"].startswith("3.2 [")
    assert easy["bias"] == "0.0 [0.0, 0.0]"

    hard, easy = records(found["Tests"])
    assert (hard["p"], hard["smallest p"], hard["adjusted p"]) == ("0.0312", "0.0312", "0.0625")
    assert (hard["equivalence"], hard["n"]) == ("a loss larger than 0.5 points", "5")
    assert (easy["p"], easy["adjusted p"]) == ("1", "1")
    assert easy["equivalence"] == "no loss larger than 0.5 points"
    assert "Holm" in found["Tests"].remark

    (means,) = records(found["Interquartile mean over components"])
    # Of 0 five times and the gaps, two are left out at either end: 0, 0, 0, 10, 12 and 14.
    assert means["interquartile mean, points"].startswith("6.0 [")


def test_designs_are_families_of_their_own_until_the_grid_is_large():
    def grid(designs: int) -> Section:
        rows = [
            row(transfer=0.9 - gap, seed=seed, width=float(width), component=component)
            for width in range(1, designs + 1)
            for component in ("one", "two")
            for seed, gap in enumerate(GAPS, 1)
        ]
        return sections(rows)["Tests"]

    assert {cells["adjusted p"] for cells in records(grid(10))} == {"0.0625"}
    assert {cells["adjusted p"] for cells in records(grid(11))} == {"0.0312"}
    assert "Benjamini and Hochberg's correction over 22 rows" in grid(11).remark


def test_one_seed_has_no_interval_and_says_so():
    (tested,) = records(sections([row(transfer=0.8)])["Tests"])
    assert (tested["gap, points"], tested["smallest p"], tested["n"]) == ("10.0", "0.5", "1")
    assert tested["equivalence"] == "one seed cannot rule out a loss larger than 0.5 points"


def test_a_representation_that_halves_the_gap_closes_half_of_it():
    rows = [row(transfer=0.9 - gap, seed=seed) for seed, gap in enumerate(GAPS, 1)]
    rows += [row(transfer=0.9 - gap / 2, seed=seed, representation="cat:2") for seed, gap in enumerate(GAPS, 1)]
    (closed,) = records(sections(rows)["Gap closure"])
    assert closed["representation"] == "cat:2"
    assert closed["closure"] == "0.50 [0.50, 0.50]"
    assert closed["why none"] == ""
    (refused,) = records(sections([found for found in rows if found["seed"] == 1])["Gap closure"])
    assert (refused["closure"], refused["why none"]) == ("-", "one seed")


def test_a_gap_that_turns_positive_crosses_between_the_sizes():
    rows = []
    for shots, direct, transfer in ((1, 0.5, 0.7), (100, 0.9, 0.7)):
        rows += [row(transfer=transfer, direct=direct, shots=shots, num_train=10 * shots, seed=s) for s in (1, 2, 3)]
    found = sections(rows)
    few, many = records(found["Gap by target size"])
    assert (few["shots"], few["examples"], few["gap, points"]) == ("1", "10", "-20.0 [-20.0, -20.0]")
    assert few["change"] == "-40.0 [-40.0, -40.0]"
    assert few["data-equivalent"] == many["data-equivalent"] == "100"  # half way from 10 to 1000 in logarithms
    (crossed,) = records(found["Crossing of transfer and direct training"])
    assert crossed["examples"] == "100 [100, 100]"
    assert crossed["outcome"] == "direct is better from here on"


def test_the_report_shows_the_sections_as_tables():
    views = {view.caption: view for view in page.science_views(results.table(two_components()))}
    tests = views["Tests"]
    assert tests.anchor == "tests"
    assert tests.rows[0][tests.header.index("gap, points")].startswith("14.0 [")
    assert dict(zip(tests.header, tests.numeric, strict=True)) == {
        "component": False,
        "weight": True,
        "gap, points": True,
        "p": True,
        "smallest p": True,
        "adjusted p": True,
        "equivalence": False,
        "n": True,
    }


# Fits


def test_a_planted_floor_is_found_and_too_few_scales_are_refused():
    planted = Planted()
    for width in (1, 2, 4, 8, 16, 32):
        planted.add(transfer=0.9 - 0.3 / width - 0.1, width=float(width))
    (found,) = of_law(sections(planted.table()), "floor over width")
    assert found["of"] == "`hard`, weight 0.5"
    assert found["found"].startswith("the floor is above 0: c ")
    assert float(found["found"].split()[6]) == pytest.approx(10, abs=0.5)
    table = planted.table()
    (refused,) = of_law(sections(table[table["width"] < 4]), "floor over width")
    assert (refused["found"], refused["n"]) == ("2 scales are too few: it takes 5", "5")


def test_weights_give_the_weight_of_half_the_gap_and_a_mixing_law():
    table = results.table(two_views())
    loss = 0.2 + 0.5 * np.exp(-2 * table["weight"].to_numpy(dtype=float))
    found = sections(table.assign(transfer_loss=pd.array(loss, dtype="Float64")))
    easy, hard = of_law(found, "weight of half the gap")
    assert easy["found"].startswith("the smallest weight is 0.5")
    halved = float(hard["found"].split()[3])
    assert 0 < halved < 0.02  # 43.7 points at weight 0, 15.6 at 0.02
    law = of_law(found, "mixing law of the loss")[1]
    assert law["of"] == "`hard`"
    # exp(-2 w) of shares w and 1 - w is exp(-1) times exp(w' - w).
    for planted in ("c 0.2 [", f"k {0.5 * np.exp(-1):.3g} [", "t of `both` 1 [", "t of `hard` -1 [", "R2 on"):
        assert planted in law["found"]


def test_ever_more_networks_leave_what_was_planted():
    planted = Planted(noise=0.0005)
    for members in (1, 2, 4, 8, 16):
        kind = "single" if members == 1 else f"cat:{members}"
        planted.add(transfer=0.8 - 0.2 / members, representation=kind)
    (found,) = of_law(sections(planted.table()), "accuracy over members")
    assert found["found"].startswith("open: with ever more networks ")
    assert float(found["found"].split()[5]) == pytest.approx(10, abs=1)


def test_the_error_that_a_perfect_upstream_model_leaves():
    rows = []
    for number, error in enumerate((0.05, 0.1, 0.2, 0.3, 0.4, 0.5)):
        for seed in (1, 2, 3):
            of_run = {"training": f"run {number}", "seed": seed}
            rows.append(row(transfer=0.5, component="shown", weight=1.0, head_accuracy=1 - error, **of_run))
            wobble = 0.002 * (-1) ** number
            rows.append(row(transfer=1 - (0.5 * error + 0.1 + wobble), component="target", weight=0.0, **of_run))
    (found,) = of_law(sections(rows), "transfer error over upstream error")
    assert (found["of"], found["n"]) == ("`target`", "6")
    assert float(found["found"].split()[0]) == pytest.approx(10, abs=2)


def test_an_ordering_that_costs_three_points_says_so_and_a_missing_row_is_a_reason():
    rows = []
    for ordering, gap in (("shuffled", 0.0), ("sequential:a,b", 0.03)):
        for seed in (1, 2, 3):
            shared = {"ordering": ordering, "seed": seed}
            rows += [row(transfer=0.8 - gap, component="a", **shared), row(transfer=0.8, component="b", **shared)]
    overall, of_a, of_b = of_law(sections(rows), "ordering")
    assert overall["of"] == "`all`"
    assert overall["found"] == "sequential:a,b: -1.5 points [-1.5, -1.5] of accuracy against shuffled"
    assert "-3.0 points" in of_a["found"]
    assert of_b["found"].endswith("3.0 points [3.0, 3.0] more than the others")
    (refused,) = of_law(sections(rows[1:]), "ordering")
    assert refused["found"] == "1 of 12 combinations of component, ordering and seed are missing"


# Trajectories


def test_seeds_that_never_reach_the_threshold_are_counted_and_not_left_out():
    steps = [100, 200, 300, None, None]
    rows = [row(transfer=0.8, seed=seed, peak_step=400, threshold_step=at) for seed, at in enumerate(steps)]
    (found,) = records(sections(rows)["Time to threshold"])
    assert (found["median step"], found["interval"], found["n"]) == ("300", "[100, never]", "5")
    assert found["never reached it"] == "2"
    assert found["chance, %"] == "93.8"  # 1 - 2 / 2^5


def test_forgetting_over_the_phases_of_a_sequence():
    shared = {"trial": "t", "architecture": "mlp", "width": 1.0, "depth": None, "representation": "single"}
    shared |= {"mixture": "a 50 % + b 50 %", "training": None, "ordering": "sequential:a,b"}
    accuracy = {"a": {0: 0.2, 10: 0.5, 50: 0.9, 60: 0.8, 100: 0.6}, "b": {0: 0.1, 10: 0.2, 50: 0.3, 60: 0.6, 100: 0.8}}
    curves = pd.DataFrame(
        [
            {**shared, "seed": seed, "component": name, "weight": 0.5, "step": step, "accuracy": value}
            for seed in (1, 2)
            for name, curve in accuracy.items()
            for step, value in curve.items()
        ]
    )
    found = sections(two_components(), curves=curves)
    (lost,) = records(found["Forgetting over phases"])
    # The first phase ends at step 50: a falls from 0.9 to 0.6, and b has risen from 0.1 to 0.3 before its own.
    assert (lost["forgetting"], lost["backward transfer"]) == ("30.0 [30.0, 30.0]", "-30.0 [-30.0, -30.0]")
    assert (lost["forward transfer"], lost["n"]) == ("20.0 [20.0, 20.0]", "2")
    without = curves[curves["step"].isin([0, 100])]  # no checkpoint lies in the first phase
    assert "Forgetting over phases" not in sections(two_components(), curves=without)


# Single test examples


def test_answers_give_an_interval_over_test_examples_and_a_test_for_every_seed():
    rows = [row(transfer=0.8, direct=0.9, seed=seed) for seed in (1, 2, 3)]
    direct, transfer = np.arange(100) < 90, np.arange(100) < 80

    (found,) = records(sections(rows, correct=lambda of: (direct, transfer))["Seeds and test examples"])
    # The seeds agree, so all that is left are the examples: 1.984 times 0.3 * sqrt(100 / 99) / 10.
    assert (found["gap, points"], found["interval"]) == ("10.0", "[4.0, 16.0]")
    assert found["McNemar p by seed"] == "1: 0.00195, 2: 0.00195, 3: 0.00195"  # 2 * 2^-10
    assert (found["examples"], found["n"]) == ("100", "3")

    only = sections(rows, correct=lambda of: (direct, transfer) if of["seed"] == 1 else None)
    (one,) = records(only["Seeds and test examples"])
    assert one["interval"].endswith("no seed uncertainty")
    uneven = sections(rows, correct=lambda of: (direct[of["seed"] :], transfer[of["seed"] :]))
    (refused,) = records(uneven["Seeds and test examples"])
    assert refused["interval"] == "the seeds are not tested on the same examples"


# The command


SWEEP = """\
name: tiny
question: What is kept?
components: {a: {dataset: digits}, b: {dataset: digits, classes: [0, 1]}}
vary: {mixture: {a: 3, b: 1}, architecture: mlp}
seeds: 2
pretrain: {steps: 10, batch_size: 20}
"""


def first_right(count: int) -> torch.Tensor:
    """(100,) whether each test example is answered rightly: the first so many are."""
    return torch.arange(100) < count


def test_the_command_prints_sections_with_the_answers_of_the_store(tmp_path):
    planned = plan(parse(SWEEP, "tiny.yaml"), {"a": component("a", 100), "b": component("b", 40)})
    store = Store(tmp_path / "runs")
    Journal(store, "tiny").write_plan(SWEEP, planned.as_json())
    call = ["analyse", "tiny", "--storage", str(tmp_path / "runs")]
    before = CliRunner().invoke(bottleneck, call)
    assert (before.exit_code, before.stdout) == (0, "")
    assert "no gap has been measured yet" in before.stderr

    # By component: right answers of direct training, and of transfer in the first and the second seed.
    right = {"a": (90, (70, 80)), "b": (95, (95, 95))}
    (trial,) = planned.trials
    answers = {}
    for cell in trial.cells:
        direct, transfer = right[cell.component]
        answers[cell.direct.digest] = first_right(direct)
        answers[cell.transfer.digest] = first_right(transfer[cell.seed != trial.cells[0].seed])
    for stage in trial.stages():
        if stage.kind == "pretrain":
            store.put(stage, PRETRAINED)
        else:
            found = answers.get(stage.digest, first_right(20))
            store.put(stage, PROBED | {"test_accuracy": found.double().mean().item()}, {"test": {"correct": found}})

    assert CliRunner().invoke(bottleneck, call).stdout.startswith("Bottleneck indices\n")
    printed = json.loads(CliRunner().invoke(bottleneck, [*call, "--json"]).stdout)
    answered = next(section for section in printed if section["title"] == "Seeds and test examples")
    a, b = (dict(zip(answered["header"], cells, strict=True)) for cells in answered["rows"])
    assert (a["component"], a["gap, points"], a["examples"], a["n"]) == ("a", "15.0", "100", "2")
    low, high = (float(end) for end in a["interval"].strip("[]").split(","))
    assert low < 15 - 63.5  # the t interval of 20 and 10 points is 12.706 times 5 to either side; examples widen it
    assert high > 15 + 63.5
    seeds = [f"{cell.seed}" for cell in trial.cells if cell.component == "a"]
    assert a["McNemar p by seed"] == f"{seeds[0]}: 1.91e-06, {seeds[1]}: 0.00195"  # 2 * 2^-20 and 2 * 2^-10
    assert (b["gap, points"], b["interval"]) == ("0.0", "[0.0, 0.0]")
