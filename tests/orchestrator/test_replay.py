"""A trial computed again: bit-equal, within tolerance or different, and from which step on. The store stays."""

import hashlib
import json
import shutil
import tempfile

import pytest
import torch
from click.testing import CliRunner
from command_line import bottleneck
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import cli
from orchestrator import replay as replays
from orchestrator import sweep as sweeps
from orchestrator.journal import Journal, UnknownSweep
from orchestrator.prepare import prepare
from orchestrator.replay import ReplayError, curve_differences, replay, result_differences, tensor_differences
from trainables.store import Store
from trainables.trial import run_trial

SWEEP = """
name: NAME
question: Does it come out the same again?
components: {digits: {dataset: digits}, odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}}
vary: {mixture: [{digits: 1, odd: 1}], architecture: mlp, width: 0.25, training: [{}, {weight_decay: 0.01}]}
seeds: 2
pretrain: {steps: STEPS, batch_size: 16}
transfer: {train_examples: 100, l2: 0.01}
TRAJECTORY
"""


def sweep_in(folder, name="again", steps=100, trajectory="trajectory: {points: 4, examples: 100}"):
    """A sweep in a store, of whose two trials the first has run."""
    text = SWEEP.replace("NAME", name).replace("STEPS", str(steps)).replace("TRAJECTORY", trajectory)
    plan, _ = prepare(sweeps.parse(text, f"{name}.yaml"), lambda line: None)
    Journal(Store(folder), name).write_plan(text, plan.as_json())
    torch.set_num_threads(1)
    run_trial(plan.trials[0], Store(folder), device="cpu")
    return plan


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A store with one trial in it, which has run, and its plan."""
    folder = tmp_path_factory.mktemp("computed") / "runs"
    return folder, sweep_in(folder)


@pytest.fixture
def copy(computed, tmp_path, monkeypatch):
    """A copy of it, to be tampered with, and a folder for scratch stores."""
    shutil.copytree(computed[0], tmp_path / "runs")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "runs", computed[1]


def everything_in(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def tamper(folder, stage, change):
    """Write a stage's result anew, with its checksums in order."""
    store = Store(folder)
    result = store.get(stage.kind, stage.digest)
    change(result)
    tensors = {
        name: store.tensors(stage.kind, stage.digest, name) for name in store.checksums(stage.kind, stage.digest)
    }
    store.put(stage, result, tensors)


def again(folder, plan, **more):
    return replay(str(folder), plan.trials[0].digest[:10], **{"say": lambda line: None, **more})


def test_a_trial_that_is_repeated_is_bit_equal_and_neither_the_store_nor_the_scratch_folder_shows_it(copy):
    folder, plan = copy
    before, said = everything_in(folder), []
    found = again(folder, plan, say=said.append)
    assert found.verdict == "bit-equal"
    assert {stage.verdict for stage in found.stages} == {"bit-equal"}
    assert {stage.kind for stage in found.stages} == {"pretrain", "probe", "trajectory"}
    seeds = {cell.seed for cell in plan.trials[0].cells}
    assert (found.seed, seeds) == (0, {0, 1})
    assert found.elsewhere == []
    assert found.largest == 0
    assert said[-1].startswith(f"{len(found.stages)} of {len(found.stages)} stages: ")
    assert everything_in(folder) == before
    assert list((folder.parent / "scratch").iterdir()) == []


def test_a_run_that_was_trained_as_one_with_others_is_repeated_so_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.fused.group_size", lambda spec, data, count, device: count)
    plan = sweep_in(tmp_path, trajectory="")
    run = next(cell.transfer.members[0] for cell in plan.trials[0].cells if cell.seed == 1)
    stored = Store(tmp_path).get("pretrain", run.digest)
    assert (stored["fused"], stored["place"]) == (2, 1)
    assert again(tmp_path, plan, seed=1).verdict == "bit-equal"
    tamper(tmp_path, run, lambda result: result.update(device="another GPU"))
    elsewhere = again(tmp_path, plan, seed=1)
    assert next(s for s in elsewhere.stages if s.digest == run.digest).verdict == "within tolerance", "trained alone"


def test_a_tampered_accuracy_is_different_and_names_the_stage(copy):
    folder, plan = copy
    probe = plan.trials[0].cells[1].transfer
    tamper(folder, probe, lambda result: result.update(test_accuracy=result["test_accuracy"] + 0.01))
    found = again(folder, plan)
    assert found.verdict == "different"
    assert [stage.digest for stage in found.stages if stage.verdict != "bit-equal"] == [probe.digest]
    assert found.first.label.startswith("probe of odd on mlp x0.25 on ")
    assert found.first.first.what == "test_accuracy"
    assert found.largest == pytest.approx(0.01)
    assert "different; first in probe of odd" in found.sentence
    assert again(folder, plan, tolerance=0.011).verdict == "within tolerance"


