"""What does one trial do? Every stage it needs, each fetched from the store or computed and put there.

`run_trial` is an ordinary function: no Ray, no MLflow, a CPU will do. `trial_steps` is the same as a generator that
pauses every few seconds, so that whoever schedules it can report, or stop it with its state saved.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables import components, probe
from trainables.architectures import Network, build, measure
from trainables.components import ComponentData, Split
from trainables.pretrain import Diverged, Pretrained, Progress, on_device, pretrain, to_float
from trainables.spec import Component, PretrainSpec, ProbeSpec, StageSpec, TrialSpec
from trainables.store import DamagedEntry, Store

log = logging.getLogger(__name__)

Note = Callable[..., None]  # Journal.write: (event, **what)

FEATURE_BATCH = 512  # examples; features are the same for every size up to rounding
WAIT_S = 0.2  # between looks at stages that others are computing


@dataclass(frozen=True)
class TrialProgress:
    """Where a trial stands."""

    stages_done: int  # stages that have a result, or never will
    stages_total: int
    computed: int  # of them, computed by this trial
    doing: str  # for people
    examples_per_second: float  # of the pretraining in progress; 0 outside of one


def run_trial(spec: TrialSpec, store: Store, *, device: str | None = None, note: Note | None = None) -> TrialProgress:
    """Compute or fetch every stage of a trial; afterwards the store has them all.

    Args:
        spec: the trial.
        store: where results are.
        device: a torch device; None: the GPU if there is one.
        note: receives an event ("stage", kind=..., digest=..., ...) for every stage computed here.

    Raises:
        DataError: the data on this machine is missing, damaged, or not what the spec was planned with.
    """
    for progress in trial_steps(spec, store, device=device, note=note):
        last = progress
    return last


def trial_steps(
    spec: TrialSpec,
    store: Store,
    *,
    device: str | None = None,
    note: Note | None = None,
    report_every_s: float = 2.0,
) -> Generator[TrialProgress, None, None]:
    """`run_trial`, pausing at least once, after every stage and every `report_every_s`; closing it saves the state.

    A stage that another process is computing is put off: the trial does its other work first, then waits.
    """
    names = {cell.transfer.component.content: cell.component for cell in spec.cells}
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    work = _Work(store, chosen, note or _silent, names)
    stages = list(spec.stages())
    pending = deque(stages)
    while pending:
        moved = False
        for _ in range(len(pending)):
            stage = pending.popleft()
            finished = yield from _attempt(stage, work, pending, stages, report_every_s)
            moved = moved or finished
            if not finished:
                pending.append(stage)
        if not moved:
            time.sleep(WAIT_S)
            yield work.progress(stages, pending, "waiting for a stage that another trial computes")
    yield work.progress(stages, pending, "done")


def _attempt(
    stage: StageSpec, work: _Work, pending: deque[StageSpec], stages: list[StageSpec], report_every_s: float
) -> Generator[TrialProgress, None, bool]:
    """Bring one stage to its end if that is possible now; returns whether it was."""
    if work.settled(stage):
        return True
    if not all(work.settled(required) for required in stage.requires):
        return False
    with work.store.claim(stage.digest) as mine:
        if not mine:
            return False
        work.forget(stage)  # another process may have finished it between the look and the claim
        if work.settled(stage):
            return True
        try:
            # Closed before the claim is given up: a run that is stopped saves its state as long as the stage is ours.
            with contextlib.closing(work.compute(stage, report_every_s)) as computing:
                for progress in computing:
                    yield work.progress(stages, pending, label(stage, work.names), stage, progress)
        except DamagedEntry as damaged:
            work.note("damaged", entry=str(damaged))
            for required in stage.requires:
                work.forget(required)
                if not work.settled(required):
                    pending.appendleft(required)
            return False
    yield work.progress(stages, pending, label(stage, work.names))
    return True


class _Work:
    """What a trial has at hand while it runs: results seen so far, data and networks in memory."""

    def __init__(self, store: Store, device: torch.device, note: Note, names: Mapping[str, str]) -> None:
        self.store, self.device, self.note, self.names = store, device, note, names
        self.computed = 0
        self._results: dict[str, Mapping[str, Any]] = {}
        self._networks: dict[str, Network] = {}  # the last one: its probes come right after it

    def settled(self, stage: StageSpec) -> bool:
        """Whether a stage has come to an end: it has a result, or what it reads has diverged, so it never will."""
        if stage.digest not in self._results:
            result = self.store.get(stage.kind, stage.digest)
            if result is None:
                return any(self._diverged(required) for required in stage.requires)
            self._results[stage.digest] = result
        return True

    def _diverged(self, stage: PretrainSpec) -> bool:
        return self.settled(stage) and self._results[stage.digest]["status"] == "diverged"

    def forget(self, stage: StageSpec) -> None:
        self._results.pop(stage.digest, None)

    def progress(
        self,
        stages: list[StageSpec],
        pending: deque[StageSpec],
        doing: str,
        stage: StageSpec | None = None,
        run: Progress | None = None,
    ) -> TrialProgress:
        return TrialProgress(
            stages_done=len(stages) - len(pending) - (stage is not None),
            stages_total=len(stages),
            computed=self.computed,
            doing=f"{doing}, step {run.step:,} of {run.steps:,}" if run else doing,
            examples_per_second=run.examples_per_second if run else 0.0,
        )

    def compute(self, stage: StageSpec, report_every_s: float) -> Generator[Progress, None, None]:
        """Compute a stage and put it into the store."""
        started = time.time()
        if isinstance(stage, PretrainSpec):
            result = yield from self._pretrain(stage, report_every_s)
        else:
            result = self._probe(stage)
        self._results[stage.digest] = result
        self.computed += 1
        self.note(
            "stage",
            kind=stage.kind,
            digest=stage.digest,
            label=label(stage, self.names),
            status=result["status"],
            seconds=round(time.time() - started, 3),
            device=result["device"],
        )

    def _pretrain(self, stage: PretrainSpec, report_every_s: float) -> Generator[Progress, None, dict[str, Any]]:
        started = time.time()
        data = [_data(share.component) for share in stage.mixture.shares]
        saver = _StoreSaver(self.store, stage.digest)
        result = self._result(started)
        try:
            run: Pretrained = yield from pretrain(
                stage, data, device=self.device, saver=saver, report_every_s=report_every_s
            )
        except Diverged as diverged:
            result |= {"status": "diverged", "diverged_at": diverged.step}
            self.store.put(stage, result)
            saver.drop()
            return result
        size = measure(stage.architecture)
        examples = stage.mixture.num_examples
        result |= {
            "status": "ok",
            "seconds": run.seconds,
            "finished": time.time(),
            "examples": examples,
            "examples_per_second": examples / run.seconds if run.seconds else None,
            "loss_curve": run.loss_curve,
            "parameters": size.parameters,
            "flops": size.flops,
            "num_features": size.num_features,
        }
        self.store.put(stage, result, {"weights": run.network.state_dict()})
        saver.drop()
        self._networks = {stage.digest: run.network}
        return result

    def _probe(self, stage: ProbeSpec) -> dict[str, Any]:
        started = time.time()
        component = stage.component
        data = _data(component)
        networks = [self._network(member).to(self.device).eval() for member in stage.members]
        limit = stage.transfer.train_examples
        train = _features(networks, data.train, data, self.device, limit)
        validation = _features(networks, data.validation, data, self.device)
        test = _features(networks, data.test, data, self.device)
        found = probe.linear_probe(train, validation, test, component.num_classes, stage.transfer.l2)
        most_frequent = int(torch.bincount(train[1], minlength=component.num_classes).argmax())
        return self._put(
            stage,
            self._result(started)
            | {
                "status": "ok",
                "test_accuracy": found.test_accuracy,
                "test_loss": found.test_loss,
                "validation_accuracy": found.validation_accuracy,
                "train_accuracy": found.train_accuracy,
                "l2": found.l2,
                "path": found.path,
                "head_accuracy": _head_accuracy(stage, networks, test),
                "chance_accuracy": float((test[1] == most_frequent).double().mean()),
                "num_features": train[0].shape[1],
                "num_train": len(train[1]),
                "num_test": len(test[1]),
                "finished": time.time(),
            },
            {"test": {"correct": found.test_correct}},
        )

    def _put(
        self, stage: StageSpec, result: dict[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Any]:
        self.store.put(stage, result, tensors)
        return result

    def _network(self, stage: PretrainSpec) -> Network:
        """The trained network of a stage. Raises DamagedEntry."""
        if stage.digest not in self._networks:
            network = build(stage.architecture, stage.mixture.num_classes, stage.seed)
            try:
                weights = self.store.tensors(stage.kind, stage.digest, "weights")
            except FileNotFoundError:  # another trial has found it damaged, and set it aside
                raise DamagedEntry(f"{stage.kind} {stage.digest[:12]}: gone") from None
            network.load_state_dict(weights)
            self._networks = {stage.digest: network}
        return self._networks[stage.digest]

    def _result(self, started: float) -> dict[str, Any]:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            "started": started,
            "device": device,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            **provenance(),
        }


@dataclass(frozen=True)
class _StoreSaver:
    """A pretraining run's state, kept in the store."""

    store: Store
    digest: str

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
        self.store.save_state(self.digest, tensors, meta)

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return self.store.load_state(self.digest)

    def drop(self) -> None:
        self.store.drop_state(self.digest)


