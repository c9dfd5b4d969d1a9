"""How is a network pretrained? One loop over an index stream, told straight.

The loop knows nothing of mixtures, orderings or baselines: these are in the stream. It can stop at any step and go on
from its saved state; on a CPU the result is the same to the last bit, because every random choice of a step comes from
the seed and the step's number, and nothing else is carried along.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it matrix products on a GPU may differ

from trainables.architectures import Network, build
from trainables.components import ComponentData
from trainables.ordering import Stream, index_stream
from trainables.spec import Mixture, PretrainSpec, Training, derive_seed

LOSS_CURVE_POINTS = 50
CHECK_EVERY_STEPS = 50  # a non-finite loss is noticed this often: a check makes the host wait for the device


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


@dataclass(frozen=True)
class Pretrained:
    """What a run leaves: the network on the CPU, and how it went."""

    network: Network
    loss_curve: tuple[tuple[int, float], ...]  # (step, mean training loss over the steps since the last point), nats
    seconds: float  # spent in training, over all the times it was taken up


class Saver(Protocol):
    """Keeps and returns a run's state; `Store` offers it."""

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None: ...
    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None: ...


def pretrain(
    spec: PretrainSpec,
    data: Sequence[ComponentData],
    *,
    device: torch.device,
    saver: Saver | None = None,
    report_every_s: float = 2.0,
    save_every_s: float = 10.0,
) -> Generator[Progress, None, Pretrained]:
    """Train the network of `spec`; a generator that pauses to report and returns a `Pretrained`.

    Args:
        data: the components of the mixture, in its order.
        saver: keeps the state while the run goes, and gives it back when it is taken up again. Closing the generator
            saves the state first.

    Raises:
        Diverged: the loss is no longer finite.
    """
    training, mixture = spec.training, spec.mixture
    network = build(spec.architecture, mixture.num_classes, spec.seed)
    if training.steps == 0 or not mixture.shares:
        return Pretrained(network, (), 0.0)
    network.to(device).train()
    optimizer = _optimizer(network, training)
    losses = torch.full((training.steps,), math.nan, device=device)
    first, seconds = _take_up(saver, network, optimizer, losses)
    difficulties = [d.difficulty() for d in data] if spec.ordering.kind == "curriculum" else None
    stream = index_stream(mixture, spec.ordering, spec.seed, difficulties, spec.pool_seed)
    feed = Feed(stream, mixture, data, training.batch_size, device)
    noisy = any(getattr(m, "p", 0) for m in network.modules() if isinstance(m, NOISY_MODULES))
    started = reported = saved = time.monotonic()
    reported_step = first

    with _repeatable(device):
        for step, (x, y) in enumerate(feed.batches(first), start=first):
            x = augment(x, training.augment, _generator(device, spec.seed, step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(training, step)
            with _noise_of_step(noisy, device, spec.seed, step), _mixed_precision(device, training.precision):
                loss = F.cross_entropy(network(x), y, label_smoothing=training.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses[step] = loss.detach()

            done = step + 1
            if done % CHECK_EVERY_STEPS == 0 or done == training.steps:
                _raise_if_diverged(losses[:done])
            now = time.monotonic()
            if done < training.steps and now - reported >= report_every_s:
                rate = (done - reported_step) * training.batch_size / (now - reported)
                try:
                    yield Progress(done, training.steps, rate)
                except GeneratorExit:
                    _save(saver, network, optimizer, losses, done, seconds + time.monotonic() - started)
                    raise
                reported, reported_step = time.monotonic(), done
            if now - saved >= save_every_s:
                _save(saver, network, optimizer, losses, done, seconds + now - started)
                saved = time.monotonic()

    curve = _curve(losses.cpu())
    return Pretrained(network.cpu().eval(), curve, seconds + time.monotonic() - started)


# What the network sees --------------------------------------------------------------------------------------------


class Feed:
    """The batches of a stream: (B, C, H, W) floats and (B,) labels of the head, on the device.

    Data that lies in memory is gathered there, on the device itself if that is a GPU. Data that is too big is decoded
    by worker processes, ahead of the training step.
    """

    def __init__(
        self,
        stream: Stream,
        mixture: Mixture,
        data: Sequence[ComponentData],
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._stream, self._data, self._batch_size, self._device = stream, data, batch_size, device
        self._offsets = mixture.label_offsets
        self._ranges = [d.value_range for d in data]

    def __len__(self) -> int:
        return len(self._stream) // self._batch_size

    def batches(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """From batch number `first` on."""
        resident = all(d.train.resident for d in self._data)
        return self._gathered(first) if resident else self._decoded(first)

    def _gathered(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Within a batch the components lie one after the other, so that each is one gather without a mask."""
        images = [on_device(d.train.images, self._device) for d in self._data]
        labels = [on_device(d.train.labels, self._device) + o for d, o in zip(self._data, self._offsets, strict=True)]
        count, size = len(self), self._batch_size
        component = self._stream.component[: count * size].reshape(count, size)
        example = self._stream.example[: count * size].reshape(count, size)
        order = np.argsort(component, axis=1, kind="stable")
        example_sorted = torch.from_numpy(np.take_along_axis(example, order, axis=1)).to(self._device)
        counts = np.stack([(component == k).sum(axis=1) for k in range(len(images))], axis=1)
        ends = np.concatenate([np.zeros((count, 1), np.int64), counts.cumsum(axis=1)], axis=1).tolist()
        for batch in range(first, count):
            indices, bounds = example_sorted[batch], ends[batch]
            x, y = [], []
            for k in range(len(images)):
                if bounds[k + 1] > bounds[k]:
                    chosen = indices[bounds[k] : bounds[k + 1]]
                    x.append(to_float(images[k].index_select(0, chosen), self._ranges[k]))
                    y.append(labels[k].index_select(0, chosen))
            yield (torch.cat(x), torch.cat(y)) if len(x) > 1 else (x[0], y[0])

    def _decoded(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        examples = _StreamedExamples(self._stream, [d.train for d in self._data], self._offsets)
        loader = torch.utils.data.DataLoader(
            examples,
            batch_size=self._batch_size,
            sampler=range(first * self._batch_size, len(self) * self._batch_size),
            num_workers=DECODING_WORKERS,
            pin_memory=self._device.type == "cuda",
            prefetch_factor=4,
        )
        low = torch.tensor([r[0] for r in self._ranges], device=self._device)
        high = torch.tensor([r[1] for r in self._ranges], device=self._device)
        for images, labels, component in loader:
            k = component.to(self._device, non_blocking=True)
            scale = ((high - low) / 255)[k].view(-1, 1, 1, 1)
            x = images.to(self._device, non_blocking=True) * scale + low[k].view(-1, 1, 1, 1)
            yield x, labels.to(self._device, non_blocking=True)


DECODING_WORKERS = min(4, len(os.sched_getaffinity(0)))


class _StreamedExamples(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """Example by position in the stream: image, label of the head, component. Used in decoding workers."""

    def __init__(self, stream: Stream, splits: Sequence[object], offsets: Sequence[int]) -> None:
        self._stream, self._splits, self._offsets = stream, splits, offsets

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        k = int(self._stream.component[position])
        image, label = self._splits[k][int(self._stream.example[position])]  # type: ignore[index]
        return image, label + self._offsets[k], k

    def __len__(self) -> int:
        return len(self._stream)


_ON_DEVICE: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}  # the source is kept so that its id stays its own


def on_device(source: Tensor, device: torch.device) -> Tensor:
    """`source` on the device, uploaded once per process; on a CPU it is the memory-mapped original."""
    if device.type == "cpu":
        return source
    key = (source.data_ptr(), str(device))
    if key not in _ON_DEVICE:
        _ON_DEVICE[key] = (source, source.to(device))
    return _ON_DEVICE[key][1]


def to_float(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Bytes as the floats that they stand for: low + (high - low) * byte / 255."""
    low, high = value_range
    return images.to(torch.float32).mul_((high - low) / 255).add_(low)


def flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image left to right with probability one half."""
    flipped = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), x.flip(-1), x)


def crop(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to an eighth of its height and width, what comes in reflected at the border."""
    for axis in (2, 3):
        length = x.shape[axis]
        margin = length // 8
        shift = torch.randint(-margin, margin + 1, (len(x), 1), generator=generator, device=x.device)
        place = (torch.arange(length, device=x.device) + shift).abs()
        place = torch.where(place >= length, 2 * (length - 1) - place, place)  # (B, length)
        shape = (len(x), 1, length, 1) if axis == 2 else (len(x), 1, 1, length)
        x = x.gather(axis, place.view(shape).expand(x.shape))
    return x


AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {"flip": flip, "crop": crop}


def augment(x: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """The batch (B, C, H, W) after the named augmentations."""
    for name in names:
        x = AUGMENTATIONS[name](x, generator)
    return x


# Optimisation -----------------------------------------------------------------------------------------------------


def learning_rate(training: Training, step: int) -> float:
    """The learning rate of a step, counted from 0.

    `one_cycle` rises in a straight line over the first 30 % of the steps and falls in a straight line to 0; `cosine`
    falls along half a cosine to 0. `warmup_share` of the steps come before `cosine` and `constant`, rising from 0.
    """
    share = 0.3 if training.schedule == "one_cycle" else training.warmup_share
    warmup = share * training.steps
    if step < warmup:
        return training.learning_rate * (step + 1) / (warmup + 1)
    left = 1 - (step - warmup) / (training.steps - warmup)  # from 1 down to just above 0
    return training.learning_rate * SCHEDULES[training.schedule](left)


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda left: 1.0,
    "cosine": lambda left: 0.5 * (1 - math.cos(math.pi * left)),
    "one_cycle": lambda left: left,
}


def _optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    return OPTIMIZERS[training.optimizer](network, training)


def _sgd(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
        fused=True,
    )


def _adamw(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        network.parameters(),
        lr=training.learning_rate,
        betas=(training.momentum, 0.999),
        weight_decay=training.weight_decay,
        fused=True,
    )


OPTIMIZERS: Mapping[str, Callable[[nn.Module, Training], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adamw": _adamw,
}


def _generator(device: torch.device, seed: int, step: int) -> torch.Generator:
    return torch.Generator(device).manual_seed((derive_seed(seed, "augment") << 31) + step)


NOISY_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, StochasticDepth)


@contextlib.contextmanager
def _noise_of_step(noisy: bool, device: torch.device, seed: int, step: int) -> Iterator[None]:
    """Dropout and stochastic depth draw from the global generators: these are seeded for the step, then put back."""
    if not noisy:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed((derive_seed(seed, "dropout") << 31) + step)
        yield


def _mixed_precision(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, the algorithms that give the same result every time; a warning where there is none."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _raise_if_diverged(losses: Tensor) -> None:
    bad = ~torch.isfinite(losses)
    if bool(bad.any()):
        raise Diverged(int(bad.nonzero()[0]))


def _curve(losses: Tensor) -> tuple[tuple[int, float], ...]:
    bins = np.array_split(losses.double().numpy(), min(LOSS_CURVE_POINTS, len(losses)))
    ends = np.cumsum([len(b) for b in bins])
    return tuple((int(end), float(b.mean())) for end, b in zip(ends, bins, strict=True))


# State ------------------------------------------------------------------------------------------------------------


def _save(
    saver: Saver | None,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Tensor,
    step: int,
    seconds: float,
) -> None:
    if saver is None:
        return
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
    saver.save({**tensors, "losses": losses}, {"step": str(step), "seconds": repr(seconds)})


def _take_up(
    saver: Saver | None, network: nn.Module, optimizer: torch.optim.Optimizer, losses: Tensor
) -> tuple[int, float]:
    """Put back a saved state; the next step, and the seconds spent so far."""
    kept = saver.load() if saver else None
    if kept is None:
        return 0, 0.0
    tensors, meta = kept
    network.load_state_dict(_below("network.", tensors))
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in _below("optimizer.", tensors).items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    losses.copy_(tensors["losses"])
    return int(meta["step"]), float(meta["seconds"])


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
