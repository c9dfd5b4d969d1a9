"""Searches against scripted objectives: no trial is run, and a process that is started again is a new Optimiser."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.search import Optimiser
from orchestrator.space import Space, key, points
from orchestrator.sweep import Sweep, SweepError, parse

SIZES = {"a": 100, "b": 300, "c": 600}
SAMPLERS = ("tpe", "gp", "nsga2", "qmc")
REGION = "{mixture: {simplex: {resolution: 20}}}"
CONDITIONAL = (
    "{mixture: [proportional, {simplex: {resolution: 10, min: {c: 0.2}, sums: [{components: [a, b], min: 0.3}]}}], "
    "architecture: [mlp, vit_tiny], depth: {range: [1, 6]}, width: {range: [0.25, 2], log: true}, "
    "training: [{}, {dropout: 0.5}], when: {depth: {architecture: [vit_tiny]}, width: {architecture: [mlp]}}}"
)


def sweep(vary: str = REGION, **keys: object) -> Sweep:
    asked = "".join(f", {name}: {value}" for name, value in keys.items())
    return parse(
        "name: x\nquestion: Why?\ncomponents: {a: {dataset: digits}, b: {dataset: mnist}, c: {dataset: usps}}\n"
        f"vary: {vary}\nsearch: {{optuna: {{samples: 40{asked}}}}}\n",
        "x.yaml",
    )


def shares(proposal) -> dict[str, float]:
    return dict(proposal.point.weights)


def distance(proposal, a=0.55, b=0.3) -> float:
    """Smallest at one mixture of the lattice, where it is 0."""
    return max(abs(shares(proposal)["a"] - a), abs(shares(proposal)["b"] - b))


def run(optimiser: Optimiser, trials: int, value=distance) -> list[float]:
    found = []
    for _ in range(trials):
        proposal = optimiser.ask()
        found.append(value(proposal))
        optimiser.tell(proposal, [found[-1]])
    return found


# Asking ---------------------------------------------------------------------------------------------------------------


def test_a_search_begins_with_the_centroid_and_the_corners():
    optimiser = Optimiser(sweep(), SIZES)
    assert [tuple(shares(optimiser.ask()).values()) for _ in range(4)] == [
        (0.35, 0.35, 0.3),
        (1.0, 0.0, 0.0),
        (0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0),
    ]


def test_mixtures_beside_the_simplex_are_tried_before_all_others():
    optimiser = Optimiser(sweep("{mixture: [proportional, {a: 1, b: 1}, {simplex: {resolution: 20}}]}"), SIZES)
    first, second = optimiser.ask(), optimiser.ask()
    assert shares(first) == {"a": 0.1, "b": 0.3, "c": 0.6}
    assert shares(second) == {"a": 0.5, "b": 0.5, "c": 0.0}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
@pytest.mark.parametrize("vary", [REGION, CONDITIONAL, "{mixture: [leave_one_out, {a: 1}], steps: [10, 20, 30]}"])
def test_no_point_is_proposed_twice_and_all_lie_in_the_space(sampler, vary):
    optimiser = Optimiser(sweep(vary, sampler=sampler), SIZES)
    space = Space(sweep(vary), SIZES)
    seen = []
    for number in range(12):
        proposal = optimiser.ask()
        assert proposal.number == number
        assert space.point(proposal.params) == proposal.point
        assert space.point(space.params(proposal.point)) == proposal.point
        optimiser.tell(proposal, [0.0])  # all alike, so that a sampler has no reason to move
        seen.append(key(proposal.point))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
def test_a_search_ends_where_the_space_has_no_more_points(sampler):
    optimiser = Optimiser(sweep("{mixture: {simplex: {resolution: 3}}}", sampler=sampler), SIZES)
    found = []
    while proposal := optimiser.ask():
        found.append(key(proposal.point))
        optimiser.tell(proposal, [1.0])
    assert len(found) == len(set(found)) == 10


def test_a_space_of_one_point_has_one_proposal():
    optimiser = Optimiser(sweep("{mixture: {a: 1}}"), SIZES)
    optimiser.tell(optimiser.ask(), [1.0])
    assert optimiser.ask() is None


def test_points_that_run_side_by_side_differ():
    optimiser = Optimiser(sweep(), SIZES)
    run(optimiser, 12)
    assert len({key(optimiser.ask().point) for _ in range(8)}) == 8


# Restarting -----------------------------------------------------------------------------------------------------------


def again(asked: Sweep, told: list) -> Optimiser:
    """A search in a new process that has read the same history, from JSON."""
    optimiser = Optimiser(asked, SIZES)
    for params, attributes, values in json.loads(json.dumps(told)):
        proposal = optimiser.restore(params, attributes)
        if values != "running":
            optimiser.tell(proposal, values)
    return optimiser


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
@pytest.mark.parametrize("vary", [REGION, CONDITIONAL])
def test_a_search_that_is_restarted_before_every_question_asks_what_one_that_is_not_asks(sampler, vary):
    asked = sweep(vary, sampler=sampler, seed=3)
    optimiser, told = Optimiser(asked, SIZES), []
    for _ in range(16):
        proposal, replayed = optimiser.ask(), again(asked, told).ask()
        assert (replayed.point, replayed.params, replayed.number) == (proposal.point, proposal.params, proposal.number)
        assert replayed.attributes == proposal.attributes
        values = None if proposal.number % 7 == 5 else [distance(proposal)]
        optimiser.tell(proposal, values)
        told.append((proposal.params, proposal.attributes, values))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"])
def test_a_restart_with_trials_still_running_repeats_none_of_the_earlier_proposals(sampler):
    asked = sweep(sampler=sampler)
    optimiser, told = Optimiser(asked, SIZES), []
    for number in range(14):
        proposal = optimiser.ask()
        running = number >= 11
        told.append((proposal.params, proposal.attributes, "running" if running else [distance(proposal)]))
        if not running:
            optimiser.tell(proposal, [distance(proposal)])
    restarted = again(asked, told)
    before = {key(Space(asked, SIZES).point(params)) for params, _, _ in told}
    assert not {key(restarted.ask().point) for _ in range(4)} & before


def test_searches_of_two_seeds_go_different_ways():
    first, second = (Optimiser(sweep(seed=seed), SIZES) for seed in (0, 1))
    run(first, 10), run(second, 10)
    assert [first.ask().point for _ in range(3)] != [second.ask().point for _ in range(3)]


def test_params_of_another_space_are_refused_in_one_line():
    proposal = Optimiser(sweep("{mixture: {a: 1}, architecture: [mlp, cnn]}"), SIZES).ask()
    with pytest.raises(SweepError, match=r"vary: found a proposal without mixture\.a"):
        Optimiser(sweep(), SIZES).restore(proposal.params, {})
    with pytest.raises(SweepError, match=r"architecture '(mlp|cnn)', which is not possible"):
        Optimiser(sweep("{mixture: {a: 1}, architecture: [vit_tiny, resnet18]}"), SIZES).restore(proposal.params, {})


# Telling --------------------------------------------------------------------------------------------------------------


def trials_of(optimiser: Optimiser):
    """What Optuna is told."""
    return optimiser._study().trials


@pytest.mark.parametrize("values", [None, [math.nan], [math.inf], [-math.inf]])
def test_what_is_not_finite_never_reaches_the_sampler(values):
    optimiser = Optimiser(sweep(), SIZES)
    run(optimiser, 9)
    optimiser.tell(optimiser.ask(), values)
    (trial,) = [trial for trial in trials_of(optimiser) if trial.state.name != "COMPLETE"]
    assert (trial.state.name, trial.values) == ("FAIL", None)
    assert optimiser.ask().number == 10


def test_a_constraint_that_cannot_be_computed_is_a_failure():
    optimiser = Optimiser(sweep(constraints="[{objective: compute, at_most: 1}]"), SIZES)
    optimiser.tell(optimiser.ask(), [0.1], [math.inf])
    assert trials_of(optimiser)[0].state.name == "FAIL"


def test_a_trial_that_was_stopped_early_counts_with_the_value_that_it_had():
    optimiser = Optimiser(sweep(), SIZES)
    optimiser.stopped(optimiser.ask(), 50, 0.25)
    (trial,) = trials_of(optimiser)
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {50: 0.25})


def test_of_several_objectives_a_trial_that_was_stopped_early_says_nothing():
    optimiser = Optimiser(sweep(objective="[worst_gap, compute]"), SIZES)
    optimiser.stopped(optimiser.ask(), 50, 0.25)
    assert trials_of(optimiser)[0].state.name == "FAIL"


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["told", "failed", "stopped", "left"]), min_size=1, max_size=9))
def test_any_history_is_the_same_after_a_restart(ends):
    asked = sweep(CONDITIONAL)
    optimiser, restarted = Optimiser(asked, SIZES), Optimiser(asked, SIZES)
    proposals = []
    for end in ends:
        proposal = optimiser.ask()
        proposals.append((end, proposal))
        finish(optimiser, end, proposal)
    for end, proposal in proposals:
        finish(restarted, end, restarted.restore(json.loads(json.dumps(proposal.params)), proposal.attributes))
    assert restarted.ask() == optimiser.ask()


def finish(optimiser, end, proposal):
    if end == "told":
        optimiser.tell(proposal, [distance(proposal)])
    elif end == "failed":
        optimiser.tell(proposal, [math.nan])
    elif end == "stopped":
        optimiser.stopped(proposal, 10, distance(proposal))


# Finding --------------------------------------------------------------------------------------------------------------


def test_tpe_comes_closer_to_an_optimum_than_random_draws():
    """Over five seeds of forty trials each; the optimum is one of 231 mixtures."""
    tpe = [min(run(Optimiser(sweep(seed=seed), SIZES), 40)) for seed in range(5)]
    chance = []
    for seed in range(5):
        random = parse(sweep().text, "x.yaml", [f"search={{random: {{samples: 40, seed: {seed}}}}}"])
        chance.append(
            min(max(abs(w["a"] - 0.55), abs(w["b"] - 0.3)) for w in (dict(p.weights) for p in points(random, SIZES)))
        )
    assert sorted(tpe)[2] <= 0.05
    assert sum(tpe) < sum(chance)


@pytest.mark.parametrize("written", ["accuracy", "worst_accuracy"])
def test_what_is_to_be_high_is_maximised(written):
    optimiser = Optimiser(sweep(objective=written), SIZES)
    found = run(optimiser, 30, lambda proposal: -distance(proposal))
    assert max(found[12:]) >= -0.05
    assert optimiser._study().direction.name == "MAXIMIZE"


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_constraint_keeps_a_search_out_of_what_violates_it(sampler):
    """The objective pulls towards a = 1, and the constraint forbids a > 0.3. Over three seeds of forty trials each."""

    def high_shares(seed, violation) -> int:
        asked = sweep(sampler=sampler, seed=seed, constraints="[{objective: worst_gap, at_most: 0}]")
        optimiser = Optimiser(asked, SIZES)
        tried = []
        for _ in range(40):
            proposal = optimiser.ask()
            tried.append(shares(proposal)["a"])
            optimiser.tell(proposal, [1 - tried[-1]], [violation(tried[-1])])
        return sum(a > 0.3 for a in tried[12:])

    kept = sum(high_shares(seed, lambda a: a - 0.3) for seed in range(3))
    free = sum(high_shares(seed, lambda a: -1.0) for seed in range(3))
    assert kept < 0.8 * free


def test_the_even_design_is_the_first_population_of_a_genetic_search():
    optimiser = Optimiser(sweep(sampler="nsga2"), SIZES)
    proposals = []
    for _ in range(2 * optimiser.startup + 1):
        proposals.append(optimiser.ask())
        optimiser.tell(proposals[-1], [distance(proposals[-1])])
    generations = [proposal.attributes.get("generation", 0) for proposal in proposals]
    assert generations == [0] * optimiser.startup + [1] * optimiser.startup + [2]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_several_objectives_are_traded_off(sampler):
    """Less of a against less of b: what is best has no c, and there is more than one."""
    optimiser = Optimiser(sweep(sampler=sampler, objective="[{gap: a}, {gap: b}]"), SIZES)
    for _ in range(24):
        proposal = optimiser.ask()
        optimiser.tell(proposal, [(1 - shares(proposal)["a"]) ** 2, (1 - shares(proposal)["b"]) ** 2])
    front = optimiser._study().best_trials
    assert len(front) > 2
    assert len({tuple(trial.values) for trial in front}) > 2


def test_the_points_of_an_earlier_sweep_spare_the_even_design():
    warm, cold = Optimiser(sweep(), SIZES), Optimiser(sweep(), SIZES)
    taught = [cold.ask() for _ in range(12)]
    assert all(warm.warm(proposal.point, [distance(proposal)]) for proposal in taught)
    asked = [warm.ask() for _ in range(6)]
    assert "draw" not in asked[4].attributes  # after the starting points the sampler itself
    assert "draw" in taught[4].attributes


def test_a_point_of_an_earlier_sweep_that_lies_elsewhere_or_has_no_value_is_left_out():
    optimiser = Optimiser(sweep("{mixture: {simplex: {resolution: 20, max: {a: 0.5}}}}"), SIZES)
    corners = [Optimiser(sweep(), SIZES)] * 2
    centroid, only_a = (optimiser_.ask().point for optimiser_ in corners)
    assert not optimiser.warm(only_a, [0.1])
    assert not optimiser.warm(centroid, [math.nan])
    assert optimiser.warm(centroid, [0.1])


# The Gaussian process, which takes seconds to ask ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_gaussian_process_asks_the_same_after_a_restart_and_comes_close():
    asked = sweep(sampler="gp")
    optimiser, told = Optimiser(asked, SIZES), []
    for _ in range(14):
        proposal = optimiser.ask()
        told.append((proposal.params, proposal.attributes, [distance(proposal)]))
        optimiser.tell(proposal, told[-1][2])
    assert again(asked, told).ask() == optimiser.ask()
    assert min(values[0] for _, _, values in told) <= 0.1


# What is imported -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "allowed"),
    [
        ("grid", set()),
        ("{random: {samples: 3}}", set()),
        ("{optuna: {samples: 6}}", set()),
        ("{sobol: {samples: 6}}", {"scipy", "numpy"}),
    ],
)
def test_planning_imports_no_optuna_and_scipy_only_for_its_sequence(search, allowed):
    program = (
        "import sys; from orchestrator import space, sweep\n"
        "assert list(space.points(sweep.parse(sys.argv[1], 'x.yaml', [f'search={sys.argv[2]}']), {}))\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, sweep().text, search], capture_output=True, text=True, check=True
    )
    assert {"optuna", "scipy", "torch", "ray", "mlflow"} & set(done.stdout.split()) <= allowed
