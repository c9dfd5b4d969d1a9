"""How are pretraining runs of equal shape trained as one? As a stack: one tensor per weight, with a row for every run.

Seeds, mixtures, orderings and direct baselines of one architecture, batch size and length differ in what they start
from and in what they are shown, and in nothing else. A GPU that one small network leaves idle takes many of them in one
step: the forward pass of a network is mapped over the rows by `torch.vmap`, and one optimizer moves them all.

A run in a stack draws what it draws alone: its initialisation, its index stream and its augmentation come from its own
seed. Batch statistics are its own too, for the running statistics are rows of a stack like the weights. So
it ends where it would have ended alone, up to rounding, for sums are taken in another order; tests/trainables/
test_fused.py holds every architecture to that. What is in its row does not depend on what is in the others.

Whether a stack pays is measured, on a GPU, with a few steps of the run itself. On a CPU it is not tried: there a run
repeats itself to the last bit, which is worth more than the little that there is to gain (benchmarks/fused.py).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.architectures import ARCHITECTURES, Network, build
from trainables.components import ComponentData
from trainables.feed import BLOCK, Feed
from trainables.memory import OutOfMemory, is_exhausted
from trainables.optimizers import OPTIMIZERS, Optimizer
from trainables.ordering import Indices, Stream, index_stream
from trainables.pretrain import (
    Diverged,
    Pretrained,
    Progress,
    Saver,
    augment,
    generator_of,
    impair,
    is_finite,
    learning_rate,
    loss_curve,
    mixed_precision,
    pretrain,
    repeatable,
    save,
    take_up,
)
from trainables.spec import Architecture, Mixture, PretrainSpec, Training

log = logging.getLogger(__name__)

WARM_STEPS = 3  # of a pilot, before the clock: the first one looks for algorithms and allocates
TIMED_STEPS, TIMINGS = 5, 3  # so many, so often: the host runs ahead of the device, and is not to wait at each
PILOT_STEPS = WARM_STEPS + TIMED_STEPS * TIMINGS
PILOT_SHARE = 0.05  # of a run's steps: a size is tried on runs to which its pilot adds no more than that
WORTH = 0.95  # a larger stack has to take at most this share of the time per run
ROOM = 0.8  # of the memory that is free, what a stack may need: it may share the GPU


# Training ---------------------------------------------------------------------------------------------------------

Checkpoints = Mapping[int, Callable[[Network], None]]


def pretrain_all(
    specs: Sequence[PretrainSpec],
    data: Sequence[Sequence[ComponentData]],
    *,
    device: torch.device,
    checkpoints: Sequence[Checkpoints] | None = None,
    savers: Sequence[Saver | None] | None = None,
    report_every_s: float = 2.0,
    save_every_s: float = 10.0,
) -> Generator[Progress, None, list[Pretrained | Diverged]]:
    """Train the networks of runs of one shape as one; `pretrain` for each of them, in the order of `specs`.

    What is kept on the way is what `pretrain` keeps, so that either can take up what the other has left. Runs that are
    taken up have to stand at the same step. A run that diverges leaves the others alone. Its share of the time is what
    each is said to have taken.

    Raises:
        torch.OutOfMemoryError, RuntimeError: the stack does not fit into memory.
    """
    count, spec, training = len(specs), specs[0], specs[0].training
    assert {shape(each) for each in specs} == {shape(spec)} != {None}, "runs of one shape"
    losses = torch.full((count, training.steps), math.nan, device=device)
    runs = [
        _Run.begin(*each, device)
        for each in zip(specs, losses, checkpoints or [{}] * count, savers or [None] * count, strict=True)
    ]
    first = runs[0].step
    assert {run.step for run in runs} == {first}, "runs that stand at the same step"
    stack, feed = _Stack(runs, training), _Feed(specs, data, device)
    started = reported = saved = time.monotonic()
    reported_step = first

    def save_all(step: int) -> None:
        if savers is None:
            return
        stack.share_optimizer()
        for run in runs:
            run.save(step, run.seconds + (time.monotonic() - started) / count)

    with repeatable(device):
        for step, (x, y) in enumerate(feed.batches(first, spec.steps), start=first):
            if training.deficit:
                draws = [generator_of(device, each.seed, step, "deficit") for each in specs]
                parts = zip(torch.split(x, training.batch_size), draws, strict=True)
                x = torch.cat([impair(part, training, generator, step) for part, generator in parts])
            if training.augment:
                draws = [generator_of(device, each.seed, step, "augment") for each in specs]
                x = augment(x, training.augment, *draws)
            for group in stack.optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            stack.optimizer.zero_grad()
            with mixed_precision(device, training.precision):
                loss = stack.losses(x.view(count, -1, *x.shape[1:]), y.view(count, -1))
            loss.sum().backward()  # type: ignore[no-untyped-call]  # no row reads another: each gets its own gradient
            stack.optimizer.step()
            losses[:, step] = loss.detach()

            done = step + 1
            due = [(run, run.checkpoints[done]) for run in runs if done in run.checkpoints]
            now = time.monotonic()
            reports = done < spec.steps and now - reported >= report_every_s
            if reports or done == spec.steps or due:  # and no more often: the host waits for the device here
                for run, finite in zip(runs, torch.isfinite(losses[:, :done]).cpu(), strict=True):
                    run.look(finite, whole=done == spec.steps or done in run.checkpoints)
                if all(run.diverged for run in runs):
                    break
            for run, checkpoint in due:
                if not run.diverged:
                    checkpoint(run.network)
            if reports:
                rate = (done - reported_step) * training.batch_size * count / (now - reported)
                try:
                    yield Progress(done, spec.steps, rate, runs=count)
                except GeneratorExit:
                    save_all(done)
                    raise
                reported, reported_step = time.monotonic(), done
            if now - saved >= save_every_s:
                save_all(done)
                saved = time.monotonic()

    if spec.until is not None and first < spec.steps:
        save_all(spec.steps)
    share = (time.monotonic() - started) / count
    return [run.end(share) for run in runs]


@dataclass(kw_only=True, eq=False)
class _Run:
    """One run of a stack. Once it is stacked its network's weights and statistics are views of the stack's rows."""

    spec: PretrainSpec
    network: Network
    trained: nn.ModuleDict  # the network, under the name that it has in a saved state
    optimizer: Optimizer  # holds what is saved of the stack's
    losses: Tensor  # (steps,) a row of the stack's
    checkpoints: Checkpoints
    saver: Saver | None
    step: int  # at which it is taken up
    seconds: float  # before that
    diverged: Diverged | None = None

    @staticmethod
    def begin(
        spec: PretrainSpec,
        losses: Tensor,
        checkpoints: Checkpoints,
        saver: Saver | None,
        device: torch.device,
    ) -> _Run:
        training = spec.training
        network = build(spec.architecture, spec.mixture.num_classes, spec.seed).to(device).train()
        trained = nn.ModuleDict({"network": network})
        optimizer = OPTIMIZERS[training.optimizer](trained, training)
        step, seconds, micro_batch = take_up(saver, trained, optimizer, losses, spec)
        assert micro_batch == training.batch_size, "a run whose batches are divided is trained alone"
        return _Run(
            spec=spec,
            network=network,
            trained=trained,
            optimizer=optimizer,
            losses=losses,
            checkpoints=checkpoints,
            saver=saver,
            step=step,
            seconds=seconds,
        )

    def look(self, finite: Tensor, *, whole: bool) -> None:
        """Notice whether the loss has stopped being finite, by the (steps so far,); `whole`: or the network has."""
        if self.diverged:
            return
        if not bool(finite.all()):
            self.diverged = Diverged(int((~finite).nonzero()[0]))
        elif whole and not is_finite(self.network):
            self.diverged = Diverged(len(finite) - 1)

    def save(self, step: int, seconds: float) -> None:
        if not self.diverged:
            batch_size = self.spec.training.batch_size
            save(self.saver, self.trained, self.optimizer, self.losses, step, seconds, batch_size)

    def end(self, seconds: float) -> Pretrained | Diverged:
        """Its result; the network is moved out of the stack. `seconds` come on top of those before."""
        if self.diverged:
            return self.diverged
        for tensor in (*self.network.parameters(), *self.network.buffers()):
            tensor.data = tensor.data.clone()
        curve = loss_curve(self.losses[: self.spec.steps].cpu())
        return Pretrained(self.network.cpu().eval(), curve, self.seconds + seconds, self.spec.training.batch_size)


class _Stack:
    """The networks of runs as one: every weight and statistic a tensor with a row for each run, and one optimizer."""

    def __init__(self, runs: Sequence[_Run], training: Training) -> None:
        self._runs = runs
        learners = [_Learner(run.network, training) for run in runs]
        self._learner = copy.deepcopy(learners[0]).to("meta")
        self._weights: dict[str, Tensor] = {
            name: nn.Parameter(_stacked([learner.get_parameter(name) for learner in learners]))
            for name, _ in self._learner.named_parameters()
        }
        self._statistics = {
            name: _stacked([learner.get_buffer(name) for learner in learners])
            for name, _ in self._learner.named_buffers()
        }
        self.optimizer = OPTIMIZERS[training.optimizer](nn.ParameterList(self._weights.values()), training)
        self._take_optimizer()

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """(K,) mean losses of (K, B, ...) batches. Running statistics are brought up to date in their rows."""

        def loss(weights: dict[str, Tensor], statistics: dict[str, Tensor], *batch: Tensor) -> Tensor:
            return functional_call(self._learner, (weights, statistics), batch)  # type: ignore[no-any-return]

        # A CPU's kernel of attention cannot be mapped, those of a GPU can.
        with sdpa_kernel(SDPBackend.MATH) if x.device.type == "cpu" else contextlib.nullcontext():
            return torch.vmap(loss)(self._weights, self._statistics, x, y)

    def share_optimizer(self) -> None:
        """Give the runs' own optimizers their rows of what this one remembers."""
        remembered = self.optimizer.state_dict()
        for row, run in enumerate(self._runs):
            own = {
                index: {name: value[row] if value.ndim else value for name, value in of_weight.items()}
                for index, of_weight in remembered["state"].items()
            }
            run.optimizer.load_state_dict({**remembered, "state": own})

    def _take_optimizer(self) -> None:
        """Take over what the runs' own optimizers were taken up with: all have made as many steps."""
        remembered = [run.optimizer.state_dict() for run in self._runs]
        stacked = {
            index: {
                name: torch.stack([each["state"][index][name] for each in remembered]) if value.ndim else value
                for name, value in of_weight.items()
            }
            for index, of_weight in remembered[0]["state"].items()
        }
        self.optimizer.load_state_dict({**remembered[0], "state": stacked})


