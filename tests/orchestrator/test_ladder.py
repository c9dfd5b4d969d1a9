"""Which rung reaches direct training, and which failure does that name?"""

from __future__ import annotations

import pandas as pd
import pytest
from claim_tables import Planted, climbed
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import results
from orchestrator.analysis import ladder
from orchestrator.analysis.gaps import Estimate
from orchestrator.analysis.ladder import RUNGS

BELOW = RUNGS[:-1]  # all rungs but direct
LOW, HIGH = 0.7, 0.9  # direct training reaches 0.9


def rungs_up_to(first: str, **changes: float | None) -> dict[str, float | None]:
    """All rungs fall short below the first that reaches."""
    start = RUNGS.index(first)
    return {name: HIGH if RUNGS.index(name) >= start else LOW for name in BELOW} | changes


def only(table: pd.DataFrame, **settings: float) -> ladder.Ladder:
    (found,) = ladder.ladder(table, **settings)
    return found


# Every failure has its name


@pytest.mark.parametrize(
    ("first", "failure"),
    [
        ("head", "none"),
        ("head_repair", "unused"),
        ("linear_probe", "unused"),
        ("mlp_probe", "entangled"),
        ("ntk_probe", "entangled"),
        ("few-shot fine-tuning", "recoverable"),
        ("full fine-tuning", "recoverable"),
        ("probe of several networks", "lost by this run"),
        ("direct", "lost by the recipe"),
    ],
)
def test_the_first_rung_that_reaches_direct_training_names_the_failure(first, failure):
    found = only(climbed(rungs_up_to(first)))
    assert found.failure == failure
    assert next(rung.name for rung in found.rungs if rung.outcome == "reaches") == first
    assert first.replace("direct", "best") in found.reason


def test_a_component_that_was_never_shown_has_no_head_that_could_fail():
    found = only(climbed(rungs_up_to("linear_probe", head=None), weight=0.0))
    assert (found.rungs[0].outcome, found.failure) == ("not applicable", "none")
    assert "head" not in found.missing


def test_rungs_are_listed_in_their_order_whatever_was_measured():
    found = only(climbed({"linear_probe": HIGH, "head": LOW}))
    assert tuple(rung.name for rung in found.rungs) == RUNGS
    assert set(found.missing) == set(BELOW) - {"linear_probe", "head"}


# What cannot be told


def test_one_seed_tells_nothing():
    found = only(climbed(rungs_up_to("linear_probe"), seeds=[1]))
    assert (found.failure, found.reason) == ("cannot tell", "one seed says nothing about other seeds")


def test_noisy_rungs_are_undecided_and_not_taken_for_reached():
    found = only(climbed(rungs_up_to("head"), seeds=[1, 2, 3], noise=0.03))
    assert found.failure == "cannot tell"
    assert found.rungs[0].outcome == "undecided"
    assert found.rungs[0].shortfall is not None
    assert found.rungs[0].shortfall.low < 0 < found.rungs[0].shortfall.high  # the other reading would call it reached


def test_a_failure_below_that_was_not_measured_keeps_the_ladder_from_naming_one_above():
    found = only(climbed(rungs_up_to("full fine-tuning", mlp_probe=None, ntk_probe=None)))
    assert found.failure == "cannot tell"
    assert "mlp_probe and ntk_probe not measured (`entangled`)" in found.reason


def test_one_rung_of_a_failure_is_enough_to_rule_it_out():
    found = only(climbed(rungs_up_to("full fine-tuning", ntk_probe=None)))
    assert (found.failure, found.missing) == ("recoverable", ("ntk_probe",))


def test_without_several_networks_a_loss_is_not_blamed_on_the_recipe():
    found = only(climbed(rungs_up_to("direct", **{"probe of several networks": None})))
    assert found.failure == "cannot tell"
    assert "`lost by this run`" in found.reason


def test_without_a_valid_reference_there_is_nothing_to_reach():
    table = climbed(rungs_up_to("linear_probe"))
    table["invalid"] = table["invalid"].mask(table["protocol"] == "linear_probe", "the direct baseline is below random")
    found = only(table)
    assert (found.failure, found.invalid) == ("cannot tell", 10)
    assert "no valid linear probe" in found.reason


def test_a_head_that_was_not_measured_may_be_what_fails():
    assert only(climbed(rungs_up_to("linear_probe", head=None))).failure == "cannot tell"


# Comparisons


def test_rungs_are_compared_within_seeds():
    # The seeds differ by ten points; the rung misses each by the same two.
    table = climbed({"linear_probe": 0.88}, noise=0)
    shift = 0.1 * (table["seed"] - 3) / 2
    table = table.assign(**{name: table[name] - shift for name in ("transfer_accuracy", "direct_probe_accuracy")})
    rung = next(rung for rung in only(table).rungs if rung.name == "linear_probe")
    assert rung.shortfall is not None
    assert (rung.shortfall.low, rung.shortfall.high) == pytest.approx((0.02, 0.02))


