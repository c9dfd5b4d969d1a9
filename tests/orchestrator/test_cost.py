"""What a sweep spent, and what it was spared, by hand."""

from __future__ import annotations

from typing import Any

from orchestrator.cost import Cost, costs


def stage(digest: str, seconds: float, kind: str = "pretrain", device: str = "cpu") -> dict[str, Any]:
    return {"event": "stage", "kind": kind, "digest": digest, "seconds": seconds, "device": device}


def plan(*trials: list[tuple[str, str]]) -> dict[str, Any]:
    return {"trials": [{"stages": stages} for stages in trials]}


def nothing(kind: str, digest: str) -> None:
    return None


def test_a_baseline_of_three_trials_is_paid_for_once_and_spared_twice():
    three = plan(*([("pretrain", "base"), ("pretrain", name)] for name in "abc"))
    events = [stage("base", 10.0), stage("a", 4.0), stage("b", 5.0), stage("c", 6.0), {"event": "sweep"}]
    assert costs(three, events, nothing) == [
        Cost(kind="pretrain", device="cpu", stages=4, computed=4, asked=6, spent_s=25.0, shared_s=20.0, found_s=0.0)
    ]


def test_what_the_store_had_is_found_and_what_was_computed_twice_is_spent_twice():
    events = [stage("again", 3.0), stage("again", 4.0)]

    def lookup(kind: str, digest: str) -> dict[str, Any] | None:
        return {"device": "cpu", "seconds": 7.0} if digest == "found" else None

    one = plan([("pretrain", "again"), ("pretrain", "found"), ("pretrain", "missing")], [("pretrain", "found")])
    (only,) = costs(one, events, lookup)
    assert (only.stages, only.computed, only.asked) == (2, 1, 3)
    assert (only.spent_s, only.shared_s, only.found_s) == (7.0, 7.0, 7.0)


def test_kinds_and_devices_are_told_apart_and_the_most_expensive_comes_first():
    stages = [("probe", "p"), ("pretrain", "a"), ("pretrain", "b")]
    events = [stage("p", 1.0, "probe"), stage("a", 2.0), stage("b", 9.0, device="cuda")]
    found = costs(plan(stages), events, nothing)
    assert [(one.kind, one.device, one.spent_s) for one in found] == [
        ("pretrain", "cuda", 9.0),
        ("pretrain", "cpu", 2.0),
        ("probe", "cpu", 1.0),
    ]


def test_the_time_of_a_measurement_that_the_store_had_is_not_known_and_counts_as_nothing():
    (only,) = costs(plan([("probe", "p")]), [], lambda kind, digest: {"device": "cpu"})
    assert (only.stages, only.computed, only.spent_s, only.found_s) == (1, 0, 0.0, 0.0)


def test_a_run_that_was_taken_up_again_has_cost_all_of_its_time():
    (only,) = costs(plan([("pretrain", "p")]), [{**stage("p", 5.0), "seconds_in_all": 105.0}], nothing)
    assert only.spent_s == 105.0


def test_checkpoints_are_parts_of_their_run_and_not_paid_for_again():
    stages = [("pretrain", name) for name in ("at 1", "at 50", "whole")]
    events = [
        {**stage(name, 0.0), "seconds_in_all": seconds, "run": "whole"}
        for name, seconds in (("at 1", 1.0), ("at 50", 50.0), ("whole", 100.0))
    ]
    (computed,) = costs(plan(stages, stages), events, nothing)
    assert (computed.stages, computed.spent_s, computed.shared_s) == (3, 100.0, 100.0)

    def lookup(kind: str, digest: str) -> dict[str, Any]:
        return {"device": "cpu", "run": "whole", "seconds": {"at 1": 1.0, "at 50": 50.0, "whole": 100.0}[digest]}

    (found,) = costs(plan(stages), [], lookup)
    assert (found.stages, found.found_s) == (3, 100.0)


def test_what_a_trial_computed_before_it_was_stopped_has_been_spent():
    (only,) = costs(plan([("pretrain", "whole")]), [stage("on the way", 30.0)], nothing)
    assert (only.stages, only.asked, only.spent_s) == (1, 0, 30.0)
