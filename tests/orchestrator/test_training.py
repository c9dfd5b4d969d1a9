"""What `pretrain` may say, and what a point of the design changes of it."""

import pytest
from strategies import component

from orchestrator.plan import plan
from orchestrator.sweep import SweepError, parse, resolved
from trainables import spec

TEXT = """\
name: small
question: What is kept?
components: {a: {dataset: digits}, b: {dataset: digits, classes: [0, 1]}}
vary: {mixture: {a: 1, b: 1}, architecture: mlp}
seeds: 1
pretrain: {steps: 10, batch_size: 20, weight_decay: 0.001}
"""
COMPONENTS = {"a": component("a", 100), "b": component("b", 40)}
DEFICIT = "{kind: blur, window: [0, 0.4]}"


def parsed(*changes):
    return parse(TEXT, "small.yaml", changes)


def changes(written, *others):
    return parsed(f"vary.training={written}", *others).vary.training


def planned(*others):
    return plan(parsed(*others), COMPONENTS).trials


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("{}", ""),
        ("{weight_decay: 0}", "weight_decay 0"),
        ("{weight_decay: 0.0005}", "weight_decay 0.0005"),
        ("{dropout: 0.5, optimizer: adamw}", "optimizer adamw, dropout 0.5"),  # in the order of the keys of pretrain
        ("{augment: [flip, crop]}", "augment flip crop"),
        ("{augment: []}", "augment none"),
        ("{schedule: trapezoid, decay_share: 1}", "schedule trapezoid, decay_share 1"),
        ("{cycles: 4}", "cycles 4"),
        (f"{{deficit: {DEFICIT}}}", "deficit blur 0-0.4"),
        ("{deficit: null}", "deficit none"),
    ],
)
def test_a_change_is_called_by_the_keys_that_are_written(written, label):
    (change,) = changes(f"[{written}]")
    assert change.label == label


def test_a_change_of_nothing_is_pretrain_itself():
    found = parsed()
    (change,) = found.vary.training
    assert change.of(found.pretrain) == found.pretrain


def test_only_what_is_written_changes_even_to_what_is_the_default():
    pretrain = parsed("pretrain.schedule=trapezoid", "pretrain.dropout=0.1").pretrain
    (change,) = changes("{weight_decay: 0, schedule: cosine}")
    changed = change.of(pretrain)
    assert (changed.weight_decay, changed.schedule) == (0, "cosine")
    assert (changed.dropout, changed.batch_size, changed.steps) == (0.1, 20, 10)


def test_a_change_takes_a_deficit_away_or_puts_another_in_its_place():
    pretrain = parsed(f"pretrain.deficit={DEFICIT}").pretrain
    (without,) = changes("{deficit: null}")
    (other,) = changes("{deficit: {kind: noise, window: [0.5, 1]}}")
    assert without.of(pretrain).training(10) == spec.Training(steps=10, batch_size=20, weight_decay=0.001)
    impaired = other.of(pretrain).training(10)
    assert (impaired.deficit, impaired.deficit_window) == ("noise", (0.5, 1))


def test_every_key_of_pretrain_reaches_the_training_of_a_run():
    written = {
        "optimizer": "adamw", "learning_rate": 0.003, "momentum": 0.8, "weight_decay": 0.02, "schedule": "trapezoid",
        "warmup_share": 0.1, "decay_share": 0.4, "label_smoothing": 0.1, "dropout": 0.2,
        "precision": "bfloat16",
    }  # fmt: skip
    found = parsed(*(f"pretrain.{key}={value}" for key, value in written.items()), "pretrain.augment=[crop]")
    assert found.pretrain.training(7) == spec.Training(steps=7, batch_size=20, augment=("crop",), **written)
    assert parsed("pretrain.cycles=3").pretrain.training(7).cycles == 3


def test_a_change_may_make_possible_what_pretrain_alone_does_not_have():
    found = parsed("pretrain.schedule=one_cycle", "vary.training={schedule: cosine, cycles: 2, warmup_share: 0.1}")
    assert found.vary.training[0].of(found.pretrain).cycles == 2


