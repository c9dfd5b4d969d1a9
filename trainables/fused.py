"""How are pretraining runs of equal shape trained as one? As a stack: one tensor per weight, with a row for every run.

Seeds, mixtures, orderings and direct baselines of one architecture, batch size and length differ in what they start
from and in what they are shown, and in nothing else. A GPU that one small network leaves idle takes many of them in one
step: the forward pass of a network is mapped over the rows by `torch.vmap`, and one optimizer moves them all.

A run in a stack draws what it draws alone: its initialisation, its index stream, its augmentation and its dropout come
from its own seed. Batch statistics are its own too, for the running statistics are rows of a stack like the weights. So
it ends where it would have ended alone, up to rounding, for sums are taken in another order; tests/trainables/
test_fused.py holds every architecture to that. What is in its row does not depend on what is in the others.

Whether a stack pays is measured, on a GPU, with a few steps of the run itself. On a CPU it is not tried: there a run
repeats itself to the last bit, which is worth more than the little that there is to gain (benchmarks/fused.py).
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.architectures import ARCHITECTURES, Network, build
from trainables.components import ComponentData
from trainables.feed import Feed
from trainables.memory import is_exhausted
from trainables.ordering import index_stream
from trainables.pretrain import (
    CHECK_EVERY_STEPS,
    OPTIMIZERS,
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
    noise_of_step,
    pretrain,
    repeatable,
    save,
    take_up,
)
from trainables.spec import Architecture, PretrainSpec, Training

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
        OutOfMemory, torch.OutOfMemoryError, RuntimeError: the stack does not fit into memory.
    """
    count, spec, training = len(specs), specs[0], specs[0].training
    assert {shape(each) for each in specs} == {shape(spec)} != {None}, "runs of one shape"
    losses = torch.full((count, training.steps), math.nan, device=device)
    runs = [
        _Run.begin(*each, device)
        for each in zip(specs, data, losses, checkpoints or [{}] * count, savers or [None] * count, strict=True)
    ]
    first = runs[0].step
    assert {run.step for run in runs} == {first}, "runs that stand at the same step"
    stack = _Stack(runs, training)
    started = reported = saved = time.monotonic()
    reported_step = first

    def save_all(step: int) -> None:
        stack.share_optimizer()
        for run in runs:
            run.save(step, run.seconds + (time.monotonic() - started) / count)

    with repeatable(device):
        for step, (x, y, noise) in enumerate(_batches(runs, device), start=first):
            for group in stack.optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            stack.optimizer.zero_grad(set_to_none=True)
            with mixed_precision(device, training.precision):
                loss = stack.losses(x, y, noise)
            loss.sum().backward()  # type: ignore[no-untyped-call]  # no row reads another: each gets its own gradient
            stack.optimizer.step()
            losses[:, step] = loss.detach()

            done = step + 1
            due = [(run, run.checkpoints[done]) for run in runs if done in run.checkpoints]
            if done % CHECK_EVERY_STEPS == 0 or done == spec.steps or due:
                for run in runs:
                    run.look(done, whole=done == spec.steps or bool(due))
                if all(run.diverged for run in runs):
                    break
            for run, checkpoint in due:
                if not run.diverged:
                    checkpoint(run.network)
            now = time.monotonic()
            if done < spec.steps and now - reported >= report_every_s:
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
    optimizer: torch.optim.Optimizer  # holds what is saved of the stack's
    feed: Feed
    losses: Tensor  # (steps,) a row of the stack's
    checkpoints: Checkpoints
    saver: Saver | None
    step: int  # at which it is taken up
    seconds: float  # before that
    diverged: Diverged | None = None

    @staticmethod
    def begin(
        spec: PretrainSpec,
        data: Sequence[ComponentData],
        losses: Tensor,
        checkpoints: Checkpoints,
        saver: Saver | None,
        device: torch.device,
    ) -> _Run:
        training, mixture = spec.training, spec.mixture
        network = build(spec.architecture, mixture.num_classes, spec.seed).to(device).train()
        trained = nn.ModuleDict({"network": network})
        optimizer = OPTIMIZERS[training.optimizer](trained, training)
        step, seconds, micro_batch = take_up(saver, trained, optimizer, losses, spec)
        assert micro_batch == training.batch_size, "a run whose batches are divided is trained alone"
        difficulties = [d.difficulty() for d in data] if spec.ordering.kind == "curriculum" else None
        stream = index_stream(mixture, spec.ordering, spec.seed, difficulties, spec.pool_seed)
        return _Run(
            spec=spec,
            network=network,
            trained=trained,
            optimizer=optimizer,
            feed=Feed(stream, mixture, data, training.batch_size, device),
            losses=losses,
            checkpoints=checkpoints,
            saver=saver,
            step=step,
            seconds=seconds,
        )

    def batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What the network is shown: (B, C, H, W) images, (B,) labels, and (B, D) factors of the features."""
        training, seed = self.spec.training, self.spec.seed
        kept = torch.ones(training.batch_size if training.dropout else 0, self.network.num_features, device=device)
        for step, (x, y, _) in enumerate(self.feed.batches(self.step, self.spec.steps), start=self.step):
            x = impair(x, training, generator_of(device, seed, step, "deficit"), step)
            x = augment(x, training.augment, generator_of(device, seed, step, "augment"))
            with noise_of_step(training.dropout > 0, device, seed, step):
                noise = F.dropout(kept, training.dropout) if training.dropout else kept
            yield x, y, noise

    def look(self, done: int, *, whole: bool) -> None:
        """Notice whether the loss has stopped being finite in the steps so far; `whole`: or the network has."""
        if self.diverged:
            return
        bad = ~torch.isfinite(self.losses[:done])
        if bool(bad.any()):
            self.diverged = Diverged(int(bad.nonzero()[0]))
        elif whole and not is_finite(self.network):
            self.diverged = Diverged(done - 1)

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
        learner = _Learner(runs[0].network, training)
        self._weights: dict[str, Tensor] = {
            name: nn.Parameter(_stacked([_Learner(run.network, training).get_parameter(name) for run in runs]))
            for name, _ in learner.named_parameters()
        }
        self._statistics = {
            name: _stacked([_Learner(run.network, training).get_buffer(name) for run in runs])
            for name, _ in learner.named_buffers()
        }
        self._learner = copy.deepcopy(learner).to("meta")
        self.optimizer = OPTIMIZERS[training.optimizer](nn.ParameterList(self._weights.values()), training)
        self._take_optimizer()

    def losses(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """(K,) mean losses of (K, B, ...) batches. Running statistics are brought up to date in their rows."""

        def loss(weights: dict[str, Tensor], statistics: dict[str, Tensor], *batch: Tensor) -> Tensor:
            return functional_call(self._learner, (weights, statistics), batch)  # type: ignore[no-any-return]

        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be mapped on every device
            return torch.vmap(loss)(self._weights, self._statistics, x, y, noise)

    def share_optimizer(self) -> None:
        """Let the runs' own optimizers see their rows of the state."""
        for index, stacked in enumerate(self._weights.values()):
            for row, run in enumerate(self._runs):
                own = list(run.trained.parameters())[index]
                run.optimizer.state[own] = {
                    name: value[row] if isinstance(value, Tensor) and value.shape == stacked.shape else value
                    for name, value in self.optimizer.state[stacked].items()
                }

    def _take_optimizer(self) -> None:
        """Take over what the runs' own optimizers were taken up with; all have made as many steps."""
        for index, stacked in enumerate(self._weights.values()):
            owns = [list(run.trained.parameters())[index] for run in self._runs]
            states = [run.optimizer.state[own] for run, own in zip(self._runs, owns, strict=True)]
            for name, value in states[0].items():
                by_row = isinstance(value, Tensor) and value.shape == owns[0].shape
                self.optimizer.state[stacked][name] = torch.stack([s[name] for s in states]) if by_row else value


