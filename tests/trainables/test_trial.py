"""A trial: an ordinary function over a store, that a kill does not disturb."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from strategies import NAMES  # noqa: F401  (makes `strategies` importable in the child below)

from trainables import components, protocols
from trainables import representation as representations
from trainables import trial as trial_module
from trainables.architectures import build
from trainables.checkpoints import schedule
from trainables.facts import network_size
from trainables.mixture import mixture_of
from trainables.pretrain import Diverged, pretrain
from trainables.spec import (
    Architecture,
    Cell,
    Design,
    Mixture,
    PretrainSpec,
    ProbeSpec,
    RetentionSpec,
    Rung,
    RungCell,
    Source,
    Training,
    TrajectorySpec,
    Transfer,
    TrialSpec,
)
from trainables.store import DamagedEntry, Store
from trainables.trial import run_trial, trial_steps

TRANSFER = Transfer(l2=(1e-3, 1e-1), train_examples=300)


def small_trial(*, steps=80, seeds=(0,), learning_rate=0.1):
    """Digits against their odd half, an mlp, both components measured, with baselines and controls."""
    parts = {
        "digits": components.prepare(Source(dataset="digits")),
        "odd": components.prepare(Source(dataset="digits", classes=(1, 3, 5, 7, 9))),
    }
    architecture = Architecture(name="mlp", width=0.5, image_shape=(1, 8, 8))
    training = Training(steps=steps, batch_size=32, learning_rate=learning_rate)

    def pretraining(weights, seed):
        mixture = mixture_of(weights, parts, num_examples=32 * steps, train_examples=None, label_space="joint")
        return PretrainSpec(mixture=mixture, architecture=architecture, training=training, seed=seed)

    def probe(member, name):
        return ProbeSpec(members=(member,), component=parts[name], transfer=TRANSFER)

    def untrained(seed):
        return PretrainSpec(
            mixture=Mixture(shares=()), architecture=architecture, training=Training(steps=0), seed=seed
        )

    cells = tuple(
        Cell(
            seed=seed,
            component=name,
            weight=0.5,
            transfer=probe(pretraining({"digits": 1, "odd": 1}, seed), name),
            direct=probe(pretraining({name: 1}, seed), name),
            random_init=probe(untrained(seed), name),
        )
        for seed in seeds
        for name in parts
    )
    design = Design(
        mixture=(("digits", 0.5), ("odd", 0.5)), ordering="shuffled", architecture="mlp", width=0.5, depth=None,
        representation="single", steps=steps, train_examples=None,
    )  # fmt: skip
    return TrialSpec(design=design, cells=cells)


def results(store, trial):
    return {s.digest: store.get(s.kind, s.digest) for s in trial.stages()}


def measured(store, trial):
    """Results without what differs between two runs of the same work."""
    cost = {"seconds", "started", "finished", "examples_per_second", "worker"}
    return {d: {k: v for k, v in r.items() if k not in cost} for d, r in results(store, trial).items()}


def test_a_trial_computes_every_stage_once_and_never_again(tmp_path):
    store, trial, events = Store(tmp_path), small_trial(), []
    progress = run_trial(trial, store, device="cpu", note=lambda event, **what: events.append(what))
    digests = [stage.digest for stage in trial.stages()]
    assert progress.stages_done == progress.stages_total == len(digests)
    assert Counter(e["digest"] for e in events) == Counter(digests)
    again = []
    assert run_trial(trial, store, device="cpu", note=lambda event, **what: again.append(what)).computed == 0
    assert again == []


def test_what_a_trial_measures_makes_sense(tmp_path):
    store, trial = Store(tmp_path), small_trial(steps=300)
    run_trial(trial, store, device="cpu")
    for cell in trial.cells:
        transfer, direct = store.get("probe", cell.transfer.digest), store.get("probe", cell.direct.digest)
        assert transfer["test_accuracy"] > 0.8
        assert direct["test_accuracy"] > 0.8
        assert direct["head_accuracy"] > 0.8
        assert transfer["head_accuracy"] > 0.8
        assert transfer["chance_accuracy"] < 0.3
        assert transfer["chosen"]["l2"] in TRANSFER.l2
        assert store.get("probe", cell.random_init.digest)["head_accuracy"] is None
        correct = store.tensors("probe", cell.transfer.digest, "test")["correct"]
        assert float(correct.double().mean()) == transfer["test_accuracy"]


def test_protocols_of_one_network_share_its_features(tmp_path, monkeypatch):
    trial, read = small_trial(steps=1), []
    with_ridge = [
        cell._replace(transfer=replace(cell.transfer, transfer=replace(TRANSFER, protocol="ridge")))
        for cell in trial.cells
    ]
    extract = protocols.probe.extract
    monkeypatch.setattr(protocols.probe, "extract", lambda *given: read.append(given) or extract(*given))
    run_trial(replace(trial, cells=(*trial.cells, *with_ridge)), Store(tmp_path), device="cpu")
    assert len(read) == 3 * 2 * 3  # of each component's three networks its three splits, whatever they are read by


def test_deleting_one_stage_computes_exactly_that_stage_again(tmp_path):
    store, trial, events = Store(tmp_path), small_trial(), []
    run_trial(trial, store, device="cpu")
    before = measured(store, trial)
    victim = trial.cells[0].transfer
    store.remove("probe", victim.digest)
    run_trial(trial, store, device="cpu", note=lambda event, **what: events.append(what["digest"]))
    assert events == [victim.digest]
    assert measured(store, trial) == before


def test_a_network_that_is_needed_and_damaged_is_trained_again_to_the_same_weights(tmp_path):
    store, trial, events = Store(tmp_path), small_trial(), []
    run_trial(trial, store, device="cpu")
    before = measured(store, trial)
    member, probe = trial.cells[0].transfer.members[0], trial.cells[0].transfer
    (weights,) = Path(store.path(f"stages/pretrain/{member.digest[:2]}/{member.digest}")).glob("weights-*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    store.remove("probe", probe.digest)
    run_trial(trial, store, device="cpu", note=lambda event, **what: events.append(what.get("digest", event)))
    assert events == ["damaged", member.digest, probe.digest]
    assert measured(store, trial) == before


def test_a_network_that_another_trial_has_set_aside_meanwhile_is_trained_again(tmp_path):
    store, trial, events = Store(tmp_path), small_trial(), []
    run_trial(trial, store, device="cpu")
    member, probe = trial.cells[0].transfer.members[0], trial.cells[0].transfer
    store.remove("probe", probe.digest)
    work = trial_module._Work(store, torch.device("cpu"), lambda event, **what: None, {})
    assert work.settled(member)  # it has looked
    store.remove("pretrain", member.digest)
    with pytest.raises(DamagedEntry):
        work._network(member)
    run_trial(trial, store, device="cpu", note=lambda event, **what: events.append(what["digest"]))
    assert events == [member.digest, probe.digest]


def test_a_stored_residual_network_is_read_channels_last(tmp_path):
    store, architecture = Store(tmp_path), Architecture(name="resnet18", width=1 / 8, image_shape=(1, 8, 8))
    spec = PretrainSpec(mixture=Mixture(shares=()), architecture=architecture, training=Training(steps=0), seed=0)
    store.put(spec, {"status": "ok"}, {"weights": build(architecture, 0, 0).state_dict()})
    network = trial_module._Work(store, torch.device("cpu"), lambda event, **what: None, {})._network(spec)
    filters = [p for p in network.parameters() if p.dim() == 4]
    assert len(filters) > 10
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)


def test_trials_at_the_same_time_on_one_store_compute_no_stage_twice(tmp_path):
    trial, events = small_trial(seeds=(0, 1)), []

    def work():
        torch.set_num_threads(1)
        run_trial(trial, Store(tmp_path), device="cpu", note=lambda event, **what: events.append(what["digest"]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(events) == Counter(stage.digest for stage in trial.stages())


def test_a_pretraining_under_way_says_how_far_it_is_and_one_that_was_taken_up_again_counts_all_its_time(tmp_path):
    store, trial, events = Store(tmp_path), small_trial(steps=400), []
    runs = {stage.digest: stage for stage in trial.stages() if isinstance(stage, PretrainSpec)}
    steps = trial_steps(trial, store, device="cpu", report_every_s=0)
    under_way = [next(p for p in steps if p.run) for _ in range(50)][-1]
    steps.close()
    run = runs[under_way.run]
    assert under_way.share == under_way.step / run.steps > 0
    assert under_way.share_per_second == pytest.approx(under_way.examples_per_second / run.num_examples)
    for progress in trial_steps(trial, store, device="cpu", note=lambda event, **what: events.append(what)):
        assert bool(progress.run) == (progress.examples_per_second > 0)
    assert all(event["seconds_in_all"] >= event["seconds"] for event in events)
    again = next(event for event in events if event["digest"] == under_way.run)
    assert again["seconds_in_all"] >= round(store.get("pretrain", under_way.run)["seconds"], 3)


def test_a_diverged_pretraining_is_a_result_and_the_trial_goes_on(tmp_path):
    store, trial = Store(tmp_path), small_trial(learning_rate=1e30)
    progress = run_trial(trial, store, device="cpu")
    assert progress.stages_done == progress.stages_total
    cell = trial.cells[0]
    assert store.get("pretrain", cell.transfer.members[0].digest)["status"] == "diverged"
    assert store.get("probe", cell.transfer.digest) is None
    assert store.get("probe", cell.random_init.digest)["status"] == "ok"
    assert run_trial(trial, store, device="cpu").computed == 0


def test_closing_a_trial_keeps_its_state_and_frees_its_stage(tmp_path):
    store, trial = Store(tmp_path), small_trial(steps=2000)
    steps = trial_steps(trial, store, device="cpu", report_every_s=0.05)
    for progress in steps:
        if "step" in progress.doing:
            break
    steps.close()
    (state,) = store.names("state")
    digest = state.removesuffix(".safetensors")
    with store.claim(digest) as free:
        assert free
    run_trial(trial, store, device="cpu")
    assert store.names("state") == []


WITHOUT_COMPILER = """
import sys
sys.path[:0] = {path!r}
from test_trial import small_trial
from trainables import trial
from trainables.store import Store
trial.run_trial(small_trial(steps=2), Store({store!r}), device="cpu")
assert "torch" in sys.modules
assert "torch._dynamo" not in sys.modules
"""


def test_a_trial_does_not_import_torchs_compiler(tmp_path):
    """It takes longer to import than a small trial to run; whoever planned the sweep has measured the network."""
    network_size(small_trial().cells[0].transfer.members[0].architecture)
    code = WITHOUT_COMPILER.format(path=[*sys.path, os.path.dirname(__file__)], store=str(tmp_path))  # noqa: PTH120
    subprocess.run([sys.executable, "-c", code], check=True)


CHILD = """
import sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
from test_trial import small_trial
from trainables import pretrain, trial
from trainables.store import Store
pretrain.pretrain.__kwdefaults__["save_every_s"] = 0.05
trial.run_trial(small_trial(steps=3000), Store({store!r}), device="cpu")
"""


@pytest.mark.slow
def test_a_killed_trial_taken_up_again_equals_an_undisturbed_one_bit_for_bit(tmp_path):
    """kill -9 in the middle of a pretraining, several times, wherever it hits; then to the end."""
    torch.set_num_threads(1)
    trial = small_trial(steps=3000)
    undisturbed, disturbed = Store(tmp_path / "undisturbed"), Store(tmp_path / "disturbed")
    run_trial(trial, undisturbed, device="cpu")
    code = CHILD.format(path=[*sys.path, os.path.dirname(__file__)], store=disturbed.location)  # noqa: PTH120
    taken_up = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 120
        while not disturbed.names("state") and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        taken_up += bool(disturbed.names("state"))
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert taken_up > 0
    digests = [name.removesuffix(".safetensors") for name in disturbed.names("state")]
    saved = {int(disturbed.load_state(digest)[1]["step"]) for digest in digests}
    first = next(p for p in trial_steps(trial, disturbed, device="cpu", report_every_s=0) if ", step " in p.doing)
    step = int(first.doing.split(", step ")[1].split(" of ")[0].replace(",", ""))
    assert step - 1 in saved, "it goes on from where it was"
    run_trial(trial, disturbed, device="cpu")
    assert measured(disturbed, trial) == measured(undisturbed, trial)
    for stage in trial.stages():
        if isinstance(stage, PretrainSpec):
            a, b = (s.tensors("pretrain", stage.digest, "weights") for s in (undisturbed, disturbed))
            assert all(torch.equal(a[k], b[k]) for k in a)


# Checkpoints, guides, retention and trajectories ----------------------------------------------------------------------


def guided_trial(representation, change=lambda members: members):
    """Digits and their odd half as `representation` reads them, with retention and a trajectory of five checkpoints.

    `change` is made to the networks that are read; what they are compared with stays.
    """
    parts = {
        "digits": components.prepare(Source(dataset="digits")),
        "odd": components.prepare(Source(dataset="digits", classes=(1, 3, 5, 7, 9))),
    }

    def mixture(weights, steps):
        return mixture_of(weights, parts, num_examples=32 * steps, train_examples=None, label_space="joint")

    def run(shown, network, training, seed):
        return PretrainSpec(mixture=shown, architecture=network, training=training, seed=seed)

    pretraining = representations.Pretraining(
        mixture=lambda steps: mixture(dict.fromkeys(parts, 1), steps),
        run=run,
        architecture=Architecture(name="mlp", width=0.25, image_shape=(1, 8, 8)),
        training=lambda steps: Training(steps=steps, batch_size=32),
        steps=60,
        seed=0,
    )
    members = change(representations.members(representation, pretraining))
    untrained = representations.untrained(representation, pretraining)
    whole = members[0].run
    between = [replace(whole, until=step) for step in schedule(whole.steps, 5)[1:-1]]

    def cell(name):
        direct, ceiling = (
            run(mixture({name: 1}, 60), pretraining.architecture, pretraining.training(60), seed) for seed in (0, 1)
        )
        transfer, read, floor = (
            ProbeSpec(members=networks, component=parts[name], transfer=TRANSFER)
            for networks in (members, (direct,), untrained)
        )
        return Cell(
            seed=0,
            component=name,
            weight=0.5,
            transfer=transfer,
            direct=read,
            random_init=floor,
            retention=RetentionSpec(
                members=members, component=parts[name], direct=direct, ceiling=ceiling, floor=untrained, examples=200
            ),
            trajectory=TrajectorySpec(
                checkpoints=(untrained[0], *between, whole), component=parts[name], direct=direct, examples=100
            ),
        )

    design = Design(
        mixture=(("digits", 0.5), ("odd", 0.5)), ordering="shuffled", architecture="mlp", width=0.25, depth=None,
        representation=representation, steps=60, train_examples=None,
    )  # fmt: skip
    return TrialSpec(design=design, cells=tuple(map(cell, parts)))


@pytest.fixture
def trained(monkeypatch):
    """The pretraining runs that were really made, in their order: a checkpoint on the way is none."""
    found = []

    def counted(stage, *arguments, **more):
        found.append(stage)
        return pretrain(stage, *arguments, **more)

    monkeypatch.setattr(trial_module, "pretrain", counted)
    return found


def stopped(stage):
    """The weights of a run that is stopped where a checkpoint lies."""
    data = [components.load(share.component) for share in stage.mixture.shares]
    steps = pretrain(stage, data, device=torch.device("cpu"))
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value.network.state_dict()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weights_of(store, stage):
    return store.tensors("pretrain", stage.digest, "weights")


def test_checkpoints_are_left_on_the_way_of_their_run_as_if_it_had_been_stopped_there(tmp_path, trained):
    store, trial, events = Store(tmp_path), guided_trial("single"), []
    run_trial(trial, store, device="cpu", note=lambda event, **what: events.append(what["digest"]))
    run, between = trial.cells[0].trajectory.run, trial.cells[0].trajectory.checkpoints[1:-1]
    assert [stage for stage in trained if stage.run == run] == [run]
    assert [stage.steps for stage in between] == [6, 13, 28]
    assert Counter(events) == Counter(stage.digest for stage in trial.stages())
    for checkpoint in between:
        assert equal(weights_of(store, checkpoint), stopped(checkpoint))
        found = store.get("pretrain", checkpoint.digest)
        assert found["examples"] == 32 * checkpoint.steps
        assert found["training_flops"] == 3 * found["examples"] * found["flops"]


def test_missing_checkpoints_of_a_finished_run_are_left_by_one_run_up_to_the_last_of_them(tmp_path, trained):
    store, trial, events = Store(tmp_path), guided_trial("single"), []
    run_trial(trial, store, device="cpu")
    first, second, third = trial.cells[0].trajectory.checkpoints[1:-1]
    before = {stage.digest: weights_of(store, stage) for stage in (first, second)}
    for stage in (first, second):
        store.remove("pretrain", stage.digest)
    trained.clear()
    run_trial(trial, store, device="cpu", note=lambda event, **what: events.append(what["digest"]))
    assert trained == [second]
    assert sorted(events) == sorted(before)
    assert all(equal(weights_of(store, stage), before[stage.digest]) for stage in (first, second))
    assert store.get("pretrain", third.digest)["status"] == "ok"


def test_a_trial_of_complementary_networks_measures_retention_and_a_trajectory_and_nothing_twice(tmp_path, trained):
    store, trial = Store(tmp_path), guided_trial("complement:2")
    run_trial(trial, store, device="cpu")
    assert {result["status"] for result in results(store, trial).values()} == {"ok"}
    cell = trial.cells[1]
    first, second = cell.transfer.members
    assert second.guide.teachers == (first,)
    assert first.steps == second.steps < 30, "looking at the first costs a few of the steps"
    retained = store.get("retention", cell.retention.digest)
    assert 0 < retained["predictability"] <= 1
    assert retained["complementarity"] is not None
    curves = store.get("trajectory", cell.trajectory.digest)
    assert tuple(curves["step"]) == cell.trajectory.steps
    assert curves["accuracy"][-1] > curves["accuracy"][0]
    assert Counter(trained) == {stage: 1 for stage in trial.stages() if stage.kind == "pretrain" and not stage.until}
    trained.clear()
    again = run_trial(trial, store, device="cpu")
    assert (again.computed, again.stages_done, trained) == (0, again.stages_total, [])


def test_the_student_of_a_teacher_that_diverged_is_never_trained_and_the_trial_ends(tmp_path, trained):
    def hopeless(members):
        (student,) = members
        first, last = student.guide.teachers
        last = replace(last, training=replace(last.training, learning_rate=1e30))
        return (replace(student, guide=replace(student.guide, teachers=(first, last))),)

    store, trial = Store(tmp_path), guided_trial("distilled:2", hopeless)
    progress = run_trial(trial, store, device="cpu")
    assert progress.stages_done == progress.stages_total
    cell = trial.cells[0]
    (student,) = cell.transfer.members
    first, last = student.guide.teachers
    assert [store.get("pretrain", stage.digest)["status"] for stage in (first, last)] == ["ok", "diverged"]
    assert student not in [stage.run for stage in trained]
    never = (student, cell.transfer, cell.retention, cell.trajectory, *cell.trajectory.checkpoints[1:-1])
    assert [store.get(stage.kind, stage.digest) for stage in never] == [None] * len(never)
    assert [store.get("probe", stage.digest)["status"] for stage in (cell.direct, cell.random_init)] == ["ok", "ok"]
    assert run_trial(trial, store, device="cpu").computed == 0


def test_a_run_that_diverged_has_no_trajectory_and_the_trial_ends(tmp_path, trained):
    def hopeless(members):
        return tuple(replace(m, training=replace(m.training, learning_rate=1e30)) for m in members)

    store, trial = Store(tmp_path), guided_trial("single", hopeless)
    progress = run_trial(trial, store, device="cpu")
    assert progress.stages_done == progress.stages_total
    cell = trial.cells[0]
    assert store.get("pretrain", cell.transfer.members[0].digest)["status"] == "diverged"
    assert store.get("trajectory", cell.trajectory.digest) is None
    trained.clear()
    assert run_trial(trial, store, device="cpu").computed == 0
    assert trained == []


# Rungs ----------------------------------------------------------------------------------------------------------------


def with_rungs(trial, *steps):
    """The trial, looked at after so many steps."""

    def at(probe, until):
        return replace(probe, members=tuple(replace(member, until=until) for member in probe.members))

    rungs = [
        Rung(
            steps=until,
            cells=tuple(
                RungCell(seed=c.seed, component=c.component, transfer=at(c.transfer, until), direct=c.direct)
                for c in trial.cells
            ),
        )
        for until in steps
    ]
    return replace(trial, rungs=tuple(rungs))


def until_rung(trial, store, position, events):
    """Go on to a rung, stop there."""
    steps = trial_steps(
        trial, store, device="cpu", note=lambda event, **what: events.append(what["digest"]), report_every_s=0
    )
    reached = next(progress for progress in steps if progress.rung == position)
    steps.close()
    return reached


def test_a_trial_that_is_measured_on_its_way_ends_as_one_that_is_not_bit_for_bit(tmp_path):
    plain, trial = small_trial(seeds=(0, 1)), with_rungs(small_trial(seeds=(0, 1)), 10, 30)
    run_trial(plain, Store(tmp_path / "plain"), device="cpu")
    store = Store(tmp_path / "rungs")
    reached = [p.rung for p in trial_steps(trial, store, device="cpu") if p.rung is not None]
    assert reached == [0, 1]
    assert trial.digest == plain.digest
    assert measured(store, plain) == measured(Store(tmp_path / "plain"), plain)
    for cell in plain.cells:
        member = cell.transfer.members[0]
        assert equal(weights_of(store, member), weights_of(Store(tmp_path / "plain"), member))


def test_a_trial_stopped_at_a_rung_goes_on_from_there_when_it_is_asked_for_again(tmp_path, trained):
    plain = small_trial()
    trial = with_rungs(plain, 20)
    store, events = Store(tmp_path), []
    until_rung(trial, store, 0, events)
    checkpoint = trial.rungs[0].cells[0].transfer.members[0]
    assert checkpoint.digest in events
    assert store.get("pretrain", checkpoint.run.digest) is None
    before = len(trained)
    seen = []
    for progress in trial_steps(plain, store, device="cpu", report_every_s=0):
        if ", step " in progress.doing and "digits 50 % + odd 50 %" in progress.doing:
            seen.append(int(progress.doing.split(", step ")[1].split(" ")[0]))
    assert min(seen) > 20, "the steps before the rung are not done again"
    assert [spec.digest for spec in trained[before:]].count(checkpoint.run.digest) == 1
    run_trial(plain, Store(tmp_path / "plain"), device="cpu")
    assert measured(store, plain) == measured(Store(tmp_path / "plain"), plain)
    assert not list((tmp_path / "state").iterdir())


def test_a_run_that_diverges_before_its_rung_has_diverged_as_a_whole(tmp_path, trained):
    trial = with_rungs(small_trial(learning_rate=1e12), 60)
    store = Store(tmp_path)
    run_trial(trial, store, device="cpu")
    run = trial.rungs[0].cells[0].transfer.members[0].run
    assert store.get("pretrain", run.digest)["status"] == "diverged"
    assert store.get("probe", trial.rungs[0].cells[0].transfer.digest) is None
    assert run.digest not in [spec.digest for spec in trained]


# Runs that are trained as one -----------------------------------------------------------------------------------------


def as_one(spec, data, count, device):
    """As if that were the fastest."""
    return count


def run_as_one(trial, store, note=None, **options):
    for progress in trial_steps(trial, store, device="cpu", note=note, **({"grouping": as_one} | options)):
        last = progress
    return last


def trained_as(store, trial):
    """(fused, place) of every run with steps, in the order of the trial."""
    runs = [store.get("pretrain", s.digest) for s in trial.stages() if s.kind == "pretrain" and s.steps]
    return [(run.get("fused"), run.get("place")) for run in runs]


def test_the_replicates_of_a_trial_are_trained_as_one_and_each_is_a_stage_of_its_own(tmp_path):
    store, trial, events = Store(tmp_path / "one"), small_trial(seeds=(0, 1, 2)), []
    progress = run_as_one(trial, store, lambda event, **what: events.append(what))
    assert progress.stages_done == progress.stages_total
    assert Counter(e["digest"] for e in events) == Counter(s.digest for s in trial.stages())
    places = [(3, 0), (3, 1), (3, 2)]
    # Baselines of ten classes, of five, and mixtures of fifteen: each has a head of its own size, and three seeds.
    assert sorted(trained_as(store, trial)) == sorted(places * 3)
    alone = Store(tmp_path / "alone")
    run_trial(trial, alone, device="cpu")
    assert set(trained_as(alone, trial)) == {(None, None)}, "a CPU trains each by itself"
    for stage in trial.stages():
        one, other = (s.get(stage.kind, stage.digest) for s in (store, alone))
        if stage.kind == "pretrain" and stage.steps:
            assert [step for step, _ in one["loss_curve"]] == [step for step, _ in other["loss_curve"]]
            pairs = zip(one["loss_curve"], other["loss_curve"], strict=True)
            assert all(loss == pytest.approx(expected, rel=1e-3) for (_, loss), (_, expected) in pairs)
        elif stage.kind == "probe":
            assert one["test_accuracy"] == pytest.approx(other["test_accuracy"], abs=0.01)


def test_what_runs_took_that_were_trained_as_one_adds_up_to_the_time_there_was(tmp_path):
    store, trial, events = Store(tmp_path), small_trial(seeds=(0, 1, 2), steps=200), []
    started = time.monotonic()
    run_as_one(trial, store, lambda event, **what: events.append(what))
    took = time.monotonic() - started
    assert sum(event["seconds"] for event in events) <= took
    assert sum(event["seconds_in_all"] for event in events) <= took
    assert sum(event["seconds"] for event in events) > 0.5 * took


def test_a_run_that_another_process_is_training_does_not_join(tmp_path):
    store, trial = Store(tmp_path), small_trial(seeds=(0, 1, 2))
    others = [cell.direct.members[0] for cell in trial.cells if cell.seed == 1 and cell.component == "digits"]
    with store.claim(others[0].digest):
        steps = trial_steps(trial, store, device="cpu", grouping=as_one)
        while not any(store.get("pretrain", cell.direct.members[0].digest) for cell in trial.cells):
            next(steps)
        steps.close()
    first = store.get("pretrain", trial.cells[0].direct.members[0].digest)
    assert (first["fused"], first["place"]) == (2, 0)
    assert store.get("pretrain", others[0].digest) is None


def test_a_group_that_is_stopped_is_taken_up_again_and_only_runs_at_the_same_step_join(tmp_path):
    store, trial = Store(tmp_path), small_trial(seeds=(0, 1, 2), steps=200)
    steps = trial_steps(trial, store, device="cpu", grouping=as_one, report_every_s=0)
    under_way = [next(p for p in steps if p.run) for _ in range(20)][-1]
    assert "and 2 more as one, step 20 of 200" in under_way.doing
    steps.close()
    assert len(store.names("state")) == 3
    store.drop_state(trial.cells[2].direct.members[0].digest)  # seed 1: it starts afresh, by itself
    seen = [p for p in trial_steps(trial, store, device="cpu", grouping=as_one, report_every_s=0) if p.run]
    assert seen[0].step == 21
    assert "and 1 more as one" in seen[0].doing
    assert store.names("state") == []
    assert trained_as(store, trial)[:5:2] == [(2, 0), (None, None), (2, 1)]


def test_runs_that_do_not_fit_into_memory_as_one_are_trained_in_smaller_groups(tmp_path, monkeypatch):
    asked = []

    def small_memory(specs, *arguments, **more):
        asked.append(len(specs))
        if len(specs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (yield from pretrain_all(specs, *arguments, **more))

    pretrain_all = trial_module.fused.pretrain_all
    monkeypatch.setattr(trial_module.fused, "pretrain_all", small_memory)
    store, trial = Store(tmp_path), small_trial(seeds=(0, 1, 2, 3))
    progress = run_as_one(trial, store)
    assert progress.stages_done == progress.stages_total
    assert Counter(asked) == {4: 3, 2: 6}, "each shape learns once what fits"
    assert Counter(trained_as(store, trial)) == {(2, 0): 6, (2, 1): 6}


def test_a_run_that_diverges_among_others_is_a_result_and_the_others_go_on(tmp_path, monkeypatch):
    def one_fails(specs, *arguments, **more):
        outcomes = yield from pretrain_all(specs, *arguments, **more)
        return [Diverged(3), *outcomes[1:]]

    pretrain_all = trial_module.fused.pretrain_all
    monkeypatch.setattr(trial_module.fused, "pretrain_all", one_fails)
    store, trial = Store(tmp_path), small_trial(seeds=(0, 1))
    progress = run_as_one(trial, store)
    assert progress.stages_done == progress.stages_total
    direct = [store.get("pretrain", cell.direct.members[0].digest) for cell in trial.cells]
    assert [found["status"] for found in direct] == ["diverged", "diverged", "ok", "ok"]
    assert store.names("state") == []


def test_trials_at_the_same_time_that_train_runs_as_one_compute_no_stage_twice(tmp_path):
    trial, events = small_trial(seeds=(0, 1, 2)), []

    def work():
        torch.set_num_threads(1)
        run_as_one(trial, Store(tmp_path), lambda event, **what: events.append(what["digest"]))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(events) == Counter(stage.digest for stage in trial.stages())


def test_rungs_and_trajectories_of_runs_that_are_trained_as_one_have_their_checkpoints(tmp_path):
    plain = small_trial(seeds=(0, 1))
    trial, store, alone = with_rungs(plain, 10, 30), Store(tmp_path / "one"), Store(tmp_path / "alone")
    run_as_one(trial, store)
    for _ in trial_steps(trial, alone, device="cpu"):
        pass
    for rung in trial.rungs:
        for cell in rung.cells:
            member = cell.transfer.members[0]
            assert store.get("pretrain", member.digest)["fused"] == 2
            one, other = weights_of(store, member), weights_of(alone, member)
            assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in other)
    assert store.names("state") == []


def test_a_run_is_repeated_as_it_was_trained_to_the_last_bit(tmp_path):
    store, again, trial = Store(tmp_path / "one"), Store(tmp_path / "again"), small_trial(seeds=(0, 1, 2))
    run_as_one(trial, store)
    one_seed = replace(trial, cells=tuple(cell for cell in trial.cells if cell.seed == 1))
    stored = {s.digest: store.get("pretrain", s.digest) for s in one_seed.stages() if s.kind == "pretrain"}
    run_as_one(one_seed, again, grouping=trial_module.fused.alone, repeated=stored)
    assert {found.get("place") for found in stored.values()} == {1, None}
    assert measured(again, one_seed) == measured(store, one_seed)
    assert all(equal(weights_of(store, s), weights_of(again, s)) for s in one_seed.stages() if s.kind == "pretrain")
