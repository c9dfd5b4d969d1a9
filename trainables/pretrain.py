"""How is a network pretrained? One loop over an index stream, told straight.

The loop knows nothing of mixtures, orderings or baselines: these are in the stream. It can stop at any step and go on
from its saved state; on a CPU the result is the same to the last bit, because every random choice of a step comes from
the seed and the step's number, and nothing else is carried along.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it matrix products on a GPU may differ

from trainables import capture, guides
from trainables.architectures import Network, build, is_torchvision, layout_of
from trainables.components import ComponentData
from trainables.deficits import DEFICITS
from trainables.feed import Feed
from trainables.memory import OutOfMemory, is_exhausted
from trainables.optimizers import OPTIMIZERS, Optimizer
from trainables.ordering import index_stream
from trainables.spec import PretrainSpec, Training, derive_seed

log = logging.getLogger(__name__)

LOSS_CURVE_POINTS = 50


class Diverged(Exception):
    """The loss became infinite or not a number."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss stopped being finite at step {step}")
        self.step = step


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    examples_per_second: float  # since the last report
    runs: int = 1  # that are trained as one


@dataclass(frozen=True)
class Pretrained:
    """What a run leaves: the network on the CPU, and how it went."""

    network: Network
    loss_curve: tuple[tuple[int, float], ...]  # (step, mean training loss over the steps since the last point), nats
    seconds: float  # spent in training, over all the times it was taken up
    micro_batch: int  # examples in memory at a time; below the batch size where the memory asked for it


class Saver(Protocol):
    """Keeps and returns a run's state; `Store` offers it."""

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None: ...
    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None: ...


