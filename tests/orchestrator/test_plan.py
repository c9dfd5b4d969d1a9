"""From a sweep to trials, unique stages and a price."""

import gc
import subprocess
import sys
import time
from itertools import pairwise
from typing import get_args

import pytest
from strategies import component

from orchestrator.analysis.statistics import smallest_detectable
from orchestrator.plan import architectures, costs, detectable, plan, price, schedule
from orchestrator.sweep import SweepError, parse
from trainables.facts import NetworkSize
from trainables.ordering import index_stream
from trainables.spec import SHUFFLED, PretrainSpec

TEXT = """
name: small
question: What is kept?
components: {a: {dataset: digits}, b: {dataset: digits, classes: [0, 1]}}
vary: {mixture: [{a: 1, b: 1}, {a: 3, b: 1}], architecture: mlp, width: [0.5, 1]}
seeds: 2
pretrain: {steps: 10, batch_size: 20}
"""
COMPONENTS = {"a": component("a", 100), "b": component("b", 40)}


def planned(text=TEXT, *changes):
    return plan(parse(text, "small.yaml", changes), COMPONENTS)


def sized(found):
    return {a.digest: NetworkSize(parameters=10, flops=1000, num_features=8) for a in architectures(found)}


def runs(found):
    return {s.digest: s for t in found.trials for s in t.stages() if isinstance(s, PretrainSpec)}


def test_there_is_one_trial_per_point_and_one_cell_per_seed_and_component():
    found = planned()
    assert len(found.trials) == 4
    assert [(c.seed, c.component) for c in found.trials[0].cells] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert [c.weight for c in found.trials[2].cells] == [0.75, 0.25, 0.75, 0.25]


def test_a_direct_baseline_is_shared_by_every_mixture_of_its_width_and_seed():
    found = planned()
    by_hand = {(t.design.width, c.seed, c.component): c.direct.members[0].digest for t in found.trials for c in t.cells}
    assert len(by_hand) == len(set(by_hand.values())) == 8
    counted = price(found, sized(found), ())
    # 2 mixtures x 2 widths x 2 seeds; baselines of 2 components, initialisations at 2 widths x 2 seeds, the raw input.
    assert (counted.pretrainings, counted.baselines, counted.initialisations) == (8, 8, 4 + 1)
    # Each of these networks is probed: the mixtures and initialisations for 2 components, the baselines for their own.
    assert counted.probes == 2 * 8 + 8 + 2 * 4 + 2


def test_a_mixture_of_one_component_is_that_components_baseline():
    found = planned(TEXT, "vary.mixture=[{a: 1, b: 1}, {a: 1}]")
    alone = next(t for t in found.trials if t.design.mixture_label == "a 100 %")
    assert alone.cells[0].transfer == alone.cells[0].direct
    assert price(found, sized(found), ()).pretrainings == 4


@pytest.mark.parametrize("ordering", ["{sequential: [a, b]}", "{withheld: {component: a, from: 0, until: 0.5}}"])
def test_an_ordering_makes_no_other_stage_of_a_component_alone(ordering):
    found = planned(TEXT, f"vary.ordering={ordering}", "vary.mixture={a: 1}")
    assert found.trials[0].cells[0].transfer == found.trials[0].cells[0].direct


def test_doubling_weights_and_naming_components_otherwise_are_the_same_work():
    renamed = TEXT.replace("a: {dataset", "x: {dataset")
    renamed = renamed.replace("{a: 1, b: 1}, {a: 3, b: 1}", "{b: 4, x: 4}, {b: 2, x: 6}")
    other = plan(parse(renamed, "small.yaml"), {"x": COMPONENTS["a"], "b": COMPONENTS["b"]})
    assert set(runs(other)) == set(runs(planned()))


