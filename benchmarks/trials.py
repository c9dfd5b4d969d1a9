"""How many trials a second, and what does this program add to a trial? Against Ray Tune by itself, turn and turn about.

    python benchmarks/trials.py [--trials 300] [--slow 100] [--repeats 5] [--json FILE]

Prints a table: median over the repeats with the smallest and the largest. Five questions, each on one slot a core:

    no-op      trials without a stage, through `launch`, against a Tune trainable that does nothing
    tiny       a sweep of trials of one pretraining step and three probes, with its store, journal and MLflow, against
               a Tune trainable that does the same arithmetic and keeps nothing
    again      `bottleneck run` of that sweep, as a command, when the store has all of it
    slow       a sweep of trials whose pretraining sleeps for a second: how much longer it takes than they sleep, over
               that, their probes, stores and waits included; and the slots' time outside of stages, over that inside
    peer slow  the same sleep in a Tune trainable, which does nothing else

Tune is given what this program gives it: actors are reused, its own log files are off, specs are small. Rates are
counted from the end of the tenth trial to that of the last, so that nobody's start is in them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = str(ROOT)  # workers import `benchmarks.sleeper`

from orchestrator import launch  # noqa: E402  # first of all, for it sets what Ray reads when it is imported
from orchestrator.driver import Driver  # noqa: E402
from orchestrator.journal import Journal  # noqa: E402
from orchestrator.plan import Plan  # noqa: E402
from orchestrator.prepare import prepare  # noqa: E402
from orchestrator.run import run  # noqa: E402
from orchestrator.sweep import read  # noqa: E402
from trainables.spec import Design, TrialSpec  # noqa: E402
from trainables.store import Store  # noqa: E402

SWEEP = """
name: many
question: What does a trial cost beside its arithmetic?
components:
  low: {{dataset: digits, classes: [0, 1, 2]}}
  middle: {{dataset: digits, classes: [3, 4, 5]}}
  high: {{dataset: digits, classes: [6, 7, 8]}}
vary: {{mixture: {{simplex: {{resolution: {resolution}}}}}, architecture: {architecture}, width: 0.0625}}
seeds: 1
pretrain: {{steps: 1, batch_size: 256}}
transfer: {{train_examples: 30, l2: [0.01]}}
"""
SLOTS = len(os.sched_getaffinity(0))  # as many as a sweep takes
WARM = 10  # trials before the clock runs
SLEEP_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300, help="no-op and tiny ones, at least; 0: none")
    parser.add_argument("--slow", type=int, default=100, help="trials of a second, at least; 0: none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for repeat in range(options.repeats):
        for name, value in measure(options.trials, options.slow, swapped=bool(repeat % 2)).items():
            found.setdefault(name, []).append(value)
            print(f"repeat {repeat + 1}: {name}: {value:.4g}", file=sys.stderr, flush=True)
    if options.json:
        arguments = {name: str(value) for name, value in vars(options).items()}
        options.json.write_text(json.dumps({"arguments": arguments, "found": found}, indent=1) + "\n")
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"{name:<52} {middle:>8.4g}   {min(values):.4g} to {max(values):.4g}, n = {len(values)}")


def measure(trials: int = 300, slow: int = 100, swapped: bool = False) -> dict[str, float]:
    """One repeat: rates in trials a second, seconds, and ratios in which less is better but for the two of rates."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bottleneck-benchmark-") as folder:
        kinds: list[Callable[[], None]] = []

        def note(name: str, work: Callable[[], float]) -> None:
            kinds.append(lambda: found.update({name: work()}))

        if trials:
            tiny = planned(trials, "mlp", Path(folder))
            note("no-op, ours, trials/s", lambda: rate(noops(trials, Path(folder, "noop"))))
            note("no-op, Tune, trials/s", lambda: rate(alone([{"sleep": 0.0}] * trials)))
            note("tiny, ours, trials/s", lambda: rate(swept(tiny, Path(folder, "runs"))))
            note("tiny, Tune, trials/s", lambda: rate(alone([{"spec": trial} for trial in tiny[0].trials])))
        if slow:
            sleeping = planned(slow, "python:benchmarks.sleeper:Sleeper", Path(folder))
            kinds.append(lambda: found.update(slow_sweep(sleeping, Path(folder, "slow"))))
            note("slow, Tune, time over ideal / ideal", lambda: late(slow))
        for kind in reversed(kinds) if swapped else kinds:
            kind()
        if trials:
            found["again, s"] = again(Path(folder))
            for name in ("no-op", "tiny"):
                found[f"{name}, ours / Tune"] = found[f"{name}, ours, trials/s"] / found[f"{name}, Tune, trials/s"]
    return found


def rate(ended: list[float]) -> float:
    """Trials a second, from the times at which they ended."""
    return (len(ended) - WARM) / (ended[-1] - ended[WARM - 1])


# Ours -----------------------------------------------------------------------------------------------------------------


def planned(trials: int, architecture: str, folder: Path) -> tuple[Plan, dict[str, Any]]:
    """A sweep of at least so many trials, every one on another mixture, as `bottleneck run` plans it."""
    resolution = next(r for r in range(1, trials + 1) if math.comb(r + 2, 2) >= trials)
    file = folder / f"{architecture.rpartition(':')[2]}.yaml"
    file.write_text(SWEEP.format(resolution=resolution, architecture=json.dumps(architecture)))
    return prepare(read(file), lambda line: print(line, file=sys.stderr))


def noops(trials: int, storage: Path) -> list[float]:
    """When trials without a stage ended."""
    design = Design(
        mixture=(), ordering="", architecture="", width=1, depth=None, representation="", steps=0, train_examples=None
    )
    todo = [TrialSpec(design=replace(design, steps=n), cells=()) for n in range(trials)]
    heard = Heard(todo)
    launch.launch(heard, storage=str(storage), sweep="noop", cpus=1, gpus=0, interrupted=threading.Event())
    return heard.ended


