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
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from trainables import components, fused, protocols, retention, room, trajectory
from trainables.architectures import Network, build, layout_of
from trainables.components import ComponentData
from trainables.facts import network_size
from trainables.memory import OutOfMemory, is_exhausted
from trainables.pretrain import Diverged, Pretrained, Progress, pretrain
from trainables.spec import (
    BACKWARD,
    Component,
    PretrainSpec,
    ProbeSpec,
    RetentionSpec,
    StageSpec,
    TrajectorySpec,
    TrialSpec,
    derive_seed,
    in_order,
)
from trainables.store import DamagedEntry, Store

log = logging.getLogger(__name__)

Note = Callable[..., None]  # Journal.write: (event, **what)

MAX_KEPT_FLOATS = 2**26  # of networks in memory: those used last

# Of so many pretraining runs of one shape, how many to train as one: (one of them, its data, how many, device) -> size.
Grouping = Callable[[PretrainSpec, Sequence[ComponentData], int, torch.device], int]


@dataclass(frozen=True)
class TrialProgress:
    """Where a trial stands."""

    stages_done: int  # stages that have a result, or never will
    stages_total: int
    computed: int  # of them, computed by this trial
    doing: str  # for people
    step: int  # of the pretraining in progress; 0 outside of one
    examples_per_second: float  # the same
    run: str = ""  # digest of the whole run that this pretraining is, or is a part of
    share: float = 0.0  # of the run, done
    share_per_second: float = 0.0
    rung: int | None = None  # the position of the rung that has just been reached
    finished: bool = False  # whether nothing is left to do


