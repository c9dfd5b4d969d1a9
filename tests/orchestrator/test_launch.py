"""What a worker does with one trial after the other, and what Ray Tune's queue is told."""

import copy
import pickle
import textwrap
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from command_line import bottleneck

from orchestrator.journal import Journal
from orchestrator.results import load
from trainables import components
from trainables.mixture import mixture_of
from trainables.spec import (
    Architecture,
    Cell,
    Design,
    Mixture,
    PretrainSpec,
    ProbeSpec,
    Source,
    Training,
    Transfer,
    TrialSpec,
)
from trainables.store import Store

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# A network whose first use in a process leaves a mess behind.
MESSY = """
    import logging, random, sys

    import numpy as np
    import torch
    from torch import nn


    class Messy(nn.Module):
        def __init__(self, architecture):
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())

        def forward(self, x):
            if self.training:
                random.random(), np.random.rand(), torch.rand(())
                torch.set_num_threads(3)
                torch.set_float32_matmul_precision("medium")
                np.seterr(over="raise")
                sys.setrecursionlimit(4321)
                logging.getLogger("messy").warning("a mess")
            return self.layers(x)
"""

SWEEP = """
name: one
question: Is a single trial computed by two workers?
components:
  digits: {dataset: digits}
  odd: {dataset: digits, classes: [1, 3, 5, 7, 9]}
vary: {mixture: {digits: 1, odd: 1}, architecture: mlp, width: 0.25}
seeds: 6
pretrain: {steps: 800, batch_size: 32}
transfer: {train_examples: 100, l2: [0.01]}
"""


def trial_of(architecture, steps):
    """One network trained on digits, and read before and after."""
    digits = components.prepare(Source(dataset="digits"))
    network = Architecture(name=architecture, width=0.25, image_shape=(1, 8, 8))
    mixture = mixture_of(
        {"digits": 1}, {"digits": digits}, num_examples=32 * steps, train_examples=None, label_space="joint"
    )
    training = Training(steps=steps, batch_size=32, learning_rate=0.1)
    trained = PretrainSpec(mixture=mixture, architecture=network, training=training, seed=0)
    untrained = PretrainSpec(mixture=Mixture(shares=()), architecture=network, training=Training(steps=0), seed=0)
    after, before = (
        ProbeSpec(members=(member,), component=digits, transfer=Transfer(l2=(0.01,), train_examples=50))
        for member in (trained, untrained)
    )
    cell = Cell(seed=0, component="digits", weight=1.0, transfer=after, direct=None, random_init=before)
    design = Design(
        mixture=(("digits", 1.0),), ordering="shuffled", architecture=architecture, width=0.25, depth=None,
        representation="single", steps=steps, train_examples=None,
    )  # fmt: skip
    return TrialSpec(design=design, cells=(cell,))


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker's trainable in this process, without a Ray around it, that is given its first trial; and its store."""
    from orchestrator import launch
    from trainables.process import Settings

    monkeypatch.setattr(launch, "REPORT_EVERY_S", 600.0)  # one report a trial, on the slowest machine
    before = Settings()
    handlers = list(launch.logging.root.handlers)
    storage = tmp_path / "worker"

    def start(trial):
        actor = launch.TrialActor.__new__(launch.TrialActor)
        options = {"early_stopping": None, "stall_s": 60.0, "launched": "now", "cpus": 1.0, "gpus": 0.0}
        sent = launch._Sent(trial)
        actor.setup({"spec": sent}, storage=str(storage), sweep="one", **options)
        assert sent.take() is None, "Tune adds the configuration to every report"
        return actor

    yield start, Store(storage)
    before.restore()
    launch.logging.root.handlers[:] = handlers


def to_its_end(actor):
    """The reports of the trial that a worker has."""
    reports = [actor.step()]
    while not reports[-1]["done"]:
        reports.append(actor.step())
    return reports


def test_a_worker_keeps_the_memory_that_a_step_has_freed(worker, monkeypatch):
    kept = []
    monkeypatch.setattr("trainables.process.keep_freed_memory", lambda: kept.append("for the next step"))
    start, _ = worker
    start(trial_of("mlp", 3))
    assert kept == ["for the next step"]