class _Learner(nn.Module):
    """A network whose output is its loss."""

    def __init__(self, network: Network, training: Training) -> None:
        super().__init__()
        self.network, self._training = network, training

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.network(x), y, label_smoothing=self._training.label_smoothing)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(K, ...) of K tensors (...), which become views of its rows."""
    stack = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, row in zip(tensors, stack, strict=True):
        tensor.data = row
    return stack


class _Feed:
    """What the runs of a stack are shown, gathered for all of them at once, whichever components they share."""

    def __init__(
        self, specs: Sequence[PretrainSpec], data: Sequence[Sequence[ComponentData]], device: torch.device
    ) -> None:
        known = {
            each.component.content: (share, each)
            for spec, of_spec in zip(specs, data, strict=True)
            for share, each in zip(spec.mixture.shares, of_spec, strict=True)
        }
        contents = sorted(known)
        component, example, offset = [], [], []
        for spec, of_spec in zip(specs, data, strict=True):
            difficulties = [d.difficulty() for d in of_spec] if spec.ordering.kind == "curriculum" else None
            stream = index_stream(spec.mixture, spec.ordering, spec.seed, difficulties, spec.pool_seed)
            places = [contents.index(share.component.content) for share in spec.mixture.shares]
            component.append(np.array(places, np.int16)[stream.component])
            example.append(stream.example)
            offset.append(np.array(spec.mixture.label_offsets)[stream.component])
        steps, size = specs[0].training.steps, specs[0].training.batch_size
        self._component, examples, self._offset = (
            np.stack([of_run[: steps * size].reshape(steps, size) for of_run in each], axis=1)  # (steps, K, B)
            for each in (component, example, offset)
        )
        everything = Mixture(shares=tuple(known[content][0] for content in contents), label_space="shared")
        joined = Stream(self._component.reshape(-1), examples.reshape(-1))
        self._feed = Feed(joined, everything, [known[content][1] for content in contents], len(specs) * size, device)
        self._device = device

    def batches(self, first: int, until: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(K * B, C, H, W) images and (K * B,) labels of the heads, run after run, as each is shown them alone."""
        whole = self._feed.batches(first, until)
        for begin in range(first, until, BLOCK):
            block = slice(begin, min(begin + BLOCK, until))
            places, offsets = (torch.from_numpy(v).to(self._device) for v in self._places(block))
            for place, offset, (x, y, _) in zip(places, offsets, whole, strict=False):
                yield x.index_select(0, place), y.index_select(0, place) + offset

    def _places(self, block: slice) -> tuple[Indices, Indices]:
        """(n, K * B) each: where the joint batch, in which components lie one after the other, has what each run is
        shown, in which components lie one after the other too; and the first outputs of its labels."""
        component, offset = self._component[block], self._offset[block]
        steps, runs, size = component.shape
        own = np.argsort(component, axis=2, kind="stable")
        order = (own + size * np.arange(runs)[:, None]).reshape(steps, -1)
        joint = np.argsort(component.reshape(steps, -1), axis=1, kind="stable")
        place = np.empty_like(joint)
        np.put_along_axis(place, joint, np.broadcast_to(np.arange(runs * size), joint.shape), axis=1)
        return np.take_along_axis(place, order, axis=1), np.take_along_axis(offset.reshape(steps, -1), order, axis=1)