def _features(
    networks: list[Network], split: Split, data: ComponentData, device: torch.device, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """(N, D) features of all networks side by side and (N,) labels, of the first `limit` examples of a split."""
    count = min(limit or len(split), len(split))

    def batches() -> Iterator[Tensor]:
        for begin in range(0, count, FEATURE_BATCH):
            images, _ = split.gather(torch.arange(begin, min(begin + FEATURE_BATCH, count)))
            yield to_float(images.to(device), data.value_range)

    # Each network reads the images anew: decoding is cheap beside a forward pass, and batches stay small.
    features = torch.cat([probe.extract(network.features, batches()) for network in networks], dim=1)
    return features, on_device(split.labels, device)[:count]


def _head_accuracy(stage: ProbeSpec, networks: list[Network], test: tuple[Tensor, Tensor]) -> float | None:
    """Test accuracy of a single network with its own head among the component's classes; None if it was not shown."""
    if len(networks) != 1 or networks[0].head is None:
        return None
    mixture = stage.members[0].mixture
    contents = [share.component.content for share in mixture.shares]
    if stage.component.content not in contents:
        return None
    offset = mixture.label_offsets[contents.index(stage.component.content)]
    features, labels = test
    with torch.no_grad():
        logits = networks[0].head(features)[:, offset : offset + stage.component.num_classes]
    return float((logits.argmax(dim=1) == labels).double().mean())


@functools.lru_cache(64)
def _data(component: Component) -> ComponentData:
    """The examples of a component, mapped once per process."""
    return components.load(component)


def label(stage: StageSpec, names: Mapping[str, str]) -> str:
    """A stage in one line, for people; `names` are those of the components, by content."""
    if isinstance(stage, ProbeSpec):
        more = f" and {len(stage.members) - 1} more" if len(stage.members) > 1 else ""
        return f"probe of {names[stage.component.content]} on {label(stage.members[0], names)}{more}"
    network = f"{stage.architecture.name} x{stage.architecture.width:g}"
    if not stage.mixture.shares:
        return f"{network} at random, seed {stage.seed}"
    total = stage.mixture.num_examples
    shares = [f"{names[s.component.content]} {100 * s.shown / total:.3g} %" for s in stage.mixture.shares]
    return f"{network} on {' + '.join(shares)}, seed {stage.seed}"


@functools.cache
def provenance() -> dict[str, str]:
    """The revision of this code and the versions of what it computes with."""
    return {
        "revision": _revision(),
        "versions": " ".join(f"{name} {metadata.version(name)}" for name in ("torch", "torchvision", "numpy")),
    }


def _revision() -> str:
    """The commit of the checkout that this file lies in, with a + if files were changed; else the package's version."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        if (here.parent / ".git").exists():
            return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return metadata.version("transfer-bottleneck")
    except metadata.PackageNotFoundError:
        return "unknown"


def _silent(event: str, **what: Any) -> None:
    """Where no journal is kept."""