def run_trial(spec: TrialSpec, store: Store, *, device: str | None = None, note: Note | None = None) -> TrialProgress:
    """Compute or fetch every stage of a trial; afterwards the store has them all.

    Args:
        spec: the trial.
        store: where results are.
        device: a torch device; None: the GPU if there is one.
        note: receives an event ("stage", kind=..., digest=..., ...) for every stage computed here.

    Raises:
        DataError: the data on this machine is missing, damaged, or not what the spec was planned with.
        OutOfMemory: a stage does not fit into memory.
        StoreFull: the store has no room for another stage.
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
    grouping: Grouping | None = None,
    repeated: Mapping[str, Mapping[str, Any]] | None = None,
) -> Generator[TrialProgress, None, None]:
    """`run_trial`, pausing at least once, after every stage and every `report_every_s`; closing it saves the state.

    Rungs come first: all seeds are trained as far as the rung, and what was asked for there is measured. A stage that
    another process is computing is put off: the trial does its other work first, then waits.

    Args:
        grouping: decides which pretraining runs of one shape are trained as one; None: that which is fastest.
        repeated: results of pretraining runs, by digest, that are to come about as they did: a run that was trained as
            one with others is trained as one with copies of itself.
    """
    names = {cell.transfer.component.content: cell.component for cell in spec.cells}
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    work = _Work(store, chosen, note or _silent, names, grouping or fused.group_size, repeated or {})
    for position, rung in enumerate(spec.rungs):
        stages = list(rung.stages())
        yield from _all(stages, work, report_every_s)
        yield replace(work.progress(stages, (), f"step {rung.steps:,}"), rung=position)
    stages = list(spec.stages())
    yield from _all(stages, work, report_every_s)
    yield replace(work.progress(stages, (), "done"), finished=True)


def _all(stages: list[StageSpec], work: _Work, report_every_s: float) -> Generator[TrialProgress, None, None]:
    """Bring every stage to its end."""
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
            time.sleep(work.store.patience_s)
            yield work.progress(stages, pending, "waiting for a stage that another trial computes")


def _attempt(
    stage: StageSpec, work: _Work, pending: deque[StageSpec], stages: list[StageSpec], report_every_s: float
) -> Generator[TrialProgress, None, bool]:
    """Bring one stage to its end if that is possible now; returns whether it was."""
    if work.settled(stage):
        return True
    if not all(work.settled(required) for required in stage.requires) or work.comes_by_the_way(stage, pending):
        return False
    # A run and its checkpoints are one piece of work, with one saved state.
    with work.store.claim(stage.run.digest if isinstance(stage, PretrainSpec) else stage.digest) as mine:
        if not mine:
            return False
        work.forget(stage)  # another process may have finished it between the look and the claim
        if work.settled(stage):
            return True
        room.require(work.store.folder)
        try:
            # Closed before the claim is given up: a run that is stopped saves its state as long as the stage is ours.
            with contextlib.closing(work.compute(stage, pending, report_every_s)) as computing:
                for progress in computing:
                    yield work.progress(stages, pending, label(stage, work.names), stage, progress)
        except DamagedEntry as damaged:
            work.note("damaged", entry=str(damaged))
            for required in stage.requires:
                work.forget(required)
            # What a damaged network was trained with may be gone too, though nothing else needed it any more.
            pending.extendleft(reversed([s for s in in_order(stage.requires) if not work.settled(s)]))
            return False
        except Exception as error:
            if not is_exhausted(error):
                raise
            raise OutOfMemory(
                f"{label(stage, work.names)} does not fit into memory; lower transfer.train_examples or the width, or "
                f"run fewer trials side by side on one machine ({' '.join(str(error).split())})"
            ) from error
    yield work.progress(stages, pending, label(stage, work.names))
    return True


class _Work:
    """What a trial has at hand while it runs: results seen so far, data and networks in memory."""

    def __init__(
        self,
        store: Store,
        device: torch.device,
        note: Note,
        names: Mapping[str, str],
        grouping: Grouping = fused.group_size,
        repeated: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        self.store, self.device, self.note, self.names = store, device, note, names
        self._grouping, self._repeated = grouping, repeated
        self.computed = 0
        self._most: dict[fused.Shape | None, int] = {}  # runs as one, where more did not fit into memory
        self.features = protocols.FeatureCache()
        self._results: dict[str, Mapping[str, Any]] = {}
        self._networks: OrderedDict[str, Network] = OrderedDict()  # those used last

    def settled(self, stage: StageSpec) -> bool:
        """Whether a stage has come to an end: it has a result, or what it rests on has diverged, so it never will."""
        if stage.digest not in self._results:
            result = self.store.get(stage.kind, stage.digest)
            if result is None:
                return any(self._lost(required) for required in stage.requires)
            self._results[stage.digest] = result
        return True

    def _lost(self, stage: PretrainSpec) -> bool:
        """Whether there will never be a network to read: the run diverged, or one that it rests on."""
        if not self.settled(stage):
            return False
        result = self._results.get(stage.digest)
        return result is None or result["status"] == "diverged"

    def comes_by_the_way(self, stage: StageSpec, pending: Iterable[StageSpec]) -> bool:
        """Whether a stage is a checkpoint of a run that has still to be trained: that leaves it on its way."""
        if not isinstance(stage, PretrainSpec) or stage.until is None:
            return False
        return any(other.digest == stage.run.digest for other in pending) and not self.settled(stage.run)

    def forget(self, stage: StageSpec) -> None:
        self._results.pop(stage.digest, None)

    def progress(
        self,
        stages: list[StageSpec],
        pending: Collection[StageSpec],
        doing: str,
        stage: StageSpec | None = None,
        run: Progress | None = None,
    ) -> TrialProgress:
        known = TrialProgress(
            stages_done=len(stages) - len(pending) - (stage is not None),
            stages_total=len(stages),
            computed=self.computed,
            doing=f"{doing}{_and_more(run)}, step {run.step:,} of {run.steps:,}" if run else doing,
            step=run.step if run else 0,
            examples_per_second=run.examples_per_second if run else 0.0,
        )
        if not (run and isinstance(stage, PretrainSpec)):
            return known
        whole = stage.run
        return replace(
            known,
            run=whole.digest,
            share=run.step / whole.steps,
            share_per_second=run.examples_per_second / whole.num_examples,
        )

    def compute(
        self, stage: StageSpec, pending: Iterable[StageSpec], report_every_s: float
    ) -> Generator[Progress, None, None]:
        """Compute a stage and put it into the store, and with a run the checkpoints of it that are pending."""
        started = time.monotonic()
        if isinstance(stage, PretrainSpec):
            result = yield from self._pretrain(stage, pending, report_every_s)
        elif isinstance(stage, ProbeSpec):
            result = self._probe(stage)
        elif isinstance(stage, RetentionSpec):
            result = self._retention(stage)
        else:
            result = self._trajectory(stage)
        self._computed(stage, result, time.monotonic() - started)

    def _computed(self, stage: StageSpec, result: Mapping[str, Any], seconds: float) -> None:
        self._results[stage.digest] = result
        self.computed += 1
        seconds /= result.get("fused", 1)  # of runs that were trained as one each took its share
        self.note(
            "stage",
            kind=stage.kind,
            digest=stage.digest,
            label=label(stage, self.names),
            status=result["status"],
            seconds=round(seconds, 3),
            # A run that was taken up again has trained for longer than that; of a checkpoint it is a part of its run's.
            seconds_in_all=round(max(seconds, result.get("seconds", 0.0)), 3),
            run=_run_digest(stage),
            device=result["device"],
        )

    def _pretrain(
        self, stage: PretrainSpec, pending: Iterable[StageSpec], report_every_s: float
    ) -> Generator[Progress, None, dict[str, Any]]:
        """Train a run, and with it other pending runs of its shape if that is faster; each is put into the store."""
        started, since = time.time(), time.monotonic()
        if stage.until and self.settled(stage.run):
            whole = self._results.get(stage.run.digest, {})
            if whole.get("status") == "diverged" and whole["diverged_at"] < stage.until:
                result = self._result(started) | {"status": "diverged", "diverged_at": whole["diverged_at"]}
                self.store.put(stage, result)
                return result
        if "fused" in self._repeated.get(stage.digest, {}):
            return (yield from self._repeat(stage, pending, started, report_every_s))
        with contextlib.ExitStack() as claims:
            group = [stage, *self._joining(stage, pending, claims)]
            outcomes = yield from self._train(group, pending, started, report_every_s)
            for place in range(1, len(outcomes)):
                result = self._ended(group[place], outcomes[place], started, _together(len(outcomes), place))
                self._computed(group[place], result, time.monotonic() - since)
            return self._ended(stage, outcomes[0], started, _together(len(outcomes), 0))

    def _joining(
        self, stage: PretrainSpec, pending: Iterable[StageSpec], claims: contextlib.ExitStack
    ) -> list[PretrainSpec]:
        """The pending runs that are trained as one with `stage`, claimed until `claims` are given up."""
        shape = fused.shape(stage)
        alike = [s for s in pending if isinstance(s, PretrainSpec) and shape and fused.shape(s) == shape]
        count = min(len(alike) + 1, self._most.get(shape, len(alike) + 1))
        size = self._grouping(stage, _data_of(stage), count, self.device) if count > 1 else 1
        joined: list[PretrainSpec] = []
        if size == 1 or self._state(stage)[1] < stage.training.batch_size:
            return joined
        for other in alike:
            if len(joined) + 1 < size and self._is_free(other, pending) and _is_resident(other):
                mine = claims.enter_context(self.store.claim(other.run.digest))
                self.forget(other)  # another process may have finished it between the look and the claim
                if mine and not self.settled(other) and self._state(other) == self._state(stage):
                    joined.append(other)
        return joined

    def _is_free(self, stage: PretrainSpec, pending: Iterable[StageSpec]) -> bool:
        """Whether a run has still to be trained, and is no checkpoint of one that has been, or has to be."""
        if self.settled(stage) or (stage.until and self.settled(stage.run)):
            return False
        return not self.comes_by_the_way(stage, pending)

    def _state(self, stage: PretrainSpec) -> tuple[int, int]:
        """The step at which a run will be taken up, and its micro-batch."""
        kept = self.store.load_state(stage.run.digest)
        if kept is None or int(kept[1]["step"]) > stage.steps:
            return 0, stage.training.batch_size
        return int(kept[1]["step"]), int(kept[1].get("micro_batch", stage.training.batch_size))

    def _train(
        self, group: Sequence[PretrainSpec], pending: Iterable[StageSpec], started: float, report_every_s: float
    ) -> Generator[Progress, None, list[Pretrained | Diverged]]:
        """The outcomes of the first runs of the group: of all of them, unless they do not fit into memory together."""
        savers = [_StoreSaver(self.store, stage.run.digest) for stage in group]
        checkpoints = [
            self._checkpoints(stage, pending, started, _together(len(group), place))
            for place, stage in enumerate(group)
        ]
        if len(group) == 1:
            return [(yield from self._train_alone(group[0], checkpoints[0], savers[0], report_every_s))]
        try:
            return (
                yield from fused.pretrain_all(
                    group,
                    [_data_of(stage) for stage in group],
                    device=self.device,
                    checkpoints=checkpoints,
                    savers=savers,
                    report_every_s=report_every_s,
                )
            )
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            why = " ".join(str(error).split())
        fewer = len(group) // 2  # out of the handler, which holds what filled the memory
        log.warning("%s runs do not fit into memory as one; on with %s (%s)", len(group), fewer, why)
        self._most[fused.shape(group[0])] = fewer
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return (yield from self._train(group[:fewer], pending, started, report_every_s))

    def _repeat(
        self, stage: PretrainSpec, pending: Iterable[StageSpec], started: float, report_every_s: float
    ) -> Generator[Progress, None, dict[str, Any]]:
        """Train a run at its place among as many as before: with whom makes no difference to its numbers."""
        count, place = (self._repeated[stage.digest][name] for name in ("fused", "place"))
        together = _together(count, place)
        checkpoints = self._checkpoints(stage, pending, started, together)
        outcomes = yield from fused.pretrain_all(
            [stage] * count,
            [_data_of(stage)] * count,
            device=self.device,
            checkpoints=[checkpoints if row == place else {} for row in range(count)],
            report_every_s=report_every_s,
        )
        return self._ended(stage, outcomes[place], started, together)

    def _train_alone(
        self,
        stage: PretrainSpec,
        checkpoints: Mapping[int, Callable[[Network], None]],
        saver: _StoreSaver,
        report_every_s: float,
    ) -> Generator[Progress, None, Pretrained | Diverged]:
        teachers = [self._network(teacher) for teacher in stage.guide.teachers] if stage.guide else []
        try:
            return (
                yield from pretrain(
                    stage,
                    _data_of(stage),
                    device=self.device,
                    teachers=teachers,
                    checkpoints=checkpoints,
                    saver=saver,
                    report_every_s=report_every_s,
                )
            )
        except Diverged as diverged:
            return diverged

    def _ended(
        self, stage: PretrainSpec, outcome: Pretrained | Diverged, started: float, together: Mapping[str, int]
    ) -> dict[str, Any]:
        """Put what has become of a run into the store."""
        saver = _StoreSaver(self.store, stage.run.digest)
        if isinstance(outcome, Diverged):
            result = self._result(started) | {"status": "diverged", "diverged_at": outcome.step, **together}
            self.store.put(stage, result)
            if stage.until:  # what a run does before its checkpoint it does in any case
                self.store.put(stage.run, result)
                self._computed(stage.run, result, 0.0)  # the time is the stage's
            saver.drop()
            return result
        result = self._trained(stage, started, outcome.seconds) | {
            "loss_curve": outcome.loss_curve,
            "micro_batch": outcome.micro_batch,
            **together,
        }
        self.store.put(stage, result, {"weights": outcome.network.state_dict()})
        if stage.until is None or self.settled(stage.run):
            saver.drop()
        self._keep(stage, outcome.network)
        return result

    def _checkpoints(
        self, stage: PretrainSpec, pending: Iterable[StageSpec], started: float, together: Mapping[str, int]
    ) -> dict[int, Callable[[Network], None]]:
        """By step, what keeps a pending checkpoint of a run on its way."""
        earlier = [s for s in pending if isinstance(s, PretrainSpec) and 0 < s.steps < stage.steps]
        return {
            other.steps: functools.partial(self._checkpoint, other, started, time.monotonic(), together)
            for other in earlier
            if other.run.digest == stage.run.digest
        }

    def _checkpoint(
        self, stage: PretrainSpec, started: float, since: float, together: Mapping[str, int], network: Network
    ) -> None:
        """Put the weights of a run on its way to its end. `since` is `started` on the clock that never jumps."""
        self.forget(stage)
        if self.settled(stage):
            return
        seconds = (time.monotonic() - since) / together.get("fused", 1)
        result = {**self._trained(stage, started, seconds), **together}
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        self.store.put(stage, result, {"weights": weights})
        self._computed(stage, result, 0.0)  # the time is the run's

    def _trained(self, stage: PretrainSpec, started: float, seconds: float) -> dict[str, Any]:
        size = network_size(stage.architecture)
        examples = stage.num_examples
        return self._result(started) | {
            "status": "ok",
            "seconds": seconds,
            "run": _run_digest(stage),
            "finished": time.time(),
            "examples": examples,
            "examples_per_second": examples / seconds if seconds else None,
            "parameters": size.parameters,
            "flops": size.flops,
            "training_flops": size.flops * ((1 + BACKWARD) * examples + stage.guided_examples),
            "num_features": size.num_features,
        }

    def _probe(self, stage: ProbeSpec) -> dict[str, Any]:
        started = time.time()
        data = _data(stage.component)
        networks = [self._network(member).to(self.device).eval() for member in stage.members]
        seed = derive_seed(stage.members[0].seed, "transfer", stage.component.content)
        try:
            found = protocols.measure(stage, networks, data, self.device, seed, self.features)
        except ValueError as error:  # features that are not finite, fine-tuning that diverges, too few examples
            log.warning("%s: %s", label(stage, self.names), error)
            impossible = self._result(started) | {"status": "impossible", "reason": str(error), "finished": time.time()}
            self.store.put(stage, impossible)
            return impossible
        values = {f.name: getattr(found, f.name) for f in fields(found) if f.name != "test_correct"}
        result = self._result(started) | {"status": "ok", **values, "finished": time.time()}
        self.store.put(stage, result, {"test": {"correct": found.test_correct}})
        return result

    def _retention(self, stage: RetentionSpec) -> dict[str, Any]:
        started = time.time()
        networks = [self._network(member) for member in stage.members]
        direct, ceiling = (self._network(spec) if spec else None for spec in (stage.direct, stage.ceiling))
        floor = [self._network(member) for member in stage.floor]
        for network in (*networks, direct, ceiling, *floor):
            if network:
                network.to(self.device).eval()
        found = retention.measure(
            networks,
            direct,
            ceiling,
            floor,
            _data(stage.component),
            self.device,
            examples=stage.examples,
            layerwise=stage.layers,
        )
        return self._put(stage, started, found)

    def _trajectory(self, stage: TrajectorySpec) -> dict[str, Any]:
        started = time.time()
        checkpoints = [self._network(checkpoint).to(self.device).eval() for checkpoint in stage.checkpoints]
        direct = self._network(stage.direct).to(self.device).eval() if stage.direct else None
        mixture = [_data(share.component) for share in stage.run.mixture.shares]
        found = trajectory.measure(stage, checkpoints, direct, _data(stage.component), mixture, self.device)
        return self._put(stage, started, found)

    def _put(self, stage: StageSpec, started: float, found: Mapping[str, Any]) -> dict[str, Any]:
        result = self._result(started) | {"status": "ok", **found, "finished": time.time()}
        self.store.put(stage, result)
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
            self._keep(stage, network)
        self._networks.move_to_end(stage.digest)
        return self._networks[stage.digest]

    def _keep(self, stage: PretrainSpec, network: Network) -> None:
        """Remember a network as the last one used, and forget those used longest ago."""
        network.to(memory_format=layout_of(stage.architecture, self.device))
        self._networks[stage.digest] = network
        sizes = [sum(p.numel() for p in kept.parameters()) for kept in self._networks.values()]
        while len(sizes) > 1 and sum(sizes) > MAX_KEPT_FLOATS:
            self._networks.popitem(last=False)
            sizes.pop(0)

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


def _and_more(run: Progress) -> str:
    return f" and {run.runs - 1} more as one" if run.runs > 1 else ""


def _together(count: int, place: int) -> dict[str, int]:
    """How a run was trained, for its result: with how many as one, itself counted, and at which place."""
    return {"fused": count, "place": place} if count > 1 else {}


def _data_of(stage: PretrainSpec) -> list[ComponentData]:
    return [_data(share.component) for share in stage.mixture.shares]


def _is_resident(stage: PretrainSpec) -> bool:
    """Whether what a run is shown lies in memory; else it has decoding workers, and all there are of them."""
    return all(data.train.resident for data in _data_of(stage))


@functools.lru_cache(64)
def _data(component: Component) -> ComponentData:
    """The examples of a component, mapped once per process."""
    return components.load(component)


def label(stage: StageSpec, names: Mapping[str, str]) -> str:
    """A stage in one line, for people; `names` are those of the components, by content."""
    if isinstance(stage, TrajectorySpec):
        return f"trajectory of {names[stage.component.content]} on {label(stage.run, names)}"
    if not isinstance(stage, PretrainSpec):
        what = stage.transfer.protocol.replace("linear_", "") if isinstance(stage, ProbeSpec) else stage.kind
        more = f" and {len(stage.members) - 1} more" if len(stage.members) > 1 else ""
        return f"{what} of {names[stage.component.content]} on {label(stage.members[0], names)}{more}"
    network = f"{stage.architecture.name} x{stage.architecture.width:g}"
    if not stage.mixture.shares:
        return f"{network} at random, seed {stage.seed}"
    total = stage.mixture.num_examples
    shares = [f"{names[s.component.content]} {100 * s.shown / total:.3g} %" for s in stage.mixture.shares]
    guided = f", {stage.guide.kind}" if stage.guide else ""
    until = f", until step {stage.until}" if stage.until else ""
    return f"{network} on {' + '.join(shares)}{guided}{until}, seed {stage.seed}"


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


def _run_digest(stage: StageSpec) -> str:
    """Of the run that a checkpoint is a part of; of the stage itself otherwise."""
    return stage.run.digest if isinstance(stage, PretrainSpec) else stage.digest