def test_a_tampered_loss_curve_names_the_first_step_that_differs(copy):
    folder, plan = copy
    run = plan.trials[0].cells[0].transfer.members[0]

    def change(result):
        assert [end for end, _ in result["loss_curve"]] == list(range(2, 101, 2))  # 50 points of 100 steps
        result["loss_curve"][20][1] += 0.5
        result["loss_curve"][30][1] += 1

    tamper(folder, run, change)
    found = again(folder, plan)
    assert found.verdict == "different"
    assert found.first.digest == run.digest
    assert found.first.first.step == 41
    assert "equal through step 40, differs in steps 41 to 42 (mean loss " in found.sentence
    assert ", most in steps 61 to 62 (mean loss " in found.sentence


def test_weights_that_differ_are_named_with_the_largest_difference(copy):
    folder, plan = copy
    store, run = Store(folder), plan.trials[0].cells[0].transfer.members[0]
    weights = store.tensors("pretrain", run.digest, "weights")
    weights["head.weight"][0, 0] += weights["head.weight"].abs().max() / 100
    store.put(run, store.get("pretrain", run.digest), {"weights": weights})
    found = again(folder, plan)
    assert found.verdict == "different"
    assert found.first.first.what == "weights head.weight"
    assert 0.009 < found.largest < 0.011


def test_a_trajectory_that_differs_names_the_step_of_its_checkpoint(copy):
    folder, plan = copy
    stage = plan.trials[0].cells[0].trajectory
    tamper(folder, stage, lambda result: result["accuracy"].__setitem__(2, 2.0))
    found = again(folder, plan)
    assert found.first.first.what == f"accuracy at step {stage.steps[2]}"


def test_what_it_was_stored_with_is_named_where_it_is_another(copy):
    folder, plan = copy
    probe = plan.trials[0].cells[0].transfer
    tamper(folder, probe, lambda result: result.update(device="Some GPU", versions="torch 1.0", seconds=1e9))
    found = again(folder, plan)
    assert found.verdict == "bit-equal"
    assert "stored with device Some GPU, cpu; here cpu" in found.elsewhere
    assert any(line.startswith("stored with versions torch 1.0, torch ") for line in found.elsewhere)
    assert not any("revision" in line for line in found.elsewhere)


def test_a_stage_that_is_not_stored_or_damaged_is_said_and_the_rest_compared(copy):
    folder, plan = copy
    cell = plan.trials[0].cells[0]
    Store(folder).remove("probe", cell.random_init.digest)
    damaged = folder / "stages" / "probe" / cell.direct.digest[:2] / cell.direct.digest / "result.json"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = everything_in(folder)
    found = again(folder, plan)
    assert [s.digest for s in found.stages if s.verdict == "not stored"] == [
        cell.direct.digest,
        cell.random_init.digest,
    ]
    assert found.verdict == "bit-equal"
    assert found.sentence.endswith("; 2 more are not stored)")
    assert everything_in(folder) == before


def test_an_interrupt_leaves_no_scratch_folder(copy):
    folder, plan = copy

    def interrupted(line):
        if line.startswith("2 of"):
            assert list((folder.parent / "scratch").iterdir())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(folder, plan, say=interrupted)
    assert list((folder.parent / "scratch").iterdir()) == []


def test_a_run_that_diverged_diverges_again_at_the_same_step(tmp_path):
    text = SWEEP.replace("NAME", "wild").replace("STEPS", "60, learning_rate: 1e12").replace("TRAJECTORY", "")
    plan, _ = prepare(sweeps.parse(text, "wild.yaml"), lambda line: None)
    Journal(Store(tmp_path), "wild").write_plan(text, plan.as_json())
    run_trial(plan.trials[0], Store(tmp_path), device="cpu")
    found = again(tmp_path, plan)
    assert found.verdict == "bit-equal"
    run = plan.trials[0].cells[0].transfer.members[0]
    tamper(tmp_path, run, lambda result: result.update(diverged_at=50))
    assert again(tmp_path, plan).first.first.what == "diverged_at"


# Which trial ----------------------------------------------------------------------------------------------------------


def test_a_trial_is_found_by_digest_or_label_in_all_sweeps_or_in_one(copy):
    folder, plan = copy
    digest, label = plan.trials[0].digest, plan.trials[0].design.label
    for name, sweep in ((digest, None), (digest[:12], "again"), (label, None)):
        assert replays.find(Store(folder), name, sweep)[2]["digest"] == digest


@pytest.mark.parametrize(
    ("trial", "more", "said"),
    [
        ("digits", {}, r"has no trial 'digits'; near it: \w{12} \(digits 50 % \+ odd 50 %, shuffled, mlp x0.25"),
        ("", {}, "names no|has no trial ''"),
        ("mine", {"seed": 7}, "has no seed 7; it has 0, 1"),
        ("other", {}, r"has no results of trial \w{12}, seed 0, to compare with; run the sweep first"),
    ],
)
def test_what_cannot_be_repeated_is_one_line(copy, trial, more, said):
    folder, plan = copy
    named = {"mine": plan.trials[0].digest, "other": plan.trials[1].digest}.get(trial, trial)
    with pytest.raises(ReplayError, match=said):
        replay(str(folder), named, say=lambda line: None, **more)