def pretrain(
    spec: PretrainSpec,
    data: Sequence[ComponentData],
    *,
    device: torch.device,
    teachers: Sequence[Network] = (),
    checkpoints: Mapping[int, Callable[[Network], None]] | None = None,
    saver: Saver | None = None,
    report_every_s: float = 2.0,
    save_every_s: float = 10.0,
) -> Generator[Progress, None, Pretrained]:
    """Train the network of `spec`; a generator that pauses to report and returns a `Pretrained`.

    Args:
        data: the components of the mixture, in its order.
        teachers: the networks of `spec.guide`, in its order.
        checkpoints: by number of steps, what is called with the network after so many; it must leave it as it is.
        saver: keeps the state while the run goes, and gives it back when it is taken up again. Closing the generator
            saves the state first, and so does a checkpoint that has been reached, so that its run goes on from there.

    Raises:
        Diverged: the loss is no longer finite.
        OutOfMemory: a batch does not fit into memory, and in parts the result would be another one.
    """
    training, mixture = spec.training, spec.mixture
    network = build(spec.architecture, mixture.num_classes, spec.seed)
    if not spec.steps or not mixture.shares:
        return Pretrained(network, (), 0.0, 0)
    layout = layout_of(spec.architecture, device, training.precision)
    network.to(device).to(memory_format=layout).train()
    guidance = None
    if spec.guide:
        with repeatable(device):
            guidance = guides.guide(spec, teachers, network, data, device)
    trained = nn.ModuleDict({"network": network})
    if guidance is not None:
        trained["guide"] = guidance.modules.to(device)
    optimizer = OPTIMIZERS[training.optimizer](trained, training)
    losses = torch.full((training.steps,), math.nan, device=device)
    first, seconds, micro_batch = take_up(saver, trained, optimizer, losses, spec)
    difficulties = [d.difficulty() for d in data] if spec.ordering.kind == "curriculum" else None
    stream = index_stream(mixture, spec.ordering, spec.seed, difficulties, spec.pool_seed)
    feed = Feed(stream, mixture, data, training.batch_size, device)
    noisy = training.dropout > 0 or any(_is_noisy(module) for module in network.modules())
    splits = not noisy and guidance is None and not any(isinstance(m, _BatchNorm) for m in network.modules())
    captures = capture.is_asked(device) and not noisy and guidance is None
    captured: capture.CapturedStep | None = None
    lr_on_device = torch.zeros((), device=device)
    started = reported = saved = time.monotonic()
    reported_step = first

    def loss_of(x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        features = network.features(x)
        if training.dropout:
            features = F.dropout(features, training.dropout)
        logits = network.logits(features)
        if guidance is None:
            return F.cross_entropy(logits, y, label_smoothing=training.label_smoothing)
        return guidance.loss(features, logits, y, rows)

    def gradients(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        optimizer.zero_grad()
        return _gradients(loss_of, batch, micro_batch, device, training.precision)

    def advance(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        loss = gradients(batch)
        optimizer.step()
        return loss

    with repeatable(device):
        for step, (x, y, rows) in enumerate(feed.batches(first, spec.steps), start=first):
            if training.deficit:
                x = impair(x, training, generator_of(device, spec.seed, step, "deficit"), step)
            if training.augment:
                x = augment(x, training.augment, generator_of(device, spec.seed, step, "augment"))
            batch = x.contiguous(memory_format=layout), y, rows
            lr = learning_rate(training, step)
            for group in optimizer.param_groups:
                group["lr"] = lr_on_device.fill_(lr) if captures else lr
            if captures and step == first + capture.WARM_STEPS:
                captured = capture.CapturedStep(advance, batch)
            while captured is None:
                try:
                    with noise_of_step(noisy, device, spec.seed, step):
                        losses[step] = gradients(batch)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_exhausted(error):
                        raise
                    why = " ".join(str(error).split())
                micro_batch = _smaller(micro_batch, splits, why)  # out of the handler, which holds what filled it
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            if captured is None:
                optimizer.step()
            else:
                losses[step] = captured(batch)

            done = step + 1
            checkpoint = checkpoints.get(done) if checkpoints else None
            now = time.monotonic()
            reports = done < spec.steps and now - reported >= report_every_s
            if reports or done == spec.steps or checkpoint:  # and no more often: the host waits for the device here
                raise_if_diverged(losses[:done])
            if (done == spec.steps or checkpoint) and not is_finite(network):
                raise Diverged(step)
            if checkpoint:
                checkpoint(network)
            if reports:
                rate = (done - reported_step) * training.batch_size / (now - reported)
                try:
                    yield Progress(done, spec.steps, rate)
                except GeneratorExit:
                    save(saver, trained, optimizer, losses, done, seconds + time.monotonic() - started, micro_batch)
                    raise
                reported, reported_step = time.monotonic(), done
            if now - saved >= save_every_s:
                save(saver, trained, optimizer, losses, done, seconds + now - started, micro_batch)
                saved = time.monotonic()

    if spec.until is not None and first < spec.steps:
        save(saver, trained, optimizer, losses, spec.steps, seconds + time.monotonic() - started, micro_batch)
    curve = loss_curve(losses[: spec.steps].cpu())
    network.cpu().to(memory_format=torch.contiguous_format).eval()
    return Pretrained(network, curve, seconds + time.monotonic() - started, micro_batch)


# What the network sees --------------------------------------------------------------------------------------------


def flip(x: Tensor, *generators: torch.Generator) -> Tensor:
    """Each image left to right with probability one half."""
    flipped = _drawn(x, generators, _uniform) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)


def crop(x: Tensor, *generators: torch.Generator) -> Tensor:
    """Each image moved by up to an eighth of its height and width, what comes in reflected at the border."""
    for axis in (2, 3):
        length = x.shape[axis]
        margin = length // 8
        shift = _drawn(x, generators, functools.partial(_shifts, margin))
        place = (torch.arange(length, device=x.device) + shift).abs()
        place = torch.where(place >= length, 2 * (length - 1) - place, place)  # (B, length)
        shape = (len(x), 1, length, 1) if axis == 2 else (len(x), 1, 1, length)
        x = x.gather(axis, place.view(shape).expand(x.shape))
    return x


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)


def _shifts(margin: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, 1) pixels in [-margin, margin]."""
    return torch.randint(-margin, margin + 1, (count, 1), generator=generator, device=generator.device)


AUGMENTATIONS: Mapping[str, Callable[..., Tensor]] = {"flip": flip, "crop": crop}


def augment(x: Tensor, names: Sequence[str], *generators: torch.Generator) -> Tensor:
    """The batch (B, C, H, W) after the named augmentations; with K generators each draws for one of K equal parts."""
    for name in names:
        x = AUGMENTATIONS[name](x, *generators)
    return x


def _drawn(x: Tensor, generators: Sequence[torch.Generator], draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
    """(B, ...) draws for the images of a batch, of which each generator has an equal part."""
    parts = [draw(len(x) // len(generators), generator) for generator in generators]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def impair(x: Tensor, training: Training, generator: torch.Generator, step: int) -> Tensor:
    """The batch (B, C, H, W) under the training's deficit, if the step lies in its window."""
    begin, until = training.deficit_window
    if not training.deficit or not begin * training.steps <= step < until * training.steps:
        return x
    return DEFICITS[training.deficit](x, generator)


# Optimisation -----------------------------------------------------------------------------------------------------


def learning_rate(training: Training, step: int) -> float:
    """The learning rate of a step, counted from 0.

    `one_cycle` rises in a straight line over the first 30 % of the steps and falls in a straight line to 0. `cosine`
    falls along half a cosine to 0, and starts again at its peak in each of its `cycles`. `trapezoid` is constant, and
    falls in a straight line to 0 over the last `decay_share` of the steps. `warmup_share` of the steps come before all
    of them but `one_cycle`, rising from 0.
    """
    share = 0.3 if training.schedule == "one_cycle" else training.warmup_share
    warmup = share * training.steps
    if step < warmup:
        return training.learning_rate * (step + 1) / (warmup + 1)
    left = 1 - (step - warmup) / (training.steps - warmup)  # from 1 down to just above 0
    return training.learning_rate * SCHEDULES[training.schedule](left, training)


def _cosine(left: float, training: Training) -> float:
    # Rounded, so that a cycle begins at its peak where the division is not exact.
    left_of_cycle = left if training.cycles == 1 else 1 - round((1 - left) * training.cycles, 9) % 1
    return 0.5 * (1 - math.cos(math.pi * left_of_cycle))


SCHEDULES: Mapping[str, Callable[[float, Training], float]] = {
    "constant": lambda left, training: 1.0,
    "cosine": _cosine,
    "one_cycle": lambda left, training: left,
    "trapezoid": lambda left, training: min(1.0, left / training.decay_share),
}


def _gradients(
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor],
    batch: tuple[Tensor, Tensor, Tensor],
    micro_batch: int,
    device: torch.device,
    precision: str,
) -> Tensor:
    """Add the gradients of a batch's mean loss to those there are, in parts of `micro_batch` examples; the loss.

    The mean over a batch is the mean over its parts weighted by their sizes, so up to rounding this is one pass.
    """
    size = len(batch[0])
    total = None
    for first in range(0, size, micro_batch):
        whole = size <= micro_batch
        part = batch if whole else tuple(value[first : first + micro_batch] for value in batch)
        with mixed_precision(device, precision):
            loss = loss_of(*part)
        if not whole:
            loss = loss * (len(part[0]) / size)
        loss.backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None, "a batch has examples"
    return total