class Heard:
    """Hands out trials, and looks at the clock when they end."""

    def __init__(self, trials: list[TrialSpec]) -> None:
        self._trials = trials
        self.ended: list[float] = []

    def room(self, at_once: int, now: int) -> None: ...

    def next(self) -> tuple[str, TrialSpec] | None:
        if not self._trials:
            return None
        trial = self._trials.pop()
        return trial.digest, trial

    def exhausted(self) -> bool:
        return not self._trials

    def trial_started(self, name: str) -> None: ...
    def trial_progress(self, name: str, report: Any) -> None: ...

    def trial_ended(self, name: str, end: launch.End) -> None:
        assert end.status == "ok", end
        self.ended.append(time.perf_counter())


def swept(plan: tuple[Plan, dict[str, Any]], storage: Path) -> list[float]:
    """When the trials of a sweep ended that is run as `bottleneck run` does."""
    ended: list[float] = []
    told = Driver._trial_ended  # without helpers

    def note(self: Driver, digest: str, end: launch.End) -> None:
        told(self, digest, end)
        ended.append(time.perf_counter())

    Driver._trial_ended = note  # type: ignore[method-assign]
    try:
        uri = f"sqlite:///{storage}/mlflow.db"
        outcome = run(plan[0], Store(storage), plan[1], tracking_uri=uri, command="benchmarks/trials.py", live=False)
    finally:
        Driver._trial_ended = told  # type: ignore[method-assign]
    assert set(outcome.trials) == {"ok"}, outcome.trials
    return ended


def again(folder: Path) -> float:
    """Seconds of the command, when there is nothing left to compute."""
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(folder / "mlp.yaml"), "--storage", "runs"]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    assert "0 stages computed" in done.stderr, done.stderr
    return seconds


def slow_sweep(plan: tuple[Plan, dict[str, Any]], storage: Path) -> dict[str, float]:
    """What the slots' time is over what is slept, and over what is spent in stages.

    From the first stage's start to the last trial's end.
    """
    swept(plan, storage)
    events = Journal(Store(storage), "many").events()
    stages = [event for event in events if event["event"] == "stage"]
    inside = sum(event["seconds"] for event in stages)
    slept = SLEEP_S * sum(event["kind"] == "pretrain" and event["seconds"] >= SLEEP_S for event in stages)
    begun = min(event["time"] - event["seconds"] for event in stages)
    ended = max(event["time"] for event in events if event["event"] == "trial")
    taken = SLOTS * (ended - begun)
    return {
        "slow, ours, time over ideal / ideal": taken / slept - 1,
        "slow, ours, time outside of stages / inside": taken / inside - 1,
    }


# Ray Tune by itself ---------------------------------------------------------------------------------------------------


def alone(trials: list[dict[str, Any]]) -> list[float]:
    """When the trials of Tune's own ended, each with its configuration."""
    import ray
    from ray import tune

    heard = Clock()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=SLOTS)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            # Tune writes what it is given into tags, so that large things are put where only their names are.
            configurations = [{k: v if isinstance(v, float) else ray.put(v) for k, v in one.items()} for one in trials]
            tune.Tuner(
                tune.with_resources(Peer, {"cpu": 1}),
                param_space={"trial": tune.grid_search(configurations)},
                tune_config=tune.TuneConfig(reuse_actors=True),
                run_config=tune.RunConfig(storage_path=scratch, name="peer", callbacks=[heard], verbose=0),
            ).fit()
    finally:
        ray.shutdown()
    assert len(heard.ended) == len(trials)
    return heard.ended


def late(trials: int) -> float:
    """How much longer sleeping trials take on Tune than they sleep, over that."""
    ended = alone([{"sleep": SLEEP_S}] * (trials + WARM))
    ideal = trials * SLEEP_S / SLOTS
    return (ended[-1] - ended[WARM - 1]) / ideal - 1


class Clock(launch.tune.Callback):  # type: ignore[misc]
    """Looks at the clock when trials end."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended.append(time.perf_counter())


class Peer(launch.tune.Trainable):  # type: ignore[misc]
    """What a trial computes, with nothing around it."""

    def setup(self, config: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        self._trial = config["trial"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial = new_config["trial"]
        return True

    def step(self) -> dict[str, Any]:
        import ray

        ((kind, value),) = self._trial.items()
        if kind == "sleep":
            time.sleep(value)
            return {"done": True}
        return {"done": True, **arithmetic(ray.get(value))}

    def save_checkpoint(self, checkpoint_dir: str) -> None: ...
    def load_checkpoint(self, checkpoint: Any) -> None: ...


def arithmetic(trial: TrialSpec) -> dict[str, float]:
    """The accuracies of a trial's own network; the baselines, which a sweep computes once, are left out."""
    import torch

    from trainables import protocols
    from trainables.pretrain import pretrain
    from trainables.spec import derive_seed
    from trainables.trial import _data

    cpu, accuracies = torch.device("cpu"), {}
    (member,) = trial.cells[0].transfer.members
    steps = pretrain(member, [_data(share.component) for share in member.mixture.shares], device=cpu)
    try:
        while True:
            next(steps)
    except StopIteration as ended:
        network = ended.value.network.eval()
    for cell in trial.cells:
        probe = cell.transfer
        seed = derive_seed(member.seed, "transfer", probe.component.content)
        found = protocols.measure(probe, [network], _data(probe.component), cpu, seed)
        accuracies[cell.component] = float(found.test_accuracy)
    return accuracies


if __name__ == "__main__":
    from benchmarks.trials import main as imported  # so that workers find `Peer` by its module's name

    imported()