def test_kinds_of_direct_baseline():
    mixture = ["vary.mixture=[{a: 1}, {a: 1, b: 1}]", "vary.train_examples=20"]
    steps = planned(TEXT, *mixture, "direct.kind=same_steps").trials[-1].cells[0].direct.members[0]
    assert (steps.training.steps, steps.mixture.shares[0].pool) == (10, 100)
    examples = planned(TEXT, *mixture, "direct.kind=same_examples")
    baseline = examples.trials[-1].cells[0].direct.members[0]
    assert (baseline.training.steps, baseline.mixture.shares[0].pool) == (10, 10)
    # Unlimited, 200 shown in all: a tenth of them are of b, which has 40.
    few = planned(TEXT, "vary.mixture={a: 9, b: 1}", "direct.kind=same_examples").trials[0].cells[1]
    assert (few.component, few.direct.members[0].mixture.shares[0].distinct) == ("b", 20)
    assert few.direct.members[0].mixture.shares[0].shown == 200
    seen = index_stream(few.transfer.members[0].mixture, SHUFFLED, 0)
    alone = index_stream(few.direct.members[0].mixture, SHUFFLED, 0)
    assert set(alone.example) == set(seen.example[seen.component == 1])
    unseen = examples.trials[0].cells[1]
    assert (unseen.component, unseen.direct) == ("b", None)
    full = planned(TEXT, *mixture, "direct={kind: full, steps: 33}").trials[-1].cells[0].direct.members[0]
    assert (full.training.steps, full.mixture.shares[0].pool) == (33, 100)
    tuned = planned(TEXT, "direct.kind=full").trials[0].cells[0]
    assert [probe.members[0].training.steps for probe in (tuned.direct, *tuned.budgets)] == [10, 20]


def test_members_of_a_concatenation_are_ordinary_pretrainings():
    found = planned(TEXT, "vary.representation=[single, {cat: 2}, {time_cat: 2}]")
    single, cat, time_cat = (next(t for t in found.trials if t.design.representation == r)
                             for r in ("single", "cat:2", "time_cat:2"))  # fmt: skip
    members = cat.cells[0].transfer.members
    assert members[0] == single.cells[0].transfer.members[0]
    assert members[1].seed not in (0, 1)
    assert {m.training.steps for m in time_cat.cells[0].transfer.members} == {5}
    assert len(cat.cells[0].random_init.members) == 2
    assert members[1].pool_seed is None
    limited = planned(TEXT, "vary.representation={cat: 2}", "vary.train_examples=20").trials[0].cells[0]
    assert [m.pool_seed for m in limited.transfer.members] == [0, 0]
    assert time_cat.cells[0].direct == single.cells[0].direct


def test_trials_on_a_gpu_train_in_bfloat16_and_are_other_work():
    on_cpu, on_gpu = planned(), planned(TEXT, "resources.gpu=0.5")
    precisions = {s.training.precision for s in runs(on_gpu).values() if s.mixture.shares}
    assert precisions == {"bfloat16"}
    shared = set(runs(on_cpu)) & set(runs(on_gpu))
    assert {runs(on_cpu)[digest].training.steps for digest in shared} == {0}


def test_the_store_takes_away_from_what_is_to_do_and_from_nothing_else():
    found = planned()
    sizes = sized(found)
    empty = price(found, sizes, ())
    everything = set(costs(found, sizes))
    assert price(found, sizes, everything).examples == 0
    assert price(found, sizes, everything).flops == 0
    assert price(found, sizes, everything).share_saved == 1
    one = next(iter(runs(found)))
    assert price(found, sizes, {one}).examples == empty.examples - 200
    assert empty.stages == len(everything)
    assert 0 < empty.share_saved < 1


def test_a_price_by_hand():
    alone = ["components={a: {dataset: digits}}", "vary={mixture: {a: 1}, architecture: mlp}", "seeds=1"]
    found = plan(parse(TEXT, "small.yaml", alone), {"a": COMPONENTS["a"]})
    counted = price(found, sized(found), ())
    assert counted.examples == 200  # the mixture is the baseline
    probe = 110 * 1000 + 4 * 100 * 8 * 3 * 60 * 5
    assert counted.flops == 200 * 1000 * 3 + 3 * probe  # direct and transfer are one; random features; the raw input


