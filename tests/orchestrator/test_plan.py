"""From a sweep to trials, unique stages and a price."""

import gc
import hashlib
import subprocess
import sys
import time
from itertools import pairwise
from typing import get_args

import pytest
from strategies import component

from orchestrator.analysis.statistics import smallest_detectable
from orchestrator.plan import architectures, costs, detectable, plan, price, schedule, trial_json
from orchestrator.sweep import SweepError, parse
from trainables.checkpoints import schedule as checkpoint_schedule
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


def test_a_precision_that_is_asked_for_is_the_same_work_on_a_cpu_and_on_a_gpu():
    for precision in ("float32", "bfloat16"):
        on_cpu, on_gpu = (planned(TEXT, f"pretrain.precision={precision}", f"resources.gpu={gpu}") for gpu in (0, 0.5))
        assert {s.training.precision for s in runs(on_cpu).values() if s.mixture.shares} == {precision}
        assert set(runs(on_cpu)) == set(runs(on_gpu))


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


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("vary.mixture=[{a: 1}, {b: 1}, {a: 1, b: 1}, {a: 3, b: 1}]", "direct.kind=same_examples"),  # also baselines
        ("direct={kind: full, steps: [5, 10]}", "retention=true", "trajectory={points: 4}"),
        ("vary.representation=[single, {cat: 2}, {time_cat: 2}, {complement: 2}, {distilled: 2}, {snapshots: 2}]",),
        ("transfer={protocols: [linear_probe, ridge, finetune], shots: [5, all]}", "vary.train_examples=[50, all]"),
    ],
)
def test_stages_and_their_price_are_those_of_the_trials_one_by_one(changes):
    found = planned(TEXT, *changes)
    one_by_one = [list(trial.stages()) for trial in found.trials]
    by_digest = {stage.digest: stage for stages in one_by_one for stage in stages}
    assert found.stages == by_digest
    prices = costs(found, sized(found))
    assert prices.keys() == by_digest.keys()
    stored = {digest for digest in by_digest if digest < "5"}
    counted = price(found, sized(found), stored)
    assert counted.alone == sum(map(len, one_by_one))
    assert counted.flops_alone == sum(prices[stage.digest][1] for stages in one_by_one for stage in stages)
    assert counted.flops == sum(prices[digest][1] for digest in by_digest.keys() - stored)
    assert (counted.stages, counted.stored) == (len(by_digest), len(stored))
    cells = [cell for trial in found.trials for cell in trial.cells]
    baselines = {probe.members[0].digest for c in cells for probe in (c.direct, *c.budgets) if probe}
    runs = {d: s for d, s in by_digest.items() if s.kind == "pretrain" and s.until is None and s.mixture.shares}
    assert (counted.baselines, counted.pretrainings) == (len(baselines), len(runs.keys() - baselines))
    assert counted.examples == sum(runs[digest].mixture.num_examples for digest in runs.keys() - stored)


def test_planning_takes_a_few_times_as_long_as_making_the_digests():
    steps = [100 + s for s in range(20)]
    axes = f"vary={{mixture: {{simplex: {{resolution: 99}}}}, steps: {steps}, train_examples: [50, 100]}}"
    sweep = parse(TEXT, "big.yaml", [axes, "seeds=5"])
    ratios = []
    for _ in range(3):  # whatever else runs at the time slows both
        gc.collect()
        started = time.process_time()
        found = plan(sweep, COMPONENTS)
        counted = price(found, sized(found), ())
        planned = time.process_time() - started
        assert counted.replicates == 20_000  # each a pretraining and the probes of two components
        del found, counted
        started = time.process_time()
        for number in range(60_000):  # one for each of these stages
            hashlib.sha256(b"%150d" % number).hexdigest()
        ratios.append(planned / (time.process_time() - started))
    assert min(ratios) < 30  # 12 to 22 on a busy machine


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


# Retention, trajectories and representations --------------------------------------------------------------------------

ONE_POINT = "vary={mixture: {a: 1, b: 1}, architecture: mlp}"


def cell(found, seed=0, name="a", trial=0):
    return next(c for c in found.trials[trial].cells if (c.seed, c.component) == (seed, name))