# Which runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What runs have in common that can be trained as one."""

    architecture: Architecture
    training: Training
    until: int | None
    num_classes: int


def shape(spec: PretrainSpec) -> Shape | None:
    """The shape of a run; None for one that is trained alone.

    Alone are runs with a guide, for it reads other networks; with dropout, whose draws depend on how features lie in
    memory; and networks that were not written here, of which nobody knows whether they can be mapped.
    """
    mappable = spec.architecture.name in ARCHITECTURES and not spec.training.dropout and not spec.guide
    if not mappable or not spec.steps or not spec.mixture.shares:
        return None
    return Shape(spec.architecture, spec.training, spec.until, spec.mixture.num_classes)


def group_size(spec: PretrainSpec, data: Sequence[ComponentData], count: int, device: torch.device) -> int:
    """How many of `count` runs of the shape of `spec` are best trained as one; 1: each alone.

    Twice as many are tried as long as that pays. The runs are then divided into groups of about one size.
    """
    if device.type == "cpu" or shape(spec) is None or not all(each.train.resident for each in data):
        return 1
    best, size = 1, 2
    while size <= count and PILOT_SHARE * spec.steps >= PILOT_STEPS:
        if pilot(spec, data, size, device) >= WORTH * pilot(spec, data, best, device):
            break
        best, size = size, 2 * size
    return math.ceil(count / math.ceil(count / best))