def test_nothing_of_a_trial_is_left_in_its_worker_for_the_next(worker, tmp_path, monkeypatch):
    from orchestrator.launch import _Sent
    from trainables.process import SETTINGS
    from trainables.trial import run_trial

    (tmp_path / "messy_network.py").write_text(textwrap.dedent(MESSY))
    monkeypatch.syspath_prepend(tmp_path)
    messy, tidy = trial_of("python:messy_network:Messy", 3), trial_of("mlp", 5)
    alone = Store(tmp_path / "alone")
    run_trial(tidy, alone, device="cpu")
    start, store = worker
    actor = start(messy)
    before = {name: get() for name, (get, _) in SETTINGS.items()}
    (told,) = to_its_end(actor)
    assert (told["error"], told["warnings"]) == (None, ["a mess"] * 3), "one at each step"
    assert before != {name: get() for name, (get, _) in SETTINGS.items()}
    assert actor.reset_config(config := {"spec": _Sent(tidy)})
    assert config["spec"].take() is None
    assert before == {name: get() for name, (get, _) in SETTINGS.items()}
    assert list(actor._log.lines) == []
    (told,) = to_its_end(actor)
    (warning,) = told["warnings"]
    assert "has changed torch's threads, precision of float32 products, NumPy's floating point errors" in warning
    assert {event["digest"] for event in told["events"]} <= {stage.digest for stage in tidy.stages()}
    for stage in tidy.stages():
        if stage.kind == "pretrain":
            assert store.checksums(stage.kind, stage.digest) == alone.checksums(stage.kind, stage.digest)
        else:
            found, expected = store.get(stage.kind, stage.digest), alone.get(stage.kind, stage.digest)
            assert found["test_loss"] == expected["test_loss"]


def test_a_short_trial_is_one_report_and_a_long_one_reports_by_the_clock(worker, monkeypatch):
    from orchestrator import launch

    start, _ = worker
    (told,) = to_its_end(start(trial_of("mlp", 5)))
    assert told["finished"]
    assert len(told["events"]) == told["stages_done"] == told["stages_total"]
    monkeypatch.setattr(launch, "REPORT_EVERY_S", 0.0)
    reports = to_its_end(start(trial_of("mlp", 6)))
    assert len(reports) > sum(len(report["events"]) for report in reports) > 1


def test_the_queue_is_over_when_its_trials_have_ended_and_not_when_they_have_been_given_out():
    from orchestrator import launch

    given = [("first", "spec"), ("second", "spec")]
    trials = SimpleNamespace(next=lambda: given.pop(0) if given else None, exhausted=lambda: not given)
    queue = launch._Queue(trials, most=None)
    assert [queue.suggest(name)["trial"] for name in ("a", "b")] == ["first", "second"]
    assert queue.suggest("c") is None
    queue.on_trial_complete("a")
    assert queue.suggest("c") is None
    given.append(("second+1", "spec"))
    assert queue.suggest("c")["trial"] == "second+1"
    for trial_id in ("b", "c"):
        queue.on_trial_complete(trial_id, error=True)
    assert queue.suggest("d") == launch.Searcher.FINISHED


def test_a_trial_that_is_given_to_tune_is_neither_copied_nor_written_out_and_gone_at_its_end(tmp_path):
    from orchestrator.launch import End, _Queue, _Reporter

    spec = trial_of("mlp", 3)
    ended = []
    trials = SimpleNamespace(
        next=lambda: ("first", spec), exhausted=lambda: False, trial_ended=lambda *end: ended.append(end)
    )
    suggested = _Queue(trials, most=None).suggest("a")
    kept = copy.deepcopy(suggested)
    assert str(kept) == "{'trial': 'first', 'spec': spec}"
    assert pickle.loads(pickle.dumps(kept["spec"])).take() == spec, "a worker that starts again has it again"
    reporter = _Reporter(trials, threading.Event(), Journal(Store(tmp_path), "one"), "now")
    reporter.on_trial_complete(1, [], SimpleNamespace(config=suggested, last_result={"finished": True}))
    assert ended == [("first", End())]
    assert kept["spec"].take() is None


def test_a_helper_that_still_waits_for_a_worker_when_its_trial_ends_is_called_off():
    from orchestrator.launch import _InOrder

    def trial(name, status):
        return SimpleNamespace(
            config={"trial": name}, status=status, PENDING="PENDING", run_metadata=SimpleNamespace(last_result={})
        )

    waits, runs = trial("a+1", "PENDING"), trial("a+2", "RUNNING")
    others = [trial("b+1", "PENDING"), trial("c", "PENDING")]
    stopped = []
    controller = SimpleNamespace(get_live_trials=lambda: {id(t): t for t in (waits, runs, *others)}.values())
    controller.stop_trial = stopped.append
    _InOrder().on_trial_complete(controller, trial("a", "RUNNING"), {})
    assert stopped == [waits]
    assert waits.run_metadata.last_result, "Tune prints a line of a trial that ends without any"


@pytest.mark.slow
def test_the_only_trial_of_a_sweep_is_computed_by_all_workers_and_every_stage_once(tmp_path):
    path, storage = tmp_path / "one.yaml", tmp_path / "runs"
    path.write_text(SWEEP)
    bottleneck("run", path, "--storage", storage)
    events = Journal(Store(storage), "one").events()
    stages = [event for event in events if event["event"] == "stage"]
    assert set(Counter(event["digest"] for event in stages).values()) == {1}
    assert len({event["pid"] for event in stages}) == 2, "the second worker is not idle"
    assert [event["status"] for event in events if event["event"] == "trial"] == ["ok"]
    table = load("one", storage=str(storage))
    assert set(table["status"]) == {"ok"}
    assert len(table) == 12