def test_retention_compares_with_the_direct_network_another_seeds_and_the_members_untrained():
    found = planned(TEXT, ONE_POINT, "vary.representation={cat: 2}", "seeds=[3, 5, 8]", "retention={examples: 50}")
    for seed, following in ((3, 5), (5, 8), (8, 3)):
        ours = cell(found, seed)
        asked = ours.retention
        assert asked.members == ours.transfer.members
        assert asked.direct == ours.direct.members[0]
        assert asked.ceiling == cell(found, following).direct.members[0]
        assert asked.floor == ours.random_init.members
        assert [m.seed for m in asked.floor] == [m.seed for m in asked.members]
        assert (asked.examples, asked.layers, asked.component) == (50, False, COMPONENTS["a"])


def test_retention_with_one_seed_has_no_ceiling_and_without_a_baseline_no_reference():
    alone = cell(planned(TEXT, ONE_POINT, "seeds=1", "retention=true")).retention
    assert (alone.direct is None, alone.ceiling) == (False, None)
    unseen = planned(TEXT, ONE_POINT, "vary.mixture={a: 1}", "direct.kind=same_examples", "retention=true")
    assert (cell(unseen, name="b").retention.direct, cell(unseen, name="b").retention.ceiling) == (None, None)


def test_retention_of_a_tuned_baseline_is_of_the_smallest_budget():
    found = planned(TEXT, ONE_POINT, "direct={kind: full, steps: [30, 20]}", "retention=true")
    asked = cell(found).retention
    assert (asked.direct.steps, asked.ceiling.steps) == (20, 20)
    assert price(found, sized(found), ()).baselines == 2 * 2 * 2


def test_retention_and_trajectory_are_of_the_primary_protocol_alone():
    found = planned(TEXT, ONE_POINT, "transfer={protocols: [knn, ridge], shots: [2, all]}", "retention=true",
                    "trajectory=true")  # fmt: skip
    for seed in (0, 1):
        ours = [c for c in found.trials[0].cells if (c.seed, c.component) == (seed, "a")]
        assert [c.primary for c in ours] == [True, False, False, False]
        assert [c.retention is not None for c in ours] == [c.trajectory is not None for c in ours]
        assert [c.retention is not None for c in ours] == [True, False, False, False]


def test_a_trajectory_is_one_run_from_its_initialisation_to_its_end():
    found = planned(TEXT, ONE_POINT, "trajectory={points: 4, examples: 60, plasticity_steps: 5}")
    ours = cell(found, 1)
    asked, (run,) = ours.trajectory, ours.transfer.members
    assert asked.steps == checkpoint_schedule(10, 4) == (0, 1, 3, 10)
    start, *between, end = asked.checkpoints
    assert end == run
    assert [c.until for c in between] == [1, 3]
    assert {c.run for c in between} == {run}
    assert (start.mixture.shares, start.seed, start) == ((), 1, ours.random_init.members[0])
    assert (asked.direct, asked.examples, asked.plasticity_steps) == (ours.direct.members[0], 60, 5)
    assert cell(found, 1, "b").trajectory.checkpoints == asked.checkpoints


def test_a_short_run_has_a_checkpoint_at_every_step():
    assert cell(planned(TEXT, ONE_POINT, "pretrain.steps=3", "trajectory=true")).trajectory.steps == (0, 1, 2, 3)


def test_of_several_networks_the_first_has_a_trajectory_and_of_untrained_ones_none():
    axis = "vary.representation=[{cat: 2}, {snapshots: 2}, random_init]"
    cat, snapshots, untrained = (cell(planned(TEXT, ONE_POINT, axis, "trajectory=true"), trial=t) for t in range(3))
    assert cat.trajectory.run == cat.transfer.members[0]
    assert snapshots.trajectory.run == snapshots.transfer.members[-1]
    assert untrained.trajectory is None


def test_checkpoints_retentions_and_trajectories_are_counted_each_once():
    found = planned(TEXT, ONE_POINT, "transfer.protocols=[linear_probe, knn]", "retention=true",
                    "trajectory={points: 4}")  # fmt: skip
    counted = price(found, sized(found), ())
    # One mixture, 2 seeds: 2 runs, each with 2 checkpoints between its ends; measured for 2 components each.
    assert (counted.pretrainings, counted.baselines, counted.initialisations) == (2, 4, 2 + 1)
    assert (counted.checkpoints, counted.retentions, counted.trajectories) == (2 * 2, 4, 4)
    assert counted.stages == len(costs(found, sized(found)))