class _Learner(nn.Module):
    """A network whose output is its loss."""

    def __init__(self, network: Network, training: Training) -> None:
        super().__init__()
        self.network, self._training = network, training

    def forward(self, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        features = self.network.features(x)
        if self._training.dropout:
            features = features * noise
        return F.cross_entropy(self.network.logits(features), y, label_smoothing=self._training.label_smoothing)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(K, ...) of K tensors (...), which become views of its rows."""
    stack = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, row in zip(tensors, stack, strict=True):
        tensor.data = row
    return stack


def _batches(runs: Sequence[_Run], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Of every step, what each run is shown, stacked."""
    for batches in zip(*(run.batches(device) for run in runs), strict=True):
        yield tuple(torch.stack(parts) for parts in zip(*batches, strict=True))


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

    Alone are runs with a guide, for it reads other networks; dropout in bfloat16, whose draws depend on the type; and
    networks that were not written here, of which nobody knows whether they can be mapped.
    """
    training = spec.training
    mappable = spec.architecture.name in ARCHITECTURES and not (training.dropout and training.precision != "float32")
    if not mappable or spec.guide or not spec.steps or not spec.mixture.shares:
        return None
    return Shape(spec.architecture, training, spec.until, spec.mixture.num_classes)


def group_size(spec: PretrainSpec, data: Sequence[ComponentData], count: int, device: torch.device) -> int:
    """How many of `count` runs of the shape of `spec` are best trained as one; 1: each alone.

    Twice as many are tried as long as that pays. The runs are then divided into groups of about one size.
    """
    if device.type == "cpu" or shape(spec) is None or not all(each.train.resident for each in data):
        return 1
    best, size = 1, 2
    while size <= count and PILOT_SHARE * spec.steps >= PILOT_STEPS:
        if pilot(spec, data, size, device) > WORTH * pilot(spec, data, best, device):
            break
        best, size = size, 2 * size
    return math.ceil(count / math.ceil(count / best))


def alone(spec: PretrainSpec, data: Sequence[ComponentData], count: int, device: torch.device) -> int:
    """As `group_size`, for runs that are to be trained each by itself."""
    return 1


_PILOTS: dict[tuple[Shape | None, str, int], float] = {}


def pilot(spec: PretrainSpec, data: Sequence[ComponentData], size: int, device: torch.device) -> float:
    """Seconds that a step takes per run, in a stack of so many; infinite if it does not fit. Measured once a process.

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
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        seconds = math.inf
    if on_gpu:
        if torch.cuda.max_memory_allocated(device) - held > ROOM * free:
            seconds = math.inf
        torch.cuda.empty_cache()
    return seconds


def _seconds_of_steps(spec: PretrainSpec, data: Sequence[ComponentData], size: int, device: torch.device) -> float:
    """Of one step, where nothing disturbed it."""
    alone = pretrain(spec, data, device=device, report_every_s=0)
    run = alone if size == 1 else pretrain_all([spec] * size, [data] * size, device=device, report_every_s=0)
    with contextlib.closing(run):
        for _ in range(WARM_STEPS):
            next(run)
        took = []
        for _ in range(TIMINGS):
            _wait(device)
            started = time.perf_counter()
            for _ in range(TIMED_STEPS):
                next(run)
            _wait(device)
            took.append((time.perf_counter() - started) / TIMED_STEPS)
    return min(took)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