@pytest.mark.parametrize(("margin", "outcome"), [(0.01, "falls short"), (0.05, "reaches"), (0.02, "undecided")])
def test_the_margin_decides_what_counts_as_a_failure(margin, outcome):
    found = only(climbed({"linear_probe": 0.88}), margin=margin)
    assert next(rung for rung in found.rungs if rung.name == "linear_probe").outcome == outcome


@given(st.floats(-0.2, 0.2), st.floats(0, 0.1), st.floats(0.001, 0.1))
def test_a_rung_never_reaches_and_falls_short_and_more_certainty_never_turns_one_into_the_other(mean, half, margin):
    wide = ladder._outcome(Estimate(mean, mean - half, mean + half, 5), margin)
    narrow = ladder._outcome(Estimate(mean, mean - half / 2, mean + half / 2, 5), margin)
    assert wide in ("undecided", narrow)


@settings(max_examples=15)
@given(st.lists(st.sampled_from([LOW, HIGH, None]), min_size=len(BELOW), max_size=len(BELOW)))
def test_a_named_failure_has_nothing_below_it_that_reaches(accuracies):
    found = only(climbed(dict(zip(BELOW, accuracies, strict=True)) | {"linear_probe": LOW}, seeds=[1, 2, 3]))
    reached = [rung.name for rung in found.rungs if rung.outcome == "reaches"]
    if found.failure != "cannot tell":
        assert reached[0] in ladder.FAILURES[found.failure]


def test_of_several_settings_the_one_that_validation_prefers_is_read():
    rows = Planted(noise=0).add(transfer=LOW)
    rows.add(transfer=0.80, protocol="finetune", primary=False, validation_accuracy=0.9)
    rows.add(transfer=0.88, protocol="finetune, dropout 0.9", primary=False, validation_accuracy=0.7)
    rung = next(rung for rung in only(rows.table()).rungs if rung.name == "full fine-tuning")
    assert rung.source == "finetune of single"


def test_few_shots_are_the_fewest_and_several_networks_those_of_cat_where_there_are_some():
    rows = Planted(noise=0).add(transfer=LOW)
    for shots in (50, 5):
        rows.add(transfer=LOW, protocol="finetune", shots=shots, primary=False)
    for networks in ("time_cat:8", "complement:8", "wide:16"):
        rows.add(transfer=LOW, representation=networks)
    sources = {rung.name: rung.source for rung in only(rows.table()).rungs}
    assert sources["few-shot fine-tuning"] == "finetune, 5 shots of single"
    assert sources["probe of several networks"] == "linear_probe of time_cat:8"
    rows.add(transfer=LOW, representation="cat:2")
    sources = {rung.name: rung.source for rung in only(rows.table()).rungs}
    assert sources["probe of several networks"] == "linear_probe of cat:2"


def test_every_component_of_every_design_has_a_ladder():
    rows = Planted()
    for width in (1.0, 2.0):
        for component in ("a", "b"):
            rows.add(transfer=LOW, width=width, component=component)
    found = ladder.ladder(rows.table())
    assert [(climb.component, climb.design) for climb in found] == [
        (name, {"width": width}) for width in (1.0, 2.0) for name in ("a", "b")
    ]


def test_a_ladder_needs_a_margin_above_0():
    with pytest.raises(ValueError, match="above 0"):
        ladder.ladder(results.table([]), margin=0)


def test_an_empty_table_has_no_ladder():
    assert ladder.ladder(results.table([])) == []


# As text


def test_the_text_has_a_line_for_every_rung_with_its_difference_and_outcome():
    header, *lines = ladder.rows(only(climbed(rungs_up_to("full fine-tuning", mlp_probe=None), noise=0)))
    assert [line[0] for line in lines] == list(RUNGS)
    assert all(len(line) == len(header) for line in lines)
    of = {line[0]: line for line in lines}
    assert of["head"][2:] == ("70.0", "20.0", "[20.0, 20.0]", "5", "falls short")
    assert of["mlp_probe"][1:] == ("not measured", "-", "-", "-", "-", "missing")
    assert of["direct"][2:5] == ("90.0", "0.0", "-")


def test_the_sentence_names_component_failure_and_reason():
    found = only(climbed(rungs_up_to("linear_probe"), noise=0))
    assert found.sentence == (
        "`hard` at weight 0.5: unused, because linear_probe is within 1 point of direct training "
        "(0.0 points [0.0, 0.0], n = 5), head_repair is not (20.0 points [20.0, 20.0], n = 5)."
    )