def test_checkpoints_cost_nothing_and_show_no_examples_of_their_own():
    without, found = planned(TEXT, ONE_POINT), planned(TEXT, ONE_POINT, "trajectory={points: 4}")
    priced = costs(found, sized(found))
    between = [flops for stage, flops in priced.values() if isinstance(stage, PretrainSpec) and stage.until]
    assert between == [0.0] * 4
    before, after = price(without, sized(without), ()), price(found, sized(found), ())
    assert after.examples == before.examples
    trajectories = sum(flops for stage, flops in priced.values() if stage.kind == "trajectory")
    assert after.flops - before.flops == pytest.approx(trajectories)
    assert trajectories > 0


def test_snapshots_cost_what_one_run_costs():
    single, several = (planned(TEXT, ONE_POINT, f"vary.representation={r}") for r in ("single", "{snapshots: 5}"))
    members = cell(several).transfer.members
    assert [m.steps for m in members] == [2, 4, 6, 8, 10]
    assert {m.training.cycles for m in members} == {5}
    assert price(several, sized(several), ()).examples == price(single, sized(single), ()).examples
    assert price(several, sized(several), ()).checkpoints == 2 * 4


def test_every_network_of_every_representation_is_in_the_plan_once_and_shared():
    axis = "vary.representation=[single, {cat: 2}, {wide: 2}, {distilled: 2}, {bonsai: 2}]"
    found = planned(TEXT, ONE_POINT, axis)
    single, cat, wide, distilled, bonsai = (cell(found, trial=t).transfer.members for t in range(5))
    assert cat[0] == single[0]
    assert distilled[0].guide.teachers == cat
    assert (len(distilled), distilled[0].guide.kind, distilled[0].steps) == (1, "distil", 10)
    first, second = bonsai[0].guide.teachers
    assert (first.guide, second.guide.kind, second.guide.teachers) == (None, "reweight", (first,))
    assert first.steps == second.steps == bonsai[0].steps
    assert 3 * bonsai[0].steps <= 10
    assert (wide[0].architecture.width, wide[0].training) == (2.0, single[0].training)
    assert wide[0].architecture in architectures(found)
    assert cell(found, trial=2).random_init.members[0].architecture == wide[0].architecture
    # single and cat:2 are two networks; a student, a wide one; two rounds and their student.
    counted = price(found, sized(found), ())
    assert (counted.pretrainings, counted.baselines) == (2 * (2 + 1 + 1 + 3), 4)
    for trial in found.trials:
        stages = list(trial.stages())
        assert all(stages.index(required) < stages.index(s) for s in stages for required in s.requires)


def test_what_a_student_costs_has_its_looks_at_its_teachers():
    found = planned(TEXT, ONE_POINT, "vary.representation=[{cat: 2}, {distilled: 2}]", "seeds=1")
    (student,) = cell(found, trial=1).transfer.members
    priced = costs(found, sized(found))
    distinct = sum(share.distinct for share in student.mixture.shares)
    assert priced[student.digest][1] == (3 * 200 + 2 * distinct) * 1000
    assert priced[student.guide.teachers[0].digest][1] == 3 * 200 * 1000


def test_what_a_row_is_paid_for_and_taught_by_is_written_down():
    axis = "vary.representation=[{snapshots: 2}, {distilled: 2}, {complement: 2}]"
    found = planned(TEXT, ONE_POINT, axis, "seeds=1")
    snapshots, distilled, complement = (trial_json(trial)["cells"][0] for trial in found.trials)
    assert snapshots["paid"] == snapshots["pretrain"][-1:]
    assert snapshots["teachers"] == []
    (student,) = cell(found, trial=1).transfer.members
    assert distilled["paid"] == distilled["pretrain"] == [student.digest]
    assert distilled["teachers"] == sorted(teacher.digest for teacher in student.guide.teachers)
    assert sorted(complement["pretrain"]) == complement["paid"]
    assert complement["teachers"] == []
