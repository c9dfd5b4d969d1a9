"""What does a network see? Batches of a stream on the device, bytes as the floats that they stand for.

Data that lies in memory is gathered there; data that is too big is decoded by worker processes ahead of the step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from trainables.components import ComponentData
from trainables.ordering import Indices, Stream
from trainables.spec import Mixture

BLOCK = 1024  # batches whose indices are prepared and moved to the device at once


class Feed:
    """The batches of a stream, on the device: (B, C, H, W) floats, (B,) labels of the head, and (B,) rows.

    A row names an example: its place in the training splits of all components, one after the other.

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
        self._first_rows = np.cumsum([0, *(len(d.train) for d in data)])[:-1]  # (K,)

    def __len__(self) -> int:
        return len(self._stream) // self._batch_size

    def batches(self, first: int, until: int | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """From batch number `first` on, up to `until`, which is left out; None: to the end."""
        resident = all(d.train.resident for d in self._data)
        count = len(self) if until is None else until
        return self._gathered(first, count) if resident else self._decoded(first, count)

    def _gathered(self, first: int, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Within a batch the components lie one after the other, so that each is one gather without a mask."""
        images = [on_device(d.train.images, self._device) for d in self._data]
        labels = np.concatenate([d.train.labels.numpy() + o for d, o in zip(self._data, self._offsets, strict=True)])
        for begin in range(first, count, BLOCK):
            components, examples, rows = self._block(begin, min(begin + BLOCK, count))
            counts = np.stack([(components == k).sum(axis=1) for k in range(len(images))], axis=1).tolist()
            y, at, in_all = (torch.from_numpy(v).to(self._device) for v in (labels[rows], examples, rows))
            for batch, parts in enumerate(counts):
                chosen = torch.split(at[batch], parts)
                x = [source.index_select(0, i) for source, i, n in zip(images, chosen, parts, strict=True) if n]
                yield (
                    self._as_floats(x, [r for r, n in zip(self._ranges, parts, strict=True) if n]),
                    y[batch],
                    in_all[batch],
                )

    def _block(self, begin: int, end: int) -> tuple[NDArray[np.int16], Indices, Indices]:
        """Of batches begin to end, (n, B) each, a batch's components in turn: the components, examples and rows."""
        shown = slice(begin * self._batch_size, end * self._batch_size)
        component = self._stream.component[shown].reshape(-1, self._batch_size)
        order = np.argsort(component, axis=1, kind="stable")
        components = np.take_along_axis(component, order, axis=1)
        examples = np.take_along_axis(self._stream.example[shown].reshape(component.shape), order, axis=1)
        return components, examples, self._first_rows[components] + examples

    def _as_floats(self, parts: list[Tensor], ranges: list[tuple[float, float]]) -> Tensor:
        """(B, C, H, W) of bytes (n, C, H, W) that stand for these ranges; in one go where these are all the same."""
        if len(set(ranges)) == 1:
            return to_float(torch.cat(parts) if len(parts) > 1 else parts[0], ranges[0])
        return torch.cat([to_float(part, its) for part, its in zip(parts, ranges, strict=True)])

    def _decoded(self, first: int, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        examples = _StreamedExamples(self._stream, [d.train for d in self._data], self._offsets)
        loader = torch.utils.data.DataLoader(
            examples,
            batch_size=self._batch_size,
            sampler=range(first * self._batch_size, count * self._batch_size),
            num_workers=_decoding_workers(),
            pin_memory=self._device.type == "cuda",
            prefetch_factor=4,
        )
        low = torch.tensor([r[0] for r in self._ranges], device=self._device)
        high = torch.tensor([r[1] for r in self._ranges], device=self._device)
        first_row = torch.from_numpy(self._first_rows).to(self._device)
        for images, labels, component, example in loader:
            k = component.to(self._device, non_blocking=True)
            rows = first_row[k] + example.to(self._device, non_blocking=True)
            scale = ((high - low) / 255)[k].view(-1, 1, 1, 1)
            x = images.to(self._device, non_blocking=True) * scale + low[k].view(-1, 1, 1, 1)
            yield x, labels.to(self._device, non_blocking=True), rows


def _decoding_workers() -> int:
    """Processes that decode: as many as the run may have threads (`resources.cpu`), and four at least, or all cores."""
    return max(torch.get_num_threads(), min(4, len(os.sched_getaffinity(0))))


class _StreamedExamples(torch.utils.data.Dataset[tuple[Tensor, int, int, int]]):
    """By position in the stream: image, label of the head, component, example. Used in decoding workers."""

    def __init__(self, stream: Stream, splits: Sequence[object], offsets: Sequence[int]) -> None:
        self._stream, self._splits, self._offsets = stream, splits, offsets

    def __getitem__(self, position: int) -> tuple[Tensor, int, int, int]:
        k, example = int(self._stream.component[position]), int(self._stream.example[position])
        image, label = self._splits[k][example]  # type: ignore[index]
        return image, label + self._offsets[k], k, example

    def __len__(self) -> int:
        return len(self._stream)


_ON_DEVICE = WeakTensorKeyDictionary()  # by source, what lies on which device


def on_device(source: Tensor, device: torch.device) -> Tensor:
    """`source` on the device, uploaded once as long as it lives; on a CPU it is the memory-mapped original."""
    if device.type == "cpu":
        return source
    uploaded: dict[torch.device, Tensor] = _ON_DEVICE.setdefault(source, {})  # type: ignore[no-untyped-call]
    if device not in uploaded:
        uploaded[device] = source.to(device)
    return uploaded[device]


def to_float(images: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Bytes as the floats that they stand for: low + (high - low) * byte / 255."""
    low, high = value_range
    return images.to(torch.float32).mul_((high - low) / 255).add_(low)