def test_the_longest_trial_comes_first_and_every_stage_belongs_to_one_trial():
    found = planned(TEXT, "vary.steps=[10, 40, 20]")
    order = schedule(found, sized(found), ())
    assert [a.trial.design.steps for a in order[:4]] == [40] * 4
    needed = [s.digest for a in order for s in a.first_needs]
    assert len(needed) == len(set(needed)) == len(costs(found, sized(found)))
    assert all(a.flops >= 0 for a in order)
    whole = [sum(f for s, f in costs(found, sized(found)).values() if s in a.trial.stages()) for a in order]
    assert all(first >= second for first, second in pairwise(whole))


def test_a_trial_that_the_store_has_whole_is_not_scheduled():
    found = planned()
    first = {s.digest for s in found.trials[0].stages()}
    assert found.trials[0].digest not in {a.trial.digest for a in schedule(found, sized(found), first)}
    assert schedule(found, sized(found), set(costs(found, sized(found)))) == []


def test_baselines_come_before_what_is_compared_with_them():
    trial = planned().trials[0]
    stages = list(trial.stages())
    last_baseline = max(stages.index(c.direct) for c in trial.cells)
    assert last_baseline < min(stages.index(c.transfer) for c in trial.cells)
    assert all(stages.index(r) < stages.index(s) for s in stages for r in s.requires)


def test_components_with_the_same_examples_are_refused():
    twins = {"a": COMPONENTS["a"], "b": COMPONENTS["a"]}
    with pytest.raises(SweepError, match=r"small.yaml:4: components.b: .*same examples as in 'a'"):
        plan(parse(TEXT, "small.yaml"), twins)


def test_a_weight_too_small_for_one_example_is_refused_with_its_place():
    with pytest.raises(SweepError, match=r"small.yaml:5: vary.mixture: component 'b' has weight .* less than one"):
        planned(TEXT.replace("{a: 3, b: 1}", "{a: 1, b: 0.000001}"))


def test_a_hundred_thousand_cells_plan_in_under_five_seconds():
    steps = [100 + s for s in range(100)]
    axes = f"vary={{mixture: {{simplex: {{resolution: 99}}}}, steps: {steps}, train_examples: [50, 100]}}"
    sweep = parse(TEXT, "big.yaml", [axes, "seeds=5"])
    seconds = []
    for _ in range(2):  # whatever else runs at the time only adds to it
        gc.collect()
        started = time.process_time()
        found = plan(sweep, COMPONENTS)
        counted = price(found, sized(found), ())
        seconds.append(time.process_time() - started)
        assert counted.replicates == 100_000  # each a pretraining and the probes of two components
        del found, counted
    assert min(seconds) < 5


def test_planning_and_analysis_import_neither_torch_nor_ray_nor_mlflow():
    code = (
        "import sys; import orchestrator.plan, orchestrator.prepare, orchestrator.space, orchestrator.sweep,"
        " orchestrator.analysis.gaps, orchestrator.results\n"
        "print([m for m in ('torch', 'torchvision', 'ray', 'mlflow') if m in sys.modules])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == "[]"


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 20, 30, 100])
def test_the_smallest_detectable_gap_of_a_plan_is_that_of_the_statistics(seeds):
    assert detectable(seeds) == pytest.approx(smallest_detectable(1.0, seeds), rel=0.01 if seeds > 20 else 1e-3)


def test_one_seed_detects_nothing():
    assert detectable(1) is None


def test_the_words_of_a_sweep_are_the_protocols_deficits_and_guides_that_there_are():
    from orchestrator import transfer
    from orchestrator.training import Deficit
    from trainables import deficits, protocols

    assert set(transfer.PROTOCOLS) == set(protocols.PROTOCOLS)
    assert set(transfer.FINE_TUNING) == protocols.FINETUNING
    assert set(transfer.LINEAR) == protocols.LINEAR
    assert set(get_args(Deficit.model_fields["kind"].annotation)) == set(deficits.DEFICITS)