def alone(spec: PretrainSpec, data: Sequence[ComponentData], count: int, device: torch.device) -> int:
    """As `group_size`, for runs that are to be trained each by itself."""
    return 1


_PILOTS: dict[tuple[Shape | None, str, int], float] = {}


def pilot(spec: PretrainSpec, data: Sequence[ComponentData], size: int, device: torch.device) -> float:
    """Seconds that a step takes per run, in a stack of so many; infinite if none is to be had. Measured once a process.

    The stack is of copies of the run: what they are shown makes no difference to the time.
    """
    key = shape(spec), str(device), size
    if key not in _PILOTS:
        _PILOTS[key] = _measured(spec, data, size, device)
    return _PILOTS[key]


def _measured(spec: PretrainSpec, data: Sequence[ComponentData], size: int, device: torch.device) -> float:
    on_gpu = device.type == "cuda"
    free, held = (torch.cuda.mem_get_info(device)[0], torch.cuda.memory_allocated(device)) if on_gpu else (0, 0)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = _seconds_of_steps(spec, data, size, device) / size
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        exhausted = isinstance(error, OutOfMemory) or is_exhausted(error)
        if size == 1 and not exhausted:
            raise
        if not exhausted:  # a layer that this device's torch cannot map: alone, the runs need not fail
            log.warning("runs of %s cannot be trained as one here (%s)", spec.architecture.name, error)
        seconds = math.inf
    if on_gpu:
        if torch.cuda.max_memory_allocated(device) - held > ROOM * free:
            seconds = math.inf
        torch.cuda.empty_cache()
    return seconds


def _seconds_of_steps(spec: PretrainSpec, data: Sequence[ComponentData], size: int, device: torch.device) -> float:
    """Of one step, where nothing disturbed it; infinite for a run that diverges at once.

    The clock is read at checkpoints: there the device is waited for, and in between it is not. Every run of a stack
    has one there, as it looks at its weights then, and so does a run alone.
    """
    short, at = replace(spec, until=PILOT_STEPS), []  # type: PretrainSpec, list[float]
    ticks = dict.fromkeys(
        range(WARM_STEPS, PILOT_STEPS + 1, TIMED_STEPS), lambda network: at.append(time.perf_counter())
    )
    if size == 1:
        run: Iterator[Progress] = pretrain(short, data, device=device, checkpoints=ticks)
    else:
        others: list[Checkpoints] = [dict.fromkeys(ticks, lambda network: None)] * (size - 1)
        run = pretrain_all([short] * size, [data] * size, device=device, checkpoints=[*others, ticks])
    with contextlib.suppress(Diverged):
        for _ in run:
            pass
    return min((after - before for before, after in pairwise(at)), default=math.inf) / TIMED_STEPS