def test_an_unknown_sweep_lists_the_known_ones_and_an_empty_store_says_so(copy, tmp_path):
    folder, plan = copy
    with pytest.raises(UnknownSweep, match="has no sweep 'none'; it has: again"):
        again(folder, plan, sweep="none")
    with pytest.raises(UnknownSweep, match="has no sweeps"):
        again(tmp_path / "empty", plan)


def test_a_beginning_that_several_trials_share_lists_them(copy):
    folder, _ = copy
    kept = json.loads((folder / "sweeps/again/plan.json").read_text())
    for position, trial in enumerate(kept["trials"]):
        trial["digest"] = f"abc{position}" + trial["digest"][4:]
    (folder / "sweeps/again/plan.json").write_text(json.dumps(kept))
    with pytest.raises(ReplayError, match=r"'abc' names 2 trials: abc0\w{8} .*, abc1\w{8} .*; write more digits"):
        replay(str(folder), "abc", say=lambda line: None)
    with pytest.raises(
        ReplayError, match=r"plans trial abc0\w{8} otherwise.*check out the revision that computed it: "
    ):
        replay(str(folder), "abc0", say=lambda line: None)


def test_other_data_than_the_trial_was_computed_with_is_refused_before_any_work(copy):
    folder, plan = copy
    kept = json.loads((folder / "sweeps/again/plan.json").read_text())
    kept["components"]["odd"]["content"] = "0" * 64
    (folder / "sweeps/again/plan.json").write_text(json.dumps(kept))
    with pytest.raises(ReplayError, match=r"the data of component 'odd' on this machine is not what .* and not 0{12}"):
        again(folder, plan)


# Comparing ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 10), min_size=1, max_size=60), st.data())
def test_the_first_point_that_differs_is_the_first_that_was_changed(losses, data):
    curve = [[3 * (i + 1), loss] for i, loss in enumerate(losses)]
    changed = data.draw(st.sets(st.integers(0, len(losses) - 1)))
    other = [[end, loss + 1 if i in changed else loss] for i, (end, loss) in enumerate(curve)]
    found = list(curve_differences(curve, other))
    assert [d.step for d in found] == ([3 * min(changed) + 1] if changed else [])


def test_a_curve_of_single_steps_names_the_step_and_digits_that_tell_the_losses_apart():
    (found,) = curve_differences([[1, 0.5], [2, 0.25]], [[1, 0.5], [2, 0.2500001]])
    assert found.sentence == "equal through step 1, differs at step 2 (loss 0.25 and here 0.2500001)"
    assert found.size == pytest.approx(1e-7)
    (elsewhere,) = curve_differences([[1, 0.5]], [[2, 0.5]])
    assert elsewhere.size == float("inf")


def test_numbers_have_a_size_and_choices_and_words_have_to_be_the_same():
    stored = {"test_accuracy": 0.9, "flops": 2000, "chosen": {"l2": 1e-5}, "status": "ok", "seconds": 3.0}
    again = {"test_accuracy": 0.9005, "flops": 1000, "chosen": {"l2": 1e-4}, "status": "impossible", "seconds": 5.0}
    found = {d.what: d.size for d in result_differences(stored, {**again, "new": 1})}
    assert found == {
        "test_accuracy": pytest.approx(0.0005), "flops": 0.5, "chosen.l2": float("inf"), "status": float("inf"),
    }  # fmt: skip
    assert [d.what for d in result_differences({"old": 1}, {})] == ["old"]


def test_tensors_are_compared_with_their_own_scale_and_answers_are_counted():
    weights = {"big": torch.tensor([100.0, 0.0]), "small": torch.tensor([0.1, 0.0])}
    other = {"big": torch.tensor([100.0, 0.01]), "small": torch.tensor([0.1, 0.01])}
    (found,) = tensor_differences("weights", weights, other)
    assert found.what == "weights small"
    assert found.size == pytest.approx(0.1)
    right = {"correct": torch.tensor([True, True, False, True])}
    (answers,) = tensor_differences("test", right, {"correct": torch.tensor([True, False, False, True])})
    assert (answers.size, answers.sentence) == (0.25, "test correct differs in 1 of 4 values")
    (shape,) = tensor_differences("test", right, {})
    assert shape.size == float("inf")


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_says_it_in_a_line_in_json_and_in_its_exit_code(copy):
    folder, plan = copy
    digest = plan.trials[0].digest[:12]
    probe = plan.trials[0].cells[1].transfer
    tamper(folder, probe, lambda result: result.update(test_accuracy=result["test_accuracy"] + 0.01))
    done = bottleneck("replay", digest, "--storage", folder, expect=1)
    assert done.stdout.splitlines()[-1].startswith("different; first in probe of odd on mlp x0.25")
    assert "stages: " in done.stderr
    as_json = CliRunner().invoke(cli.bottleneck, ["replay", digest, "--storage", str(folder), "--seed", "1", "--json"])
    assert as_json.exit_code == 0
    found = json.loads(as_json.stdout)
    assert (found["verdict"], found["seed"], found["sweep"]) == ("bit-equal", 1, "again")
    assert {stage["largest"] for stage in found["stages"]} == {0}
