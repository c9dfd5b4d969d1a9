"""What differs between two sweeps: by hand, by law, and as the command prints it."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import bottleneck as in_a_process
from gap_tables import row, two_views
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_sweeps import PRETRAINED, PROBED
from strategies import component

from orchestrator import results
from orchestrator.analysis import statistics
from orchestrator.analysis.compare import (
    Arm,
    Change,
    change_rows,
    compare,
    remark,
    rows,
    sentences,
    spec_changes,
)
from orchestrator.cli import bottleneck
from orchestrator.journal import Journal
from orchestrator.plan import plan
from orchestrator.sweep import parse
from orchestrator.terminal import printable
from trainables.store import Store


def arm(found, name="a", **more):
    return Arm(name, results.table(found), **({"spec": {}} | more))


def gaps(*values, first_seed=1, **columns):
    """A cell with these gaps of direct training at 90 %."""
    return [row(gap=gap, seed=first_seed + number, **columns) for number, gap in enumerate(values)]


def only(found):
    (pair,) = found.pairs
    return pair


def records(header, *lines):
    return [dict(zip(header, line, strict=False)) for line in lines]


# By hand ----------------------------------------------------------------------------------------------------------


def test_a_difference_is_b_minus_a_paired_by_seed():
    found = compare(arm(gaps(0.10, 0.12, 0.14)), arm(gaps(0.15, 0.16, 0.20)))
    pair = only(found)
    gap, transfer = pair.gap, pair.transfer_accuracy
    # The differences are 5, 4 and 6 points: 5 +- 4.303 * 1 / sqrt(3), and t = 5 sqrt(3) with two degrees of freedom,
    # whose p-value is 1 - t / sqrt(t^2 + 2).
    assert (gap.first, gap.second, gap.mean) == pytest.approx((0.12, 0.17, 0.05))
    assert (gap.low, gap.high) == pytest.approx((0.05 - 0.024841, 0.05 + 0.024841), abs=1e-6)
    assert gap.p == gap.adjusted_p == pytest.approx(1 - 5 * math.sqrt(3) / math.sqrt(77))
    assert (gap.n, gap.over, gap.correction, gap.verdict) == (3, "seeds", "Holm", "differs")
    assert (transfer.mean, transfer.low, transfer.high) == pytest.approx((-gap.mean, -gap.high, -gap.low))
    assert (pair.outcome, pair.left_out, pair.same) == ("differs", ("", ""), False)
    header, line = rows(found.pairs)
    assert dict(zip(header[2:7], line[2:7], strict=True)) == {
        "gap A": "12.0", "gap B": "17.0", "gap B - A": "5.0 [2.5, 7.5]*", "adjusted p": "0.013", "n": "3",
    }  # fmt: skip
    assert line[-1] == "differs"
    assert "Above 0, of a gap: B loses more; of transfer: B serves the component better." in remark(found)
    assert "Intervals with *: 95 %, for other seeds on this test set." in remark(found)


def test_a_small_difference_between_noisy_seeds_cannot_be_told():
    pair = only(compare(arm(gaps(0.10, 0.12, 0.14)), arm(gaps(0.12, 0.11, 0.15))))
    assert pair.gap.low < 0 < pair.gap.high
    assert pair.outcome == "cannot tell"


def test_cells_with_the_same_numbers_are_equal_and_no_member_of_the_family():
    same, other = gaps(0.1, 0.2, component="both"), gaps(0.1, 0.2, component="hard")
    found = compare(arm([*same, *other]), arm([*same, *gaps(0.15, 0.26, component="hard")]))
    both, hard = found.pairs
    assert (both.outcome, both.gap.p, both.gap.adjusted_p, both.same) == ("equal", None, None, True)
    assert both.gap.low == both.gap.mean == both.gap.high == 0
    assert hard.gap.adjusted_p == hard.gap.p
    assert sentences(found)[-1] == "Of 2 cells in both, 1 are equal and 1 cannot be told apart."


def test_a_sweep_against_itself_is_equal_and_says_so():
    found = compare(arm(two_views()), arm(two_views(), name="b"))
    assert found.equal
    assert sentences(found) == ["Equal: the sweep files say the same, and all 12 cells have the same numbers."]
    changed = compare(arm(two_views()), arm(two_views(), spec={"retention": True}))
    assert (changed.same_results, changed.equal) == (True, False)
    unknown = compare(arm(two_views()), arm(two_views(), spec=None))
    assert (unknown.same_results, unknown.equal, unknown.changes) == (True, False, None)


def test_cells_of_one_sweep_alone_are_listed_and_not_compared():
    here = [*gaps(0.1, 0.2, width=1.0), *gaps(0.1, 0.2, width=2.0)]
    there = [*gaps(0.1, 0.2, width=1.0), *gaps(0.1, 0.2, width=1.0, protocol="knn"), *gaps(0.3, width=4.0, shots=5)]
    found = compare(arm(here), arm(there))
    assert only(found).cell["width"] == 1.0
    assert [cell["width"] for cell in found.only_first] == [2.0]
    alone = [(cell["width"], cell["protocol"], cell["shots"], cell["weight"]) for cell in found.only_second]
    assert alone == [(1.0, "knn", None, 0.5), (4.0, "linear_probe", 5, 0.5)]


def test_what_is_another_in_all_of_a_sweep_is_said_and_paired_across():
    found = compare(arm(gaps(0.1, 0.2, steps=100)), arm(gaps(0.1, 0.3, steps=200, weight=0.25, mixture="x")))
    assert found.throughout == {"mixture": ("both 50 % + hard 50 %", "x"), "steps": (100, 200)}
    pair = only(found)
    assert "steps" not in pair.cell
    assert pair.weights == (0.5, 0.25)
    assert sentences(found)[-2] == (
        "Throughout, mixture is both 50 % + hard 50 % in A and x in B and steps is 100 in A and 200 in B; cells are "
        "paired across that."
    )
    (line,) = records(*rows(found.pairs))
    assert line["weight"] == "0.5 -> 0.25"
    assert not compare(arm(gaps(0.1, steps=100)), arm(gaps(0.1, steps=200))).equal


def test_an_axis_that_varies_in_one_of_them_is_never_paired_across():
    found = compare(arm(gaps(0.1, 0.2, width=1.0)), arm([*gaps(0.1, width=2.0), *gaps(0.1, width=4.0)]))
    assert (found.pairs, found.throughout) == ((), {})
    assert sentences(found)[-1] == "No cell is in both."


# What cannot be paired --------------------------------------------------------------------------------------------


def test_a_cell_without_a_common_seed_is_said_and_has_no_difference():
    found = compare(arm(gaps(0.1, 0.2)), arm(gaps(0.3, 0.4, first_seed=3)))
    pair = only(found)
    assert (pair.gap, pair.transfer_accuracy, pair.outcome) == (None, None, "unpaired")
    assert pair.left_out == ("2 unpaired", "2 unpaired")
    assert sentences(found)[-1] == "Of 1 cells in both, 1 have no seed that was measured in both."
    (line,) = records(*rows(found.pairs))
    assert (line["gap B - A"], line["n"], line["outcome"]) == ("-", "0", "unpaired")
    assert (line["left out of A"], line["left out of B"]) == ("2 unpaired", "2 unpaired")


def test_what_failed_or_says_nothing_is_left_out_and_counted():
    here = [*gaps(0.1, 0.2), row(seed=3, status="failed"), row(seed=4, gap=0.1) | {"invalid": "dead", "gap": None}]
    there = gaps(0.1, 0.3, 0.4, 0.5)
    pair = only(compare(arm(here), arm(there)))
    assert (pair.gap.n, pair.transfer_accuracy.n) == (2, 2)
    assert pair.left_out == ("1 failed, 1 invalid", "2 unpaired")
    failed = compare(arm([row(status="failed")]), arm([row(status="failed")]))
    assert (only(failed).outcome, failed.same_results) == ("unpaired", True)
    assert not compare(arm([row(status="failed")]), arm([row(status="diverged")])).same_results


def test_a_cell_without_a_baseline_is_compared_by_its_transfer_alone():
    without = [row(gap=None, direct=accuracy, seed=seed) for seed, accuracy in ((1, 0.5), (2, 0.75))]
    pair = only(compare(arm(without), arm([row(gap=None, direct=0.5, seed=1)])))
    assert (pair.gap, pair.transfer_accuracy.n, pair.outcome) == (None, 1, "equal")
    assert pair.left_out == ("2 without a baseline, 1 unpaired", "1 without a baseline")


def test_one_seed_says_nothing_about_other_seeds():
    found = compare(arm(gaps(0.1)), arm(gaps(0.4)))
    gap = only(found).gap
    assert (gap.low, gap.high, gap.p, gap.adjusted_p, gap.n) == (None, None, None, None, 1)
    assert only(found).outcome == "cannot tell"
    (line,) = records(*rows(found.pairs))
    assert line["gap B - A"] == "30.0 one seed"


@pytest.mark.parametrize(("here", "there"), [((0.125, 0.25), (0.25, 0.375)), ((0.1, 0.2), (0.15, 0.25))])
def test_two_seeds_that_agree_by_chance_prove_nothing(here, there):
    gap = only(compare(arm(gaps(*here)), arm(gaps(*there)))).gap
    assert gap.low == pytest.approx(gap.high) == pytest.approx(gap.mean)
    assert (gap.p, gap.verdict) == (statistics.smallest_p(2, "two-sided"), "cannot tell")


# Many cells -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "name"), [(20, "Holm"), (21, "Benjamini and Hochberg")])
def test_p_values_are_adjusted_over_all_cells(cells, name):
    draws = np.random.default_rng(1).normal(0.02, 0.01, (cells, 3))
    here = [one for number in range(cells) for one in gaps(0.1, 0.1, 0.1, width=float(number))]
    there = [one for number, cell in enumerate(draws) for one in gaps(*(0.1 + cell), width=float(number))]
    found = [pair.gap for pair in compare(arm(here), arm(there)).pairs]
    adjust = {"Holm": statistics.holm, "Benjamini and Hochberg": statistics.benjamini_hochberg}[name]
    assert {gap.correction for gap in found} == {name}
    assert [gap.adjusted_p for gap in found] == pytest.approx(adjust([gap.p for gap in found]).tolist())


@pytest.mark.slow
def test_of_sweeps_that_differ_by_chance_alone_few_have_a_cell_that_differs():
    draws = np.random.default_rng(2).normal(0.1, 0.01, (2, 200, 8, 5))
    sides = [
        results.table(
            one
            for number, sweep in enumerate(side)
            for width, cell in enumerate(sweep)
            for one in gaps(*cell, width=float(width), sweep=str(number))
        )
        for side in draws
    ]
    each = ([found for _, found in side.groupby("sweep", sort=False)] for side in sides)
    wrong = sum(
        "differs" in compare(Arm("a", here), Arm("b", there)).outcomes for here, there in zip(*each, strict=True)
    )
    # Gap and transfer say the same here, so that a family of eight is wrong in 5 %: 10 of 200, standard deviation 3.
    assert wrong <= 19


# Test examples ----------------------------------------------------------------------------------------------------


def answering(transfer, direct):
    """Which of 100 examples are right: the first so many of each seed, in percent."""
    return lambda of: (np.arange(100) < direct[of["seed"]], np.arange(100) < transfer[of["seed"]])


def test_answers_widen_the_interval_to_other_test_examples():
    here, there, direct = {1: 80, 2: 78, 3: 79}, {1: 70, 2: 72, 3: 71}, {1: 90, 2: 90, 3: 90}
    first = arm(gaps(0.10, 0.12, 0.11), correct=answering(here, direct), contents={"hard": "x"})
    second = arm(gaps(0.20, 0.18, 0.19), correct=answering(there, direct), contents={"hard": "x"})
    pair = only(compare(first, second))
    arms = ([np.arange(100) < accuracy for accuracy in of.values()] for of in (there, here))
    expected = statistics.paired_interval(*arms)
    transfer = pair.transfer_accuracy
    assert (transfer.low, transfer.mean, transfer.high) == pytest.approx((expected.low, expected.value, expected.high))
    assert (pair.gap.low, pair.gap.mean, pair.gap.high) == pytest.approx((-expected.high, 0.08, -expected.low))
    assert transfer.over == pair.gap.over == "seeds and test examples"
    alone = only(compare(replace(first, correct=None), second)).transfer_accuracy
    assert (alone.mean, alone.over) == (transfer.mean, "seeds")
    assert transfer.high - transfer.low > alone.high - alone.low
    assert "for other seeds and other test examples" in remark(compare(first, second))


@pytest.mark.parametrize(
    "changes",
    [
        {"contents": {"hard": "y"}},  # other examples
        {"contents": {}},
        {"correct": lambda of: None},
        {"correct": lambda of: (np.ones(99), np.ones(99))},
        {"correct": lambda of: (np.ones(100 - of["seed"]), np.ones(100 - of["seed"]))},
    ],
)
def test_answers_to_other_questions_are_not_paired(changes):
    right = answering({1: 80, 2: 70}, {1: 90, 2: 90})
    first, second = (arm(gaps(*of), correct=right, contents={"hard": "x"}) for of in ((0.1, 0.2), (0.2, 0.4)))
    assert only(compare(first, second)).gap.over == "seeds and test examples"
    assert only(compare(first, replace(second, **changes))).gap.over == "seeds"
    assert only(compare(replace(first, **changes), second)).gap.over == "seeds"


# Laws -------------------------------------------------------------------------------------------------------------


@st.composite
def tables(draw):
    """A few rows of a few cells, some of them missing, failed, invalid or twice there."""
    cells = st.fixed_dictionaries(
        {
            "component": st.sampled_from(["easy", "hard"]),
            "weight": st.sampled_from([0.25, 0.5]),
            "width": st.sampled_from([0.5, 1.0]),
            "steps": st.sampled_from([100, 200]),
            "protocol": st.sampled_from(["linear_probe", "knn"]),
            "seed": st.integers(0, 3),
            "gap": st.one_of(st.none(), st.integers(-20, 60).map(lambda count: count / 100)),
            "status": st.sampled_from(["ok", "ok", "ok", "failed"]),
            "invalid": st.sampled_from([None, None, "dead"]),
        }
    )
    found = draw(st.lists(cells, max_size=12))
    return [row(**{**one, "mixture": f"hard {one['weight']}"}) | {"invalid": one["invalid"]} for one in found]


AT_RANDOM = settings(max_examples=30)  # a table of all columns takes some milliseconds


def swapped(found):
    """What comparing the arms the other way round has to find."""

    def back(one):
        if one is None:
            return None
        low, high = (None if end is None else -end for end in (one.high, one.low))
        return replace(one, first=one.second, second=one.first, mean=-one.mean, low=low, high=high)

    pairs = [
        replace(
            pair,
            weights=pair.weights[::-1],
            left_out=pair.left_out[::-1],
            gap=back(pair.gap),
            transfer_accuracy=back(pair.transfer_accuracy),
        )
        for pair in found.pairs
    ]
    throughout = {axis: values[::-1] for axis, values in found.throughout.items()}
    return replace(
        found, first=found.second, second=found.first, pairs=tuple(pairs), throughout=throughout,
        only_first=found.only_second, only_second=found.only_first,
    )  # fmt: skip


@AT_RANDOM
@given(tables())
def test_nothing_differs_from_itself(found):
    itself = compare(arm(found), arm(found))
    assert itself.equal
    assert {pair.outcome for pair in itself.pairs} <= {"equal", "unpaired"}
    assert (itself.only_first, itself.only_second, itself.throughout) == ((), (), {})


@AT_RANDOM
@given(tables(), tables())
def test_the_other_way_round_every_difference_has_the_other_sign(first, second):
    one, other = compare(arm(first), arm(second, name="b")), compare(arm(second, name="b"), arm(first))
    assert swapped(one) == other


@AT_RANDOM
@given(tables(), tables(), st.randoms())
def test_the_order_of_the_rows_does_not_matter(first, second, chance: random.Random):
    expected = compare(arm(first), arm(second))
    assert compare(arm(chance.sample(first, len(first))), arm(chance.sample(second, len(second)))) == expected


@AT_RANDOM
@given(tables(), tables())
def test_every_cell_is_in_both_or_in_one(first, second):
    found = compare(arm(first), arm(second))
    cells = len(found.pairs) + len(found.only_first), len(found.pairs) + len(found.only_second)
    axes = ["component", *(axis for axis in ("mixture", "width", "steps") if axis not in found.throughout), "protocol"]
    assert cells == tuple(len({tuple(one[axis] for axis in axes) for one in table}) for table in (first, second))
    for pair in found.pairs:
        for one in (pair.gap, pair.transfer_accuracy):
            assert one is None or (one.n >= 1 and one.mean == pytest.approx(one.second - one.first))
    assert [len(line) for line in rows(found.pairs)] == [len(rows(found.pairs)[0])] * (1 + len(found.pairs))


# Sweep files ------------------------------------------------------------------------------------------------------


def test_what_changed_in_the_sweep_file_by_hand():
    first = {
        "question": "Why?",
        "components": {"a": {"dataset": "mnist", "classes": [0, 1]}, "b": {"dataset": "usps"}},
        "vary": {"mixture": [{"a": 1}, {"a": 1, "b": 1}], "width": [1, 2], "ordering": ["shuffled", {"blocked": 2}]},
        "seeds": 5,
    }
    second = {
        "question": "Why?",
        "components": {"a": {"dataset": "mnist", "classes": [0, 2]}, "c": {"dataset": "svhn"}},
        "vary": {"mixture": [{"a": 1}, {"a": 2, "b": 1}], "width": [1, 2, 4], "ordering": [{"blocked": 2}, "shuffled"]},
        "seeds": 5,
        "retention": True,
    }
    assert spec_changes(first, second) == [
        Change("changed", "components.a.classes", [0, 1], [0, 2]),
        Change("removed", "components.b", {"dataset": "usps"}, None),
        Change("added", "components.c", None, {"dataset": "svhn"}),
        Change("removed", "vary.mixture", {"a": 1, "b": 1}, None),
        Change("added", "vary.mixture", None, {"a": 2, "b": 1}),
        Change("changed", "vary.width", [1, 2], [1, 2, 4]),
        Change("changed", "vary.ordering", ["shuffled", {"blocked": 2}], [{"blocked": 2}, "shuffled"]),
        Change("added", "retention", None, True),
    ]


def test_a_change_is_shown_shortly_and_without_what_says_nothing():
    added = {"dataset": "usps", "options": {}, "classes": None, "relabel": None}
    shown = change_rows([Change("added", "components.b", None, added), Change("changed", "seeds", 3, 5)])
    assert shown == [
        ("", "key", "A", "B"),
        ("added", "components.b", "", "{dataset: 'usps'}"),
        ("changed", "seeds", "3", "5"),
    ]
    ((_, _, long, _),) = change_rows([Change("changed", "question", "x" * 5000, "y")])[1:]
    assert len(long) == 60


PLAIN = st.recursive(
    st.one_of(st.none(), st.integers(0, 2), st.sampled_from(["a", "b"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["x", "y"]), inner)),
)
MAPPINGS = st.dictionaries(st.sampled_from(["x", "y", "z"]), PLAIN)


@given(MAPPINGS, MAPPINGS)
def test_sweep_files_have_no_change_if_and_only_if_they_are_the_same(first, second):
    assert spec_changes(first, first) == []
    assert (spec_changes(first, second) == []) == (first == second)


@given(MAPPINGS, MAPPINGS)
def test_what_is_added_one_way_is_removed_the_other(first, second):
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    back = [Change(turned[one.kind], one.path, one.second, one.first) for one in spec_changes(second, first)]
    assert sorted(back, key=repr) == sorted(spec_changes(first, second), key=repr)


# The command ------------------------------------------------------------------------------------------------------

TEXT = """\
name: NAME
question: What is kept?
components: {a: {dataset: digits}, b: {dataset: digits, classes: [0, 1]}}
vary: {mixture: {a: 3, b: 1}, architecture: mlp}
seeds: 3
pretrain: {steps: 10, batch_size: 20}
"""


def put(store, name, text=TEXT, right=(80, 81, 82), relabel=lambda design: None):
    """Let a store have a sweep: of component a so many of 100 answers are right in each seed, and 90 of direct ones."""
    text = text.replace("NAME", name)
    planned = plan(parse(text, "x.yaml"), {"a": component("a", 100), "b": component("b", 40)})
    written = planned.as_json()
    for trial in written["trials"]:
        relabel(trial["design"])
    Journal(store, name).write_plan(text, written)
    (trial,) = planned.trials
    of_a = [cell for cell in trial.cells if cell.component == "a"]
    answers = {cell.direct.digest: 90 for cell in trial.cells}
    answers |= {cell.transfer.digest: count for cell, count in zip(of_a, right, strict=True)}
    for stage in trial.stages():
        if stage.kind == "pretrain":
            store.put(stage, PRETRAINED)
        else:
            correct = torch.arange(100) < answers.get(stage.digest, 50)
            store.put(stage, PROBED | {"test_accuracy": correct.double().mean().item()}, {"test": {"correct": correct}})


def call(*arguments):
    return CliRunner().invoke(bottleneck, ["compare", *map(str, arguments)])


LONGER = TEXT.replace("steps: 10", "steps: 20")


@pytest.fixture
def store(tmp_path):
    """A sweep, and one of twice the steps."""
    found = Store(tmp_path / "runs")
    put(found, "first")
    put(found, "second", LONGER, right=(70, 72, 71))
    return found


def test_the_command_says_what_changed_and_what_came_of_it(store):
    printed = call("first", "second", "--storage", store.location).stdout
    assert printed.startswith(f"A: first in {store.location}\nB: second in {store.location}\n")
    assert "Throughout, steps is 10 in A and 20 in B; cells are paired across that.\n" in printed
    assert "Of 2 cells in both, 1 are equal and 1 differ.\n" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["changed", "pretrain.steps", "10", "20"] in lines
    (a,) = [line for line in lines if line[:1] == ["a"]]
    # 10, 9 and 11 points; examples have a share in it: 80, 81 and 82 of the same 100 against 70, 72 and 71.
    assert a[:5] == ["a", "0.75", "9.0", "19.0", "10.0"]
    assert a[-1] == "differs"


def test_the_command_prints_json_for_programs(store):
    found = json.loads(call("first", "second", "--storage", store.location, "--json").stdout)
    assert (found["equal"], found["same_results"], found["throughout"]) == (False, False, {"steps": [10, 20]})
    assert found["changes"] == [{"kind": "changed", "path": "pretrain.steps", "first": 10, "second": 20}]
    a, b = found["pairs"]
    assert (a["cell"]["component"], a["outcome"], a["gap"]["n"]) == ("a", "differs", 3)
    assert a["gap"]["mean"] == pytest.approx(0.1)
    assert a["gap"]["over"] == "seeds and test examples"
    assert (b["outcome"], b["gap"]["mean"], b["gap"]["adjusted_p"]) == ("equal", 0, None)


def test_the_command_compares_sweeps_of_two_stores(store, tmp_path):
    other = Store(tmp_path / "other")
    put(other, "first")
    equal = call("first", "first", "--storage", store.location, "--other-storage", other.location)
    assert equal.stdout.splitlines()[1:] == [
        f"B: first in {other.location}",
        "Equal: the sweep files say the same, and all 2 cells have the same numbers.",
    ]
    renamed = tmp_path / "renamed"
    put(Store(renamed), "another")
    assert "Equal: " in call("first", "another", "--storage", store.location, "--other-storage", renamed).stdout


def test_a_stored_file_that_is_no_sweep_any_more_is_said_and_the_numbers_are_compared(store):
    store.write("sweeps/second/sweep.yaml", b"name: second\nno: such key\n")
    done = call("first", "second", "--storage", store.location)
    assert done.exit_code == 0
    (said,) = done.stderr.splitlines()
    assert said.endswith("; the sweep files are not compared")
    assert "Of 2 cells in both, 1 are equal and 1 differ." in done.stdout
    assert "pretrain.steps" not in done.stdout


def test_what_cannot_be_compared_is_one_line(store):
    for names, said in (
        (("first", "third"), "has no sweep 'third'; it has: first, second"),
        (("../x", "first"), "'../x'"),
    ):
        done = in_a_process("compare", *names, "--storage", store.location, expect=2)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert said in line


def test_a_terminal_obeys_nothing_that_two_sweeps_say(tmp_path):
    store = Store(tmp_path / "runs")
    put(store, "first", TEXT.replace("What is kept?", "What\u202e is kept?"))
    hostile = {"mixture_label": "\x1b[2J a\nOf 0 cells \u202e", "training": "\x9b31m\t"}
    put(store, "second", LONGER, relabel=lambda design: design.update(hostile))
    for pair in (("first", "second"), ("second", "first")):
        shown = in_a_process("compare", *pair, "--storage", store.location).stdout
        assert printable(shown) == shown
        assert r"\x1b[2J a" in shown
        assert not any(line.startswith("Of 0 cells") for line in shown.splitlines())
