"""Which networks a probe reads, and how each of them is pretrained."""

import pytest
from strategies import component

from trainables.mixture import mixture_of
from trainables.representation import KINDS, SIDE_BY_SIDE, Pretraining, fewest_steps, members, parse, untrained
from trainables.spec import Architecture, PretrainSpec, ProbeSpec, Training, in_order

A, B = component("a", 100), component("b", 100)
BATCH = 20


def pretraining(seed=0, steps=1000):
    return Pretraining(
        mixture=lambda s: mixture_of(
            {"a": 1, "b": 1}, {"a": A, "b": B}, num_examples=s * BATCH, train_examples=None, label_space="joint"
        ),
        run=lambda mixture, architecture, training, s: PretrainSpec(
            mixture=mixture, architecture=architecture, training=training, seed=s
        ),
        architecture=Architecture(name="mlp", image_shape=(1, 8, 8)),
        training=lambda s: Training(steps=s, batch_size=BATCH),
        steps=steps,
        seed=seed,
    )


def steps_of(representation):
    return [member.steps for member in members(representation, pretraining())]


def arithmetic(representation):
    """Forward passes of one example in all of the pretraining behind a representation."""
    runs = [s for s in in_order(members(representation, pretraining())) if s.until is None]
    return sum(3 * run.num_examples + run.guided_examples for run in runs)


def test_a_representation_is_read_from_its_name():
    assert [parse(name) for name in ("single", "cat:4", "time_cat:2")] == [("single", 1), ("cat", 4), ("time_cat", 2)]


def test_time_cat_shares_the_steps_out_and_cat_does_not():
    assert (steps_of("single"), steps_of("cat:2"), steps_of("time_cat:4")) == ([1000], [1000, 1000], [250] * 4)


def test_the_first_member_is_the_replicate_itself_and_replicates_share_no_other():
    seeds = [pretraining(seed).seeds(4) for seed in range(5)]
    assert [found[0] for found in seeds] == list(range(5))
    assert len({seed for found in seeds for seed in found}) == 20
    assert pretraining(3).seeds(2) == pretraining(3).seeds(4)[:2]


def test_concatenations_share_their_members_with_each_other():
    single, cat2, cat4 = (members(r, pretraining()) for r in ("single", "cat:2", "cat:4"))
    assert single == cat2[:1]
    assert cat2 == cat4[:2] == members("cat_pca:2", pretraining()) == members("cat_average:2", pretraining())


def test_snapshots_are_checkpoints_of_one_run_at_the_ends_of_its_cycles():
    found = members("snapshots:4", pretraining())
    assert [member.steps for member in found] == [250, 500, 750, 1000]
    assert {member.run for member in found} == {found[-1]}
    assert (found[-1].training.schedule, found[-1].training.cycles) == ("cosine", 4)


def test_a_wide_network_is_one_network_of_more_width():
    (member,) = members("wide:3", pretraining())
    assert (member.architecture.width, member.seed) == (3, 0)
    assert untrained("wide:3", pretraining())[0].architecture == member.architecture


def test_a_distilled_network_learns_from_the_members_of_cat():
    (student,) = members("distilled:3", pretraining())
    assert student.guide.teachers == members("cat:3", pretraining())
    assert student.seed not in pretraining().seeds(3)


def test_rounds_of_bonsai_know_the_rounds_before_and_cost_no_more_than_one_run():
    (student,) = members("bonsai:3", pretraining())
    rounds = student.guide.teachers
    assert [len(r.guide.teachers) if r.guide else 0 for r in rounds] == [0, 1, 2]
    # 200 distinct examples are looked at 1 + 2 times by the rounds and 3 times by the student: 20 steps of 20 examples.
    assert {r.steps for r in (*rounds, student)} == {245}
    assert arithmetic("bonsai:3") == arithmetic("single")


def test_members_that_complement_each_other_cost_no_more_than_one_run():
    found = members("complement:4", pretraining())
    assert [len(m.guide.teachers) if m.guide else 0 for m in found] == [0, 1, 2, 3]
    # 200 distinct examples go once through each of 6 teachers: 1200 passes are 20 steps of 20 examples, 5 for each.
    assert {m.steps for m in found} == {245}
    assert arithmetic("complement:4") == arithmetic("single") == 60_000


@pytest.mark.parametrize("steps", [8, 30, 100, 1000])
@pytest.mark.parametrize("label", ["complement:4", "complement:8", "bonsai:2", "bonsai:4"])
def test_what_looking_at_teachers_costs_is_paid_from_the_steps(label, steps):
    runs = list(in_order(members(label, pretraining(steps=steps))))
    cost = sum(3 * run.num_examples + run.guided_examples for run in runs)
    budget = 3 * BATCH * steps
    assert cost <= budget or {run.steps for run in runs} == {1}
    longer = cost + len(runs) * 3 * BATCH + sum(BATCH * len(run.guide.teachers) for run in runs if run.guide)
    assert longer > budget


def test_snapshots_are_read_after_the_run_that_leaves_them():
    spec = ProbeSpec(members=members("snapshots:4", pretraining()), component=A)
    assert [stage.steps for stage in spec.requires] == [1000, 750, 500, 250]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_as_many_untrained_networks_as_the_probe_reads(kind):
    label = kind if kind == "single" else f"{kind}:2"
    there = members(label, pretraining())
    assert len(untrained(label, pretraining())) == len(there) == (2 if kind in SIDE_BY_SIDE else 1)
    assert not any(member.mixture.shares for member in untrained(label, pretraining()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_fewest_steps_are_enough_for_every_network(kind):
    label = kind if kind == "single" else f"{kind}:3"
    shortest = pretraining(steps=fewest_steps(label))
    assert all(stage.steps >= 1 for stage in in_order(members(label, shortest)) if stage.mixture.shares)