def _smaller(micro_batch: int, splits: bool, why: str) -> int:
    """Half the micro-batch. Raises OutOfMemory where a step cannot be taken in smaller parts."""
    if splits and micro_batch > 1:
        log.warning("a part of %s examples does not fit into memory; on with half of it (%s)", micro_batch, why)
        return (micro_batch + 1) // 2
    reason = "" if splits else "; batch normalisation, dropout or a guide reads it as a whole, so it is not divided"
    raise OutOfMemory(
        f"{micro_batch} examples of a step do not fit into memory{reason}; lower pretrain.batch_size or the width, or "
        f"run fewer trials side by side on one machine ({why})"
    )


def generator_of(device: torch.device, seed: int, step: int, purpose: str) -> torch.Generator:
    return torch.Generator(device).manual_seed((derive_seed(seed, purpose) << 31) + step)


def _is_noisy(module: nn.Module) -> bool:
    """Whether it draws at random in training."""
    drops = isinstance(module, (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout))
    return (drops or is_torchvision(module, "StochasticDepth")) and bool(module.p)


@contextlib.contextmanager
def noise_of_step(noisy: bool, device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Dropout and stochastic depth draw from the global generators: these are seeded for the step, then put back."""
    if not noisy:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((derive_seed(seed, "dropout") << 31) + step)
        yield


def mixed_precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    if precision == "float32":
        return (
            contextlib.nullcontext()
        )  # entering autocast, though it is off, takes as long as a layer of a small network
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, the algorithms that give the same result every time; a warning where there is none."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # a kernel for every allocation; nothing here reads one
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


def raise_if_diverged(losses: Tensor) -> None:
    bad = ~torch.isfinite(losses)
    if bool(bad.any()):
        raise Diverged(int(bad.nonzero()[0]))


def is_finite(network: nn.Module) -> bool:
    return all(bool(value.isfinite().all()) for value in network.state_dict().values())


def loss_curve(losses: Tensor) -> tuple[tuple[int, float], ...]:
    bins = np.array_split(losses.double().numpy(), min(LOSS_CURVE_POINTS, len(losses)))
    ends = np.cumsum([len(b) for b in bins])
    return tuple((int(end), float(b.mean())) for end, b in zip(ends, bins, strict=True))


# State ------------------------------------------------------------------------------------------------------------


def save(
    saver: Saver | None,
    trained: nn.Module,
    optimizer: Optimizer,
    losses: Tensor,
    step: int,
    seconds: float,
    micro_batch: int,
) -> None:
    if saver is None:
        return
    tensors = {f"trained.{name}": value for name, value in trained.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
    saver.save(
        {**tensors, "losses": losses}, {"step": str(step), "seconds": repr(seconds), "micro_batch": str(micro_batch)}
    )


def take_up(
    saver: Saver | None, trained: nn.Module, optimizer: Optimizer, losses: Tensor, spec: PretrainSpec
) -> tuple[int, float, int]:
    """Put back a state that was saved no later than where the run ends; the next step, the seconds spent so far, and
    the micro-batch that fits."""
    kept = saver.load() if saver else None
    if kept is None or int(kept[1]["step"]) > spec.steps:
        return 0, 0.0, spec.training.batch_size
    tensors, meta = kept
    trained.load_state_dict(_below("trained.", tensors))
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in _below("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    losses.copy_(tensors["losses"])
    return int(meta["step"]), float(meta["seconds"]), int(meta.get("micro_batch", spec.training.batch_size))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