@pytest.mark.parametrize(
    ("change", "pretrain", "message"),
    [
        ("{cycles: 2}", "schedule=one_cycle", r"vary.training\[1\]: found 2; one_cycle has one"),
        ("{schedule: constant}", "cycles=2", r"vary.training\[1\]: found 2; constant has one"),
        ("{schedule: one_cycle}", "warmup_share=0.1", r"vary.training\[1\]: found 0.1; one_cycle has a warm-up"),
        ("{batch_size: 2}", "dropout=0", r"vary.training\[1\].batch_size: found batch_size, which is no change"),
    ],
)
def test_a_change_that_pretrain_does_not_bear_is_refused_at_its_place(change, pretrain, message):
    with pytest.raises(SweepError, match=message):
        parsed(f"vary.training=[{{dropout: 0.3}}, {change}]", f"pretrain.{pretrain}")


@pytest.mark.parametrize("first", ["{}", "{deficit: null}"])
@pytest.mark.parametrize("second", ["{weight_decay: 0}", "{schedule: cosine}", "{dropout: 0}"])
def test_a_change_to_a_default_is_another_change_than_none(first, second):
    assert len(changes(f"[{first}, {second}]", "pretrain.schedule=trapezoid", "pretrain.dropout=0.1")) == 2


def test_changes_survive_being_written_and_read():
    written = f"[{{}}, {{weight_decay: 0.0005}}, {{deficit: {DEFICIT}, augment: []}}, {{schedule: trapezoid}}]"
    found = parsed(f"vary.training={written}", "pretrain.deficit={kind: flip, window: [0.1, 0.2]}")
    again = parse(resolved(found), "again.yaml")
    assert again == found
    assert [change.label for change in again.vary.training] == [change.label for change in found.vary.training]
    assert [change.changes for change in again.vary.training] == [change.changes for change in found.vary.training]


# In a plan ------------------------------------------------------------------------------------------------------------


def test_each_change_is_a_trial_that_is_named_by_it():
    trials = planned("vary.training=[{}, {weight_decay: 0.1}]")
    assert [trial.design.training for trial in trials] == ["", "weight_decay 0.1"]
    assert [trial.cells[0].transfer.members[0].training.weight_decay for trial in trials] == [0.001, 0.1]
    assert trials[1].design.label.endswith("10 steps, weight_decay 0.1")


def test_direct_baselines_follow_the_training_but_not_the_deficit():
    plain, impaired, both = planned(
        f"vary.training=[{{}}, {{deficit: {DEFICIT}}}, {{dropout: 0.5, deficit: {DEFICIT}}}]"
    )
    assert impaired.cells[0].direct == plain.cells[0].direct
    assert impaired.cells[0].transfer != plain.cells[0].transfer
    ours, direct = both.cells[0].transfer.members[0].training, both.cells[0].direct.members[0].training
    assert (ours.dropout, ours.deficit, ours.deficit_window) == (0.5, "blur", (0, 0.4))
    assert (direct.dropout, direct.deficit, direct.deficit_window) == (0.5, "", (0, 0))


def test_a_deficit_of_the_whole_sweep_is_none_of_its_baselines():
    (trial,) = planned(f"pretrain.deficit={DEFICIT}")
    assert trial.cells[0].transfer.members[0].training.deficit == "blur"
    assert trial.cells[0].direct == planned()[0].cells[0].direct


def test_a_network_at_its_initialisation_has_had_no_training_that_could_differ():
    one, other = planned("vary.training=[{}, {dropout: 0.5}]")
    assert one.cells[0].random_init == other.cells[0].random_init


def test_changes_that_differ_by_little_are_trained_as_they_are_written():
    trials = planned("vary.training=[{learning_rate: 0.1}, {learning_rate: 0.10000001}]")
    assert [trial.cells[0].transfer.members[0].training.learning_rate for trial in trials] == [0.1, 0.10000001]
